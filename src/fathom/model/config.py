"""Every choice that decides what a model is, as one value.

A config stores what was declared; `resolved()` is what is built. `None` means: follows from the others, so that
changing one field (`replace(config, n_head=4)`) never leaves a stale consequence behind. Does not import torch.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from fathom.errors import FathomError

Position = Literal["none", "learned", "rope"]
Norm = Literal["none", "layer", "rms"]
MLP = Literal["none", "gelu", "gelu_exact", "relu", "relu2", "swiglu", "geglu"]
Bias = Literal["on", "off", "qkv", "out", "mlp", "norm"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those trained on.

    `linear`: all by `factor` (Chen et al. 2023). `llama3`: by wavelength, with a ramp between two bands (Llama 3.1).
    `yarn`: a ramp over the number of turns within the original context, and a temperature (Peng et al. 2023).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context_length: int | None = None  # None: the config's context_length
    low_freq_factor: float = 1.0  # llama3: fewer turns than this in the original context are stretched fully
    high_freq_factor: float = 4.0  # llama3: more turns than this are left alone
    beta_fast: float = 32.0  # yarn: more turns than this are left alone
    beta_slow: float = 1.0  # yarn: fewer turns than this are stretched fully
    attention_factor: float | None = None  # yarn: None means 0.1 ln(factor) + 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shape of a model. `None` means: follows from the others."""

    vocab_size: int  # tokens in the vocabulary
    context_length: int  # context length in tokens
    d_model: int  # width of the residual stream
    n_layer: int  # number of blocks; 0 is a bigram model: nothing between embed and unembed
    n_head: int = 1  # attention heads per block
    n_kv_head: int | None = None  # key and value heads: 1 is multi-query, more grouped-query; None: n_head
    head_dim: int | None = None  # width of a head; None: d_model / n_head
    d_ff: int | None = None  # width inside the MLP; None: 4 × d_model, for swiglu 8/3 × d_model (the same size)
    position: Position = "none"  # how positions are told apart: not at all, by a learned table, or by rotation
    norm: Norm = "none"  # normalisation before each attention and MLP: none, LayerNorm or RMSNorm
    mlp: MLP = "none"  # MLP of each block, by its activation
    residual: bool = True  # add the output of attention and MLP to their input
    bias: tuple[Bias, ...] = ()  # layers with biases: qkv and out (of attention), mlp, norm; on: all four
    tie_embeddings: bool = False  # unembed with the matrix of the embedding
    qk_norm: bool = False  # RMS-normalise queries and keys of each head before rotation
    dropout: float = 0.0  # probability of dropping a value in training
    norm_eps: float = 1e-5  # epsilon of the norms
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    rope_scaling: RopeScaling | None = None  # stretched rotary frequencies, as KIND:FACTOR such as yarn:4

    def __post_init__(self) -> None:
        """`bias` in one form: its parts in order, "on" or True being all of them, "off" or False none."""
        given: Any = self.bias
        words = set(given) if isinstance(given, tuple | list) else {given}
        parts = [part for part in BIASES if words & {part, "on", True}]
        unknown = sorted(map(str, words - {True, False, *get_args(Bias)}))  # for `problems` to name
        object.__setattr__(self, "bias", (*parts, *unknown))

    def resolved(self) -> "ResolvedConfig":
        """The config with every None filled in. Raises FathomError when the choices contradict each other."""
        n_kv_head = self.n_head if self.n_kv_head is None else self.n_kv_head
        head_dim = self.d_model // max(self.n_head, 1) if self.head_dim is None else self.head_dim
        width = 8 * self.d_model / 3 if self.mlp in ("swiglu", "geglu") else 4 * self.d_model
        d_ff = max(1, round(width)) if self.d_ff is None else self.d_ff
        sizes = {"n_kv_head": n_kv_head, "head_dim": head_dim, "d_ff": d_ff}
        resolved = ResolvedConfig(**{**vars(self), **sizes})
        for problem in problems(self, resolved):
            raise FathomError(problem)
        return resolved


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(ModelConfig):
    """A config in which nothing is left open: what a model is built from and what is saved."""

    n_kv_head: int
    head_dim: int
    d_ff: int

    def resolved(self) -> "ResolvedConfig":
        return self


def problems(declared: ModelConfig, config: ResolvedConfig) -> list[str]:
    """What is wrong with these choices, each one line: found, expected, what to do."""
    result = []
    for name in ("vocab_size", "context_length", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff"):
        if getattr(config, name) < 1:
            result.append(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.n_layer < 0:
        result.append(f"n_layer is {config.n_layer}; it must be 0 (a bigram model) or more")
    if result:
        return result
    if declared.head_dim is None and (d := config.d_model) % config.n_head:
        result.append(f"d_model={d} is not a multiple of n_head={config.n_head}; change one or give head_dim")
    if config.n_head % config.n_kv_head:
        result.append(f"n_head={config.n_head} is not a multiple of n_kv_head={config.n_kv_head}; use a divisor")
    if config.position == "rope" and config.head_dim % 2:
        result.append(f"head_dim={config.head_dim} is odd; rope turns pairs of channels and needs it even")
    if not 0 <= config.dropout < 1:
        result.append(f"dropout={config.dropout}; it is a probability from 0 to below 1")
    if config.norm_eps <= 0 or config.rope_theta <= 0:
        result.append(f"norm_eps={config.norm_eps}, rope_theta={config.rope_theta}; both must be above 0")
    if config.rope_scaling is not None and config.position != "rope":
        result.append(f"rope_scaling is given but position={config.position!r}; it needs position='rope'")
    if unknown := [word for word in config.bias if word not in BIASES]:
        result.append(f"bias has {unknown[0]!r}; choose any of {', '.join(BIASES)}")
    return result + [
        f"{name}={getattr(config, name)!r}; choose one of {', '.join(values)}"
        for name, values in CHOICES.items()
        if getattr(config, name) not in values
    ]


BIASES: tuple[Bias, ...] = ("qkv", "out", "mlp", "norm")
CHOICES: dict[str, tuple[str, ...]] = {"position": get_args(Position), "norm": get_args(Norm), "mlp": get_args(MLP)}
