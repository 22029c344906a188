"""Quantise a model: the linear layers of its blocks are exchanged for packed ones, from outside.

Only those of the blocks: embeddings and `unembed` decide single tokens and are small where it matters. One layer at a
time is in memory as floats, so that a model on the meta device fills up with packed weights as they are read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fathom.anatomy.swap import matching, swap
from fathom.errors import FathomError, near
from fathom.quant.linear import QuantLinear
from fathom.quant.scheme import Packed, Scheme
from fathom.quant.schemes import scheme_named

WHERE = "blocks."


def linears(model: nn.Module) -> list[str]:
    """Names of the nn.Linear in the model's blocks, in order. One that is packed already is none of them."""
    return [name for name, part in model.named_modules() if name.startswith(WHERE) and isinstance(part, nn.Linear)]


def scheme_of(model: nn.Module) -> str | None:
    """The name of the scheme that packs the model's matrices; None where none does."""
    return next((part.scheme.name for part in model.modules() if isinstance(part, QuantLinear)), None)


def pack_layer(model: nn.Module, name: str, weight: Tensor | Packed, bias: Tensor | None, scheme: Scheme) -> None:
    """Put these weights (out, in) in the place of the nn.Linear of this name, which may be on meta: floats that are to
    be packed, or what `scheme` packs them into.

    FathomError where there is no such layer, it has another shape, or the scheme cannot hold the weights.
    """
    if name not in linears(model):
        raise FathomError(f"{name!r} is no linear layer of the blocks{near(name, linears(model))}; choose one")

    def packed(old: nn.Linear) -> QuantLinear:
        shape = weight.shape if isinstance(weight, Tensor) else old.weight.shape
        if shape != old.weight.shape or (bias is None) != (old.bias is None):
            actual, expected = sizes(shape, bias), sizes(old.weight.shape, old.bias)
            raise FathomError(f"found {actual}; expected {expected}; choose weights of this model")
        fields = scheme.quantize(weight) if isinstance(weight, Tensor) else weight
        return QuantLinear(scheme, (old.out_features, old.in_features), fields, bias)

    swap(model, {nn.Linear: packed}, names=[name])


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
