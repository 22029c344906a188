"""Directions compared: how two changes of a matrix lie to each other, and what a change brought that was not there.

Works on orthonormal bases, the columns of an SVD's u or v. Does not know models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.adapters.svd import SVD
from fathom.errors import FathomError


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """(min(j, k),) angles in degrees between the spans of orthonormal columns (m, j) and (m, k), the smallest first.

    0: a direction they share; 90: one has nothing of the other there. By cosines where those are exact, by sines where
    those are: a cosine near 1 says little (Bjorck & Golub 1973; Knyazev & Argentati 2002).
    """
    if len(first) != len(second):
        raise FathomError(f"directions of {len(first)} and of {len(second)} numbers have no angle; expected one shape")
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    first, second = first.double(), second.double()
    across = first.T @ second  # (j, k)
    cosine = torch.linalg.svdvals(across).clamp(max=1)
    sine = torch.linalg.svdvals(second - first @ across).flip(0).clamp(max=1)
    return torch.where(cosine > sine, sine.asin(), cosine.acos()).rad2deg()


def overlap(first: Tensor, second: Tensor) -> float:
    """Mean squared cosine of the principal angles, 0 to 1 (Hu et al. 2021, eq. 4).

    Between a random j- and any k-dimensional span of m dimensions it is max(j, k) / m on average.
    """
    return float((first.double().T @ second.double()).square().sum()) / min(first.shape[1], second.shape[1])


@dataclass(frozen=True)
class Intruder:
    """A direction of the changed matrix that the old one has nothing like; `place` counts from 0, the strongest."""

    place: int
    cosine: float
    value: float  # its singular value


def intruders(before: SVD, after: SVD, strongest: int = 10, below: float = 0.5) -> list[Intruder]:
    """Of the `strongest` left singular vectors of W + dW, those whose cosine to every one of W's is below `below`.

    Fine-tuning in full bends W's own directions, LoRA tends to add new ones (Shuttleworth et al. 2024, algorithm 1).
    """
    nearest = (before.u.double().T @ after.u[:, :strongest].double()).abs().amax(0)  # (strongest,)
    return [
        Intruder(place, cosine, float(after.s[place]))
        for place, cosine in enumerate(nearest.tolist())
        if cosine < below
    ]
