"""Fathom: understand language models by building, training and running them.

The names below are what most programs need; each is imported when first used, so that `import fathom` is instant.
"""

# ruff: noqa: F401
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with PUBLIC
    from fathom.adapters.load import load
    from fathom.errors import FathomError
    from fathom.generation.generate import generate, stream
    from fathom.inspect.edit import edit, zero
    from fathom.inspect.look import look
    from fathom.model.cache import KVCache
    from fathom.model.config import ModelConfig
    from fathom.model.swap import swap
    from fathom.model.transformer import Transformer
    from fathom.training.finetune import finetune
    from fathom.training.train import train

PUBLIC = {
    "FathomError": "errors",
    "KVCache": "model.cache",
    "ModelConfig": "model.config",
    "Transformer": "model.transformer",
    "edit": "inspect.edit",
    "finetune": "training.finetune",
    "generate": "generation.generate",
    "load": "adapters.load",
    "look": "inspect.look",
    "stream": "generation.generate",
    "swap": "model.swap",
    "train": "training.train",
    "zero": "inspect.edit",
}
__all__ = [*PUBLIC]

if not TYPE_CHECKING:  # a type checker that saw it would accept every name

    def __getattr__(name: str) -> Any:
        if name not in PUBLIC:
            raise AttributeError(f"module 'fathom' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"fathom.{PUBLIC[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
