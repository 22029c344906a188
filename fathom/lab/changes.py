"""What was added to a model's matrices: by training them all, or by an adapter.

A change is a matrix, or the two factors of one where it has them; then it is never multiplied out. Does not know what
is done with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.adapters.layer import Lora, LoraLinear
from fathom.adapters.svd import SVD, sampled_svd, svd, svd_of_product
from fathom.adapters.variants import Dora, EmbeddingLora
from fathom.errors import FathomError
from fathom.formats.load import read
from fathom.lab.matrices import Matrices, same
from fathom.lab.spectra import LARGE, SAMPLED, Measured, measure, measure_product

Delta = Tensor | tuple[Tensor, Tensor]  # (m, n), or b (m, r) and a (r, n)


@dataclass(frozen=True)
class Changed:
    """A change of some matrices of a model, read one by one. `rank` is how many directions it has, None: all."""

    title: str
    names: tuple[str, ...]
    read: Callable[[str], Delta]
    rank: int | None = None

    def measure(self, name: str) -> Measured:
        delta = self.read(name)
        return measure(name, delta) if isinstance(delta, Tensor) else measure_product(name, *delta)

    def directions(self, name: str) -> SVD:
        """All of them, or of a large matrix the strongest."""
        delta = self.read(name)
        if not isinstance(delta, Tensor):
            return svd_of_product(*delta)
        return svd(delta) if min(delta.shape) <= LARGE else sampled_svd(delta, SAMPLED).svd


def between(base: Matrices, tuned: Matrices) -> Changed:
    """From one version of a model, or of any file of matrices, to another."""

    def difference(name: str) -> Tensor:
        before = base.read(name)
        return tuned.read(name).to(before.dtype) - before

    return Changed(f"change from {base.path} to {tuned.path}", tuple(same(base, tuned)), difference)


def of_adapter(base: Matrices, folder: Path) -> Changed:
    """What an adapter adds to its base."""
    if base.opened is None:
        raise FathomError(f"{base.path} is no model but a file of tensors; an adapter needs the model it is for")
    model = read(base.opened, torch.float32)
    peft.load(model, folder, "adapter", base.path)
    parts = {f"{layer}.weight": part for layer, part in lora.wrapped(model, "adapter").items()}
    rank = max(len(part.adapters["adapter"].a) for part in parts.values())  # type: ignore[arg-type]
    return Changed(f"adapter {folder}", tuple(parts), lambda name: delta_of(parts[name], "adapter"), rank)


@torch.no_grad()
def delta_of(part: LoraLinear, name: str) -> Delta:
    """The factors of what an adapter adds; DoRA's change has none, as it turns whole rows."""
    adapter = part.adapters[name]
    if not isinstance(adapter, Lora) or isinstance(adapter, Dora):
        return part.delta(name)
    a, b = (x.detach().float() for x in adapter.matrices())
    b, a = (a.T, adapter.scale * b.T) if isinstance(adapter, EmbeddingLora) else (adapter.scale * b, a)
    return (b, a) if len(a) <= min(len(b), a.shape[1]) else b @ a
