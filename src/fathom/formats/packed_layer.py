"""A packed layer: several stored tensors, such as codes, scales and zero points, that stand for one matrix (out, in).

What the readers of quantised checkpoints share: parts checked as they are named, and codes of a few bits taken out of
words. Shapes follow from the tensors, never from a configuration, so that no file asks for more than it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fathom.errors import FathomError
from fathom.formats.opened import FLOATS, Stored
from fathom.json_file import short
from fathom.quant.scheme import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


Kept = Mapping[str, "Callable[[], Packed | None]"]  # scheme -> what it packs the matrix into
Shape = tuple[int, ...]
Rows = Callable[[int, int], "Tensor"]  # a range of rows of the matrix, fp32


@dataclass(frozen=True)
class PackedLayer:
    """The tensors of one layer by what follows its name, such as `qweight`."""

    name: str  # model.layers.0.mlp.up_proj
    parts: Mapping[str, Stored]
    where: str  # the file or folder

    def error(self, message: str) -> FathomError:
        return FathomError(f"{self.where}: {self.name}: {message}")

    def part(self, suffix: str, kinds: Collection[str], shape: Shape | None = None) -> Stored:
        """A tensor that must be there, of one of these number types; `shape` has a 0 where any size will do."""
        stored = self.parts.get(suffix)
        if stored is None:
            raise self.error(f"{suffix} is missing; expected {', '.join(sorted(self.parts))} and {suffix}")
        if stored.kind not in kinds:
            raise self.error(f"{suffix} is {stored.kind}; expected {' or '.join(kinds)}")
        if shape is not None and (
            len(shape) != len(stored.shape) or any(size not in (0, actual) for size, actual in zip(shape, stored.shape))
        ):
            sizes = " x ".join(str(size or "any") for size in shape)
            raise self.error(f"{suffix} is {' x '.join(map(str, stored.shape)) or 'one number'}; expected {sizes}")
        if 0 in stored.shape:
            raise self.error(f"{suffix} is empty; expected numbers")
        return stored

    def floats(self, suffix: str, shape: Shape | None = None) -> Stored:
        return self.part(suffix, FLOATS, shape)

    def matrix(self, kind: str, shape: tuple[int, ...], rows: Rows, packed: Kept | None = None) -> Stored:
        """The matrix that the parts stand for, (out, in), or those of all experts, (e, out, in)."""
        nbytes = sum(stored.nbytes for stored in self.parts.values())
        return Stored(shape, kind, nbytes, lambda: rows(0, shape[0]), rows, packed or {})


@dataclass(frozen=True)
class Method:
    """One way to quantise the layers of a Hugging Face folder, by its `quant_method`."""

    title: str  # for readers
    marks: tuple[str, ...]  # a layer with one of these tensors is packed
    parts: tuple[str, ...]  # other tensors of such a layer
    unpack: Callable[[PackedLayer, Settings], Stored]
    allowed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)  # key -> the values that are understood
    known: Collection[str] = ()  # keys that the tensors answer already, or that only a quantiser needs
    between: str = "."  # a layer's name and these
    suffix: str = ".weight"  # of the matrix's name
    skipped: str = r"(?!)"  # pattern of tensors that concern activations or the cache, which stay floats here


@dataclass(frozen=True)
class Settings:
    """The `quantization_config` of a folder."""

    entries: Mapping[str, object]
    where: str

    def error(self, key: str, expected: str) -> FathomError:
        value = short(self.entries.get(key))
        return FathomError(f"{self.where}: quantization_config.{key} is {value}; expected {expected}")

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 on."""
        value = self.entries.get(key, default)
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self.error(key, "a whole number from 1 on")
        return value


def names(text: str) -> frozenset[str]:
    """The words of a text, as names of keys."""
    return frozenset(text.split())


def codes_in(words: Tensor, bits: int) -> Tensor:
    """(n, words) of 32 bits -> (n, words * 32 / bits), uint8: each code in the lowest bits that are left."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    if bits == 4:
        return torch.stack((octets & 15, octets >> 4), -1).flatten(-2)
    octets = octets.unflatten(-1, (-1, bits)).to(torch.int16)  # in so many bytes are 8 codes
    starts = torch.arange(8) * bits
    first = starts // 8
    pairs = octets[..., first].int() | octets[..., (first + 1).clamp(max=bits - 1)].int() << 8
    return (pairs >> starts % 8 & (1 << bits) - 1).to(torch.uint8).flatten(-2)


def order_of(layer: PackedLayer, suffix: str, width: int, groups: int) -> Tensor | None:
    """The group of each input channel, where they were quantised by activation; None: equal groups in order, as without
    this tensor, or where it holds -1 alone."""
    if suffix not in layer.parts:
        return None
    group = layer.parts[suffix].read().long()
    if bool((group == -1).all()) or torch.equal(group, torch.arange(width) // max(1, width // groups)):
        return None
    if not 0 <= int(group.min()) <= int(group.max()) < groups:
        raise layer.error(f"{suffix} is from {int(group.min())} to {int(group.max())}; expected groups below {groups}")
    return group


def by_groups(codes: Tensor, zero: Tensor | float, scale: Tensor, order: Tensor | None) -> Tensor:
    """(n, width), less the zero of its group and times its scale, both (n, groups)."""
    if order is not None:
        codes -= zero if isinstance(zero, float) else zero[:, order]
        codes *= scale[:, order]
        return codes
    codes = codes.unflatten(1, (scale.shape[1], -1))
    codes -= zero if isinstance(zero, float) else zero[..., None]
    codes *= scale[..., None]
    return codes.flatten(1)
