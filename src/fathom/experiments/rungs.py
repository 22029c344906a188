"""From a bigram to LLaMA in eleven rungs. Each is the rung below with exactly one field of its config changed.

The first is the bigram model unembed(embed(ids)). A rung beside them is compared with the last. `take_aways` holds the
finished models without one idea each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from fathom.errors import FathomError, near
from fathom.fields import build
from fathom.model.config import ModelConfig
from fathom.training.presets import BESIDE, RENAMED, rung_fields


@dataclass(frozen=True)
class Idea:
    """What one rung adds: in words, as lines of source and as a page of docs/."""

    key: str  # of training.presets.LADDER or BESIDE, which hold the changed field
    title: str
    about: str
    source: str  # path:name
    page: str  # of docs/


MODEL = "fathom/model"
IDEAS = (
    Idea(
        "bigram",
        "bigram",
        "The next token from the current one alone: a table of V rows, written as embed times unembed.",
        f"{MODEL}/transformer.py:Transformer.forward",
        "embeddings.md",
    ),
    Idea(
        "attention",
        "one attention head",
        "Each position reads a weighted mean of itself and everything before it, and adds it to its own vector: the "
        "residual stream. It does not know the order of what it reads.",
        f"{MODEL}/attention.py:attend",
        "self-attention.md",
    ),
    Idea(
        "positions",
        "learned positions",
        "A learned vector for each position is added to the token's, so that attention can tell near from far.",
        f"{MODEL}/position.py:LearnedPosition",
        "rope.md",
    ),
    Idea(
        "heads",
        "many heads",
        "Four narrow heads in place of one wide head: four places can be read at once, with the same parameters.",
        f"{MODEL}/attention.py:Attention.heads",
        "multi-head.md",
    ),
    Idea(
        "mlp",
        "MLP",
        "After attention, each position computes on its own: up to four times the width, GELU, and down again.",
        f"{MODEL}/mlp.py:GeluMLP",
        "swiglu.md",
    ),
    Idea(
        "layernorm",
        "LayerNorm",
        "Before a layer reads a vector, it is scaled to mean 0 and standard deviation 1.",
        f"{MODEL}/norm.py:layer_norm",
        "layer-norm.md",
    ),
    Idea(
        "depth",
        "depth (GPT)",
        "Several blocks in place of one: later blocks read what earlier ones have computed.",
        f"{MODEL}/transformer.py:Block",
        "residual-stream.md",
    ),
    Idea(
        "rmsnorm",
        "RMSNorm",
        "The mean is no longer subtracted; dividing by the root mean square is enough.",
        f"{MODEL}/norm.py:rms_norm",
        "rms-norm.md",
    ),
    Idea(
        "rope",
        "RoPE",
        "Queries and keys are rotated by their position, in place of adding a vector for it: a score depends on the "
        "distance alone.",
        f"{MODEL}/position.py:Rope",
        "rope.md",
    ),
    Idea(
        "swiglu",
        "SwiGLU",
        "The MLP gets a gate that multiplies, with the same number of parameters.",
        f"{MODEL}/mlp.py:SwigluMLP",
        "swiglu.md",
    ),
    Idea(
        "gqa",
        "grouped queries (LLaMA)",
        "Two query heads share each head of keys and values: fewer parameters and half the KV cache. Its purpose is "
        "cheaper generation, not a lower loss.",
        f"{MODEL}/attention.py:attend",
        "grouped-query-attention.md",
    ),
)

IDEAS_BESIDE = (
    Idea(
        "experts",
        "experts (beside LLaMA)",
        "Eight MLPs of half the width in place of one, of which a router chooses two for each token. A token meets as "
        "many parameters as before, and the router; the model has nearly three times as many.",
        f"{MODEL}/mlp.py:ExpertsMLP",
        "experts.md",
    ),
)


@dataclass(frozen=True)
class Rung:
    """A model of the ladder, and the one it is compared with.

    attend: what its attention computes while it is trained, where no config says it; None: `attend` as it is.
    peeks: it sees the token it must predict while it is trained, so its loss is measured without `attend`.
    """

    key: str
    title: str
    page: str  # of docs/
    config: ModelConfig
    idea: Idea | None = None  # None: a take-away
    whole: str | None = None  # the finished model that a take-away, or a rung beside the ladder, is compared with
    attend: Callable[..., Any] | None = None
    peeks: bool = False


def rungs(vocab_size: int, context_length: int = 32, d_model: int = 48) -> list[Rung]:
    """The whole ladder for a vocabulary, from the bottom."""
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "context_length": context_length, "d_model": d_model}
    fields = rung_fields()
    return [Rung(i.key, i.title, i.page, ModelConfig(**sizes, **fields[i.key]), idea=i) for i in IDEAS]


def beside(ladder: Sequence[Rung]) -> list[Rung]:
    """The rungs beside the ladder, each compared with its last rung: that model with one field changed."""
    top = ladder[-1]
    return [
        replace(top, key=i.key, title=i.title, page=i.page, config=changed(top.config, i.key), idea=i, whole=top.key)
        for i in IDEAS_BESIDE
    ]


def changed(config: ModelConfig, key: str) -> ModelConfig:
    return build(ModelConfig, {**vars(config), **BESIDE[key]}, key)


def find(keys: Sequence[str], known: Sequence[Rung]) -> list[Rung]:
    """The rungs and take-aways with these keys, in their order; all where there are no keys.

    A take-away brings the finished model that it is compared with.
    """
    names = [rung.key for rung in known]
    for key in keys:
        if key in RENAMED:
            raise FathomError(f"rung {key!r} is now {RENAMED[key]!r}; give that name")
        if key not in names:
            raise FathomError(f"no rung {key!r}{near(key, names, then='rungs')} are {', '.join(names)}")
    wanted = {*keys, *(rung.whole for rung in known if rung.key in keys)}
    return [rung for rung in known if not keys or rung.key in wanted]


def difference(below: ModelConfig, above: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """The declared fields in which two configs differ, each with both values."""
    pairs = {field.name: (getattr(below, field.name), getattr(above, field.name)) for field in fields(ModelConfig)}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}
