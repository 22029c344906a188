"""What follows from the gathered information: each position alone, widened, bent, narrowed again.

GELU (Hendrycks & Gimpel 2016; GPT-2's tanh form and the exact one), ReLU, squared ReLU (So et al. 2021), and the gated
SwiGLU and GEGLU (Shazeer 2020, eq. 6).
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


class ExactGeluMLP(GeluMLP):
    """down(gelu(up(x))), gelu(x) = x Phi(x), without the approximation"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return self.down(F.gelu(self.up(x)))


class ReluMLP(GeluMLP):
    """down(relu(up(x)))"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return self.down(F.relu(self.up(x)))


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


class GegluMLP(SwigluMLP):
    """down(gelu(gate(x)) * up(x)), gelu in its tanh form"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


MLPS: dict[str, type[GeluMLP | SwigluMLP]] = {
    "gelu": GeluMLP, "gelu_exact": ExactGeluMLP, "relu": ReluMLP, "relu2": Relu2MLP,
    "swiglu": SwigluMLP, "geglu": GegluMLP,
}  # fmt: skip


def make_mlp(config: ResolvedConfig) -> GeluMLP | SwigluMLP | None:
    """The MLP of one block, or None where a block is attention alone."""
    return None if config.mlp == "none" else MLPS[config.mlp](config)
