"""What a model costs, as arithmetic on its config: parameters, FLOPs, bytes. Does not import torch.

A multiply and an add are two FLOPs, and only matrix products are counted: looking up an embedding is none. Training
counts as three forward passes, one forward and two backward (Kaplan et al. 2020, section 2.1). Counted is what the
explicit attention does: all t * s scores, masked ones too. Tests compare it with what torch counts.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fathom.errors import FathomError
from fathom.model.config import Experts, ModelConfig, ResolvedConfig

T = TypeVar("T")
# What each value of a choice adds to the cost; a new value is entered here, and a test over CHOICES asks for it.
MATRICES: dict[str, tuple[str, ...]] = {
    "none": (),
    **dict.fromkeys(("gelu", "gelu_exact", "relu", "relu2", "xielu"), ("up", "down")),
    **dict.fromkeys(("swiglu", "geglu"), ("gate", "up", "down")),
}
NORMS_PER_LAYER: dict[str, tuple[str, ...]] = {  # residual -> norms around attention, and around the MLP
    **dict.fromkeys(("off", "on", "parallel", "parallel_norms"), ("norm",)),
    "post": ("after",),
    "sandwich": ("norm", "after"),
}
KEPT_BY_MLP: dict[str, int] = {  # d_ff wide: gate, silu(gate), up, act; relu keeps its output alone
    "none": 0, "gelu": 2, "gelu_exact": 2, "relu": 1, "relu2": 2, "xielu": 6, "swiglu": 4, "geglu": 4,
}  # fmt: skip
KEPT_BY_CLAMPED = 7  # gate and up, as they are and clamped, sigmoid, gate (up + 1), act
KEPT_BY_NORM: dict[str, int] = {  # d_model wide: output; rms: before its weight
    "none": 0, "layer": 1, "rms": 2, "layer_1p": 1, "rms_1p": 2, "layer_plain": 1, "rms_plain": 1,
}  # fmt: skip
NORM_VECTORS: dict[str, tuple[str, ...]] = {
    "none": (), "layer": ("weight", "bias"), "rms": ("weight",), "layer_1p": ("weight", "bias"), "rms_1p": ("weight",),
    "layer_plain": (), "rms_plain": (),
}  # fmt: skip
QK_NORMS: dict[str, str] = {  # for how many heads there are weights
    "off": "none", "on": "one", "rotated": "one", "whole": "all", "layer": "all",
}  # fmt: skip
BIAS_OF = {"attn.q": "qkv", "attn.k": "qkv", "attn.v": "qkv", "attn.out": "out", "mlp.shared_gate": ""}  # others: mlp
POSITION_TABLES: dict[str, int] = {"none": 0, "learned": 1, "rope": 0, "alibi": 0}


def entry(table: Mapping[str, T], choice: str, value: str) -> T:
    """What the table holds for this value of a choice. FathomError where there is no entry."""
    if value not in table:
        raise FathomError(f"{choice}={value!r} has no entry in fathom/anatomy/cost.py; add what it costs to its tables")
    return table[value]


def matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The matrices of one block as (in, out)."""
    config = config.resolved()
    d, f, heads, groups = config.d_model, config.d_ff, config.n_head, config.n_kv_head
    attn = {
        "attn.q": (d, heads * config.head_dim),
        "attn.k": (d, groups * config.head_dim),
        "attn.v": (d, groups * config.head_dim),
        "attn.out": (heads * config.head_dim, d),
    }
    if not isinstance(config.mlp, Experts):
        return attn | mlp_matrices("mlp", entry(MATRICES, "mlp", config.mlp), d, f)
    mlp = {"mlp.router": (d, config.mlp.n)}
    for expert in range(config.mlp.n):
        mlp |= mlp_matrices(f"mlp.experts.{expert}", MATRICES["swiglu"], d, f)
    if config.mlp.shared:
        mlp |= mlp_matrices("mlp.shared", MATRICES["swiglu"], d, config.mlp.shared)
        mlp |= {"mlp.shared_gate": (d, 1)} if config.mlp.gated else {}
    return attn | mlp


def mlp_matrices(where: str, names: Iterable[str], d: int, f: int) -> dict[str, tuple[int, int]]:
    return {f"{where}.{name}": (f, d) if name == "down" else (d, f) for name in names}


def active(config: ModelConfig) -> dict[str, int]:
    """Numbers in the matrices of one block that a token is multiplied by: of experts, those that it uses."""
    count: dict[str, int] = {}
    used, n = (config.mlp.used, config.mlp.n) if isinstance(config.mlp, Experts) else (1, 1)
    for name, (rows, columns) in matrices(config).items():
        part = re.sub(r"experts\.\d+", "experts", name)
        count[part] = count.get(part, 0) + rows * columns
    return {part: size * used // n if ".experts." in part else size for part, size in count.items()}


def n_active_parameters(config: ModelConfig) -> int:
    """Parameters that one token meets: all but the experts that it does not use."""
    unused = 0
    for block, n in config.resolved().blocks().items():
        unused += n * (sum(rows * columns for rows, columns in matrices(block).values()) - sum(active(block).values()))
        unused += n * unused_biases(block)
    return n_parameters(config) - unused


def unused_biases(config: ResolvedConfig) -> int:
    """Biases in one block of the experts that a token does not use."""
    if not isinstance(config.mlp, Experts) or "mlp" not in config.bias:
        return 0
    return (config.mlp.n - config.mlp.used) * (2 * config.d_ff + config.d_model)


def norm_names(config: ModelConfig) -> tuple[str, ...]:
    """The norms of one block, in the model's order."""
    names = entry(NORMS_PER_LAYER, "residual", config.residual)
    attn = tuple(f"attn_{name}" for name in names)
    mlp = () if config.mlp == "none" or config.residual == "parallel" else tuple(f"mlp_{name}" for name in names)
    return attn + mlp


def qk_norm_widths(config: ResolvedConfig) -> dict[str, int]:
    """Width of the norms of queries and keys; 0: they have no weight."""
    heads: dict[str, tuple[int, ...]] = {"none": (), "one": (1, 1), "all": (config.n_head, config.n_kv_head)}
    widths = heads[entry(QK_NORMS, "qk_norm", config.qk_norm)]
    weighed = config.qk_norm in ("whole", "layer") or config.norm != "rms_plain"
    return {name: weighed * n * config.head_dim for name, n in zip("qk", widths)}


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied unembedding is the embedding and counts once."""
    config = config.resolved()
    d = config.d_model
    count = {"embed": config.vocab_size * d, "position": 0, "attn": 0, "mlp": 0, "norm": 0, "unembed": 0}
    for block, n in config.blocks().items():
        for name, (width_in, width_out) in matrices(block).items():
            rows = width_in + (BIAS_OF.get(name, "mlp") in config.bias)
            count[name.split(".")[0]] += n * rows * width_out
        count["mlp"] += n * 2 * (block.mlp == "xielu")  # its two sizes
    count["attn"] += ("sink" in config.bias) * config.n_layer * config.n_head
    norm = d * sum(vector != "bias" or "norm" in config.bias for vector in entry(NORM_VECTORS, "norm", config.norm))
    in_block = len(norm_names(config)) * norm + sum(qk_norm_widths(config).values())
    count["norm"] = norm * (1 + config.scale.embed_norm) + config.n_layer * in_block
    count["position"] = config.context_length * d * entry(POSITION_TABLES, "position", config.position)
    count["unembed"] = (not config.tie_embeddings) * config.vocab_size * d
    count["unembed"] += ("unembed" in config.bias) * config.vocab_size
    return count


def n_parameters(config: ModelConfig) -> int:
    """All parameters, ties once."""
    return sum(parameters(config).values())


def flops(config: ModelConfig, t: int, batch: int = 1, past: int = 0) -> dict[str, int]:
    """FLOPs by matrix product of one forward pass over `batch` rows of t tokens that follow `past` cached ones."""
    config = config.resolved()
    tokens, layers = batch * t, config.n_layer
    keys = sum(seen_keys(config, layer, t, past) for layer in range(layers))
    pairs = 2 * tokens * keys * config.n_head * config.head_dim  # every query with every key, in every head
    count: dict[str, int] = {}
    for block, n in config.blocks().items():
        for name, size in active(block).items():
            count[name] = count.get(name, 0) + n * 2 * tokens * size
    count |= {"attn.scores": pairs, "attn.z": pairs}  # q k^T and pattern v
    return count | {"unembed": 2 * tokens * config.d_model * config.vocab_size}


def training_flops(config: ModelConfig, t: int, batch: int = 1) -> int:
    """FLOPs of forward and backward over `batch` rows of t tokens: each product has one for each of its factors."""
    return 3 * sum(flops(config, t, batch).values())


def flops_per_token(config: ModelConfig, t: int) -> float:
    """Training FLOPs for one token of a sequence of t."""
    return training_flops(config, t) / t


def cache_bytes(config: ModelConfig, batch: int, length: int, itemsize: int = 4) -> int:
    """What a KVCache of `batch` rows of `length` tokens takes, with numbers of `itemsize` bytes."""
    config = config.resolved()
    tokens = sum(config.layers.kept(layer, length) for layer in range(config.n_layer))
    return 2 * tokens * config.n_kv_head * config.head_dim * batch * itemsize


# Bytes of a block, codes and scale, and how many numbers share them; of NF4 a block may end in the next row.
BLOCKS = {"int8": (32, 32 + 2), "int4": (32, 16 + 2), "nf4": (64, 32 + 1), "nf4-single": (64, 32 + 4)}


def packed_bytes(scheme: str, rows: int, width: int) -> int:
    """What a matrix takes in a format of fathom/quant: codes, scales and the zeros that fill a last block."""
    size, each = entry(BLOCKS, "quantize", scheme)
    blocks = -(-rows * width // size) if scheme.startswith("nf4") else rows * -(-width // size)
    return blocks * each + (4 * -(-blocks // 256) + 4 if scheme == "nf4" else 0)  # a scale for 256 scales, their mean


def seen_keys(config: ModelConfig, layer: int, t: int, past: int) -> int:
    """With how many keys a layer compares t tokens that follow `past` others."""
    window = config.layers.window_of(layer)
    return t + (past if window is None else min(past, window - 1))


@dataclass(frozen=True)
class Pass:
    """How a forward pass computes of which the backward pass keeps numbers.

    itemsize: bytes of a number in matrix products. frozen: whether the matrices do not learn; then the stream has that
    format too, else it is fp32, and each product keeps a copy of its input. fused: whether norms, MLPs and attention
    are the passes that a CPU has for bf16 (fathom/backend/training.py).
    """

    itemsize: int = 4
    frozen: bool = False
    fused: bool = False

    @property
    def copies(self) -> bool:
        """Whether products make copies of what they read in their own format."""
        return self.itemsize < 4 and not self.frozen

    @property
    def weighed(self) -> bool:
        """Whether an RMSNorm keeps what it multiplies by its weight: that learns, or torch computed it in fp32."""
        return not self.frozen or (self.itemsize < 4 and not self.fused)


LONGEST_FUSED = 512  # keys; with more, fused attention is torch's, in fp32


def kept_per_token(config: ModelConfig, how: Pass = Pass(), t: int = 1) -> tuple[int, int]:
    """Numbers that the backward pass of one block needs of each of t tokens: in fp32, and in the format of products."""
    config = config.resolved()
    (stream, inputs), (wide, narrow) = kept_around(config, how), kept_by_attention(config, how, t)
    narrow += inputs + kept_by_mlp(config, how)
    return (wide + stream, narrow) if how.copies else (wide, narrow + stream)


def kept_around(config: ResolvedConfig, how: Pass) -> tuple[int, int]:
    """Numbers of the stream that norms keep of one token; and what attention and MLP read, with what norms after them
    keep."""
    d, before, read = config.d_model, *kept_by_norm(config, how)
    norms = [name for name in norm_names(config) if config.norm != "none"]
    after = sum(name.endswith("after") for name in norms)
    inputs = (1 + (config.mlp != "none")) if len(norms) == after else read * (len(norms) - after)
    if how.copies:  # of q, k and v, and of what the MLP begins with
        inputs = 3 + (1 if isinstance(config.mlp, Experts) else max(0, len(entry(MATRICES, "mlp", config.mlp)) - 1))
    return d * (1 + before) * (len(norms) - after), d * (inputs + (1 + before) * after)


def kept_by_norm(config: ResolvedConfig, how: Pass) -> tuple[int, int]:
    """How often a norm keeps its width beside its input: before its weight, and its output."""
    kept = entry(KEPT_BY_NORM, "norm", config.norm)
    return max(0, kept - 1) * how.weighed, min(1, kept)


def kept_by_attention(config: ResolvedConfig, how: Pass, t: int) -> tuple[int, int]:
    """Numbers of one of t tokens, in fp32 and in the format of products: q, k, v, z, the logarithms of the sums."""
    q, kv, sums = config.n_head * config.head_dim, config.n_kv_head * config.head_dim, config.n_head
    normed = q + kv if qk_norm_widths(config) else 0  # q and k before the norm, and before its weight
    wide, narrow = normed * how.copies, normed * (2 if how.weighed or how.fused else 1)
    if how.fused and t > LONGEST_FUSED:
        return wide + 2 * q + 2 * kv + sums, narrow + q  # z once more, as `out` reads it
    if how.fused:
        return wide, narrow + 2 * q + 2 * kv
    again = q * (config.position == "rope")  # rotated heads lie in another order than z is read in
    return wide + sums, narrow + 2 * q + 2 * kv + again


def kept_by_mlp(config: ResolvedConfig, how: Pass = Pass()) -> int:
    """Numbers that the backward pass of one MLP needs of each token, its input aside."""
    if not isinstance(mlp := config.mlp, Experts):
        return (entry(KEPT_BY_MLP, "mlp", mlp) - (how.fused and mlp == "swiglu")) * config.d_ff  # silu(gate): not kept
    each = KEPT_BY_CLAMPED if mlp.limit else KEPT_BY_MLP["swiglu"]
    shared = each * mlp.shared + 2 * config.d_model * (mlp.shared > 0)
    return mlp.used * (each * config.d_ff + 2 * config.d_model) + 2 * mlp.n + shared


def kept_by_ends(config: ModelConfig, how: Pass = Pass()) -> tuple[int, int]:
    """The same of what stands around the blocks, of each token: the last norm, what `unembed` reads, embed_norm."""
    config = config.resolved()
    before, read = kept_by_norm(config, how)
    stream = config.d_model * ((1 + before) * (config.norm != "none") + config.scale.embed_norm)
    inputs = config.d_model * (read or config.norm == "none")
    return (stream, inputs) if how.copies else (0, stream + inputs)
