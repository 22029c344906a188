"""A plan: each number follows from its arithmetic, what fits does, and wrong calls end in one line."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import fathom
from fathom.anatomy import cost
from fathom.anatomy.training import Step, memory
from fathom.errors import FathomError
from fathom.planning import plan as room
from fathom.planning.models import MODELS
from fathom.planning.options import count
from fathom.planning.plan import plan
from fathom.planning.subject import subject
from fathom.training.presets import PRESETS, find
from tests.anatomy.test_amounts import worked_out

PUBLISHED = json.loads((Path(__file__).parents[2] / "docs" / "published.json").read_text(encoding="utf-8"))


def test_each_number_of_the_example_by_hand() -> None:
    """`fathom plan gpt2 --devices 8xH100-80GB --tokens 10B`, as docs/scale.md walks through it."""
    found = plan("gpt2", devices="8xH100-80GB", tokens="10B")
    n = 50257 * 768 + 1024 * 768 + 12 * (4 * 769 * 768 + 769 * 3072 + 3073 * 768) + 50 * 768
    assert sum(one.n for one in found.parameters.values()) == n == 124_439_808
    ddp, fsdp = found.memory["ddp"], found.memory["fsdp"]
    assert ddp["weights"].n == ddp["gradients"].n == 4 * n and ddp["optimizer"].n == 8 * n
    assert fsdp["weights"].n == 4 * n / 8 and fsdp["optimizer"].n == n
    matrices = 12 * 12 * 768 * 768 + 50257 * 768
    assert ddp["copies"].n == 2 * matrices
    assert ddp["activations"].n == 60 * 1024 * ((12 * (2 * 768 + 12) + 768) * 4 + (12 * 16 * 768 + 768) * 2)
    assert ddp["logits"].n == 3 * (2**25 // 50257) * 50257 * 4
    assert ddp["at once"].n == sum(one.n for kind, one in ddp.items() if kind != "at once")
    forward = 2 * 1024 * matrices + 4 * 1024 * 12 * 1024 * 768
    again = 2 * 1024 * 50257 * 768  # logits are computed twice
    assert found.flops["forward"].n == forward and found.flops["backward"].n == 2 * forward
    assert found.flops["recomputed"].n == again
    step = 480 * (3 * forward + again)
    assert found.time["seconds"] == pytest.approx(step / (8 * 989.4e12 * 0.4))
    assert found.time["steps"] == -(-10_000_000_000 // (480 * 1024)) == 20346
    assert found.time["hours"] == pytest.approx(20346 * found.time["seconds"] / 3600)
    assert found.traffic["gradients"].n == 2 * 4 * n * 7 // 8
    assert found.cache.n == 2 * 12 * 1024 * 768 * 2 and not found.problem
    assert {way.words for way in found.ways} == {
        "ddp", "ddp, blocks recomputed", "fsdp", "fsdp, blocks recomputed"
    }  # fmt: skip


@pytest.mark.parametrize("name", [*PRESETS, *MODELS])
def test_parameters_of_every_name(name: str) -> None:
    """As `fathom.anatomy.cost` counts them, which other tests hold against built models."""
    found = plan(name, devices="H100")
    config = find(name).config(subject(name).config.vocab_size) if name in PRESETS else MODELS[name]
    assert sum(one.n for one in found.parameters.values()) == cost.n_parameters(config)


PUBLISHED_SIZES = {
    "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200, "tinyllama-1.1b": 1_100_048_384,
    "llama-13b": 13_015_864_320, "llama-65b": 65_285_660_672, "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496, "llama-3.1-405b": 405_853_388_800,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_known_models_have_their_published_sizes(name: str) -> None:
    assert cost.n_parameters(MODELS[name]) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_json_alone_is_enough(name: str, tmp_path: Path) -> None:
    """Of every published model, without weights: by the file, and by the folder that it is in."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]["config"]))
    for path in (tmp_path, tmp_path / "config.json"):
        found = plan(str(path), devices="8xH100", context_length=256)
        assert sum(one.n for one in found.parameters.values()) == PUBLISHED[name]["parameters"]


def held(found: Any, parallel: str = "one device") -> int:
    return int(found.memory[parallel]["at once"].n)


def test_what_fits_fits_and_one_more_does_not() -> None:
    first = plan("llama-2-7b", devices="8xH100", batch=8)
    assert first.about["parallel"] == "fsdp"  # 101 GB of weights, gradients and optimizer do not fit
    way = next(way for way in first.ways if way.words == "fsdp")
    for rows, fits in ((way.rows, True), (way.rows + 1, False)):
        found = plan("llama-2-7b", devices="8xH100", batch=8 * rows * 2, micro_batch=rows, parallel="fsdp")
        assert (held(found, "fsdp") <= found.about["usable"]) is fits
        assert bool(found.problem) is not fits


def test_ddp_where_it_fits() -> None:
    assert plan("gpt2", devices="8xH100").about["parallel"] == "ddp"
    assert plan("gpt2", devices="8xH100", parallel="fsdp").about["parallel"] == "fsdp"
    assert "fsdp" not in plan("gpt2", devices="8xH100", optimizer="adamw8bit").memory


def test_an_adapter_and_recomputation_need_less() -> None:
    full, lora, qlora = (
        held(plan("tinyllama-1.1b", devices="H100", method=method, batch=1)) for method in ("full", "lora", "qlora")
    )
    assert qlora < lora < full / 2
    assert held(plan("tinyllama-1.1b", devices="H100", batch=1, recompute=True)) < full


def test_what_does_not_fit_is_said_with_what_would() -> None:
    found = plan("llama-2-7b", devices="T4", context_length=1024)
    assert (
        "does not fit: one sequence needs" in found.problem
        and "--method lora --recompute" in found.problem
        and "xT4" in found.problem
    )
    assert not plan("llama-2-7b", devices="T4", method="qlora", context_length=1024, recompute=True).problem
    proposed = found.problem.split("--devices ")[1].split()[0]
    assert not plan("llama-2-7b", devices=proposed, context_length=1024, parallel="fsdp", recompute=True).problem


def test_the_share_of_the_peak_can_be_set() -> None:
    at = {mfu: plan("gpt2", devices="A100-80GB", mfu=mfu).time["seconds"] for mfu in (0.2, 0.4)}
    assert at[0.2] == pytest.approx(2 * at[0.4])


def test_a_slow_way_between_devices_bounds_the_step() -> None:
    found = plan("llama-2-7b", devices="8xRTX4090", parallel="fsdp", batch=8, context_length=256)
    assert found.time["bound"] == "traffic" and found.time["seconds"] == found.time["travel"]


def test_formulas_are_equal_to_their_numbers() -> None:
    found = plan("llama-2-7b", devices="8xH100", batch=64)
    amounts = [*found.parameters.values(), *found.flops.values(), found.cache, *found.memory["ddp"].values()]
    for one in amounts:
        if not any(word.isalpha() for word in one.formula.split()):
            assert worked_out(one.formula) == one.n
    assert found.memory["ddp"]["at once"].formula.startswith("weights + optimizer + gradients + copies")


def test_json_is_plain() -> None:
    said = json.loads(json.dumps(plan("gpt2", devices="8xH100", tokens="1B").plain()))
    assert said["memory"]["ddp"]["weights"] == {"n": 497759232, "formula": "124,439,808 × 4"}
    assert said["about"]["source"].startswith("NVIDIA")


@pytest.mark.parametrize(
    ("text", "n"), [("2.5B", 2_500_000_000), ("10b", 10**10), ("300_000", 300_000), ("1e9", 10**9), ("2T", 2 * 10**12),
                    ("1,000", 1000), ("15m", 15 * 10**6)]
)  # fmt: skip
def test_counts_as_people_write_them(text: str, n: int) -> None:
    assert count(text, "--tokens") == n


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tokens": "ten"}, "expected a number of at least 1, such as 300M"),
    ({"tokens": "0"}, "expected a number"),
    ({"tokens": "1.2.3B"}, "expected a number"),
    ({"tokens": "-5B"}, "expected a number"),
    ({"devices": "8xH900"}, "did you mean"),
    ({"devices": "0xH100"}, "expected at least one"),
    ({"devices": "8xH100", "batch": 4}, "fewer than 8 devices; give --batch 8"),
    ({"devices": "8xH100", "batch": 12}, "not a multiple of 8 devices; give --batch 8 or 16"),
    ({"devices": "8xH100", "batch": 80, "micro_batch": 4}, "does not divide the 10 sequences of a device"),
    ({"devices": "H100", "parallel": "fsdp"}, "one device, which has nobody to share with"),
    ({"devices": "2xH100", "parallel": "fsdp", "optimizer": "adamw8bit"}, "use adamw or muon"),
    ({"devices": "H100", "dtype": "fp32"}, "products in 16 bits"),
    ({"devices": "H100", "mfu": 40}, "above 0 and at most 1"),
    ({"mfu": 0.4}, "share is measured"),
    ({"devices": "H100", "batch": 0}, "batch is 0; it must be at least 1"),
    ({"devices": "H100", "optimizer": "adam"}, "choose one of"),
    ({"devices": "H100", "optimizer": "muon", "method": "lora"}, "use adamw"),
    ({"devices": "H100", "method": "dora"}, "hoose one of full, lora, qlora"),
    ({"devices": "H100", "method": "lora", "context_length": 5000}, "use at most that"),
]


@pytest.mark.parametrize(("options", "says"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_bad_input_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says) as caught:
        plan("gpt2", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("gpt3", "did you mean gpt2"), ("lama-2-7b", "did you mean llama-2-7b"), ("./nothing/here", "does not exist"),
     ("gone.yaml", "does not exist"), ("gone.json", "does not exist")],
)  # fmt: skip
def test_unknown_models_are_one_line(name: str, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        plan(name, devices="H100")


# a run, with what it measured


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tmp_path_factory.mktemp("plan") / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 80)
    small = {"d_model": 32, "n_layer": 2, "n_head": 2, "context_length": 16}
    result = fathom.train("gpt-cpu", text.parent / "run", model=small, data=str(text), tokenizer="byte", max_iters=8,
                          batch_size=4, eval_interval=8, dtype="fp32", device="cpu")  # fmt: skip
    return result.folder


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of this machine is measured by a test of its own."""
    from fathom.planning.trial import Pieces, Speed

    monkeypatch.setattr(
        "fathom.planning.trial.speed", lambda *_: Speed(100.0, "a product", Pieces(1e-3, 2e-3, 1e-4, 2e-4))
    )


def test_a_run_shows_what_it_measured(run: Path, no_trial: None) -> None:
    found = plan(str(run))
    assert found.measured is not None
    n = sum(one.n for one in found.parameters.values())
    assert found.measured.learned == n and found.measured.steps == 8
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found.measured.peak_bytes == max(line["peak_bytes"] for line in lines if "val_loss" in line)
    assert found.measured.peak_bytes > found.memory["one device"]["weights"].n
    steps = [line for line in lines if "loss" in line]
    gaps = sorted(two["seconds"] - one["seconds"] for one, two in pairwise(steps[1:]))
    assert gaps[0] <= (found.measured.seconds or 0) <= gaps[-1]
    assert found.measured.tokens_per_second == pytest.approx(4 * 16 / (found.measured.seconds or 1))
    assert found.about["batch"] == 4 and found.about["dtype"] == "fp32"
    assert "after 8 steps" in str(found) and "planned / measured" in str(found)


def test_a_run_without_a_record_of_memory_says_so(run: Path, no_trial: None) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "peak_bytes"} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    try:
        found = plan(str(run))
        assert found.measured is not None and found.measured.peak_bytes is None and "not recorded" in str(found)
    finally:
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_here_the_step_is_the_sum_of_its_pieces(no_trial: None) -> None:
    found = plan("llama-tiny", batch=8, micro_batch=2)
    assert found.time["seconds"] == pytest.approx(4 * (4 * 1e-3 + 2e-3) + 4 * 1e-4 + 2e-4)
    assert found.memory["one device"]["process"].n > 50 * 2**20
    assert found.memory["one device"]["at once"].formula.startswith("process + weights")


def test_a_trial_measures_every_piece() -> None:
    """Of a model so small that nothing but its order is claimed."""
    import torch

    from fathom.planning.trial import speed
    from fathom.training.options import TrainOptions

    config = replace(MODELS["gpt2"], vocab_size=64, d_model=32, n_head=2, n_layer=6, context_length=32).resolved()
    options = TrainOptions(device="cpu", dtype="fp32", compile="off")
    for method in ("full", "lora", "qlora"):
        found = speed(config, Step(32, 2, itemsize=4, method=method), options, torch.device("cpu"))
        assert found.pieces is not None and found.gflop_s > 0
        assert found.pieces.seconds(6, 2) > 0


def test_slack_is_what_is_held_for_good_and_what_each_block_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models with one, one and three blocks: 50 - 10 bytes are kept from the first on, and each block adds 10."""
    import torch

    from fathom.planning import trial
    from fathom.training.options import TrainOptions

    measured, slack = trial.warmed, iter((50, 10, 30))
    monkeypatch.setattr(trial, "warmed", lambda *given: (measured(*given)[0], next(slack)))
    config = replace(MODELS["gpt2"], vocab_size=64, d_model=32, n_head=2, n_layer=6, context_length=32).resolved()
    options = TrainOptions(device="cpu", dtype="fp32", compile="off")
    found = trial.speed(config, Step(32, 2, itemsize=4), options, torch.device("cpu"))
    assert found.slack == (50 - 10) + 10 + 5 * 10


def test_a_model_too_large_to_try_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fathom.planning import trial
    from fathom.training.options import TrainOptions

    monkeypatch.setattr(trial, "products", lambda *_: 50.0)
    config = MODELS["llama-2-70b"].resolved()
    found = trial.speed(config, Step(4096), TrainOptions(device="cpu"), torch.device("cpu"))
    assert found.pieces is None
    monkeypatch.setattr("fathom.planning.trial.speed", lambda *_: found)
    planned = plan("llama-2-70b", batch=1)
    each = sum(one.n for one in planned.flops.values())
    assert planned.time["seconds"] == pytest.approx(each / (50e9 * 0.6)) and "too large to try" in str(planned)


def test_memory_here_counts_the_process_once() -> None:
    what, step = subject("llama-tiny"), Step(128, 4)
    kinds = memory(what.config, step)
    place = room.Place("", 1, 1 << 40, 2, "", process=room.Amount(1000, "1,000"))
    found = room.memory(what, step, room.ONE, place)
    assert found["at once"].n == 1000 + sum(
        kinds[k].n for k in ("weights", "copies", "optimizer", "activations", "logits")
    )
