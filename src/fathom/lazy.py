"""torch, imported when it is first used: what reads the headers of files starts without it.

if TYPE_CHECKING:
    import torch
else:
    from fathom.lazy import torch
"""

from importlib import import_module
from typing import Any


class Lazy:
    """A module that is imported when one of its names is asked for."""

    def __init__(self, name: str) -> None:
        self.module = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


torch = Lazy("torch")
