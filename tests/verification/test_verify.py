"""A certificate is true of good models and false of spoilt ones: each comparison is seen to fail."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.backend.step import NativeStep
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.formats.load import load
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.tokenizer.characters import ByteTokenizer
from fathom.verification.layout import interleaved, layout, rope_layout
from fathom.verification.verify import evidence, verify

SIZES = {"vocab_size": 256, "context_length": 48, "d_model": 32, "n_layer": 2, "n_head": 4, "d_ff": 64}
LLAMA = replace(LLAMA2_7B, **SIZES, n_kv_head=2)
TINY_GPT2 = replace(GPT2, **SIZES)
NATIVE = ["native"] if library("step") else []


def made(config: ModelConfig, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model with weights large enough to have opinions, as a file."""
    torch.manual_seed(5)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return write_model(model.to(dtype), ByteTokenizer(), "gguf" if path.suffix == ".gguf" else "hf", path).path


@pytest.mark.parametrize("config", [LLAMA, TINY_GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("name", ["a", "a.gguf"])
def test_a_good_model_is_verified(config: ModelConfig, name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    certificate = verify(made(config, tmp_path / name))
    assert certificate.passed
    assert [c.reference.split()[0] for c in certificate.comparisons] == ["naive", "cache", *NATIVE, "transformers"]
    assert all(c.max_difference < 1e-4 and c.top1 == 1 and c.tokens > 300 for c in certificate.comparisons)


@pytest.mark.skipif(not NATIVE, reason="no C++ compiler")
def test_native_code_that_errs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, right = made(LLAMA, tmp_path / "a"), NativeStep.__call__
    monkeypatch.setattr(NativeStep, "__call__", lambda self, ids, cache: right(self, ids, cache) * 1.001)
    assert not verify(path, ["native"]).passed
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    assert verify(path).passed
    with pytest.raises(FathomError, match=r"native kernels off.*leave native out"):
        verify(path, ["native"])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_coarser_numbers_are_judged_as_such(dtype: str, tmp_path: Path) -> None:
    certificate = verify(made(LLAMA, tmp_path / "a"), ["naive", "cache"], dtype=dtype)
    assert certificate.passed and certificate.comparisons[0].max_difference > 1e-4


def spoil(path: Path, what: str, model_of: ModelConfig) -> Path:
    """The same model with one fault, in another folder."""
    model, tokenizer = load(path, device="cpu")
    state = {name: x.clone() for name, x in model.state_dict().items()}
    down = state["blocks.0.mlp.down.weight"].index_fill(0, torch.tensor(3), 1.0)
    rows = state["blocks.1.attn.q.weight"].unflatten(0, (-1, 4, 2)).transpose(1, 2).flatten(0, 2)
    faults = {
        "rows of q": {"blocks.1.attn.q.weight": rows},
        "one row": {"blocks.0.mlp.down.weight": down},
        "not a number": {"final_norm.weight": state["final_norm.weight"] * float("nan")},
    }
    model.load_state_dict(state | faults[what], assign=True)
    return write_model(model, tokenizer, "hf", path.parent / what.replace(" ", "-")).path


@pytest.mark.parametrize("what", ["rows of q", "one row", "not a number"])
def test_another_file_that_differs_is_seen(what: str, tmp_path: Path) -> None:
    good = made(LLAMA, tmp_path / "a")
    assert verify(good, [f"file:{good}"]).passed
    bad = spoil(good, what, LLAMA)
    certificate = verify(good, [f"file:{bad}"])
    assert not certificate.passed and "20 of 21 tensors" in certificate.comparisons[0].about
    assert main(["verify", str(good), "--against", f"file:{bad}"]) == 1


@pytest.mark.parametrize("reference", ["naive", "cache"])
def test_a_fast_path_that_errs_is_seen(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that forgets its mask in one case: whole passes, or steps with a past."""
    from fathom.model import attention

    right = attention.attend_fused

    def wrong(q: torch.Tensor, k: torch.Tensor, *rest: object) -> torch.Tensor:
        spoilt = q.shape[2] == k.shape[2] if reference == "naive" else q.shape[2] != k.shape[2]
        return right(q * (0.9 if spoilt else 1.0), k, *rest)  # type: ignore[arg-type]

    path = made(LLAMA, tmp_path / "a")
    monkeypatch.setattr(attention, "attend_fused", wrong)
    assert not verify(path, [reference]).passed


def test_as_json_and_as_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = made(LLAMA, tmp_path / "a")
    assert main(["verify", str(path), "--against", "naive,cache", "--json"]) == 0
    said = capfd.readouterr()
    certificate = json.loads(said.out.splitlines()[-1])
    assert certificate["passed"] and [c["reference"] for c in certificate["comparisons"]] == ["naive", "cache"]
    assert "verified" in said.err and "|Δlogit|" in said.err


@pytest.mark.parametrize(
    ("against", "says"), [("naiv", "did you mean naive"), ("file:", "no reference"), (",", "names")]
)
def test_unknown_references_are_one_line(
    against: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(made(LLAMA, tmp_path / "a")), "--against", against]) == 2
    assert says in capfd.readouterr().err


def test_trained_weights_tell_their_layout_and_a_permuted_file_is_caught(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / "stories260K" / "stories260K.bin"
    model, tokenizer = load(path, device="cpu")
    found = rope_layout(model.config, dict(model.named_parameters()).get)
    assert found is not None and found.verdict == "half-split"
    assert verify(path, ["cache"]).passed
    for linear in (linear for block in model.blocks for linear in (block.attn.q, block.attn.k)):
        rows = linear.weight.data.unflatten(0, (-1, 2, 4)).transpose(1, 2)  # as Meta's files have them
        linear.weight.data = rows.flatten(0, 2)
    told = rope_layout(model.config, dict(model.named_parameters()).get)
    assert told is not None and told.verdict == "interleaved"
    bad = write_model(model, tokenizer, "hf", tmp_path / "bad").path
    certificate = verify(bad, ["naive", "cache"])
    assert all(c.passed for c in certificate.comparisons)  # it computes what it says, and it is wrong
    assert certificate.layout is not None and certificate.layout.verdict == "wrong" and not certificate.passed
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # loading does not judge: `verify` does
        load(bad, device="cpu")


def test_a_file_that_was_permuted_twice_is_in_neither_layout(shared_data: Path) -> None:
    path = shared_data / "stories260K" / "stories260K.bin"
    model, tokenizer = load(path, device="cpu")
    for linear in (linear for block in model.blocks for linear in (block.attn.q, block.attn.k)):
        rows = linear.weight.data.unflatten(0, (-1, 4, 2)).transpose(1, 2)  # from Meta's order, in which they are not
        linear.weight.data = rows.flatten(0, 2)
    told = layout(model, [torch.tensor(tokenizer.encode("Once upon a time there was a girl"))])
    assert told is not None and told.neither and told.verdict == "wrong" and "neither layout" in evidence(told)


def test_the_model_is_left_as_it_was() -> None:
    model = Transformer(replace(LLAMA, bias=True, n_kv_head=None))
    before, ids = {name: x.clone() for name, x in model.state_dict().items()}, torch.randint(256, (1, 9))
    logits = model(ids)
    with interleaved(model):
        assert not torch.equal(model(ids), logits)
    assert torch.equal(model(ids), logits)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_untrained_weights_have_no_opinion() -> None:
    model = Transformer(LLAMA)
    found = layout(model, [torch.randint(256, (48,))])
    assert found is not None and found.verdict == "undecided"
    assert layout(Transformer(TINY_GPT2), []) is None


def test_a_library_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(FathomError, match="transformers is not installed"):
        verify(made(LLAMA, tmp_path / "a"), ["transformers"])


@pytest.mark.parametrize("config", [LLAMA, TINY_GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_a_packed_model_is_judged_by_its_own_weights(config: ModelConfig, scheme: str, tmp_path: Path) -> None:
    certificate = verify(made(config, tmp_path / "a"), quantize=scheme)
    naive, cache, *native, floats = certificate.comparisons
    assert certificate.passed and certificate.quantize == scheme and "weights unpacked" in naive.about
    assert naive.max_difference < 1e-4 and cache.max_difference < 1e-4
    assert [c.reference for c in native] == NATIVE and all(c.tolerance is None for c in native)
    assert floats.tolerance is None and floats.max_difference > 1e-3 and floats.kl > 1e-7  # told, and not judged
    assert "not judged" in str(certificate) and f"packed in {scheme}" in str(certificate)
    json.dumps(certificate.plain(), allow_nan=False)


def test_a_packed_model_that_errs_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A product that does not use the weights it unpacks for others."""
    from fathom.quant.linear import QuantLinear

    path, right = made(LLAMA, tmp_path / "a"), QuantLinear.forward
    monkeypatch.setattr(QuantLinear, "forward", lambda self, x: right(self, x) * 1.01)
    assert main(["verify", str(path), "--quantize", "int8"]) == 1
    assert "DIFFERENT" in capfd.readouterr().out
    assert main(["verify", str(path), "--quantize", "int3"]) == 2


def test_blocks_that_a_file_packed_itself_cost_nothing_more(tmp_path: Path) -> None:
    model, _ = load(made(LLAMA, tmp_path / "a"), device="cpu")
    path = write_model(model, ByteTokenizer(), "gguf", tmp_path / "q.gguf", "q8_0").path
    assert verify(path, quantize="int8").comparisons[-1].max_difference < 1e-4
