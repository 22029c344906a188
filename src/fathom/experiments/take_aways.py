"""What each idea is worth in a finished model: GPT and LLaMA, each with one idea taken out.

On the ladder an idea is measured on top of those below it; here all the others are present, so order decides nothing.
What a config can say is a change of its fields; the rest exchanges the function that every Attention calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fathom.experiments.rungs import Rung, beside, rungs


def see_itself(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """Attention that reads its own position alone: v (b, g, t, c), repeated to the heads of q (b, h, t, c)."""
    return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


def see_all(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """Attention (b, h, t, c) without the causal mask: every position reads the following ones too."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1])


def unscaled(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """Causal attention (b, h, t, c) whose scores q k^T are not divided by sqrt(c)."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, scale=1.0, enable_gqa=grouped)


FINISHED = {"gpt": ("depth", "GPT"), "llama": ("gqa", "LLaMA")}  # key: (the rung that is this model, its name)
BOTH = ("gpt", "llama")


@dataclass(frozen=True)
class TakeAway:
    """One idea, and how a finished model is built without it."""

    key: str
    title: str  # the idea
    without: str  # what the model does in its place
    page: str  # of docs/
    change: dict[str, Any] = field(default_factory=dict)  # fields of the config
    attend: Callable[..., Tensor] | None = None
    models: tuple[str, ...] = BOTH  # of FINISHED


TAKE_AWAYS = (
    TakeAway(
        "attention",
        "attention",
        "Each position reads itself alone, never an earlier token.",
        "self-attention.md",
        attend=see_itself,
    ),
    TakeAway(
        "mask",
        "causal mask",
        "Training shows it the very token that it must predict, so it learns to copy. Its loss is measured with the "
        "mask back in place, as in generation, where no later token exists.",
        "self-attention.md",
        attend=see_all,
    ),
    TakeAway(
        "scale",
        "scaled scores",
        "Scores are not divided by √c; larger scores make a sharper softmax.",
        "scaled-dot-product.md",
        attend=unscaled,
    ),
    TakeAway("positions", "positions", "It does not know the order of what it reads.", "rope.md", {"position": "none"}),
    TakeAway(
        "heads",
        "many heads",
        "One wide head: one pattern for each position.",
        "multi-head.md",
        {"n_head": 1, "n_kv_head": None},  # one head has its own keys and values
    ),
    TakeAway(
        "residual",
        "residual stream",
        "What a layer writes replaces what was there, in place of being added.",
        "residual-stream.md",
        {"residual": "off"},
    ),
    TakeAway("norm", "norm", "Layers read the stream at whatever scale it has.", "layer-norm.md", {"norm": "none"}),
    TakeAway("mlp", "MLP", "Attention alone; no position computes on its own.", "swiglu.md", {"mlp": "none"}),
    TakeAway("depth", "depth", "One block in place of several.", "residual-stream.md", {"n_layer": 1}),
    TakeAway(
        "rmsnorm",
        "RMSNorm",
        "LayerNorm in its place, as in GPT.",
        "rms-norm.md",
        {"norm": "layer"},
        models=("llama",),
    ),
    TakeAway(
        "rope",
        "RoPE",
        "Learned positions in its place, as in GPT.",
        "rope.md",
        {"position": "learned"},
        models=("llama",),
    ),
    TakeAway("swiglu", "SwiGLU", "GELU in its place, as in GPT.", "swiglu.md", {"mlp": "gelu"}, models=("llama",)),
    TakeAway(
        "gqa",
        "grouped queries",
        "Every query head has its own keys and values, as in GPT.",
        "grouped-query-attention.md",
        {"n_kv_head": None},
        models=("llama",),
    ),
)


def take_aways(ladder: list[Rung]) -> list[Rung]:
    """GPT without each idea, then LLaMA without each; `ladder` holds the finished models."""
    whole = {rung.key: rung for rung in ladder}
    return [
        Rung(
            f"{name}-{idea.key}",
            f"{title} without {idea.title}",
            idea.page,
            replace(whole[key].config, **idea.change),
            whole=key,
            attend=idea.attend,
            peeks=idea.attend is see_all,
        )
        for name, (key, title) in FINISHED.items()
        for idea in TAKE_AWAYS
        if name in idea.models
    ]


@lru_cache(maxsize=8)
def everything(vocab_size: int, context_length: int = 32, d_model: int = 48) -> tuple[Rung, ...]:
    """All rungs, from the bottom, those beside them, then all take-aways."""
    ladder = rungs(vocab_size, context_length, d_model)
    return *ladder, *beside(ladder), *take_aways(ladder)
