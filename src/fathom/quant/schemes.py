"""The number formats by name: those that users choose to pack in, and those that packed files bring along.

`nf4` is QLoRA's, with double quantisation; `nf4-single` keeps its scales in fp32.
"""

from typing import Literal, TypeAlias

from fathom.errors import FathomError, near
from fathom.quant.integer import Int4, Int8
from fathom.quant.k_quants import K_QUANTS
from fathom.quant.nf4 import NF4, NF4Single
from fathom.quant.scheme import NumberFormat, Scheme

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Int8(), Int4(), NF4(), NF4Single())}
FORMATS: dict[str, NumberFormat] = {**SCHEMES, **{kind.name: kind for kind in K_QUANTS}}
Keep = Literal["keep"]  # packed matrices stay in the format that their file has them in
KEEP: Keep = "keep"
Packing: TypeAlias = Scheme | Keep


def scheme_named(name: str) -> Scheme:
    """The number format of this name. FathomError lists them."""
    if name not in SCHEMES:
        raise FathomError(f"quantize is {name!r}{near(name, SCHEMES, then='choose')} one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def packing_named(name: str | None) -> Packing | None:
    """What `quantize` says: a number format, to keep those of the file, or None. FathomError lists them."""
    if name is None or name == KEEP:
        return KEEP if name else None
    if name not in SCHEMES:
        known = (*SCHEMES, KEEP)
        raise FathomError(f"quantize is {name!r}{near(name, known, then='choose')} one of {', '.join(known)}")
    return SCHEMES[name]


def in_words(name: str) -> str:
    """What a model is packed in: `the formats of its file` for keep."""
    return "the formats of its file" if name == KEEP else name
