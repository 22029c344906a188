"""Memory by use and kind, and products, each with the arithmetic that gives it. Does not import torch.

Uses: inference; training all weights with AdamW in fp32; LoRA, whose frozen weights are in the model's own format; and
QLoRA, whose frozen matrices are packed in NF4 (Hu et al. 2021; Dettmers et al. 2023, section 2).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fathom.anatomy.cost import (
    BIAS_OF,
    Pass,
    active,
    kept_by_ends,
    kept_per_token,
    matrices,
    n_parameters,
    packed_bytes,
    parameters,
    qk_norm_widths,
    seen_keys,
)
from fathom.model.config import ModelConfig, ResolvedConfig

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


def parts(config: ModelConfig) -> dict[str, Amount]:
    """Parameters by part, as `cost.parameters` counts them: a matrix with a bias has a row more."""
    config, counted = config.resolved(), parameters(config)
    d, layers, products = config.d_model, config.n_layer, dict[str, list[str]]()
    for block, n in config.blocks().items():
        sizes = Counter(
            (name.split(".")[0], width + (BIAS_OF.get(name, "mlp") in block.bias), out)
            for name, (width, out) in matrices(block).items()
        )
        for (part, rows, out), same in sizes.items():
            products.setdefault(part, []).append(product(n, same, rows, out).formula)
    inside = layers * sum(qk_norm_widths(config).values())
    vectors = (counted["norm"] - inside) // d
    norms = [product(vectors, d).formula] * (vectors > 0) + [f"{inside:,}"] * (inside > 0)
    sums = {"embed": [product(config.vocab_size, d).formula], **products, "norm": norms}
    sums |= {"position": [product(config.context_length, d).formula] if counted["position"] else []}
    sums["unembed"] = [product(config.vocab_size, d).formula] * (not config.tie_embeddings)
    found = {}
    for part, n in counted.items():
        rest = n - sum(worked_out(each) for each in sums.get(part, []))
        found[part] = Amount(n, " + ".join([*sums.get(part, []), *([f"{rest:,}"] if rest else [])]) or "0")
    return found


def worked_out(formula: str) -> int:
    """A product as a number."""
    return math.prod(int(factor.replace(",", "")) for factor in formula.split(" × "))


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
    config, how = config.resolved(), Pass(work.itemsize, frozen=rank > 0)
    between = sum(n * rank * len(matrices(block)) for block, n in config.blocks().items())
    return kept(config, how, work.t, work.batch, between)


def kept(config: ResolvedConfig, how: Pass, t: int, rows: int, between: int = 0) -> Amount:
    """Tokens of a pass, each with its numbers in fp32 and in the format of products: of all blocks, and around them.

    between: numbers that adapters keep besides.
    """
    blocks = [(n, kept_per_token(block, how, t)) for block, n in config.blocks().items()]
    ends = kept_by_ends(config, how)
    parts = [[*((n, each[i]) for n, each in blocks), (1, ends[i])] for i in (0, 1)]
    return per_token(t * rows, parts[0], [*parts[1], (1, between)], how.itemsize)


Parts = Sequence[tuple[int, int]]  # times, and how many numbers each time


def per_token(tokens: int, wide: Parts, narrow: Parts, itemsize: int) -> Amount:
    """Bytes of so many tokens, each with numbers in fp32 and in the format of products."""
    sums = [([part for part in parts if part[0] and part[1]], size) for parts, size in ((wide, 4), (narrow, itemsize))]
    each = sum(n * times * size for parts, size in sums for times, n in parts)
    words = [" + ".join(product(*part).formula for part in parts) for parts, _ in sums]
    sizes = [f"({text}) × {size}" for text, (_, size) in zip(words, sums) if text]
    return Amount(tokens * each, f"{tokens:,} × ({' + '.join(sizes) or 0})")


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
