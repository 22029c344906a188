"""Which channels of q and k rope turns together, told from the weights: the two layouts of LLaMA's files.

Meta's pairs are channels 2i and 2i + 1 of a head (interleaved), Hugging Face's i and i + c/2 (half-split). In the wrong
one a model runs and talks nonsense. Only C_aa + C_bb of a pair (a, b), with C = Wq Wk^T of a head, reaches the scores
(Su et al. 2021, eq. 16), so training gives the partners' C_aa and C_bb one sign; strangers have no reason to agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.model.transformer import Transformer

LAYERS = 6  # of which the weights are looked at
CLEAR = 4.0  # standard errors


@dataclass(frozen=True)
class RopeLayout:
    """How many standard errors each layout's partners agree by. Ours is half-split, whatever the file had."""

    half_split: float
    interleaved: float

    @property
    def verdict(self) -> str:
        """half-split, interleaved or undecided: as for weights that are hardly trained."""
        lead = self.half_split - self.interleaved
        if abs(lead) < 2 * CLEAR or max(self.half_split, self.interleaved) < CLEAR:
            return "undecided"
        return "half-split" if lead > 0 else "interleaved"


def rope_layout(model: Transformer) -> RopeLayout | None:
    """What q and k of up to LAYERS layers say; None where nothing is turned or a head has but one pair."""
    config = model.config
    if config.position != "rope" or config.head_dim < 4 or not config.n_layer:
        return None
    agreement = torch.stack(list(agreements(model)))  # (layers * h, 2)
    spread = agreement.std(0).clamp(min=1e-12) / len(agreement) ** 0.5
    half_split, interleaved = (agreement.mean(0) / spread).tolist()
    return RopeLayout(half_split, interleaved)


@torch.no_grad()
def agreements(model: Transformer) -> Iterator[Tensor]:
    """(2,) for each head: the mean C_aa C_bb of its half-split and of its interleaved pairs, rows at length 1."""
    blocks, config = list(model.blocks), model.config
    for block in blocks[:: max(1, len(blocks) // LAYERS)][:LAYERS]:
        scale = getattr(block.attn_norm, "weight", torch.ones(()))
        q, k = (directions(linear.weight * scale, config.head_dim) for linear in (block.attn.q, block.attn.k))
        k = k.repeat_interleave(config.n_head // config.n_kv_head, 0)  # (g, c, d) -> (h, c, d)
        same = (q * k).sum(-1)  # (h, c): C_aa
        first, second = same.chunk(2, -1)
        half_split, interleaved = (first * second).mean(-1), (same[:, ::2] * same[:, 1::2]).mean(-1)
        yield from torch.stack((half_split, interleaved), -1)  # (h, 2)


def directions(weight: Tensor, head_dim: int) -> Tensor:
    """(h * c, d) -> (h, c, d), each row at length 1."""
    return torch.nn.functional.normalize(weight.float(), dim=-1).unflatten(0, (-1, head_dim))
