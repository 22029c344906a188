"""Memory of one training step by kind, each with the arithmetic that gives it; how it is shared over devices.

Weights that learn are fp32 with fp32 gradients (Micikevicius et al. 2018, section 3.1); a pass in 16 bits makes copies
of them. ddp: every device holds all (Li et al. 2020); fsdp: each holds its share of weights, gradients and optimizer,
and gathers a block when it computes it (Zhao et al. 2023). Does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fathom.anatomy import amounts
from fathom.anatomy.amounts import NOTHING, Amount, Work, kept, n_adapted, packed_weights, per_token, product
from fathom.anatomy.cost import (
    Pass,
    active,
    kept_by_ends,
    kept_per_token,
    matrices,
    n_parameters,
    packed_bytes,
    parameters,
    seen_keys,
)
from fathom.model.config import Experts, ModelConfig, ResolvedConfig

AT_ONCE = 2**25  # logits held at a time: 128 MiB in fp32
FROZEN_BYTES = 2**25  # of logits held where none is computed twice: the matrix is read more often, for less memory
KINDS = ("weights", "adapter", "copies", "gradients", "optimizer", "activations", "logits", "scratch", "gathered")
Count = Callable[[int], int]


@dataclass(frozen=True)
class Step:
    """A step of training: `passes` forward passes on a device, each over `rows` sequences of t tokens.

    state: bytes that the optimizer keeps of a matrix with so many numbers. scratch: bytes that its step needs for
    matrices of these sizes. exchanges: whether that step reads whole matrices, which fsdp divides. Embeddings, norms
    and biases are always AdamW's.
    """

    t: int
    rows: int = 1
    passes: int = 1
    method: str = "full"
    itemsize: int = 2
    fused: bool = False
    recompute: bool = False
    rank: int = 8
    state: Count = lambda n: 8 * n
    scratch: Callable[[Sequence[int]], int] = lambda sizes: 0
    exchanges: bool = False

    @property
    def how(self) -> Pass:
        return Pass(self.itemsize, self.method != "full", self.fused)

    @property
    def tokens(self) -> int:
        """Of one pass."""
        return self.t * self.rows


def memory(config: ModelConfig, step: Step) -> dict[str, Amount]:
    """Bytes by kind on a device that holds all of the model."""
    config = config.resolved()
    n, adapted = n_parameters(config), n_adapted(config, step.rank)
    learned = n if step.method == "full" else adapted
    weights = {
        "full": product(n, 4), "lora": product(n, step.itemsize), "qlora": packed_weights(config, "nf4", step.itemsize)
    }  # fmt: skip
    return {
        "weights": weights[step.method],
        "adapter": NOTHING if step.method == "full" else product(adapted, 4),
        "copies": product(multiplied(config), step.itemsize) if step.how.copies else NOTHING,
        "gradients": product(learned, 4),
        "optimizer": optimizer(config, step),
        "activations": activations(config, step),
        "logits": logits(config, step),
        "scratch": Amount(scratch := step.scratch(matrix_sizes(config, step)), f"{scratch:,}"),
    }


def multiplied(config: ModelConfig) -> int:
    """Numbers in all matrices that products read."""
    config = config.resolved()
    inside = sum(n * sum(a * b for a, b in matrices(block).values()) for block, n in config.blocks().items())
    return inside + config.d_model * config.vocab_size


def matrix_sizes(config: ModelConfig, step: Step) -> list[int]:
    """Numbers in each matrix that the chosen optimizer updates: those of the blocks, or the adapter's two for each."""
    sizes: list[int] = []
    for block, n in config.resolved().blocks().items():
        for width, out in matrices(block).values():
            sizes += n * ([width * out] if step.method == "full" else [step.rank * width, step.rank * out])
    return sizes


def optimizer(config: ModelConfig, step: Step) -> Amount:
    """What it keeps of the matrices, and AdamW's two moments of all other numbers that learn."""
    sizes = matrix_sizes(config, step)
    kept, held = sum(map(step.state, sizes)), sum(sizes)
    others = n_parameters(config) - held if step.method == "full" else 0
    each = kept / held if held else 0
    inside = f"{held:,} × {each:g}" if each == int(each) else f"{kept:,}"
    return Amount(kept + 8 * others, f"{inside} + {others:,} × 8" if others else inside)


def activations(config: ModelConfig, step: Step) -> Amount:
    """What the forward pass keeps for the backward pass; with adapters also what each passes through its rank.

    Recomputed: the input of each block, and all of the one whose gradient is computed (Chen et al. 2016, section 4.1).
    """
    config, how = config.resolved(), step.how
    between = {block: how.frozen * step.rank * len(matrices(block)) for block in config.blocks()}
    if not step.recompute:
        return kept(config, how, step.t, step.rows, sum(n * between[block] for block, n in config.blocks().items()))
    kinds = [(*kept_per_token(block, how, step.t), between[block]) for block in between]
    wide, narrow, adapters = max(kinds, default=(0, 0, 0), key=sum)
    ends, streams = kept_by_ends(config, how), (config.n_layer, config.d_model)
    in_fp32, others = [(1, wide), (1, ends[0])], [(1, narrow), (1, ends[1]), (1, adapters)]
    (in_fp32 if how.copies else others).insert(0, streams)
    return per_token(step.tokens, in_fp32, others, step.itemsize)


def logits(config: ModelConfig, step: Step) -> Amount:
    """In fp32: their log-softmax, its gradient and theirs, of as many tokens as are held at a time; where unembed is
    frozen the loss overwrites them, and keeps nothing."""
    if step.method != "full":
        rows = min(step.tokens, max(1, FROZEN_BYTES // step.itemsize // config.vocab_size))
        return product(rows, config.vocab_size, step.itemsize)
    rows = min(step.tokens, max(1, AT_ONCE // config.vocab_size))
    return product(3, rows, config.vocab_size, 4)


def peak(kinds: Mapping[str, Amount], step: Step, keeps: bool = False) -> Amount:
    """What is held at once: at the end of a forward pass, or when the optimizer steps, whichever is more.

    Gradients are dropped after each step, so the first forward pass of a step has none. keeps: unless they lie in
    buckets that are sent, as DDP's do.
    """
    names = ("process", "weights", "adapter", "optimizer", "gathered", *(("gradients",) if keeps else ()))
    last, update = ["copies", "activations", "logits"], ["scratch"]
    if not keeps:
        last += ["gradients"] if step.passes > 1 else []
        update = ["gradients", *update]
    more = max(last, update, key=lambda parts: sum(kinds[part].n for part in parts))
    found = {name: kinds[name].n for name in (*names, *more) if name in kinds and kinds[name].n}
    return Amount(sum(found.values()), " + ".join(found) or "0")


def shared(config: ModelConfig, step: Step, kinds: Mapping[str, Amount], devices: int) -> dict[str, Amount]:
    """The bytes of each of several devices under fsdp: a share of what is stored, and what is gathered."""
    found = dict(kinds)
    for name in ("weights", "adapter", "gradients", "optimizer", "scratch"):
        if kinds[name].n:
            found[name] = Amount(-(-kinds[name].n // devices), f"{kinds[name].n:,} / {devices:,}")
    unembed = product(config.d_model, config.vocab_size, step.itemsize) if step.how.copies else NOTHING
    return found | {"copies": unembed, "gathered": gathered(config, step)}


def gathered(config: ModelConfig, step: Step) -> Amount:
    """Whole parameters: those outside of the blocks from forward to backward; two blocks, one of them on its way. Where
    they learn, also the gradients of the former and of one block."""
    outside, block = divided(config)
    match step.method:
        case "full":
            return Amount(outside * 8 + block * 3 * step.itemsize, f"{outside:,} × 8 + {block:,} × {3 * step.itemsize}")
        case "lora":
            return Amount((outside + 2 * block) * step.itemsize, f"({outside:,} + 2 × {block:,}) × {step.itemsize}")
    packed = packed_block(config)
    return Amount(outside * step.itemsize + 2 * packed, f"{outside:,} × {step.itemsize} + 2 × {packed:,}")


def divided(config: ModelConfig) -> tuple[int, int]:
    """Numbers outside of the blocks, and in the matrices of the largest block."""
    config = config.resolved()
    count = parameters(config)
    blocks = [sum(a * b for a, b in matrices(block).values()) for block in config.blocks()]
    return count["embed"] + count["position"] + count["unembed"], max(blocks, default=0)


def packed_block(config: ModelConfig) -> int:
    """Bytes of the largest block's matrices in NF4."""
    blocks = config.resolved().blocks()
    return max(
        (sum(packed_bytes("nf4", out, width) for width, out in matrices(block).values()) for block in blocks), default=0
    )


# FLOPs of a step, and what devices send each other for it.


def flops(config: ModelConfig, step: Step, adapted: int | None = None) -> dict[str, Amount]:
    """FLOPs for one sequence by pass. A matrix that learns has two products in the backward pass, one for each of its
    factors; a frozen one has that of x alone; scores have two always. adapted: numbers of the adapter, None: one on
    every matrix."""
    config, t = config.resolved(), step.t
    work = Work(t)
    products = amounts.flops(config, work)
    pairs = products["attn.scores"].n + products["attn.z"].n
    whole = sum(one.n for one in products.values())
    found = {"forward": Amount(whole, forward_formula(config, t))}
    if step.method == "full":
        found["backward"] = Amount(2 * whole, f"2 × {whole:,}")
    else:
        adapted = n_adapted(config, step.rank) if adapted is None else adapted
        found["backward"] = Amount(whole + pairs, f"{whole - pairs:,} + 2 × {pairs:,}")
        found["adapter"] = product(6, t, adapted)
    # torch stops where nothing more is needed: before the last product of the block, whose output the stream has
    last = NOTHING if isinstance(config.mlp, Experts) else products.get("mlp.down", products.get("attn.out", NOTHING))
    again = []
    if step.recompute:
        blocks = whole - products["unembed"].n - last.n
        again.append(Amount(blocks, f"{whole:,} - {products['unembed'].n:,} - {last.n:,}"))
    if step.method == "full" and step.tokens > AT_ONCE // config.vocab_size:  # the logits of a piece are not kept
        again.append(products["unembed"])
    twice = Amount(sum(one.n for one in again), " + ".join(one.formula for one in again))
    return found | ({"recomputed": twice} if again else {})


def forward_formula(config: ResolvedConfig, t: int) -> str:
    """2 × tokens × numbers in matrices, and both products of every query with every key."""
    numbers = sum(n * sum(active(block).values()) for block, n in config.blocks().items())
    numbers += config.d_model * config.vocab_size
    keys = sum(seen_keys(config, layer, t, 0) for layer in range(config.n_layer))
    pairs = f" + 4 × {t:,} × {keys:,} × {config.n_head * config.head_dim:,}" if keys else ""
    return f"2 × {t:,} × {numbers:,}{pairs}"


def traffic(config: ModelConfig, step: Step, parallel: str, devices: int) -> dict[str, Amount]:
    """Bytes that each device sends in a step, in rings of all devices (Patarasuk & Yuan 2009).

    ddp: the sum of the gradients, once. fsdp, in each pass: blocks are gathered forward and again backward, what is
    outside of them once; gradients, in fp32, are summed and shared out. An optimizer of whole matrices sends each
    process those that it works on, and their rows back.
    """
    if devices == 1:
        return {}
    n, (outside, _) = n_parameters(config), divided(config)
    learned = n if step.method == "full" else n_adapted(config, step.rank)
    if parallel == "ddp":
        return {"gradients": sent(product(2, learned, 4), devices)}
    ends = product(step.passes, outside, 4 if step.method == "full" else step.itemsize)
    blocks = product(2, step.passes, n - outside, step.itemsize)
    if step.method == "qlora":
        packed = packed_weights(config, "nf4", step.itemsize).n - outside * step.itemsize
        blocks = product(2, step.passes, packed)
    found = {
        "blocks": sent(blocks, devices),
        "outside of blocks": sent(ends, devices),
        "gradients": sent(product(step.passes, learned, 4), devices),
    }
    if step.exchanges:
        there_and_back = product(2, sum(matrix_sizes(config, step)), step.itemsize)
        own = Amount(there_and_back.n // devices, f"{there_and_back.formula} / {devices:,}")
        found["optimizer"] = sent(own, devices)
    return found


def sent(whole: Amount, devices: int) -> Amount:
    """What one device of a ring sends of it: all but one share."""
    return Amount(whole.n * (devices - 1) // devices, f"{whole.formula} × {devices - 1:,} / {devices:,}")
