"""A model that is only run, and its tokenizer.

A path is loaded prepared for inference. A model in memory runs exactly as it is: readable, hooked, edited or prepared.
"""

from collections.abc import Sequence
from pathlib import Path

from fathom.adapters import lora
from fathom.adapters.load import load
from fathom.errors import FathomError
from fathom.formats.tokenizer import require_tokenizer
from fathom.generation.speculative import check_tokens
from fathom.machine import describe
from fathom.model.transformer import Transformer
from fathom.quant.model import formats_of
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import article

Model = Transformer | str | Path


def ready(model: Model, tokenizer: Tokenizer | None = None) -> tuple[Transformer, Tokenizer]:
    """The model, loaded where it is a path, and the given tokenizer, else its own."""
    if isinstance(model, str | Path):
        loaded, its_own = load(model, for_inference=True)
        return loaded, tokenizer or require_tokenizer(its_own, model)
    if not isinstance(model, Transformer):
        raise FathomError(
            f"model is {article(type(model).__name__)}; expected the path of a model, or one from fathom.load"
        )
    if tokenizer is None:
        raise FathomError("a model in memory was given without its tokenizer; such as generate(model, tokenizer, text)")
    return model, tokenizer


def ready_draft(draft: Model | None, tokenizer: Tokenizer) -> Transformer | None:
    """The draft model, loaded where it is a path. FathomError where its vocabulary is another."""
    if draft is None or isinstance(draft, Transformer):
        return draft
    loaded, theirs = load(draft, for_inference=True)
    if theirs is not None:
        check_tokens(tokenizer, theirs)
    return loaded


def described(model: Transformer, adapters: Sequence[str | Path] = (), draft: str | None = None) -> str:
    """Device, dtype, packing and adapters of a model, as one line."""
    packed = ", ".join(formats_of(model))
    parts = [describe(model.embed.weight.device), f"{str(model.embed.weight.dtype)[6:]}{packed and f', {packed}'}"]
    parts += [f"adapter {folder}" for folder in adapters]
    parts += ["with the run's adapter"] if not adapters and lora.names(model) else []
    parts += [f"draft {draft}"] if draft else []
    return ", ".join(parts)
