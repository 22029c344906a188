"""P13: what a model costs: parameters, memory for each use, products, and how near this machine's limits it runs."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.anatomy import amounts, cost
from fathom.anatomy.amounts import KINDS, USES, Amount, Work, memory
from fathom.bench.probes import seconds
from fathom.errors import FathomError
from fathom.glass import limits
from fathom.glass.panel import Check, Panel, Series
from fathom.glass.passes import Pass
from fathom.glass.subject import sizes_of
from fathom.inspect.identities import TOLERANCES, counted_flops
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import scheme_of
from fathom.quant.schemes import KEEP

RUNS = 5  # of which the fastest counts
MOST = 1 << 40  # tokens of all rows


@dataclass(frozen=True)
class Options:
    """tokens: in a row, None: those of the prompt. batch: rows. rank: of the adapter. fault: looking up an embedding is
    counted as a product. measure: this machine's limits, where they are not known; it takes some seconds."""

    tokens: int | None = None
    batch: int = 1
    rank: int = 8
    fault: Literal["embedding"] | None = None
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "rank"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= MOST:
                raise FathomError(f"{name} is {value}; expected a whole number from 1")


def kept(run: Pass) -> list[Options]:
    """The prompt, the whole context, and the fault; a file holds the machine's limits, which are measured for it."""
    roofline(run, measure=True)
    return [Options(), Options(tokens=run.subject.config.context_length), Options(fault="embedding")]


def panel(run: Pass, options: Options) -> Panel:
    config, itemsize = run.subject.config, run.model.embed.weight.dtype.itemsize
    if scheme_of(run.model) == KEEP:
        return Panel(absent="The matrices are in the formats of their file, which differ from one to the next, and "
                            "costs are those of one. Load the model without quantize, or in one.")  # fmt: skip
    work = Work(options.tokens or run.t, options.batch, itemsize, options.rank, scheme_of(run.model))
    found, sizes, flops = memory(config, work), tiles(run.model), products_of(config, work, options.fault)
    setup = (
        "from fathom.anatomy.amounts import Work, memory",
        "from fathom.glass.cost import products_of, tiles",
        f"work = {work}",
        f"uses, kinds, names = {list(USES)!r}, {list(KINDS)!r}, {list(sizes)!r}",
    )
    held = torch.tensor([[found[use][kind].n for kind in KINDS] for use in USES])
    counts = torch.tensor([one.n for one in flops.values()])
    bar = "memory(model.config, work)[uses[{0}]][kinds[{1}]].n"
    one = f"[*products_of(model.config, work, {options.fault!r}).values()][{{0}}].n"
    part, formula = "numbers in the tensors of this part", "2 · tokens · numbers that each is multiplied by"
    series = {
        "parameters": Series(torch.tensor([*sizes.values()]), "measured", part, ("part",), "tiles(model)[names[{0}]]",
                             setup),
        "memory": Series(held, "computed", "arithmetic on the config", ("use", "kind"), bar, setup),
        "flops": Series(counts, "computed", formula, ("product",), one, setup),
    }  # fmt: skip
    facts = {
        "names": list(sizes), "uses": list(USES), "kinds": list(KINDS), "products": list(flops),
        "formulas": [[found[use][kind].formula for kind in KINDS] for use in USES], "itemsize": itemsize,
        "flop_formulas": [one.formula for one in flops.values()], "tokens": work.t, "batch": work.batch,
        "rank": work.rank, "packed": scheme_of(run.model), "training": 3 * int(counts.sum()),
        "active": cost.n_active_parameters(config), "dtype": str(run.model.embed.weight.dtype)[6:],
        "roofline": roofline(run, options.measure), "total": sum(sizes.values()),
    }  # fmt: skip
    return Panel(series, checks(run, sizes, options.fault), facts, (cost.parameters, cost.flops, memory))


def tiles(model: Transformer) -> dict[str, int]:
    """Parameters by the module that holds them; all experts of a block as one."""
    found: dict[str, int] = {}
    for name, size in sizes_of(model).items():
        merged = re.sub(r"experts\.\d+", "experts", name)
        found[merged] = found.get(merged, 0) + size
    return found


def products_of(config: ModelConfig, work: Work, fault: str | None = None) -> dict[str, Amount]:
    """FLOPs of one pass by product; with the fault also those that a lookup would be as a product."""
    lookup = {"embed": amounts.product(2, work.batch * work.t, config.d_model, config.vocab_size)} if fault else {}
    return lookup | amounts.flops(config, work)


def checks(run: Pass, sizes: dict[str, int], fault: str | None) -> list[Check]:
    """C14: parameters by arithmetic are those in the tensors, ties once; FLOPs are those that torch counts on the
    explicit path, of the model without its adapters; and the weights take the bytes that they should."""
    config, names = run.subject.config, list(TOLERANCES["cost_equals_count"])
    adapters = sum(x.numel() for name in lora.names(run.model) for x in lora.parameters(run.model, name))
    off = cost.n_parameters(config) - (sum(sizes.values()) - adapters)
    with without_adapters(run.model):
        flops = counted_flops(run.model, run.ids)
    arithmetic = sum(one.n for one in products_of(config, Work(run.t), fault).values())
    total = sum(sizes.values()) - run.subject.card()["parameters"]
    found = {names[0]: off, "total = card": total, names[1]: arithmetic - flops}
    return [Check("C14", says, abs(float(value)), 0.0) for says, value in found.items()]


@contextmanager
def without_adapters(model: Transformer) -> Iterator[None]:
    """The base alone until the block ends."""
    active = lora.active_adapters(model)
    weights = dict(active.weights)
    if weights:
        active.set({})
    try:
        yield
    finally:
        if weights:
            active.set(weights)


def roofline(run: Pass, measure: bool) -> dict[str, Any] | None:
    """The limits, and the last run of this model below them: the prompt at once, and one more token over a cache. None
    where the limits are not known and are not to be measured."""
    weight = run.model.embed.weight
    found = (limits.measured if measure else limits.known)(run.subject.config, weight.dtype, weight.device)
    if found is None:
        return None
    if (key := "roofline") not in run.notes:
        run.notes[key] = [prefill(run), decoding(run)]
    return {**asdict(found), "points": run.notes[key]}


def prefill(run: Pass) -> dict[str, Any]:
    """The whole prompt in one pass."""
    flops = sum(cost.flops(run.subject.config, run.t).values())
    moved = weight_bytes(run.model) + cost.cache_bytes(run.subject.config, 1, run.t, run.model.embed.weight.itemsize)
    return point("the prompt at once", flops, moved, best_of(run, lambda: run.model(run.ids)))


def decoding(run: Pass) -> dict[str, Any]:
    """One token after those of the prompt, whose keys and values are read from a cache."""
    config, weight = run.subject.config, run.model.embed.weight
    past = min(run.t, config.context_length - 1)
    took = min(one_more(run, past) for _ in range(RUNS))
    flops = sum(cost.flops(config, 1, past=past).values())
    moved = weight_bytes(run.model) + cost.cache_bytes(config, 1, past + 1, weight.itemsize)
    return point("one more token", flops, moved, took)


@torch.no_grad()
def one_more(run: Pass, past: int) -> float:
    """Seconds of one token after a cache of `past` others."""
    weight = run.model.embed.weight
    cache = KVCache(run.subject.config, 1, past + 1, dtype=weight.dtype, device=weight.device)
    if past:
        run.model(run.ids[:, :past], cache)
    return seconds(lambda: run.model(run.ids[:, -1:], cache), weight.device)


def point(name: str, flops: int, moved: int, took: float) -> dict[str, Any]:
    return {"name": name, "flops": flops, "bytes": moved, "seconds": took}


@torch.no_grad()
def best_of(run: Pass, call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    return min(seconds(call, run.ids.device) for _ in range(RUNS))


def weight_bytes(model: Transformer) -> int:
    """What a pass reads of the weights: all, but of an embedding that is not the unembedding too only single rows."""
    packed = sum(part.nbytes for part in model.modules() if isinstance(part, QuantLinear))
    own: list[Tensor] = list(model.parameters())
    tied = model.unembed.weight is model.embed.weight
    return packed + sum(x.nbytes for x in own) - (0 if tied else model.embed.weight.nbytes)
