"""Each rung is the one below with exactly one declared field changed, and can be built, found and trained."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch

from fathom.anatomy.cost import n_active_parameters, n_parameters
from fathom.errors import FathomError
from fathom.experiments.page import source
from fathom.experiments.rungs import IDEAS, Rung, beside, difference, find, rungs
from fathom.experiments.take_aways import everything
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.training import presets
from fathom.training.presets import PRESETS
from fathom.training.presets import find as preset

LADDER = rungs(vocab_size=65)
KEYS = [rung.key for rung in LADDER]


@pytest.mark.parametrize("below, above", list(pairwise(LADDER)), ids=KEYS[1:])
def test_one_field_at_a_time(below: Rung, above: Rung) -> None:
    differ = [f.name for f in fields(ModelConfig) if getattr(below.config, f.name) != getattr(above.config, f.name)]
    assert (
        differ == list(presets.LADDER[above.key]) == list(difference(below.config, above.config)) and len(differ) == 1
    )


def test_the_order_of_the_ladder() -> None:
    assert " ".join(KEYS) == "bigram attention positions heads mlp layernorm depth rmsnorm rope swiglu gqa"


def test_from_a_bigram_to_llama() -> None:
    bigram, gpt, llama = (LADDER[KEYS.index(key)].config for key in ("bigram", "depth", "gqa"))
    assert bigram.n_layer == 0
    assert (gpt.position, gpt.norm, gpt.mlp) == ("learned", "layer", "gelu") and gpt.n_layer > 1 and gpt.residual
    assert (llama.position, llama.norm, llama.mlp) == ("rope", "rms", "swiglu")
    assert llama.n_kv_head is not None and llama.n_kv_head < llama.n_head


@pytest.mark.parametrize("rung", LADDER, ids=KEYS)
def test_every_rung_is_a_model(rung: Rung) -> None:
    model = Transformer(rung.config)
    assert model(torch.zeros(2, 32, dtype=torch.long)).shape == (2, 32, 65)
    assert sum(p.numel() for p in model.parameters()) == n_parameters(rung.config)


def test_many_heads_and_swiglu_are_fair() -> None:
    size = {rung.key: n_parameters(rung.config) for rung in LADDER}
    assert size["heads"] == size["positions"]
    assert abs(size["swiglu"] - size["rope"]) < 0.01 * size["rope"]


@pytest.mark.parametrize("idea", IDEAS, ids=KEYS)
def test_the_source_of_an_idea_is_there(idea: object) -> None:
    assert source(idea.source).startswith(("def ", "class "))


def test_experts_are_beside_the_ladder_and_a_token_meets_as_many_parameters() -> None:
    (experts,) = beside(LADDER)
    assert experts.whole == "gqa" and list(difference(LADDER[-1].config, experts.config)) == ["mlp"]
    router = 2 * 8 * LADDER[-1].config.d_model
    assert n_active_parameters(experts.config) == n_parameters(LADDER[-1].config) + router
    assert n_parameters(experts.config) > 2.9 * n_parameters(LADDER[-1].config)
    assert source(experts.idea.source).startswith("class ExpertsMLP")  # type: ignore[union-attr]
    assert PRESETS["rung-experts"].config(65) == experts.config
    assert [rung.key for rung in find(["experts"], everything(65))] == ["gqa", "experts"]


def test_a_token_of_moe_tiny_meets_as_many_parameters_as_one_of_llama_tiny() -> None:
    plain, mixture = (PRESETS[name].config(1024) for name in ("llama-tiny", "moe-tiny"))
    assert abs(n_active_parameters(mixture) - n_parameters(plain)) < 0.01 * n_parameters(plain)
    assert n_parameters(mixture) > 2.5 * n_parameters(plain)


def test_find() -> None:
    assert find([], LADDER) == LADDER
    assert [rung.key for rung in find(["mlp", "bigram"], LADDER)] == ["bigram", "mlp"]
    with pytest.raises(FathomError, match=r"no rung 'rop'; did you mean rope.* Rungs are bigram, attention"):
        find(["rop"], LADDER)


def test_every_rung_is_a_preset() -> None:
    made = PRESETS
    for rung in LADDER:
        recipe = made[f"rung-{rung.key}"]
        assert recipe.config(65) == rung.config
        recipe.options()


def test_a_rung_that_was_renamed_says_so() -> None:
    with pytest.raises(FathomError, match="rung-residual is now rung-mlp"):
        preset("rung-residual")
