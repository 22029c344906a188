"""Whether a model computes what its config says: only then do files, which hold a config and weights, describe it.

Parts are known by exact class, as a subclass may compute something else. A class or function that computes the same in
another way is declared so, `@computes_as(GeluMLP)`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from fathom.anatomy.skeleton import skeleton
from fathom.anatomy.swap import kind_of, what_is
from fathom.errors import FathomError
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.ends import ScaledUnembed
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear, QuantUnembed

T = TypeVar("T", bound=Callable[..., Any])
# class or function -> what it stands for
EQUIVALENT: dict[object, tuple[object, ...]] = {
    attend: (attend_fused,),
    QuantLinear: (nn.Linear,),
    QuantUnembed: (ScaledUnembed,),
}


def computes_as(*plain: object) -> Callable[[T], T]:
    """Declares that the class or function takes the place of any of these and computes the same from the same weights.
    Its subclasses do not inherit this."""

    def declare(one: T) -> T:
        EQUIVALENT[one] = plain
        return one

    return declare


def require_plain(model: Transformer) -> None:
    """FathomError, naming the part, unless every part computes what a new model of this config would. Layers may have
    adapters or be packed."""
    expected = {name: type(part) for name, part in skeleton(model.config).named_modules()}
    parts = dict(model.named_modules(remove_duplicate=False))
    kinds = tuple(set(expected.values()))
    for name, part in parts.items():
        kind = kind_of(part)
        meant = expected[name] if name in expected else next((x for x in kinds if isinstance(part, x)), None)
        same = kind is meant or (name not in expected and kind in kinds) or meant in EQUIVALENT.get(kind, ())
        if kind is None or (meant is not None and not same):
            raise FathomError(refusal(what_is(name or "the model", part)))
        if isinstance(part, Attention) and part.attend is not attend_fused and part.attend not in EQUIVALENT:
            raise FathomError(refusal(f"{name} calls {getattr(part.attend, '__name__', 'a function')} as its attend"))
    if "hidden" in vars(model):
        raise FathomError(refusal("the model has a hidden of its own"))
    if missing := [name for name in expected if name not in parts and name.rpartition(".")[0] in parts]:
        raise FathomError(refusal(f"the model has no {missing[0]}"))


def refusal(reason: str) -> str:
    return f"{reason}, which no file format holds; undo the swap first"
