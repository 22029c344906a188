"""Quantise a model: the linear layers of its blocks are exchanged for packed ones, from outside.

Only those of the blocks: embeddings and `unembed` decide single tokens and are small where it matters. What a file has
packed can be kept in `unembed` too. One layer at a time is in memory as floats, so that a model on the meta device
fills up with packed weights as they are read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fathom.anatomy.swap import matching, swap
from fathom.errors import FathomError, near
from fathom.model.ends import ScaledUnembed
from fathom.quant.linear import QuantLinear, QuantUnembed
from fathom.quant.scheme import NumberFormat, Packed, Scheme
from fathom.quant.schemes import KEEP, SCHEMES, scheme_named

WHERE = "blocks."


def linears(model: nn.Module) -> list[str]:
    """Names of the nn.Linear in the model's blocks, in order. One that is packed already is none of them."""
    return [name for name, part in model.named_modules() if name.startswith(WHERE) and isinstance(part, nn.Linear)]


def formats_of(model: nn.Module) -> list[str]:
    """The names of the number formats that the model's matrices are packed in, in order."""
    return sorted({part.scheme.name for part in model.modules() if isinstance(part, QuantLinear)})


def scheme_of(model: nn.Module) -> str | None:
    """The `quantize` that packs a model so: a scheme, or keep where formats differ or only files have them; None where
    nothing is packed."""
    names = formats_of(model)
    return None if not names else names[0] if names[0] in SCHEMES and len(names) == 1 else KEEP


def pack_layer(model: nn.Module, name: str, weight: Tensor, bias: Tensor | None, scheme: Scheme) -> None:
    """Pack these weights (out, in) in the place of the nn.Linear of this name, which may be on meta.

    FathomError where there is no such layer, it has another shape, or the scheme cannot hold the weights.
    """
    if name not in linears(model):
        raise FathomError(f"{name!r} is no linear layer of the blocks{near(name, linears(model))}; choose one")

    def put(old: nn.Linear) -> QuantLinear:
        require_alike(weight.shape, bias, old)
        return QuantLinear.quantized(weight, bias, scheme)

    swap(model, {nn.Linear: put}, names=[name])


def keep_layer(model: nn.Module, name: str, packed: Packed, bias: Tensor | None, form: NumberFormat) -> None:
    """The same with weights that are packed already, in the blocks or as `unembed`."""

    def put(old: nn.Linear) -> QuantLinear:
        shape = (old.out_features, old.in_features)
        require_alike(shape, bias, old)
        if isinstance(old, ScaledUnembed):
            return QuantUnembed(form, shape, packed, bias, old.scale, old.cap)
        return QuantLinear(form, shape, packed, bias)

    swap(model, {nn.Linear: put, ScaledUnembed: put}, names=[name])


def require_alike(shape: Sequence[int], bias: Tensor | None, old: nn.Linear) -> None:
    if tuple(shape) != tuple(old.weight.shape) or (bias is None) != (old.bias is None):
        actual, expected = sizes(shape, bias), sizes(old.weight.shape, old.bias)
        raise FathomError(f"found {actual}; expected {expected}; choose weights of this model")


def sizes(shape: Sequence[int], bias: Tensor | None) -> str:
    """`8 x 16 and a bias`"""
    return " x ".join(map(str, shape)) + (" without a bias" if bias is None else " and a bias")


def quantize_model(model: nn.Module, scheme_name: str) -> None:
    """Pack all linear layers of the model's blocks, in place, one after another.

    FathomError where there is none, one is of a class of its own, the scheme is unknown, or it cannot hold a weight:
    in that last case the layers before it are packed.
    """
    scheme = scheme_named(scheme_name)
    names = layers_to_pack(model)
    matching(model, {nn.Linear}, names)
    for name in names:  # one by one, so that each float matrix is freed before the next is packed
        swap(model, {nn.Linear: lambda old: QuantLinear.quantized(old.weight.detach(), old.bias, scheme)}, names=[name])


def layers_to_pack(model: nn.Module) -> list[str]:
    """`linears`, if there are any."""
    if names := linears(model):
        return names
    packed = sum(isinstance(part, QuantLinear) for part in model.modules())
    what = f"{packed} that are quantised already" if packed else "none"
    raise FathomError(f"found {what}; expected linear layers under {WHERE!r}; quantise a float model, and only once")


# What packing costs: bits per parameter and how far each matrix is from the original. What the model loses by it is
# measured by its loss, in fathom/verification/quantised.py.


@dataclass(frozen=True)
class Cost:
    """Of one matrix. All figures are exact for the packed tensors in memory."""

    name: str
    parameters: int
    nbytes: int  # codes, scales and padding
    max_error: float  # the largest |w - w'|
    relative_error: float  # rms(w - w') / rms(w); 0 where all w are 0

    @property
    def bits(self) -> float:
        """Per parameter."""
        return 8 * self.nbytes / self.parameters


def cost(name: str, weight: Tensor, layer: QuantLinear) -> Cost:
    """Of keeping `weight` as `layer` does."""
    exact = weight.detach().float()
    wrong = exact - layer.weight
    norm = exact.norm().item()
    relative = wrong.norm().item() / norm if norm else 0.0
    return Cost(name, exact.numel(), layer.nbytes, wrong.abs().max().item(), relative)


def costs(model: nn.Module, scheme_name: str) -> Iterator[Cost]:
    """What each linear layer in the blocks of a float model would cost, one after another. The model stays as it is."""
    scheme = scheme_named(scheme_name)
    for name in layers_to_pack(model):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        yield cost(name, weight, QuantLinear.quantized(weight, None, scheme))
