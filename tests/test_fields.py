"""Options from plain values: what fits is converted, what does not is one line with near matches."""

from dataclasses import dataclass
from typing import Literal

import pytest

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.model.config import ModelConfig, RopeScaling, Rotary


@dataclass(frozen=True)
class Options:
    count: int
    rate: float = 0.5
    name: str = "a"
    on: bool = False
    kind: Literal["near", "far"] = "near"
    limit: int | None = 3
    pair: tuple[float, float] = (0.1, 0.2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"count": "7"}, Options(7)),
        ({"count": 7.0, "rate": "1e-3"}, Options(7, 0.001)),
        ({"count": 1, "on": "yes"}, Options(1, on=True)),
        ({"count": 1, "limit": "none"}, Options(1, limit=None)),
        ({"count": 1, "limit": None}, Options(1, limit=None)),
        ({"count": 1, "pair": "0.9,0.95"}, Options(1, pair=(0.9, 0.95))),
        ({"count": 1, "pair": [1, 2]}, Options(1, pair=(1.0, 2.0))),
        ({"count": 1, "kind": "far"}, Options(1, kind="far")),
    ],
)
def test_what_fits_is_converted(values: dict[str, object], expected: Options) -> None:
    assert build(Options, values, "here") == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["here", "count"]),
        ({"count": 1, "rat": 3}, ["here", "'rat'", "rate"]),
        ({"count": "many"}, ["count", "'many'", "whole number"]),
        ({"count": 1.5}, ["count", "1.5"]),
        ({"count": True}, ["count", "True"]),
        ({"count": 1, "on": "maybe"}, ["on", "true or false"]),
        ({"count": 1, "kind": "nea"}, ["kind", "near", "far"]),
        ({"count": 1, "rate": [1]}, ["rate", "number"]),
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(FathomError) as error:
        build(Options, values, "here")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_a_config_with_a_config_inside_comes_back_from_plain_values() -> None:
    scaling = RopeScaling(kind="yarn", factor=4.0)
    config = ModelConfig(
        vocab_size=9,
        context_length=8,
        d_model=8,
        n_layer=1,
        position="rope",
        rope=Rotary(scaling=scaling),
        n_kv_head=None,
    )
    assert build(ModelConfig, plain(config), "model") == config


def test_a_config_of_an_older_run_is_read_as_it_was() -> None:
    older = {"vocab_size": 9, "context_length": 8, "d_model": 8, "n_layer": 1, "position": "rope", "residual": True,
             "qk_norm": False, "rope_theta": 500.0, "rope_scaling": {"kind": "yarn", "factor": 4.0}}  # fmt: skip
    config = build(ModelConfig, older, "model")
    assert config.rope == Rotary(theta=500.0, scaling=RopeScaling(kind="yarn", factor=4.0))
    assert (config.residual, config.qk_norm) == ("on", "off")
    assert build(ModelConfig, {**older, "rope_scaling": None, "residual": False}, "model").residual == "off"
