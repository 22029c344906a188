"""Fathom: understand language models by building, training and running them.

The names below are what most programs need; each is imported when first used, so that `import fathom` is instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "ModelConfig": "fathom.model.config",
    "Transformer": "fathom.model.transformer",
    "KVCache": "fathom.model.cache",
    "FathomError": "fathom.errors",
    "look": "fathom.inspect.look",
    "edit": "fathom.inspect.edit",
    "zero": "fathom.inspect.edit",
    "generate": "fathom.generate.generate",
    "stream": "fathom.generate.generate",
    "load": "fathom.formats.native",
    "train": "fathom.train.train",
}
__all__ = list(PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'fathom' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
