"""A model in files, opened but not read: what it is, where each tensor lies, and how to get one.

Every format's reader ends here, and everything that uses a file begins here. A tensor's numbers are touched only when
it is read, so that opening 70 billion of them is instant. Does not know any format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fathom.model.config import ModelConfig
from fathom.quant.scheme import Packed
from fathom.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. `shape` is torch's: rows first, even where the format lists them last."""

    shape: tuple[int, ...]
    kind: str  # as its format calls the type: BF16, Q4_K
    nbytes: int  # in the file
    read: Callable[[], Tensor]  # its numbers in a float dtype; memory-mapped where they lie there as they are
    unpack: Callable[[int, int], Tensor] | None = None  # some rows, where reading them all means unpacking them
    packed: Mapping[str, Callable[[], Packed | None]] = field(default_factory=dict)  # what it lies there as: int8, int4

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows: the pages of the others are not touched."""
        return self.read()[start:stop] if self.unpack is None else self.unpack(start, stop)


@dataclass(frozen=True)
class Opened:
    """What a path holds. `names` is the column of the Rosetta table in which its tensors are named."""

    path: Path
    format: str  # in words, such as "GGUF v3" or "Meta, 2 shards"
    config: ModelConfig
    names: str  # ours, hf, meta or gguf
    tensors: Mapping[str, Stored]
    tokenizer: Callable[[], Tokenizer | None]  # None: the files hold none
    about: Mapping[str, Any] = field(default_factory=dict)  # what the files say of themselves, as plain JSON values

    @property
    def nbytes(self) -> int:
        """Of all tensors, in the files."""
        return sum(stored.nbytes for stored in self.tensors.values())
