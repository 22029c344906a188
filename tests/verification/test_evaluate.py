"""What `fathom eval` reports is what counting token by token gives, whatever the windows, and of packed models too:
as torch computes with their weights, and as native code does."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fathom.backend.step import NativeStep
from fathom.cli.main import main
from fathom.data.batches import IGNORED
from fathom.errors import FathomError, OutsideVocabulary
from fathom.model.cache import KVCache
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.model import costs, quantize_model
from fathom.quant.schemes import SCHEMES
from fathom.tokenizer.characters import ByteTokenizer
from fathom.verification import evaluate as rows
from fathom.verification.evaluate import eval_set, evaluate, windows
from fathom.verification.quantised import Scores, as_generated, packed_copy, report, score_all
from tests.backend.test_inference import meets_eight_bits
from tests.cli.models import model_folder
from tests.generation.models import random_model
from tests.training.tuning import base, records

TEXT = "To be, or not to be: that is the question. Né à Paris? " * 3
LENGTH = 24  # of a context
BYTES = ByteTokenizer()
needs_native = pytest.mark.skipif(library("step") is None, reason="no C++ compiler")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    return str(tmp_path / "a.txt")


@pytest.fixture
def model() -> Transformer:
    """One that has opinions, of a text of bytes."""
    made = random_model("llama", BYTES.vocab_size, LENGTH).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made


@torch.no_grad()
def one_by_one(model: nn.Module, ids: list[int], stride: int) -> list[float]:
    """-ln p of every token but the first, each from a pass of its own over what its window shows of the past."""
    losses = []
    for place in range(1, len(ids)):
        number = max(0, math.ceil((place - LENGTH) / stride))  # the first window that reaches the token
        logits = model(torch.tensor([ids[number * stride : place]]))[0, -1].double()
        losses.append(float(torch.logsumexp(logits, 0) - logits[ids[place]]))
    return losses


@pytest.mark.parametrize("stride", [1, 7, 12, LENGTH])
def test_the_loss_is_that_of_each_token_on_its_own(
    stride: int, text: str, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "AT_ONCE", 5 * BYTES.vocab_size)  # logits in pieces
    losses = one_by_one(model, list(TEXT.encode()), stride)
    asked = eval_set(text, BYTES, LENGTH, stride)
    (found,) = evaluate([model], asked.windows, BYTES)
    assert found.tokens == len(losses) == len(TEXT.encode()) - 1
    assert found.loss == pytest.approx(sum(losses) / len(losses), abs=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_a_byte_is_a_token(text: str, model: Transformer) -> None:
    (found,) = evaluate([model], eval_set(text, BYTES, LENGTH).windows, BYTES)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2), rel=1e-12)
    assert found.bytes == found.tokens and found.characters == len(TEXT) - 1
    assert found.bits_per_character == pytest.approx(found.bits_per_byte * found.bytes / found.characters)


@pytest.mark.parametrize("n", [2, 3, LENGTH, LENGTH + 1, LENGTH + 2, 100])
@pytest.mark.parametrize("stride", [1, 5, 12, LENGTH])
def test_every_token_is_scored_once_and_with_enough_before_it(n: int, stride: int) -> None:
    found = windows(n, LENGTH, stride)
    assert [t for _, first, end in found for t in range(first, end)] == list(range(n - 1))
    assert all(first - begin >= LENGTH - stride and end - begin <= LENGTH for begin, first, end in found[1:])


def test_who_knows_nothing_loses_the_logarithm_of_the_vocabulary(text: str, model: Transformer) -> None:
    nn.init.zeros_(model.unembed.weight)
    (found,) = evaluate([model], eval_set(text, BYTES, LENGTH).windows, BYTES)
    assert found.loss == pytest.approx(math.log(BYTES.vocab_size), abs=1e-9)


def test_who_knows_the_text_is_right(text: str, model: Transformer) -> None:
    asked = list(eval_set(text, BYTES, LENGTH, limit=3).windows)
    best = [model(batch.ids)[0].argmax(-1)[batch.targets[0] != IGNORED] for batch in asked]
    hits = sum(int((b == w.targets[w.targets != IGNORED]).sum()) for b, w in zip(best, asked))
    told = [replace(w, targets=model(w.ids).argmax(-1)) for w in asked]
    (found,), (perfect,) = evaluate([model], asked, BYTES), evaluate([model], told, BYTES)
    assert len(asked) == 3 and found.top1 == hits / found.tokens and perfect.top1 == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_packed_model_is_judged_as_one_packed_by_hand(scheme: str, text: str, model: Transformer) -> None:
    before = {name: x.clone() for name, x in model.state_dict().items()}
    packed = packed_copy(model, scheme)
    assert packed.embed.weight.data_ptr() == model.embed.weight.data_ptr()
    exact, found = evaluate([model, packed], eval_set(text, BYTES, LENGTH).windows, BYTES)
    by_kind = list(costs(model, scheme))
    made = report(model, packed, scheme, Scores(found, found))
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    p = log_probabilities(model, text)
    quantize_model(model, scheme)
    (by_hand,) = evaluate([model], eval_set(text, BYTES, LENGTH).windows, BYTES)
    q = log_probabilities(model, text)
    assert found.loss == by_hand.loss != exact.loss and exact.kl == 0 and exact.agreement == 1
    assert found.kl == pytest.approx(
        nn.functional.kl_div(q, p, reduction="batchmean", log_target=True).item(), rel=1e-6
    )
    assert found.agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert made.bits == 8 * sum(c.nbytes for c in by_kind) / sum(c.parameters for c in by_kind)
    ups = [c for c in by_kind if c.name.endswith("mlp.up")]
    (up,) = [kind for kind in made.kinds if kind.kind == "mlp.up"]
    assert up.max_error == max(c.max_error for c in ups)
    assert min(c.relative_error for c in ups) <= up.relative_error <= max(c.relative_error for c in ups)
    assert {kind.kind for kind in made.kinds} == {c.name.split(".", 2)[2] for c in by_kind}


@needs_native
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_as_it_generates_a_packed_model_meets_x_in_eight_bits(
    scheme: str, text: str, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when torch computes with every input rounded so; the given models stay as they are."""
    lengths: list[int] = []
    right = NativeStep.__call__

    def counted(step: NativeStep, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return right(step, ids, cache)

    monkeypatch.setattr(NativeStep, "__call__", counted)
    packed, by_hand = packed_copy(model, scheme), packed_copy(model, scheme)
    asked = list(eval_set(text, BYTES, LENGTH).windows)
    own, other = score_all([model, packed], asked, BYTES)
    meets_eight_bits(by_hand)
    _, in_torch, wanted = evaluate([model, packed, by_hand], asked, BYTES)
    assert own.used is own.torch and all(p.requires_grad for p in model.parameters())
    assert other.torch == in_torch and other.used.kl != in_torch.kl
    assert other.used.loss == pytest.approx(wanted.loss, abs=1e-4)
    assert abs(other.used.loss - in_torch.loss) > 10 * abs(other.used.loss - wanted.loss)
    assert other.used.kl == pytest.approx(wanted.kl, rel=0.02)
    assert sum(lengths) == sum(batch.ids.shape[1] for batch in asked)


@pytest.mark.parametrize("scheme", [None, "nf4", "int8"])
def test_where_x_stays_in_floats_there_is_one_answer(
    scheme: str | None, text: str, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without native code nothing brings it to 8 bits, nor where no matrix is int8 or int4."""
    if scheme == "int8":
        monkeypatch.setenv("FATHOM_NATIVE", "off")
    packed = model if scheme is None else packed_copy(model, scheme)
    assert as_generated(packed) is packed
    (found,) = score_all([packed], eval_set(text, BYTES, LENGTH).windows, BYTES)
    assert found.used is found.torch


@torch.no_grad()
def log_probabilities(model: nn.Module, text: str) -> torch.Tensor:  # (n, V)
    asked = eval_set(text, BYTES, LENGTH).windows
    return torch.cat([model(w.ids)[w.targets != IGNORED] for w in asked]).double().log_softmax(-1)


def test_of_records_only_the_answers_are_scored(tmp_path: Path, model: Transformer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a b ", "completion": "cd"}\n{"prompt": "e", "completion": "fgh"}\n')
    asked = list(eval_set(str(path), BYTES, LENGTH).windows)
    scored = np.concatenate([w.targets[w.targets != IGNORED].numpy() for w in asked])
    assert bytes(scored.tolist()) == b"cd\nfgh\n"
    path.write_text('{"text": "abc"}\n{"text": "de"}\n')
    (only,) = eval_set(str(path), BYTES, LENGTH).windows
    assert bytes(only.targets[0].tolist()) == b"bc\nde"


def test_the_verb_says_all_of_it(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(model_folder(tmp_path / "m", BYTES, LENGTH))
    assert main(["eval", folder, "--data", text, "--quantize", "all", "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["tokens"] == len(TEXT.encode()) - 1 and said["stride"] == LENGTH // 2
    assert [row["scheme"] for row in said["quantised"]] == list(SCHEMES)
    assert all(row["delta_loss"] == row["loss"] - said["loss"] and row["kinds"] for row in said["quantised"])
    differs = [row["scheme"] for row in said["quantised"] if row["loss"] != row["torch_loss"]]
    assert differs == (["int8", "int4"] if library("step") else []) and bool(differs) == bool(said["native"])
    assert all(f"{number:.4f}" in err for row in said["quantised"] for number in (row["loss"], row["torch_loss"]))
    assert f"{said['loss']:.4f}" in err and "mlp.down" in err and "nf4 as they generate" not in err
    assert main(["eval", folder, "--data", text, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert f"{said['bits_per_byte']:.4f}" in out and not err


def test_without_native_code_it_says_that_torch_computes(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    folder = str(model_folder(tmp_path / "m", BYTES, LENGTH))
    assert main(["eval", folder, "--data", text, "--quantize", "int4", "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["native"] is None and "all computed by torch" in err
    assert all(row["loss"] == row["torch_loss"] != said["loss"] for row in said["quantised"])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_run_on_packed_weights_says_how_and_names_its_floats(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data, run = base(tmp_path / "base"), str(records(tmp_path / "r.jsonl", 6)), str(tmp_path / "run")
    words = ["--method", "qlora", "--quantize", kind, "--target", "attn.q,unembed", "--max-iters", "2"]
    assert main(["finetune", str(model), "--data", data, "-o", run, *words, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["eval", run, "--data", data, "--json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    said, native = json.loads(out), kind == "int8" and library("step") is not None
    assert f"{kind}, with the run's adapter" in err and ("x in 8 bits" in err) == native == bool(said["native"])
    assert (said["loss"] != said["torch_loss"]) == native
    assert main(["eval", run, "--data", data, "--quantize", kind, "--device", "cpu"]) == 2
    line = capsys.readouterr().err
    assert f"packed in {kind}" in line and line.count("\n") == 1
    said_to_do = line.strip().split("fathom ")[-1].split()
    assert main([*said_to_do, "--data", data, "--json", "--device", "cpu"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["quantised"]
    assert row["loss"] == pytest.approx(said["loss"], rel=1e-6)


@pytest.mark.parametrize(
    "call, line",
    [
        (["--stride", "0"], "stride is 0; expected 1 to 24"),
        (["--stride", "25"], "stride is 25; expected 1 to 24"),
        (["--windows", "many"], "windows is 'many'; expected a whole number"),
        (["--quantize", "nf5"], "did you mean nf4"),
        (["--data", "short.txt"], "1 token; expected at least 2"),
        (["--data", "a.jsonl", "--stride", "4"], "a.jsonl holds records"),
        (["--data", "b.txt"], "b.txt"),
    ],
)
def test_bad_calls_end_in_one_line(
    call: list[str],
    line: str,
    tmp_path: Path,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("a")
    Path("a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    folder = str(model_folder(tmp_path / "m", BYTES, LENGTH))
    assert main(["eval", folder, "--data", text, *call, "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and line in err and err.count("\n") == 1


def test_a_token_without_a_row_in_the_model_is_an_error(text: str, model: Transformer) -> None:
    small = Transformer(replace(model.config, vocab_size=100))
    with pytest.raises(OutsideVocabulary, match=r"the text holds token \d+; the model's ids run from 0 to 99"):
        evaluate([small], eval_set(text, ByteTokenizer(), 8).windows, ByteTokenizer())


def test_a_loss_that_is_no_number_is_an_error(text: str, model: Transformer) -> None:
    nn.init.constant_(model.unembed.weight, float("nan"))
    with pytest.raises(FathomError, match="the loss is nan"):
        evaluate([model], eval_set(text, BYTES, LENGTH).windows, BYTES)
