"""What follows from the gathered information: each position alone, widened, bent, narrowed again.

GELU (Hendrycks & Gimpel 2016; GPT-2's tanh form and the exact one), ReLU, squared ReLU (So et al. 2021), and the gated
SwiGLU and GEGLU (Shazeer 2020, eq. 6). A mixture of experts (Shazeer et al. 2017) has many of them
and runs a few for each token.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.model.config import Experts, ResolvedConfig


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

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Router(nn.Module):
    """Scores of experts for each token: a matrix that is never packed or adapted, since its choices are discrete."""

    def __init__(self, config: ResolvedConfig, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class ExpertsMLP(nn.Module):
    """sum over the chosen experts of their weight * expert(x); the weights are softmax(router(x)), or their shares."""

    def __init__(self, config: ResolvedConfig, experts: Experts) -> None:
        super().__init__()
        self.used, self.renormalise = experts.used, experts.renormalise
        self.router = Router(config, experts.n)
        self.experts = nn.ModuleList(SwigluMLP(config) for _ in range(experts.n))

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        weights, chosen = self.router(x).softmax(-1, dtype=torch.float32).topk(self.used)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return self.mixed(x.flatten(0, 1), weights.flatten().type_as(x), chosen.flatten()).view_as(x)

    def mixed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Of tokens x (n, d), each repeated for each of its experts: every expert runs once, on its own tokens."""
        y = torch.zeros_like(x)
        order = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=len(self.experts)).tolist()
        for expert, places in zip(self.experts, order.split(counts)):
            if len(places) or self.training:  # in training all have a gradient, as distributed training expects
                tokens = places // self.used
                y.index_add_(0, tokens, (expert(x[tokens]) * weights[places, None]).type_as(y))
        return y


class SharedExpertsMLP(ExpertsMLP):
    """The same, with one more expert that every token runs: sigmoid(gate(x)) * expert(x) (Qwen2-MoE)."""

    def __init__(self, config: ResolvedConfig, experts: Experts) -> None:
        super().__init__(config, experts)
        self.shared, self.shared_gate = SwigluMLP(replace(config, d_ff=experts.shared)), Router(config, 1)

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return super().forward(x) + self.shared_gate(x).sigmoid() * self.shared(x)


class GegluMLP(SwigluMLP):
    """down(gelu(gate(x)) * up(x)), gelu in its tanh form"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


MLPS: dict[str, type[GeluMLP | SwigluMLP]] = {
    "gelu": GeluMLP, "gelu_exact": ExactGeluMLP, "relu": ReluMLP, "relu2": Relu2MLP,
    "swiglu": SwigluMLP, "geglu": GegluMLP,
}  # fmt: skip


def make_mlp(config: ResolvedConfig) -> GeluMLP | SwigluMLP | ExpertsMLP | None:
    """The MLP of one block, or None where a block is attention alone."""
    if isinstance(config.mlp, Experts):
        return (SharedExpertsMLP if config.mlp.shared else ExpertsMLP)(config, config.mlp)
    return None if config.mlp == "none" else MLPS[config.mlp](config)
