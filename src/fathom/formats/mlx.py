"""Layers packed by MLX (`mlx.core.quantize`, mode affine): W = scale * q + bias for groups of a row.

Codes of 2 to 8 bits run along the inputs, the first in the lowest bits of words of 32. Which bits and group a layer has
is in config.json's `quantization`, for single layers under their names. Embeddings are packed too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, codes_in

if TYPE_CHECKING:
    from torch import Tensor


WORD = 32
BITS, GROUPS = (2, 3, 4, 5, 6, 8), (16, 32, 64, 128)
KEYS = ("bits", "group_size", "mode")


def unpack(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer."""
    bits, size = of_layer(layer, settings)
    words = layer.part("weight", ("U32",), (0, 0))
    out, width = words.shape[0], words.shape[1] * WORD // bits
    if words.shape[1] * WORD % bits or width % size:
        raise layer.error(f"weight has {words.shape[1]} words to a row; expected groups of {size} codes of {bits} bits")
    scales, biases = (layer.floats(name, (out, width // size)) for name in ("scales", "biases"))

    def rows(start: int, stop: int) -> Tensor:
        x = codes_in(words.read()[start:stop], bits).float().unflatten(1, (-1, size))
        x *= scales.read()[start:stop].float()[..., None]
        x += biases.read()[start:stop].float()[..., None]
        return x.flatten(1)

    return layer.matrix(f"MLX{bits}", (out, width), rows)


def of_layer(layer: PackedLayer, settings: Settings) -> tuple[int, int]:
    """Bits and group size: those of all layers, or of this one."""
    own = settings.entries.get(layer.name, {})
    if own is True:
        own = {}
    if not isinstance(own, dict):
        raise settings.error(layer.name, "bits and group_size, as the layer is packed")
    if others := own.keys() - set(KEYS):
        raise settings.error(layer.name, f"{', '.join(KEYS)} and no {min(others)[:40]}")
    entries = Settings({**settings.entries, **own}, settings.where)
    bits, size = entries.count("bits"), entries.count("group_size")
    if bits not in BITS:
        raise entries.error("bits", f"one of {', '.join(map(str, BITS))}")
    if size not in GROUPS:
        raise entries.error("group_size", f"one of {', '.join(map(str, GROUPS))}")
    if entries.entries.get("mode") not in ("affine", None):
        raise entries.error("mode", "affine")
    return bits, size


METHOD = Method(
    title="MLX",
    marks=("scales",),
    parts=("weight", "biases"),
    unpack=unpack,
    allowed={"mode": ("affine", None)},
    known=KEYS,
)
