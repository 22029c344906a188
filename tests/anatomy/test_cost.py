"""The arithmetic of cost.py against what torch really allocates, multiplies and keeps."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fathom.anatomy import cost
from fathom.anatomy.swap import parts, swap
from fathom.errors import FathomError
from fathom.model.attention import Attention, attend
from fathom.model.cache import KVCache
from fathom.model.config import CHOICES, Experts, Layers, ModelConfig, Scale
from fathom.model.presets import GPT2, LLAMA2_7B, LLAMA2_13B, LLAMA2_70B
from fathom.model.transformer import Transformer

TINY = ModelConfig(vocab_size=37, context_length=17, d_model=12, n_layer=3, n_head=6, head_dim=4)
CONFIGS = {
    "bigram": replace(TINY, n_layer=0),
    "bigram tied": replace(TINY, n_layer=0, tie_embeddings=True, position="learned"),
    "attention": TINY,
    "gpt": replace(TINY, position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True),
    "gpt no bias": replace(TINY, position="learned", norm="layer", mlp="relu2"),
    "llama": replace(TINY, position="rope", norm="rms", mlp="swiglu", n_kv_head=2, d_ff=19),
    "qk_norm": replace(TINY, position="rope", norm="rms", mlp="swiglu", n_kv_head=1, qk_norm="on", bias=True),
    "norm of embeddings": replace(TINY, norm="layer", mlp="gelu", bias=True, scale=Scale(embed_norm=True)),
    "plain norms": replace(TINY, norm="rms_plain", mlp="relu2", position="rope", qk_norm="rotated"),
    "post": replace(TINY, norm="rms", mlp="swiglu", residual="post", qk_norm="whole", n_kv_head=2),
    "sandwich": replace(TINY, norm="rms", mlp="geglu", residual="sandwich", layers=Layers("lg", 5)),
    "parallel": replace(TINY, norm="layer", mlp="gelu", residual="parallel", bias=("mlp", "unembed")),
    "parallel norms": replace(TINY, norm="layer", mlp="relu", residual="parallel_norms", position="alibi"),
    "no stream": replace(TINY, mlp="gelu", residual="off"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def explicit(config: ModelConfig) -> Transformer:
    model = Transformer(config)  # torch's counter sees nothing inside the fused kernel on CPU
    swap(model, attend=attend, names=parts(model, Attention))
    return model


@every_config
def test_parameters_are_those_of_the_model(config: ModelConfig) -> None:
    model = Transformer(config)
    assert cost.n_parameters(config) == sum(p.numel() for p in model.parameters())
    parts = cost.parameters(config)
    assert parts["attn"] == sum(
        p.numel() for b in model.blocks for m in "qkv" for p in getattr(b.attn, m).parameters()
    ) + sum(p.numel() for b in model.blocks for p in b.attn.out.parameters())
    assert parts["embed"] == model.embed.weight.numel()


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (GPT2, 124_439_808),
        (LLAMA2_7B, 6_738_415_616),
        (LLAMA2_13B, 13_015_864_320),
        (LLAMA2_70B, 68_976_648_192),
    ],
)
def test_published_sizes(config: ModelConfig, published: int) -> None:
    assert cost.n_parameters(config) == published


@every_config
@pytest.mark.parametrize(("batch", "t"), [(1, 1), (3, 11)])
def test_flops_are_those_torch_counts(config: ModelConfig, batch: int, t: int) -> None:
    model, ids = explicit(config), torch.randint(config.vocab_size, (batch, t))
    with FlopCounterMode(display=False) as counter:
        logits = model(ids)
    assert sum(cost.flops(config, t, batch).values()) == counter.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert cost.training_flops(config, t, batch) == counter.get_total_flops() + backward.get_total_flops()


@every_config
def test_flops_after_a_cache(config: ModelConfig) -> None:
    model, ids = explicit(config), torch.randint(config.vocab_size, (2, 9))
    cache = KVCache(config, batch=2, length=9)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids[:, :5], cache)
        model(ids[:, 5:], cache)
    expected = sum(cost.flops(config, 5, 2).values()) + sum(cost.flops(config, 4, 2, past=5).values())
    assert counter.get_total_flops() == expected
    assert cost.cache_bytes(config, 2, 9) == cache.nbytes


def test_flops_split() -> None:
    split = cost.flops(CONFIGS["llama"], t=7, batch=2)
    assert split["attn.k"] == split["attn.v"] == 3 * 2 * 14 * 12 * 8
    assert split["attn.scores"] == split["attn.z"] == 3 * 2 * 2 * 6 * 7 * 7 * 4
    assert split["mlp.gate"] == split["mlp.up"] == split["mlp.down"] == 3 * 2 * 14 * 12 * 19
    assert split["unembed"] == 2 * 14 * 12 * 37


def test_every_value_of_a_choice_has_its_cost() -> None:
    tables = {"mlp": (cost.MATRICES, cost.KEPT_BY_MLP), "norm": (cost.NORM_VECTORS, cost.KEPT_BY_NORM),
              "position": (cost.POSITION_TABLES,), "residual": (cost.NORMS_PER_LAYER,),
              "qk_norm": (cost.QK_NORMS,)}  # fmt: skip
    assert tables.keys() == CHOICES.keys()
    for choice, values in CHOICES.items():
        for table in tables[choice]:
            assert tuple(sorted(table)) == tuple(sorted(values))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_value_without_a_cost_is_named(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new value is while its author has not entered it: in one line, where a bare KeyError was."""
    monkeypatch.setitem(CHOICES, choice, (*CHOICES[choice], "new"))
    config = replace(TINY, **{choice: "new"})
    for count in (cost.parameters, cost.kept_per_token)[: 1 if choice == "position" else 2]:
        with pytest.raises(
            FathomError, match=f"{choice}='new' has no entry in fathom/anatomy/cost.py; add what it costs"
        ):
            count(config)


def test_mixtral_has_47_billion_parameters_and_a_token_meets_13() -> None:
    """Jiang et al. 2024, section 1, and the number of parameters in the published files."""
    mixtral = ModelConfig(
        vocab_size=32000, context_length=32768, d_model=4096, n_layer=32, n_head=32, n_kv_head=8, d_ff=14336,
        position="rope", norm="rms", mlp=Experts(8, 2),
    )  # fmt: skip
    assert cost.n_parameters(mixtral) == 46_702_792_704
    assert round(cost.n_active_parameters(mixtral) / 1e9) == 13
