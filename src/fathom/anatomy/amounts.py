"""Memory by use and kind, and products, each with the arithmetic that gives it. Does not import torch.

Uses: inference; training all weights with AdamW in fp32; LoRA, whose frozen weights are in the model's own format; and
QLoRA, whose frozen matrices are packed in NF4 (Hu et al. 2021; Dettmers et al. 2023, section 2).
"""

import math
from dataclasses import dataclass

from fathom.anatomy.cost import (
    active,
    kept_per_token,
    matrices,
    n_parameters,
    packed_bytes,
    seen_keys,
)
from fathom.model.config import ModelConfig

USES = ("inference", "full", "lora", "qlora")
KINDS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "cache")


@dataclass(frozen=True)
class Amount:
    """Bytes or FLOPs, and a product or sum of numbers that is equal to them."""

    n: int
    formula: str = "0"


NOTHING = Amount(0)


def product(*factors: int) -> Amount:
    """The product of whole numbers, 1 left out."""
    return Amount(math.prod(factors), " × ".join(f"{n:,}" for n in factors if n != 1) or "1")


@dataclass(frozen=True)
class Work:
    """What is done with a model: rows of t tokens side by side, numbers of `itemsize` bytes, an adapter's rank."""

    t: int
    batch: int = 1
    itemsize: int = 4
    rank: int = 8
    scheme: str | None = None  # in which the matrices of the blocks are packed when the model is run


def n_adapted(config: ModelConfig, rank: int) -> int:
    """Parameters of a LoRA on every linear layer of the blocks: a (rank, in) and b (out, rank) each."""
    return sum(
        n * rank * sum(rows + columns for rows, columns in matrices(block).values())
        for block, n in config.resolved().blocks().items()
    )


def packed_weights(config: ModelConfig, scheme: str, itemsize: int) -> Amount:
    """The matrices of the blocks packed, everything else in numbers of `itemsize` bytes."""
    packed, held = 0, 0
    for block, n in config.resolved().blocks().items():
        for width, out in matrices(block).values():
            packed += n * packed_bytes(scheme, out, width)
            held += n * out * width
    others = n_parameters(config) - held
    return Amount(packed + others * itemsize, f"{packed:,} + {others:,} × {itemsize}")


def activations(config: ModelConfig, work: Work, rank: int = 0) -> Amount:
    """What the forward pass keeps for the backward; with adapters also what each passes through its rank."""
    config = config.resolved()
    between = sum(n * rank * len(matrices(block)) for block, n in config.blocks().items())
    blocks = sum(n * kept_per_token(block) for block, n in config.blocks().items())
    ends = (2 + config.scale.embed_norm) * config.d_model
    kept = f"{blocks:,} + {ends:,}" + (f" + {between:,}" if between else "")
    return Amount(
        (blocks + ends + between) * work.t * work.batch * work.itemsize,
        f"{work.batch * work.t:,} × ({kept}) × {work.itemsize}",
    )


def cache(config: ModelConfig, work: Work) -> Amount:
    """Keys and values of t tokens, of which a layer with a window keeps only its window."""
    config = config.resolved()
    tokens = sum(config.layers.kept(layer, work.t) for layer in range(config.n_layer))
    return product(2, tokens, config.n_kv_head, config.head_dim, work.batch, work.itemsize)


def memory(config: ModelConfig, work: Work) -> dict[str, dict[str, Amount]]:
    """By use and kind. Inference keeps keys and values and the logits of the last token of each row; training keeps
    activations, and whole logits three times (themselves, their log-softmax, their gradient)."""
    n, adapted, size = n_parameters(config), n_adapted(config, work.rank), work.itemsize
    tokens = work.batch * work.t
    trained = {
        "adapter": product(adapted, 4), "gradients": product(adapted, 4), "optimizer": product(2, adapted, 4),
        "activations": activations(config, work, work.rank), "logits": product(3, tokens, config.vocab_size, size),
    }  # fmt: skip
    found = {
        "inference": {
            "weights": product(n, size) if work.scheme is None else packed_weights(config, work.scheme, size),
            "logits": product(work.batch, config.vocab_size, size),
            "cache": cache(config, work),
        },
        "full": {
            "weights": product(n, 4), "gradients": product(n, 4), "optimizer": product(2, n, 4),
            "activations": activations(config, work), "logits": trained["logits"],
        },
        "lora": {"weights": product(n, size), **trained},
        "qlora": {"weights": packed_weights(config, "nf4", size), **trained},
    }  # fmt: skip
    return {use: {kind: kinds.get(kind, NOTHING) for kind in KINDS} for use, kinds in found.items()}


def flops(config: ModelConfig, work: Work) -> dict[str, Amount]:
    """By product, of one forward pass: 2 × tokens × the numbers that each token is multiplied by."""
    config = config.resolved()
    tokens, numbers = work.batch * work.t, dict[str, int]()
    for block, n in config.blocks().items():
        for name, size in active(block).items():
            numbers[name] = numbers.get(name, 0) + n * size
    keys = sum(seen_keys(config, layer, work.t, 0) for layer in range(config.n_layer))
    found = {name: product(2, tokens, size) for name, size in numbers.items()}
    found |= {name: product(2, tokens, keys, config.n_head, config.head_dim) for name in ("attn.scores", "attn.z")}
    return found | {"unembed": product(2, tokens, config.d_model, config.vocab_size)}
