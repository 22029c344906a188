"""Initial weights, by the role of each layer.

Matrices are normal with deviation 0.02 (GPT-2); what writes back to the residual stream is scaled by
1/sqrt(2 n_layer), so that the stream does not grow with depth (GPT-2, section 2.3). Biases are 0, norms 1.
"""

from typing import Any  # a Transformer, whose module imports this one

import torch
from torch import nn

from fathom.model.mlp import GeluMLP, Router, SwigluMLP

STD = 0.02


def init_weights(model: Any) -> None:
    """Draw every weight again, in place, from torch's global random state."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding | Router):
            nn.init.normal_(module.weight, std=STD)
        if isinstance(module, nn.Linear | Router) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for out in outputs(model):
        nn.init.normal_(out.weight, std=STD / (2 * len(list(model.blocks))) ** 0.5)


@torch.no_grad()
def zero_outputs(model: Any) -> None:
    """Let every block start as the identity: what it writes to the residual stream, which it needs, is 0 at first."""
    for out in outputs(model):
        out.weight.zero_()


def outputs(model: Any) -> list[nn.Linear]:
    """The layers that write to the residual stream: attn.out and mlp.down of every block."""
    writers = [block.attn.out for block in model.blocks]
    parts = [part for block in model.blocks if block.mlp is not None for part in block.mlp.modules()]
    return writers + [part.down for part in parts if isinstance(part, GeluMLP | SwigluMLP)]
