"""What follows from the gathered information: each position alone, widened, bent, narrowed again.

GELU (Hendrycks & Gimpel 2016; GPT-2's tanh form and the exact one), ReLU, squared ReLU (So et al. 2021), xIELU, and the
gated SwiGLU and GEGLU (Shazeer 2020, eq. 6). A mixture of experts (Shazeer et al. 2017) runs a few of many for a token.
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
        return self.down(F.relu(self.up(x)).square())


class XieluMLP(GeluMLP):
    """down(xielu(up(x))): a parabola above 0 and an exponential below, of learned sizes (Huang & Schlag 2024)"""

    beta: Tensor  # the slope at 0
    eps: Tensor  # just below 0

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        self.alpha_p, self.alpha_n = nn.Parameter(torch.tensor([0.2035])), nn.Parameter(torch.tensor([-1.0502]))
        self.register_buffer("beta", torch.tensor(0.5))
        self.register_buffer("eps", torch.tensor(-1e-6))

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        up = self.up(x)  # (b, t, f)
        above = F.softplus(self.alpha_p) * up * up
        below = (self.beta + F.softplus(self.alpha_n)) * (torch.expm1(torch.minimum(up, self.eps)) - up)
        return self.down(torch.where(up > 0, above, below) + self.beta * up)


class SwigluMLP(nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias="mlp" in config.bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias="mlp" in config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias="mlp" in config.bias)

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GegluMLP(SwigluMLP):
    """down(gelu(gate(x)) * up(x)), gelu in its tanh form"""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


class ClampedMLP(SwigluMLP):
    """down((up(x) + 1) * gate(x) sigmoid(1.702 gate(x))), gate(x) up to a limit and up(x) within it (gpt-oss)"""

    def __init__(self, config: ResolvedConfig, limit: float) -> None:
        super().__init__(config)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        gate, up = self.gate(x).clamp(max=self.limit), self.up(x).clamp(-self.limit, self.limit)  # (..., f)
        return self.down((up + 1) * gate * torch.sigmoid(1.702 * gate))


class Router(nn.Module):
    """Scores of experts for each token: a matrix that is never packed or adapted, since its choices are discrete."""

    correction: Tensor  # one number for each expert

    def __init__(self, config: ResolvedConfig, n: int, corrected: bool = False, biased: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, config.d_model))
        self.bias = nn.Parameter(torch.zeros(n)) if biased else None
        if corrected:  # added where experts are chosen, and not to their weights, so that it has no gradient
            self.register_buffer("correction", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def softmax_weights(router: Router, scores: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """The largest shares: weights and numbers of experts, (b, t, used) each."""
    return scores.softmax(-1).topk(experts.used)


def sigmoid_weights(router: Router, scores: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """Each score's own sigmoid; a correction keeps the load even (DeepSeek-V3, section 2.1.2)."""
    weights = scores.sigmoid()
    chosen = (weights + router.correction.float()).topk(experts.used).indices
    return weights.gather(-1, chosen), chosen


def mixer_weights(router: Router, scores: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """One expert after another, each with its share among those left whose scores are near (SparseMixer, Liu 2024)."""
    left, weights, chosen = scores, [], []
    for _ in range(experts.used):
        highest, best = left.max(-1, keepdim=True)
        far = (highest - scores) / torch.maximum(scores.abs(), highest) > 2 * experts.near
        weights.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, best))
        chosen.append(best)
        left = left.scatter(-1, best, -torch.inf)
    return torch.cat(weights, -1), torch.cat(chosen, -1)


WEIGH = {"softmax": softmax_weights, "sigmoid": sigmoid_weights, "mixer": mixer_weights}


def sum_of(weights: Tensor) -> Tensor:  # (b, t, used) -> (b, t, 1)
    return weights.sum(-1, keepdim=True)


class ExpertsMLP(nn.Module):
    """sum over the chosen experts of their weight * expert(x); a router chooses and weighs them."""

    def __init__(self, config: ResolvedConfig, experts: Experts) -> None:
        super().__init__()
        self.choices, self.used, self.weigh = experts, experts.used, WEIGH[experts.weigh]
        self.total = sum_of if experts.renormalise else torch.ones_like
        self.router = Router(config, experts.n, corrected=experts.weigh == "sigmoid", biased="mlp" in config.bias)
        self.experts = nn.ModuleList(make_expert(config, experts) for _ in range(experts.n))

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        weights, chosen = self.choose(self.router(x))
        return self.mixed(x.flatten(0, 1), weights.flatten().type_as(x), chosen.flatten()).view_as(x)

    def choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:  # (b, t, e) -> (b, t, used), (b, t, used)
        """The weights of the experts that run each token, and their numbers."""
        weights, chosen = self.weigh(self.router, scores.float(), self.choices)
        return self.choices.scale * (weights / self.total(weights)), chosen

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
    """The same, with one more expert that every token runs, perhaps times sigmoid(gate(x)) (Qwen2-MoE)."""

    def __init__(self, config: ResolvedConfig, experts: Experts) -> None:
        super().__init__(config, experts)
        self.shared = make_expert(replace(config, d_ff=experts.shared), experts)
        self.shared_gate = Router(config, 1) if experts.gated else None

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        gate = 1 if self.shared_gate is None else self.shared_gate(x).sigmoid()
        return super().forward(x) + gate * self.shared(x)


def make_expert(config: ResolvedConfig, experts: Experts) -> SwigluMLP:
    return ClampedMLP(config, experts.limit) if experts.limit else SwigluMLP(config)


MLPS: dict[str, type[GeluMLP | SwigluMLP]] = {
    "gelu": GeluMLP, "gelu_exact": ExactGeluMLP, "relu": ReluMLP, "relu2": Relu2MLP, "xielu": XieluMLP,
    "swiglu": SwigluMLP, "geglu": GegluMLP,
}  # fmt: skip


def make_mlp(config: ResolvedConfig) -> GeluMLP | SwigluMLP | ExpertsMLP | None:
    """The MLP of one block, or None where a block is attention alone."""
    if isinstance(config.mlp, Experts):
        return (SharedExpertsMLP if config.mlp.shared else ExpertsMLP)(config, config.mlp)
    return None if config.mlp == "none" else MLPS[config.mlp](config)
