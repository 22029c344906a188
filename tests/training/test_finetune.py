"""Fine-tuning changes what it says it changes, from where the base stands, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fathom
from fathom.adapters import lora
from fathom.errors import Diverged, FathomError
from fathom.formats.load import load as load_base
from fathom.training.events import Evaluated, Event, Note, Sample, read_metrics
from fathom.training.loop import update
from fathom.training.run import open_finetune_run
from fathom.training.session import Session
from fathom.training.tuning import micro_batch
from tests.training.runs import TEXT
from tests.training.tuning import GPT, base, records, tuned

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "rslora and lora+": {"method": "lora", "rslora": True, "lora_plus": 4.0},
    "pissa": {"method": "lora", "init": "pissa"},
    "dora": {"method": "dora"},
    "qlora": {"method": "qlora"},
    "int8": {"method": "qlora", "quantize": "int8"},
    "full": {"method": "full"},
}


def listened(folder: Path, **said: Any) -> list[Event]:
    events: list[Event] = []
    tuned(folder, "run", report=events.append, **said)
    return events


def session_of(folder: Path) -> Session:
    return open_finetune_run(folder).start()


def frozen(session: Session) -> dict[str, Tensor]:
    """Everything that does not learn, also what is packed."""
    learning = {id(p) for group in session.groups for p in group.parameters.values()}
    tensors = [*session.model.named_parameters(), *session.model.named_buffers()]
    return {name: x.clone() for name, x in tensors if id(x) not in learning}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_from_where_the_base_stands(tmp_path: Path, method: str) -> None:
    events = listened(tmp_path, max_iters=30, eval_interval=10, **METHODS[method])
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    said = next(event for event in events if isinstance(event, Note) and "before step 1" in event.text)
    assert not said.warning and f"{losses[0]:.4f}; the base's own: {losses[0]:.4f}" in said.text
    assert min(losses) < losses[0] - 0.5
    assert [event.step for event in events if isinstance(event, Sample)] == [0, 8, 15, 23, 30]


def test_an_adapter_that_does_not_begin_at_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = lora.add

    def crooked(model: Any, *rest: Any, **named: Any) -> list[str]:
        found = add(model, *rest, **named)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith(".b"):
                    p.fill_(0.01)
        return found

    monkeypatch.setattr(lora, "add", crooked)
    notes = [event for event in listened(tmp_path) if isinstance(event, Note) and "before step 1" in event.text]
    assert notes[0].warning and "differ" in notes[0].text


@pytest.mark.parametrize("method", ["lora", "pissa", "dora", "qlora", "int8"])
def test_only_the_adapter_has_gradients_and_the_base_stays_to_the_bit(tmp_path: Path, method: str) -> None:
    tuned(tmp_path, "run", max_iters=1, **METHODS[method])
    session = session_of(tmp_path / "run")
    before, seen = frozen(session), dict[str, bool]()
    batches = open_finetune_run(tmp_path / "run").batches()
    clear = session.optimizers.zero_grad
    session.optimizers.zero_grad = lambda: (  # type: ignore[method-assign]
        seen.update({n: p.grad is not None for n, p in session.model.named_parameters()}), clear())[1]  # fmt: skip
    for step in range(3):
        update(session, session.prepare(batches.at(step)))
    learning = {name for group in session.groups for name in group.parameters}
    assert {name for name, has in seen.items() if has} == learning
    assert all(".adapters.default." in name for name in learning)
    assert len(before) > 10 and all(torch.equal(x, before[name]) for name, x in frozen(session).items())


def test_the_optimizer_holds_nothing_but_the_adapter(tmp_path: Path) -> None:
    tuned(tmp_path, "run", method="qlora")
    session = session_of(tmp_path / "run")
    held = {id(p) for group in session.optimizers.param_groups for p in group["params"]}
    assert held == {id(p) for p in session.model.parameters() if p.requires_grad}
    assert sum(group.count for group in session.groups) < 0.4 * sum(p.numel() for p in session.model.parameters())


def test_b_learns_faster_by_the_ratio(tmp_path: Path) -> None:
    tuned(tmp_path, "run", lora_plus=16.0)
    rates = {group.role: group.learning_rate for group in session_of(tmp_path / "run").groups}
    assert rates == {"adapter a": 0.01, "adapter b": pytest.approx(0.16)}


@pytest.mark.parametrize("method", ["lora", "rslora and lora+", "pissa", "dora", "qlora"])
def test_the_run_is_a_model_and_its_adapter_one_for_the_base(tmp_path: Path, method: str) -> None:
    tuned(tmp_path, "run", **METHODS[method])
    ids = torch.arange(20)[None]
    trained = session_of(tmp_path / "run")
    open_finetune_run(tmp_path / "run").load_weights(trained.learner, tmp_path / "run/checkpoints/step-00000012")
    packed = "nf4" if method == "qlora" else None
    loaded = [
        fathom.load(tmp_path / "run", device="cpu")[0],
        fathom.load(tmp_path / "base", device="cpu", adapter=tmp_path / "run" / "adapter", quantize=packed)[0],
    ]
    losses = [line["val_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val_loss" in line]
    assert losses[-1] == min(losses)  # so that the last is the best
    expected = trained.model.eval()(ids)
    for model in loaded:
        torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(load_base(tmp_path / "base", device="cpu")[0](ids), expected, atol=1e-2)


def test_a_full_run_is_a_model_of_its_own(tmp_path: Path) -> None:
    tuned(tmp_path, "run", method="full", learning_rate=0.001)
    model, tokenizer = fathom.load(tmp_path / "run", device="cpu")
    assert tokenizer is not None and not (tmp_path / "run" / "adapter").exists()
    assert not torch.equal(model.embed.weight, load_base(tmp_path / "base", device="cpu")[0].embed.weight)


def test_the_base_file_is_untouched(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in base(tmp_path / "base").iterdir()}
    for number, method in enumerate(("full", "lora", "qlora")):
        tuned(tmp_path, f"run{number}", method=method)
    assert before == {path: path.read_bytes() for path in (tmp_path / "base").iterdir()}


def test_the_best_adapter_is_kept(tmp_path: Path) -> None:
    """A learning rate far too high after a good start."""
    tuned(tmp_path, "run", max_iters=60, learning_rate=0.2, eval_interval=2, clip=None)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line.get("val_loss") and line["step"]]
    best = min(lines, key=lambda line: line["val_loss"])["step"]
    assert best < 56
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        kept = tmp_path / "run" / "checkpoints" / f"step-{best:08d}" / name
        assert (tmp_path / "run" / "adapter" / name).read_bytes() == kept.read_bytes()


def test_a_gpt_with_tied_embeddings_learns_and_loads(tmp_path: Path) -> None:
    result = tuned(tmp_path, "run", model=base(tmp_path / "gpt", GPT), target=("attn.q", "mlp.*"), ranks=("mlp.up:2",))
    model = fathom.load(tmp_path / "run", device="cpu")[0]
    assert result.validation_loss is not None and model(torch.arange(9)[None]).isfinite().all()


def test_text_is_learned_in_windows(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    events = listened(tmp_path, data=tmp_path / "text.txt")
    assert any(isinstance(event, Note) and "windows of 48 tokens" in event.text for event in events)


def test_validation_data_of_their_own(tmp_path: Path) -> None:
    records(tmp_path / "other.jsonl", 7)
    tuned(tmp_path, "run", val_data=str(tmp_path / "other.jsonl"))
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert (facts["n_examples"], facts["n_val_rows"]) == (37, 7)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "more.txt").write_text(TEXT[:500])
    tuned(tmp_path, "text", data=tmp_path / "text.txt", val_data=str(tmp_path / "more.txt"))
    facts = json.loads((tmp_path / "text" / "facts.json").read_text())
    assert (facts["n_train"], facts["n_val"], facts["val_characters"]) == (len(TEXT), 500, 500)


def test_packing_and_blocks_that_forget_change_no_loss(tmp_path: Path) -> None:
    """The first loss is over the same examples, however they lie in rows."""
    ways: list[dict[str, Any]] = [{}, {"pack": True}, {"checkpoint_blocks": True}]
    first = [tuned(tmp_path, str(i), eval_windows=None, **said) for i, said in enumerate(ways)]
    curves = [
        [line["val_loss"] for line in read_metrics(r.folder / "metrics.jsonl") if "val_loss" in line] for r in first
    ]
    assert curves[0][0] == pytest.approx(curves[1][0], abs=1e-5)
    assert curves[0] == pytest.approx(curves[2], abs=1e-5)


def test_the_question_is_learned_only_if_asked_for(tmp_path: Path) -> None:
    tokens = [
        json.loads((tuned(tmp_path, str(i), mask_prompt=mask).folder / "facts.json").read_text())["n_train"]
        for i, mask in enumerate((True, False))
    ]
    assert tokens[1] > 1.5 * tokens[0]


def test_what_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    lines = [{"prompt": "p" * 5, "completion": "c" * n} for n in (3, 4, 60, 5)] + [
        {"prompt": "p" * 70, "completion": "c"}
    ]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, lines)))
    notes = [event.text for event in listened(tmp_path, data=tmp_path / "long.jsonl") if isinstance(event, Note)]
    assert any("of 5 records 2 were longer than 48 tokens and cut at the end, 1 were dropped" in text for text in notes)


def test_divergence_stops_and_names_the_batch(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"batch of records \d+, \d+, \d+, \d+\)"):
        tuned(tmp_path, "run", learning_rate=1e30, clip=None)


def bad(folder: Path, name: str, lines: list[Any]) -> Path:
    (folder / name).write_text("\n".join(map(json.dumps, lines)))
    return folder / name


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"method": "loro"}, "method is 'loro'.*lora"),
        ({"method": "full", "rank": 4}, "rank was given.*full"),
        ({"method": "full", "quantize": "nf4"}, "quantize=nf4 with method full"),
        ({"method": "lora", "quantize": "nf4"}, "use method qlora"),
        ({"quantize": "nf5", "method": "qlora"}, "nf5"),
        ({"target": ("attn.w",)}, "'attn.w' fits no layer.*attn.v"),
        ({"rank": 25}, "rank 25 is larger than blocks.0.attn.[qk]"),
        ({"rank": 0}, "rank is 0"),
        ({"ranks": ("mlp.up",)}, "PATTERN:RANK"),
        ({"lora_plus": 0.0}, "lora_plus=0"),
        ({"epochs": 2.0}, "epochs and max_iters"),
        ({"optimizer": "muon"}, "optimizer=muon"),
        ({"tokenizer": "byte"}, "tokenizer was given"),
        ({"context_length": 99}, "context_length=99.*48"),
        ({"val_data": "x.txt"}, "two of the same kind"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_bad_options_end_in_one_line_and_leave_nothing(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    with pytest.raises(FathomError, match=words) as caught:
        tuned(tmp_path, "run", **said)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "records.jsonl"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "record 2: no field 'completion'"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}], "record 2: 'completion' is empty"),
        ([{"question": "a"}], "record 1: the fields are 'question'"),
        ([], "holds no records"),
        ([{"prompt": "p" * 90, "completion": "b"}] * 3, "of 3 records nothing is left to learn"),
        ([{"prompt": "a", "completion": "b"}], "cannot be split"),
    ],
)
def test_bad_records_name_line_and_field(tmp_path: Path, lines: list[Any], words: str) -> None:
    with pytest.raises(FathomError, match=words):
        tuned(tmp_path, "run", data=bad(tmp_path, "bad.jsonl", lines))
    assert not (tmp_path / "run").exists()


def test_an_adapters_run_says_what_it_is_to_those_who_want_a_model(tmp_path: Path) -> None:
    tuned(tmp_path, "run", max_iters=2)
    with pytest.raises(FathomError, match=r"holds an adapter of .*base and no model of its own.*fathom merge"):
        load_base(tmp_path / "run")


@pytest.mark.parametrize(
    "rows, numbers, at_once", [(8, 256 * 64, 8), (4, 256 * 768, 2), (1, 256 * 2048, 1), (8, 2**20, 1), (6, 2**17, 3)]
)
def test_rows_go_through_as_many_as_caches_hold(rows: int, numbers: int, at_once: int) -> None:
    assert micro_batch(rows, numbers) == at_once
