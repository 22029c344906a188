"""TrainOptions: read from text and YAML alike, and refusing what contradicts itself in one line."""

import subprocess
import sys
from typing import Any

import pytest
import yaml

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.training.options import TrainOptions
from fathom.training.presets import find


def test_text_from_a_command_line_becomes_options() -> None:
    given = {"max-iters": "300", "betas": "0.9,0.95", "clip": "none", "compile": "off", "optimizer": "muon"}
    options = build(TrainOptions, given, "command line")
    assert (options.max_iters, options.betas, options.clip) == (300, (0.9, 0.95), None)
    assert (options.compile, options.optimizer) == ("off", "muon")


def test_yaml_round_trip() -> None:
    options = TrainOptions(compile="on", micro_batch_size=3, clip=None, betas=(0.8, 0.9))
    text = yaml.safe_dump(plain(options))
    assert build(TrainOptions, yaml.safe_load(text), "config.yaml") == options


@pytest.mark.parametrize("word", ["on", "off"])
def test_unquoted_on_and_off_in_yaml(word: str) -> None:
    assert build(TrainOptions, yaml.safe_load(f"compile: {word}"), "config.yaml").compile == word


@pytest.mark.parametrize(
    ("iters", "given", "warmup"), [(2000, None, 100), (300, None, 50), (10, None, 1), (300, 7, 7), (300, 0, 0)]
)
def test_warmup_follows_from_the_steps(iters: int, given: int | None, warmup: int) -> None:
    assert TrainOptions(max_iters=iters, warmup_steps=given).warmup == warmup


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_iters": 0}, "max_iters=0; it must be at least 1"),
    ({"batch_size": -1}, "batch_size=-1; it must be at least 1"),
    ({"learning_rate": 0.0}, "learning_rate=0.0; it must be above 0"),
    ({"learning_rate": float("nan")}, "learning_rate=nan; it must be a finite number"),
    ({"clip": float("inf")}, "clip=inf; it must be a finite number"),
    ({"clip": 0.0}, "clip=0.0; it must be above 0"),
    ({"max_minutes": -2.0}, "max_minutes=-2.0; it must be above 0"),
    ({"keep": 1}, "keep=1; it must be at least 2"),
    ({"seed": 2**64}, "below 2^63"),
    ({"betas": (0.9,)}, "expected two numbers"),
    ({"betas": (0.9, 1.0)}, "expected two numbers"),
    ({"momentum": 1.0}, "momentum=1.0; it must be from 0 to below 1"),
    ({"final_fraction": 1.5}, "final_fraction=1.5; it is a fraction from 0 to 1"),
    ({"val_fraction": 1.0}, "val_fraction=1.0; it must be above 0 and below 1"),
    ({"optimizer": "adam"}, "did you mean adamw, adamw8bit? Choose one of adamw, adamw8bit, muon"),
    ({"dtype": "float16"}, "hoose one of auto, fp32, bf16, fp16"),
    ({"batch_size": 12, "micro_batch_size": 5}, "batch_size=12 is not a multiple of micro_batch_size=5"),
    ({"batch_size": 4, "micro_batch_size": 8}, "batch_size=4 is not a multiple of micro_batch_size=8"),
    ({"max_iters": 50, "warmup_steps": 51}, "warmup_steps=51 is more than max_iters=50"),
    ({"max_iters": 100, "warmup_steps": 50, "decay_fraction": 0.6, "schedule": "wsd"}, "leave no room"),
]


@pytest.mark.parametrize(("given", "says"), BAD, ids=[says for _, says in BAD])
def test_what_cannot_be_is_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError) as caught:
        TrainOptions(**given)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"learning-rat": 1}, "did you mean learning_rate"),
        ({"betas": 0.9}, "expected two numbers"),
        ({"batch_size": 1.5}, "expected a whole number"),
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"compile": "maybe"}, "hoose one of auto, on, off"),
    ],
)
def test_what_was_written_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says.replace("?", r"\?")):
        build(TrainOptions, given, "train.yaml")


def test_options_do_not_import_torch() -> None:
    code = "import sys, fathom.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_short_run_of_a_preset_has_a_short_warmup() -> None:
    """`fathom train demo --max-iters 20`: the preset's 2,000 steps of warm-up belong to its own length."""
    demo = find("demo")
    assert demo.options().warmup == 2000 and demo.changed({}, {"max_iters": "20"}).options().warmup == 3
    assert demo.changed({}, {"max_iters": 20_000}).options().warmup == 2000
    assert demo.changed({}, {"max_iters": 20, "warmup_steps": 5}).options().warmup == 5
    with pytest.raises(FathomError, match="max_iters is 'many'"):
        demo.changed({}, {"max_iters": "many"}).options()
