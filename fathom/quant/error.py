"""What packing costs: bits per parameter and how far each matrix is from what it was.

Does not know what the model makes of it: see the loss for that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from fathom.quant.linear import QuantLinear
from fathom.quant.schemes import scheme_named
from fathom.quant.swap import found


@dataclass(frozen=True)
class Cost:
    """Of one matrix. All figures are exact for the packed tensors as they lie in memory."""

    name: str
    parameters: int
    nbytes: int  # numbers, scales and filling
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
    for name in found(model):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        yield cost(name, weight, QuantLinear.quantized(weight, None, scheme))
