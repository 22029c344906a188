"""A config in few words makes the same model again, from YAML too, and nothing that follows is in it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given

from fathom.anatomy.words import REQUIRED, declared, in_line
from fathom.errors import FathomError
from fathom.fields import build
from fathom.model.config import Experts, Layers, ModelConfig, RopeScaling, Rotary, Scale
from tests.architectures import ARCHITECTURES, BEYOND, configs

ODD = {
    "head_dim of no multiple": ModelConfig(
        vocab_size=9, context_length=8, d_model=10, n_head=3, head_dim=4, n_layer=1, d_ff=40
    ),
    "d_ff of another activation": ModelConfig(vocab_size=9, context_length=8, d_model=12, n_layer=1, mlp="gelu"),
}


def again(words: Mapping[str, Any]) -> ModelConfig:
    text = yaml.safe_dump({"model": dict(words)}, sort_keys=False)
    return build(ModelConfig, yaml.safe_load(text)["model"], "words").resolved()


@pytest.mark.parametrize("config", [*ARCHITECTURES.values(), *BEYOND.values(), *ODD.values()])
def test_words_make_the_model_again_and_none_is_idle(config: ModelConfig) -> None:
    words = declared(config)
    assert again(words) == config.resolved()
    for name in words.keys() - set(REQUIRED):
        with suppress(FathomError):  # no model without it
            assert again({other: value for other, value in words.items() if other != name}) != config.resolved(), name


@given(configs())
def test_words_of_any_config(config: ModelConfig) -> None:
    assert again(declared(config)) == config.resolved()


def test_values_are_short() -> None:
    config = ModelConfig(
        vocab_size=9, context_length=8, d_model=8, n_layer=2, position="rope", norm="rms", mlp=Experts(8, 2, False),
        layers=Layers("lg", 4), rope=Rotary(theta=5e5, scaling=RopeScaling(kind="yarn", factor=4)), d_ff=7,
        bias=("qkv", "out"), scale=Scale(logit_cap=30), tie_embeddings=True,
    )  # fmt: skip
    words = declared(config)
    assert words["layers"] == "lg:4" and words["rope"] == {"theta": 5e5, "scaling": {"kind": "yarn", "factor": 4}}
    assert words.keys().isdisjoint({"n_head", "head_dim", "residual", "dropout"})
    assert in_line(["qkv", "out", "mlp", "norm"]) == "on"
    shown = [in_line(words[name]) for name in ("mlp", "bias", "rope", "scale", "tie_embeddings")]
    assert shown == [
        "n=8, used=2, renormalise=off", "qkv,out", "theta=500000, scaling=(kind=yarn, factor=4)", "logit_cap=30", "on"
    ]  # fmt: skip
