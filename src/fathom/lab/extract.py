"""`fathom.extract`: the best adapter of a full fine-tune, from the SVD of each change (Eckart & Young 1936).

What no adapter of linear layers can hold (norms, biases, other layers) is measured and reported. Large matrices are
decomposed by sampling; the error is exact all the same: it is what the energy of the kept terms leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fathom.adapters import lora, peft, targets
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft_config import CONFIG, OURS
from fathom.adapters.peft_tensors import WEIGHTS
from fathom.adapters.svd import SVD
from fathom.errors import FathomError
from fathom.lab.matrices import Matrices, open_matrices, require_same
from fathom.lab.spectra import terms
from fathom.lab.survey import difference
from fathom.model.transformer import Transformer


@dataclass(frozen=True)
class Part:
    """A tensor that the fine-tune changed. `error` is |dW - dW_r| / |dW|: 0 all of it is in the adapter, 1 nothing."""

    name: str
    shape: tuple[int, ...]
    changed: float  # |dW|
    relative: float  # |dW| / |W|
    error: float
    rank: int  # 0: not in the adapter


@dataclass(frozen=True)
class Extracted:
    """An adapter that was written, and what it holds of the change."""

    folder: str
    rank: int
    parameters: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    @property
    def error(self) -> float:
        """|dW - dW_r| / |dW| of all changed tensors together, those too that the adapter does not hold."""
        lost = sum((part.error * part.changed) ** 2 for part in self.parts)
        return float((lost / sum(part.changed**2 for part in self.parts)) ** 0.5)


def extract(
    base: str | Path, tuned: str | Path, rank: int, out: str | Path, layers: tuple[str, ...] = ("all-linear",)
) -> Extracted:
    """Write the best adapter of a rank from one model to another, as a PEFT folder.

        >>> fathom.extract("base", "runs/full-finetune", 8, "adapter").error

    base, tuned: the paths of a model before and after it was fine-tuned in full. rank: of each matrix. out: a new
    folder. layers: all-linear, or names such as attn.q.

    Returns what was written; `.error` is the share of the change that the adapter does not hold, 0 to 1. FathomError
    where the models differ in more than their numbers, nothing was changed, or a rank is too large.
    """
    out = Path(out)
    if spare := [x.name for x in out.iterdir() if x.name not in (CONFIG, OURS, WEIGHTS)] if out.is_dir() else []:
        raise FathomError(f"{out} holds {spare[0]}, which is not part of an adapter; give the name of a new folder")
    before, after = (open_matrices(path).all_tensors() for path in (base, tuned))
    require_same(before, after)
    model = before.model()
    names = [f"{layer}.weight" for layer in targets.select(model, layers) if f"{layer}.weight" in before.stored]
    require_rank(rank, before, names)
    deltas = ((name, difference(before, after, name)) for name in names)
    changes = {name: terms(delta, rank).cut(rank) for name, delta in deltas if delta.any()}
    if not changes:
        raise FathomError(f"{tuned} has the weights of {base} in every layer that was requested; nothing to extract")
    add_adapter(model, changes, rank)
    parts = tuple(changed_parts(before, after, changes))
    notes = peft.save(model, out, base=base)
    return Extracted(str(out), rank, sum(p.numel() for p in lora.parameters(model)), parts, tuple(notes))


def require_rank(rank: int, matrices: Matrices, names: list[str]) -> None:
    """FathomError where a matrix has no such rank."""
    if rank < 1:
        raise FathomError(f"rank is {rank}; expected at least 1")
    for name in names:
        m, n = matrices.stored[name].shape
        if rank > min(m, n):
            raise FathomError(f"rank {rank} is larger than {name!r}, which is {m} x {n}; give at most {min(m, n)}")


@torch.no_grad()
def add_adapter(model: Transformer, changes: Mapping[str, SVD], rank: int) -> None:
    """Give the model an adapter with b a = U diag(s) V^T: alpha is the rank, so that the scale is 1."""
    layers = {name.removesuffix(".weight"): change for name, change in changes.items()}
    lora.add(model, LoraOptions(rank=rank, alpha=rank, targets=tuple(layers)))
    for layer, part in lora.wrapped(model, "default").items():
        change, adapter = layers[layer], part.adapters["default"]
        if isinstance(part.base, nn.Embedding):  # a table is read as W^T
            change = SVD(change.v, change.s, change.u)
        b, a = change.factors()
        adapter.b.copy_(b)  # type: ignore[operator]
        adapter.a.copy_(a)  # type: ignore[operator]


def changed_parts(before: Matrices, after: Matrices, changes: Mapping[str, SVD]) -> Iterator[Part]:
    """Every tensor that was changed. The error is what the energy of the kept terms leaves of the whole."""
    for name, stored in before.stored.items():
        w, delta = before.read(name), difference(before, after, name)
        changed, size = float(delta.double().norm()), float(w.double().norm())
        if changed:
            kept = changes[name].s if name in changes else torch.zeros(0)
            error = max(0.0, 1 - float(kept.double().square().sum()) / changed**2) ** 0.5
            yield Part(name, stored.shape, changed, changed / size if size else float("inf"), error, len(kept))
