"""Fathom: understand language models by building, training and running them.

The names below are what most programs need; each is imported when first used, so that `import fathom` is instant.
"""

from importlib import import_module
from types import ModuleType
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
    "swap": "fathom.model.swap",
    "stream": "fathom.generate.generate",
    "finetune": "fathom.train.finetune",
    "load": "fathom.adapters.load",
}
ROOMS = ("generate", "train")  # rooms named after their main function: `fathom.train(...)`
__all__ = [*PUBLIC, *ROOMS]


class Room(ModuleType):
    """A room that can be called."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        word = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"{self.__name__}.{word}"), word)(*arguments, **named)


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"fathom.{name}")
    if name not in PUBLIC:
        raise AttributeError(f"module 'fathom' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
