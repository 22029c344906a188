"""Every choice that decides what a model is, as one value.

A config stores what was declared; `resolved()` is what is built. `None` means: follows from the others, so that
changing one field (`replace(config, n_head=4)`) never leaves a stale consequence behind. Does not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from fathom.errors import FathomError

Position = Literal["none", "learned", "rope", "alibi"]
Norm = Literal["none", "layer", "rms", "layer_1p", "rms_1p", "layer_plain", "rms_plain"]
MLP = Literal["none", "gelu", "gelu_exact", "relu", "relu2", "xielu", "swiglu", "geglu"]
Residual = Literal["off", "on", "post", "sandwich", "parallel", "parallel_norms"]
QKNorm = Literal["off", "on", "whole", "rotated", "layer"]
Bias = Literal["on", "off", "qkv", "out", "mlp", "norm", "unembed", "sink"]
Weigh = Literal["softmax", "sigmoid", "mixer"]

LARGEST = 3e38  # of a number: about what fp32 holds
REWIND, SPARE = 64, 192  # tokens that a layer with a window keeps beyond it, to go back to, and before older ones leave


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those trained on.

    `linear`: all by `factor` (Chen et al. 2023). `llama3`: by wavelength, with a ramp between two bands (Llama 3.1).
    `yarn`: a ramp over the number of turns within the original context, and a temperature (Peng et al. 2023).
    `longrope`: each by a factor of its own, of `short` within the original context and of `long` beyond (Ding 2024).
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float
    original_context_length: int | None = None  # None: the config's context_length
    low_freq_factor: float = 1.0  # llama3: fewer turns than this in the original context are stretched fully
    high_freq_factor: float = 4.0  # llama3: more turns than this are left alone
    beta_fast: float = 32.0  # yarn: more turns than this are left alone
    beta_slow: float = 1.0  # yarn: fewer turns than this are stretched fully
    truncate: bool = True  # yarn: the ramp begins and ends at whole channels
    attention_factor: float | None = None  # yarn: None means 0.1 ln(factor) + 1; longrope: see `temperature`
    short: tuple[float, ...] = ()  # longrope: one for each pair of rotated channels
    long: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """How queries and keys are rotated by their position."""

    theta: float = 10_000.0  # base of the rotary frequencies
    rotated: int | None = None  # channels of each head that are rotated, the first ones; None: all
    local_theta: float | None = None  # base in layers with a window, unscaled there; None: as in the others
    scaling: RopeScaling | None = None  # stretched frequencies, as KIND:FACTOR such as yarn:4


@dataclass(frozen=True)
class Layers:
    """Which positions the layers see: a letter for each layer, repeated from the first on.

    g: all positions before it (global). l: the last `window` ones, itself included (local). n: all, without rotation.
    """

    pattern: str
    window: int | None = None  # in tokens

    def kind(self, layer: int) -> str:
        return self.pattern[layer % len(self.pattern)]

    def window_of(self, layer: int) -> int | None:
        """How many positions a layer sees; None: all."""
        return {"l": self.window}.get(self.kind(layer))

    def kept(self, layer: int, length: int) -> int:
        """Of how many tokens a layer keeps keys and values, in a cache for `length`."""
        return min(length, (self.window_of(layer) or length) - 1 + REWIND + SPARE)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: SwiGLU MLPs of width d_ff, of which each token runs the few that a router chooses."""

    n: int  # experts in each block
    used: int  # how many of them each token runs
    renormalise: bool = True  # the weights of those that a token runs sum to 1; else they are shares among all experts
    shared: int = 0  # width of one more expert, which every token runs; 0: there is none
    gated: bool = True  # whether that one is multiplied by a sigmoid gate
    weigh: Weigh = "softmax"  # shares of all; sigmoid: of each alone, chosen with a correction; mixer: see SparseMixer
    scale: float = 1.0  # by which the weights are multiplied
    limit: float = 0.0  # clamped SwiGLU: gate up to it, up from -it to it, and 1 added to up; 0: not clamped
    near: float = 0.0  # mixer: a weight is a share among scores that differ from the highest by less than this part
    dense: tuple[int, ...] = ()  # layers, counted from 0, that have one MLP in the place of experts
    dense_ff: int = 0  # and its width


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Constants by which a model multiplies what passes through it, and soft caps x -> cap tanh(x / cap)."""

    embed: float = 1.0  # of embeddings
    embed_norm: bool = False  # whether these are normalised, as the stream is
    attn: float | None = None  # of attention scores; None: 1 / sqrt(head_dim)
    attn_by_layer: bool = False  # whether attention scores of the i-th layer are divided by i as well
    residual: float = 1.0  # of what attention and MLP add to the stream
    logits: float = 1.0  # of logits
    attn_cap: float | None = None  # soft cap of attention scores
    logit_cap: float | None = None  # soft cap of logits


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
    d_ff: int | None = None  # width inside the MLP; None: 4 × d_model, gated 8/3 × d_model, over a token's experts
    position: Position = "none"  # how positions are told apart: not at all, learned table, rotation or distance penalty
    norm: Norm = "none"  # normalisation before attention and MLP; 1p: its weight is added to 1; plain: it has none
    mlp: MLP | Experts = "none"  # MLP of each block, by its activation, or a mixture of experts such as 8:2, two of 8
    residual: Residual = "on"  # how blocks add to the stream: post norms, sandwich of norms, attention beside MLP
    bias: tuple[Bias, ...] = ()  # biases of qkv, out (attention), mlp, norm, unembed, sink (softmax); on: first four
    tie_embeddings: bool = False  # unembed with the matrix of the embedding
    qk_norm: QKNorm = "off"  # RMS-normalise queries and keys: heads or whole; rotated: after rotation; layer: LayerNorm
    dropout: float = 0.0  # probability of dropping a value in training
    norm_eps: float = 1e-5  # epsilon of the norms
    rope: Rotary = Rotary()  # rotation, such as theta=500000,scaling=yarn:4
    layers: Layers = Layers("g")  # what each layer sees, such as lg:4096: every other one the last 4096 positions
    scale: Scale = Scale()  # constants, such as embed=32,logit_cap=30

    def __post_init__(self) -> None:
        """Words in one form: `bias` as its parts in order ("on" or True being the first four, "off" or False none),
        true and false as on and off."""
        for name in ("residual", "qk_norm"):
            if isinstance(value := getattr(self, name), bool):
                object.__setattr__(self, name, "on" if value else "off")
        given: Any = self.bias
        words = set(given) if isinstance(given, tuple | list) else {given}
        every = ("on", True) if words & {"on", True} else ()
        parts = [part for part in BIASES if part in words or (every and part in BIASES[:4])]
        unknown = sorted(map(str, words - {True, False, *get_args(Bias)}))  # for `problems` to name
        object.__setattr__(self, "bias", (*parts, *unknown))

    @staticmethod
    def upgraded(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of an older file as they are called now: rope_theta and rope_scaling became parts of rope."""
        older = {key: values[key] for key in ("rope_theta", "rope_scaling") if values.get(key) is not None}
        kept = {key: value for key, value in values.items() if key not in ("rope_theta", "rope_scaling")}
        return {"rope": {key.removeprefix("rope_"): value for key, value in older.items()}, **kept} if older else kept

    @property
    def windowed(self) -> bool:
        """Whether a layer sees less than all positions before it."""
        return any(self.layers.kind(layer) == "l" for layer in range(self.n_layer))

    def resolved(self) -> "ResolvedConfig":
        """The config with every None filled in. Raises FathomError when the choices contradict each other."""
        n_kv_head = self.n_head if self.n_kv_head is None else self.n_kv_head
        head_dim = self.d_model // max(self.n_head, 1) if self.head_dim is None else self.head_dim
        gated = isinstance(self.mlp, Experts) or self.mlp in ("swiglu", "geglu")
        width = 8 * self.d_model / 3 if gated else 4 * self.d_model
        width /= max(1, self.mlp.used) if isinstance(self.mlp, Experts) else 1  # so that a token meets as many
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

    def block(self, layer: int) -> "ResolvedConfig":
        """The config of one block: where a mixture of experts has a dense layer, with its MLP."""
        dense = isinstance(self.mlp, Experts) and layer in self.mlp.dense
        return replace(self, mlp="swiglu", d_ff=self.mlp.dense_ff) if dense else self  # type: ignore[union-attr]

    def blocks(self) -> dict["ResolvedConfig", int]:
        """The configs of all blocks, and how many blocks have each."""
        dense = self.mlp.dense if isinstance(self.mlp, Experts) else ()
        return {self: self.n_layer - len(dense)} | ({self.block(dense[0]): len(dense)} if dense else {})


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
    result += rope_problems(config) + layer_problems(config.layers)
    if isinstance(mlp := config.mlp, Experts):
        result += expert_problems(mlp, config)
    if not 0 <= config.dropout < 1:
        result.append(f"dropout={config.dropout}; it is a probability from 0 to below 1")
    result += number_problems("", {"norm_eps": config.norm_eps}) + number_problems("scale.", vars(config.scale))
    if config.residual == "off" and config.scale.residual != 1:
        result.append(f"scale.residual={config.scale.residual} with residual='off'; nothing is added to a stream there")
    if unknown := [word for word in config.bias if word not in BIASES]:
        result.append(f"bias has {unknown[0]!r}; choose any of {', '.join(BIASES)}")
    return result + [
        f"{name}={getattr(config, name)!r}; choose one of {', '.join(values)}"
        for name, values in CHOICES.items()
        if not isinstance(getattr(config, name), Experts) and getattr(config, name) not in values
    ]


def number_problems(prefix: str, values: Mapping[Any, Any]) -> list[str]:
    """Which of these numbers are none that a model can be computed with; what is no number is passed over."""
    numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
    wrong = {name: value for name, value in numbers.items() if not 0 < value < LARGEST}
    return [f"{prefix}{name}={value}; it must be above 0 and below {LARGEST:g}" for name, value in wrong.items()]


def rope_problems(config: ResolvedConfig) -> list[str]:
    """What is wrong with the rotation."""
    rope, scaling = config.rope, config.rope.scaling
    result = number_problems("rope.", vars(rope))
    if rope.rotated is not None and (rope.rotated > config.head_dim or rope.rotated % 2):
        result.append(f"rope.rotated={rope.rotated}; it must be even, from 2 to head_dim={config.head_dim}")
    if scaling is None:
        return result
    result += number_problems("rope.scaling.", vars(scaling))
    if config.position != "rope":
        result.append(f"rope.scaling is given but position={config.position!r}; it needs position='rope'")
    if scaling.kind == "llama3" and (low := scaling.low_freq_factor) >= (high := scaling.high_freq_factor):
        result.append(f"rope.scaling.low_freq_factor={low}; it must be below high_freq_factor={high}")
    if scaling.kind == "yarn" and rope.theta <= 1:
        result.append(f"rope.theta={rope.theta}; yarn needs it above 1")
    return result + (longrope_problems(config, scaling) if scaling.kind == "longrope" else [])


def longrope_problems(config: ResolvedConfig, scaling: RopeScaling) -> list[str]:
    """What is wrong with a factor for each pair of channels."""
    pairs = (config.rope.rotated or config.head_dim) // 2
    result = number_problems("factor of longrope, ", dict(enumerate(scaling.short + scaling.long)))
    if config.rope.local_theta is not None:
        result.append("rope.local_theta is given with longrope scaling, which no model has; leave one out")
    if (counts := {len(scaling.short), len(scaling.long)}) != {pairs}:
        result.append(f"longrope has {sorted(counts)} factors; it needs {pairs}, one for each pair of channels")
    if (original := scaling.original_context_length or config.context_length) < 2:
        result.append(f"longrope stretches a context of {original}; it must be at least 2")
    return result


def expert_problems(mlp: Experts, config: ResolvedConfig) -> list[str]:
    """What is wrong with a mixture of experts."""
    result = []
    if not 1 <= mlp.used <= mlp.n:
        result.append(f"mlp has {mlp.n} experts and uses {mlp.used}; it must use at least 1, and at most all")
    if mlp.shared < 0:
        result.append(f"mlp.shared={mlp.shared}; it must be a width, or 0 for none")
    if mlp.weigh not in get_args(Weigh):
        result.append(f"mlp.weigh={mlp.weigh!r}; choose one of {', '.join(get_args(Weigh))}")
    if not 0 < mlp.scale < LARGEST or not 0 <= mlp.near < 1 or not 0 <= mlp.limit < LARGEST:
        numbers = f"mlp.scale={mlp.scale}, mlp.near={mlp.near}, mlp.limit={mlp.limit}"
        result.append(f"{numbers}; expected one above 0, one from 0 to below 1, and one from 0 on")
    layers = {layer for layer in mlp.dense if 0 <= layer < config.n_layer}
    if mlp.dense and not len(mlp.dense) == len(layers) < config.n_layer:
        result.append(f"mlp.dense={mlp.dense}; expected some of {config.n_layer} layers, counted from 0, each once")
    if mlp.dense and mlp.dense_ff < 1:
        result.append(f"mlp.dense_ff={mlp.dense_ff}; it must be the width of the layers that mlp.dense names")
    return result


def layer_problems(layers: Layers) -> list[str]:
    """What is wrong with what the layers see."""
    if not layers.pattern or set(layers.pattern) - set("gln"):
        return [f"layers.pattern={layers.pattern!r}; expected letters g (all), l (a window) and n (without rotation)"]
    if ("l" in layers.pattern) != (layers.window is not None) or (layers.window or 1) < 1:
        return [f"layers={layers.pattern}:{layers.window}; layers called l need a window of at least 1, others none"]
    return []


BIASES: tuple[Bias, ...] = ("qkv", "out", "mlp", "norm", "unembed", "sink")
CHOICES: dict[str, tuple[str, ...]] = {
    "position": get_args(Position), "norm": get_args(Norm), "mlp": get_args(MLP),
    "residual": get_args(Residual), "qk_norm": get_args(QKNorm),
}  # fmt: skip
