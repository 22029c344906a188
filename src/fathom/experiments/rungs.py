"""From a bigram to LLaMA in twelve rungs. Each is the rung below with exactly one field of its config changed.

The first is the bigram model unembed(embed(ids)).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fathom.errors import FathomError, near
from fathom.model.config import ModelConfig
from fathom.model.presets import rung_fields


@dataclass(frozen=True)
class Idea:
    """What one rung adds: in words, as lines of source and as a page of docs/."""

    key: str  # of model.presets.LADDER, which holds the changed field
    title: str
    about: str
    source: str  # path:name
    page: str  # of docs/, or "" where there is none


MODEL = "fathom/model"
IDEAS = (
    Idea(
        "bigram",
        "bigram",
        "The next token from this token alone: a table of V rows, written as embed times unembed.",
        f"{MODEL}/transformer.py:Transformer.forward",
        "",
    ),
    Idea(
        "attention",
        "one attention head",
        "Each position reads a weighted mean of itself and all before it. Order is invisible, and what it reads "
        "replaces what it was.",
        f"{MODEL}/attention.py:attend",
        "self-attention.md",
    ),
    Idea(
        "positions",
        "learned positions",
        "A vector for each place is added to the token, so that attention can tell near from far.",
        f"{MODEL}/position.py:LearnedPosition",
        "rope.md",
    ),
    Idea(
        "heads",
        "many heads",
        "Four narrow heads in place of a wide one: four places can be read at once, for the same parameters.",
        f"{MODEL}/attention.py:Attention.heads",
        "multi-head.md",
    ),
    Idea(
        "mlp",
        "MLP",
        "After reading, each position computes: widened, bent by GELU, narrowed again.",
        f"{MODEL}/mlp.py:GeluMLP",
        "swiglu.md",
    ),
    Idea(
        "residual",
        "residual stream",
        "What a layer says is added to what was there, in place of replacing it.",
        f"{MODEL}/transformer.py:Add",
        "",
    ),
    Idea(
        "layernorm",
        "LayerNorm",
        "Every vector is brought to mean 0 and deviation 1 before it is read.",
        f"{MODEL}/norm.py:layer_norm",
        "layer-norm.md",
    ),
    Idea(
        "depth",
        "depth (GPT)",
        "Three blocks in place of one: later blocks read what earlier ones found.",
        f"{MODEL}/transformer.py:Block",
        "",
    ),
    Idea(
        "rmsnorm",
        "RMSNorm",
        "The mean is no longer subtracted: dividing by the root mean square is enough.",
        f"{MODEL}/norm.py:rms_norm",
        "rms-norm.md",
    ),
    Idea(
        "rope",
        "RoPE",
        "In place of a vector for each place, queries and keys are turned by it: a score depends on distance alone.",
        f"{MODEL}/position.py:Rope",
        "rope.md",
    ),
    Idea(
        "swiglu",
        "SwiGLU",
        "The MLP gets a gate that multiplies, at the same number of parameters.",
        f"{MODEL}/mlp.py:SwigluMLP",
        "swiglu.md",
    ),
    Idea(
        "gqa",
        "grouped queries (LLaMA)",
        "Two query heads share each head of keys and values: half the cache, fewer parameters.",
        f"{MODEL}/attention.py:attend",
        "grouped-query-attention.md",
    ),
)


@dataclass(frozen=True)
class Rung:
    """An idea and the model that has it and all before it."""

    idea: Idea
    config: ModelConfig

    @property
    def key(self) -> str:
        return self.idea.key


def rungs(vocab_size: int, context_length: int = 64, d_model: int = 64) -> list[Rung]:
    """The whole ladder for a vocabulary, from the bottom."""
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "context_length": context_length, "d_model": d_model}
    fields = rung_fields()
    return [Rung(idea, ModelConfig(**sizes, **fields[idea.key])) for idea in IDEAS]


def find(keys: Sequence[str], ladder: Sequence[Rung]) -> list[Rung]:
    """The rungs with these keys in the order of the ladder; all where there are no keys."""
    known = [rung.key for rung in ladder]
    for key in keys:
        if key not in known:
            raise FathomError(f"no rung {key!r}{near(key, known, then='rungs')} are {', '.join(known)}")
    return [rung for rung in ladder if not keys or rung.key in keys]


def difference(below: ModelConfig, above: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """The declared fields in which two configs differ, each with both values."""
    pairs = {field.name: (getattr(below, field.name), getattr(above, field.name)) for field in fields(ModelConfig)}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}
