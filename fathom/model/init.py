"""Weights at the start, given by role.

Matrices are normal with deviation 0.02 (GPT-2); what writes back to the residual stream is scaled by
1/sqrt(2 n_layer), so that the stream does not grow with depth (GPT-2, section 2.3). Biases are 0, norms 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from fathom.model.transformer import Transformer

STD = 0.02


def init_weights(model: Transformer) -> None:
    """Draw every weight anew, in place, from torch's global random state."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for out in outputs(model):
        nn.init.normal_(out.weight, std=STD / (2 * len(model.blocks)) ** 0.5)


@torch.no_grad()
def zero_outputs(model: Transformer) -> None:
    """Let every block begin as the identity: what it writes to the stream starts at 0 (needs a residual stream)."""
    for out in outputs(model):
        out.weight.zero_()


def outputs(model: Transformer) -> list[nn.Linear]:
    """The layers that write to the residual stream: attn.out and mlp.down of every block."""
    writers = [block.attn.out for block in model.blocks]
    return writers + [block.mlp.down for block in model.blocks if block.mlp is not None]
