"""What follows from the gathered information: each position alone, widened, bent, narrowed again.

GELU (GPT-2, tanh form of Hendrycks & Gimpel 2016), squared ReLU (So et al. 2021) and SwiGLU (Shazeer 2020, eq. 6).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fathom.model.config import ResolvedConfig


class GeluMLP(nn.Module):
    """down(gelu(up(x)))"""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias="mlp" in config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias="mlp" in config.bias)

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        act = F.gelu(self.up(x), approximate="tanh")  # (b, t, f)
        return self.down(act)


class Relu2MLP(GeluMLP):
    """down(relu(up(x))^2)"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        act = F.relu(self.up(x)).square()  # (b, t, f)
        return self.down(act)


class SwigluMLP(nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias="mlp" in config.bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias="mlp" in config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias="mlp" in config.bias)

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        act = F.silu(self.gate(x)) * self.up(x)  # (b, t, f)
        return self.down(act)


def make_mlp(config: ResolvedConfig) -> GeluMLP | SwigluMLP | None:
    """The MLP of one block, or None where a block is attention alone."""
    match config.mlp:
        case "none":
            return None
        case "gelu":
            return GeluMLP(config)
        case "relu2":
            return Relu2MLP(config)
        case "swiglu":
            return SwigluMLP(config)
