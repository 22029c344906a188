"""The number formats by the names that users type.

`nf4` is QLoRA's, with double quantisation; `nf4-single` keeps its scales in fp32.
"""

from fathom.errors import FathomError, near
from fathom.quant.integer import Int4, Int8
from fathom.quant.nf4 import NF4, NF4Single
from fathom.quant.scheme import Scheme

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Int8(), Int4(), NF4(), NF4Single())}


def scheme_named(name: str) -> Scheme:
    """The number format of this name. FathomError lists them."""
    if name not in SCHEMES:
        raise FathomError(f"quantize is {name!r}{near(name, SCHEMES, then='choose')} one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
