"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), as torch computes it."""

from typing import Any

import torch

from fathom.training.optimizers import OptimizerKind

FUSED = ("cpu", "cuda", "mps")  # devices on which one kernel updates all parameters of a group


def build(
    groups: list[dict[str, Any]], device: torch.device, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=device.type in FUSED)


OPTIMIZER = OptimizerKind(build, ("betas", "eps"), state_bytes=lambda n: 2 * 4 * n)  # two moments in fp32
