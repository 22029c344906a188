"""A rank for each matrix: of all terms of all changes, those that carry most energy for what an adapter pays for them.

A term of a change (m, n) costs m + n numbers and carries sigma^2; taking them in the order of sigma^2 / (m + n) loses
least for every budget (Eckart & Young 1936, over several matrices). How many are enough only the loss can say.
"""

from collections.abc import Callable, Mapping

import torch

from fathom.adapters.svd import SVD

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
