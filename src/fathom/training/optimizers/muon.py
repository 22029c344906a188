"""Muon: momentum for matrices, each update replaced by the nearest orthogonal matrix.

M = U S V^T becomes U V^T: every direction moves equally far, also those that gradients rarely have. Source: Keller
Jordan 2024, kellerjordan.github.io/posts/muon. Not for embeddings, norms or biases.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.training.optimizers import OptimizerKind
from fathom.training.precision import has_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at 0, so that small singular values grow fast; ends in 0.7 .. 1.2
ITERATIONS = 5


def orthogonalize(m: Tensor) -> Tensor:  # (n, rows, columns) -> (n, rows, columns)
    """About U V^T for each m = U S V^T: x -> a x + b (x x^T) x + c (x x^T)^2 x acts on the singular values alone."""
    a, b, c = COEFFICIENTS
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m  # x x^T is then the small square
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        square = x @ x.mT  # (n, rows, rows)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b (x x^T) + c (x x^T)^2
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + polynomial x
    return x.mT if tall else x


def step_scale(rows: int, columns: int) -> float:
    """sqrt(max(1, rows / columns)): a tall matrix writes to more outputs than it reads, each may move as far."""
    return max(1.0, rows / columns) ** 0.5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay (as in AdamW: Loshchilov & Hutter 2019).

    m <- momentum m + (1 - momentum) g; w <- (1 - lr decay) w - lr scale orthogonalize((1 - momentum) g + momentum m)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype`: that of the orthogonalization; weights and momentum keep their own."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for p in (p for group in self.param_groups for p in group["params"] if p.ndim != 2):
            raise FathomError(f"Muon got a tensor of shape {tuple(p.shape)}; it trains matrices: use AdamW for it")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                held = self.held(weights)
                updates = self.orthogonal(self.directions(weights, group["momentum"]), weights)
                torch._foreach_mul_(updates, [step_scale(*p.shape) for p in weights])
                torch._foreach_mul_(held, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(held, updates, alpha=-group["lr"])
        return loss

    def directions(self, weights: list[Tensor], momentum: float) -> list[Tensor]:
        """Update the running mean of the gradients; returns the look-ahead from there (Nesterov)."""
        gradients = self.held([p.grad for p in weights if p.grad is not None])
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        means = self.held([self.state[p]["momentum"] for p in weights])
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, means, momentum))

    def held(self, tensors: list[Tensor]) -> list[Tensor]:
        """What this process holds of them: all."""
        return tensors

    def orthogonal(self, directions: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """The directions, as far as they are held, made orthogonal as whole matrices."""
        return orthogonalize_all(directions, self.dtype)


def orthogonalize_all(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`orthogonalize` of each. Those of one shape, transposed or not, form a batch: small ones cost mostly calls."""
    wide = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    result = list(matrices)
    for shape in dict.fromkeys(m.shape for m in wide):
        members = [i for i, m in enumerate(wide) if m.shape == shape]
        batch = orthogonalize(torch.stack([wide[i] for i in members]).to(dtype))
        for i, x in zip(members, batch.to(matrices[0].dtype)):
            result[i] = x if matrices[i].shape == shape else x.mT
    return result


def working_dtype(requested: str, device: torch.device) -> torch.dtype:
    """That of the orthogonalization: all its work is matrix products, so bf16 pays at any width."""
    return torch.bfloat16 if requested != "fp32" and has_bf16(device) else torch.float32


def build(groups: list[dict[str, Any]], device: torch.device, momentum: float, dtype: str) -> Muon:
    kind = Muon
    if any(type(p.data) is not Tensor for group in groups for p in group["params"]):  # DTensors
        from fathom.training.sharded_muon import ShardedMuon as kind
    return kind(groups, groups[0]["lr"], momentum, dtype=working_dtype(dtype, device))


OPTIMIZER = OptimizerKind(
    build,
    ("momentum", "dtype"),
    state_bytes=lambda n: 4 * n,
    scratch_bytes=lambda sizes: 8 * sum(sizes),  # where each is to go, before it is orthogonal and after, in fp32
    learning_rate="muon_learning_rate",
    weight_decay="muon_weight_decay",
    exchanges=True,
    trains_adapters=False,
)
