"""Three variations of LoRA that differ in what one layer gets: DoRA, PiSSA, and LoRA of an embedding.

DoRA: Liu et al. 2024, eq. 5. PiSSA: Meng et al. 2024, section 3. Each adds a change to W, as LoRA does, and none
touches W itself, so that they can be switched, scaled, blended and merged alike.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.adapters.layer import Lora, Weight
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.quant.linear import QuantLinear


class EmbeddingLora(Lora):
    """Of a table: column `id` of a, and of W^T, is what is looked up."""

    def forward(self, x: Tensor, y: Tensor, base: nn.Module, weight: Weight) -> Tensor:
        """(b, t) ids -> (b, t, d)"""
        low = F.embedding(x, self.a.T.to(y.dtype))  # (b, t, r)
        return F.linear(self.dropout(low) * (self.scale * weight), self.b.to(y.dtype))

    def delta(self, weight: Tensor) -> Tensor:
        return super().delta(weight).T  # (V, d)


class Dora(Lora):
    """W' = m (W + scale b a) / ||W + scale b a||, row by row: length m (out,) and direction learn apart.

    The length of W + scale b a needs no matrix of W's size: |w|^2 + 2 s b (a W^T) + s^2 b (a a^T) b^T of each row, and
    a W^T is what the layer says of the rows of a. No gradient flows through it (section 4.3).
    """

    squares: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, weight: Tensor) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("squares", weight.detach().float().square().sum(1), persistent=False)  # (out,)
        self.magnitude = nn.Parameter(self.squares.sqrt())  # (out,)

    def forward(self, x: Tensor, y: Tensor, base: nn.Module, weight: Weight) -> Tensor:
        bias = base.bias
        ratio = (self.magnitude / self.lengths(base)).to(y.dtype)  # (out,)
        own = y if bias is None else y - bias.to(y.dtype)  # type: ignore[operator]
        return (ratio - 1) * own * weight + ratio * super().forward(x, y, base, weight)

    @torch.no_grad()
    def lengths(self, base: nn.Module) -> Tensor:
        """Of the rows of W + scale b a, (out,)."""
        a, b = self.a.float(), self.b.float() * self.scale
        bias: Tensor | None = base.bias  # type: ignore[assignment]
        dtype = a.dtype if not isinstance(base, nn.Linear) else base.weight.dtype
        mixed = base(a.to(dtype)).float() - (0 if bias is None else bias.float())  # (r, out)
        return (self.squares + 2 * (b * mixed.T).sum(1) + ((b @ (a @ a.T)) * b).sum(1)).clamp(min=0).sqrt()

    def delta(self, weight: Tensor) -> Tensor:
        turned = weight + super().delta(weight)
        return turned * (self.magnitude / turned.norm(dim=1))[:, None] - weight


class Pissa(Lora):
    """Begins as the `rank` largest directions of W, and only what becomes of them counts: scale (b a - b0 a0).

    The paper puts the residual W - scale b0 a0 in the place of W; here W stays, and the sum is the same.
    """

    first_a: Tensor
    first_b: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, first: tuple[Tensor, Tensor]) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("first_a", first[0].clone())
        self.register_buffer("first_b", first[1].clone())

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(2 r, in) and (out, 2 r): as one LoRA of twice the rank, which is how peft saves it too."""
        return torch.cat((self.a, self.first_a)), torch.cat((self.b, -self.first_b), 1)


def largest(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """a (rank, in) and b (out, rank) with scale b a the best approximation of W of that rank: U S V^T, S shared out."""
    u, s, vt = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * vt[:rank], u[:, :rank] * root


def of(plain: Lora, base: nn.Module, options: LoraOptions) -> Lora:
    """The adapter that the options ask for, in the place of a plain one."""
    weight: Tensor = base.weight  # type: ignore[assignment]
    if isinstance(base, nn.Embedding):
        if options.dora or options.init == "pissa":
            raise FathomError("dora and pissa are for linear layers, and embed is a table; leave it out of the targets")
        return EmbeddingLora(plain.a.data, plain.b.data, plain.scale, options.dropout)
    if options.dora:
        return Dora(plain.a.data, plain.b.data, plain.scale, options.dropout, weight)
    if options.init == "pissa":
        if isinstance(base, QuantLinear):
            raise FathomError(
                "init is pissa, which takes the largest directions out of weights before they are packed, and these are"
                f" packed in {base.scheme.name}; leave init out, or give weights in floats (method lora)"
            )
        first = largest(weight, len(plain.a), plain.scale)
        return Pissa(*first, plain.scale, options.dropout, first)
    return plain
