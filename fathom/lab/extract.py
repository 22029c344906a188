"""The best adapter of a full fine-tune: the SVD of each matrix's change, cut at a rank (Eckart & Young 1936).

What no adapter of linear layers can hold (norms, biases, layers that are not adapted) is measured and said. Large
matrices are decomposed by sampling; the error is exact all the same, as it is what the kept energy leaves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.adapters import lora, peft, targets
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft_config import CONFIG
from fathom.adapters.peft_tensors import WEIGHTS
from fathom.adapters.svd import SVD, sampled_svd, svd
from fathom.errors import FathomError
from fathom.formats.load import read
from fathom.lab.spectra import LARGE, Matrices, open_matrices, ours, same
from fathom.model.transformer import Transformer

# A rank for each matrix: of all terms of all changes, those that carry most energy for what an adapter pays for them.
#
# A term of a change (m, n) costs m + n numbers and carries sigma^2; taking them in the order of sigma^2 / (m + n)
# loses least for every budget (Eckart & Young 1936, over several matrices). How many are enough only the loss can
# say.

Ranks = Mapping[str, int]


def parameters(changes: Mapping[str, SVD], ranks: Ranks) -> int:
    """How many numbers an adapter of these ranks has."""
    return sum(ranks[name] * sum(term.shape) for name, term in changes.items())


def first(changes: Mapping[str, SVD], count: int) -> dict[str, int]:
    """The ranks that the `count` best terms of all make."""
    worth = torch.cat([term.s.double().square() / sum(term.shape) for term in changes.values()])
    owner = torch.cat([torch.full_like(term.s, i) for i, term in enumerate(changes.values())]).long()
    taken = owner[worth.argsort(descending=True, stable=True)[:count]]
    counts = torch.bincount(taken, minlength=len(changes)).tolist()
    return dict(zip(changes, counts))


def cheapest(changes: Mapping[str, SVD], enough: Callable[[Ranks], bool], tries: int = 10) -> dict[str, int]:
    """The ranks with the fewest terms that are `enough`, found by halving; all terms are taken to be enough."""
    low, high = 0, sum(len(term.s) for term in changes.values())
    for _ in range(tries):
        if high - low <= max(1, high // 50):
            break
        middle = (low + high) // 2
        low, high = (low, middle) if enough(first(changes, middle)) else (middle, high)
    return first(changes, high)


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


def extract(base: str | Path, tuned: str | Path, rank: int, out: Path, layers: tuple[str, ...]) -> Extracted:
    """Write the best rank-`rank` adapter from one model to another as a PEFT folder. `layers`: LoraOptions.targets.

    FathomError where the models differ in more than their numbers, nothing was changed, or a matrix has no such rank.
    """
    if spare := [x.name for x in out.iterdir() if x.name not in (CONFIG, WEIGHTS)] if out.is_dir() else []:
        raise FathomError(f"{out} holds {spare[0]}, which is no part of an adapter; give the name of a new folder")
    before, after = (of_model(open_matrices(path)) for path in (base, tuned))
    same(before, after)
    assert before.opened is not None
    model = read(before.opened, torch.float32)
    wanted = [f"{layer}.weight" for layer in targets.select(model, layers) if f"{layer}.weight" in before.stored]
    refuse_rank(rank, before, wanted)
    terms = {name: term for name in wanted if (term := change(before, after, name, rank)) is not None}
    if not terms:
        raise FathomError(f"{tuned} has the weights of {base} in every layer that was asked for; nothing to extract")
    put(model, terms, rank)
    found = tuple(parts(before, after, terms))
    notes = peft.save(model, out, base=base)
    return Extracted(str(out), rank, sum(p.numel() for p in lora.parameters(model)), found, tuple(notes))


def of_model(matrices: Matrices) -> Matrices:
    """The same with norms and biases, which a fine-tune changes too. FathomError for a file that is no model's."""
    if matrices.opened is None:
        raise FathomError(f"{matrices.path} is no model but a file of tensors; an adapter needs the model it is for")
    return Matrices(matrices.path, ours(matrices.opened), matrices.opened)


def refuse_rank(rank: int, matrices: Matrices, names: list[str]) -> None:
    """FathomError where a matrix has no such rank."""
    if rank < 1:
        raise FathomError(f"rank is {rank}; expected at least 1")
    for name in names:
        m, n = matrices.stored[name].shape
        if rank > min(m, n):
            raise FathomError(f"rank {rank} is larger than {name!r}, which is {m} x {n}; give at most {min(m, n)}")


def change(before: Matrices, after: Matrices, name: str, rank: int) -> SVD | None:
    """The first `rank` terms of what was added to a matrix; None where nothing was."""
    delta = difference(before, after, name)
    if not delta.any():
        return None
    return svd(delta).cut(rank) if min(delta.shape) <= LARGE else sampled_svd(delta, rank).svd


def difference(before: Matrices, after: Matrices, name: str) -> Tensor:
    """dW, in fp32 at least."""
    w = before.read(name)
    return after.read(name).to(w.dtype) - w


@torch.no_grad()
def put(model: Transformer, terms: Mapping[str, SVD], rank: int) -> None:
    """Give the model an adapter with b a = U diag(s) V^T: alpha is the rank, so that the scale is 1."""
    layers = {name.removesuffix(".weight"): term for name, term in terms.items()}
    lora.add(model, LoraOptions(rank=rank, alpha=rank, targets=tuple(layers)))
    for layer, part in lora.wrapped(model, "default").items():
        term, adapter = layers[layer], part.adapters["default"]
        term = SVD(term.v, term.s, term.u) if isinstance(part.base, nn.Embedding) else term  # a table is read as W^T
        b, a = term.factors()
        adapter.b.copy_(b)  # type: ignore[operator]
        adapter.a.copy_(a)  # type: ignore[operator]


def parts(before: Matrices, after: Matrices, terms: Mapping[str, SVD]) -> Iterator[Part]:
    """Every tensor that was changed. The error is what the energy of the kept terms leaves of the whole."""
    for name, stored in before.stored.items():
        w, delta = before.read(name), difference(before, after, name)
        changed = float(delta.double().norm())
        if not changed:
            continue
        kept = float(terms[name].s.double().square().sum()) if name in terms else 0.0
        error = max(0.0, 1 - kept / changed**2) ** 0.5
        size = float(w.double().norm())
        rank = len(terms[name].s) if name in terms else 0
        yield Part(name, stored.shape, changed, changed / size if size else float("inf"), error, rank)
