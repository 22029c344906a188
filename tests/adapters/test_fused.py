"""Adapters of q, k and v as one of c_attn: the same change, and the same adapters again."""

import pytest
import torch

from fathom.adapters.peft_tensors import Factors, fuse, split

OUTS = [6, 4, 5]


def factors(rank: int, out: int, scale: float = 2.0, a: torch.Tensor | None = None) -> Factors:
    return Factors(torch.randn(rank, 7) if a is None else a, torch.randn(out, rank), scale)


def change(part: Factors | None, out: int) -> torch.Tensor:
    return torch.zeros(out, 7) if part is None else part.scale * part.b @ part.a


SHARED = torch.randn(3, 7)
CASES = {
    "three": [factors(3, 6), factors(3, 4), factors(3, 5)],
    "ranks": [factors(1, 6), factors(4, 4), factors(2, 5)],
    "scales": [factors(3, 6, 2.0), factors(3, 4, 0.5), factors(3, 5, 8.0)],
    "shared": [factors(3, 6, a=SHARED), factors(3, 4, a=SHARED), factors(3, 5, a=SHARED)],
    "q alone": [factors(3, 6), None, None],
    "q and v": [factors(3, 6), None, factors(2, 5)],
    "v": [None, None, factors(2, 5)],
}


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES.keys())
def test_there_and_back(parts: list[Factors | None]) -> None:
    whole = fuse(parts, [torch.zeros(out) for out in OUTS])
    changes = [change(part, out) for part, out in zip(parts, OUTS)]
    assert torch.allclose(change(whole, 15), torch.cat(changes), atol=1e-6)
    again = split(whole, OUTS)
    for before, after, out in zip(parts, again, OUTS):
        assert (before is None) == (after is None)
        assert torch.allclose(change(before, out), change(after, out), atol=1e-6)
        assert before is None or after is None or torch.equal(before.a, after.a)


def test_ranks_add_up_unless_a_is_shared() -> None:
    assert fuse(CASES["three"], [torch.zeros(out) for out in OUTS]).rank == 9
    assert fuse(CASES["shared"], [torch.zeros(out) for out in OUTS]).rank == 3
    assert fuse(CASES["q alone"], [torch.zeros(out) for out in OUTS]).rank == 3


def test_an_adapter_that_has_not_learned_yet_stays_whole() -> None:
    for part in split(Factors(SHARED, torch.zeros(15, 3), 1.0), OUTS):
        assert part is not None and torch.equal(part.a, SHARED)


def test_lengths_lie_one_below_the_other() -> None:
    own = [torch.rand(out) for out in OUTS]
    q = Factors(SHARED, torch.randn(6, 3), 1.0, torch.rand(6))
    whole = fuse([q, None, None], own)
    assert whole.magnitude is not None and q.magnitude is not None
    assert torch.equal(whole.magnitude, torch.cat([q.magnitude, own[1], own[2]]))
    lengths = [part.magnitude for part in split(whole, OUTS) if part is not None]
    assert len(lengths) == 3 and all(torch.equal(x, y) for x, y in zip(lengths, [q.magnitude, *own[1:]]))  # type: ignore[arg-type]
