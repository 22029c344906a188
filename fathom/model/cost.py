"""What a model costs, as arithmetic on its config: parameters, FLOPs, bytes.

A multiply and an add are two FLOPs, and only matrix products are counted: looking up an embedding is none. Training
is three forward passes, one ahead and two back (Kaplan et al. 2020, section 2.1). Counts what the explicit attention
does: all t * s scores, also those that are masked. Does not import torch; tests hold it to what torch counts.
"""

from fathom.model.config import ModelConfig


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
    gate = {"mlp.gate": (d, f)} if config.mlp == "swiglu" else {}
    mlp = {} if config.mlp == "none" else gate | {"mlp.up": (d, f), "mlp.down": (f, d)}
    return attn | mlp


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied unembedding is the embedding and counts once."""
    config = config.resolved()
    d = config.d_model
    count = {"embed": config.vocab_size * d, "position": 0, "attn": 0, "mlp": 0, "norm": 0, "unembed": 0}
    for name, (width_in, width_out) in matrices(config).items():
        count[name.split(".")[0]] += config.n_layer * (width_in * width_out + config.bias * width_out)
    norm = {"none": 0, "rms": d, "layer": d + config.bias * d}[config.norm]
    norms_per_block = 1 if config.mlp == "none" else 2
    count["norm"] = norm + config.n_layer * (norms_per_block * norm + config.qk_norm * 2 * config.head_dim)
    count["position"] = config.context_length * d if config.position == "learned" else 0
    count["unembed"] = 0 if config.tie_embeddings else config.vocab_size * d
    return count


def n_parameters(config: ModelConfig) -> int:
    """All parameters, ties once."""
    return sum(parameters(config).values())


def flops(config: ModelConfig, t: int, batch: int = 1, past: int = 0) -> dict[str, int]:
    """FLOPs by matrix product of one forward pass over `batch` rows of t tokens that follow `past` cached ones."""
    config = config.resolved()
    tokens, layers = batch * t, config.n_layer
    pairs = 2 * tokens * (past + t) * config.n_head * config.head_dim  # every query with every key, in every head
    count = {name: layers * 2 * tokens * rows * columns for name, (rows, columns) in matrices(config).items()}
    count |= {"attn.scores": layers * pairs, "attn.z": layers * pairs}  # q k^T and pattern v
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
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * length * batch * itemsize


def training_bytes(config: ModelConfig, t: int, batch: int, itemsize: int = 4) -> dict[str, int]:
    """Memory for training with AdamW, by kind. Weights, gradients and both moments are fp32; what the forward pass
    keeps for the backward has `itemsize` bytes a number, with fused attention.

    An estimate: an allocator's slack and a kernel's scratch are not in it. `logits` are what a loss over whole logits
    needs (themselves, their log-softmax, their gradient); a loss in chunks needs less.
    """
    config = config.resolved()
    weights, tokens = 4 * n_parameters(config), batch * t
    block = kept_per_token(config)
    kept = tokens * (config.n_layer * block + 2 * config.d_model) * itemsize  # 2: what final_norm and unembed read
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,
        "activations": kept,
        "logits": 3 * tokens * config.vocab_size * itemsize,
    }


def kept_per_token(config: ModelConfig) -> int:
    """Numbers that the backward pass of one block needs of each token."""
    config = config.resolved()
    d, f = config.d_model, config.d_ff
    norm = d * {"none": 0, "layer": 1, "rms": 2}[config.norm]  # rms: once more before its weight
    q, kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    turned = 2 * (q + kv) if config.qk_norm else 0  # q and k as they were, and normalised before their weight
    attn = d + norm + turned + 3 * q + 2 * kv + config.n_head  # stream, its norm, q k v, z in two orders, log-sums
    hidden = {"none": 0, "gelu": 2, "relu2": 2, "swiglu": 4}[config.mlp]  # up, act; gate, silu(gate), up, act
    mlp = (d + norm + hidden * f) * (config.mlp != "none")
    return attn + mlp
