"""P9: heads that share keys and values, that sharing is repeating, and what it saves."""

from dataclasses import dataclass

import torch

from fathom.glass.distance import place
from fathom.glass.panel import Check, Panel, Series
from fathom.glass.passes import Pass
from fathom.inspect import group_view
from fathom.inspect.group_view import (
    Fault,
    bytes_with,
    choices,
    grouped_is_repeated,
    parameters_with,
    read,
    repeated,
    seconds_with,
)
from fathom.inspect.identities import TOLERANCES
from fathom.model.attention import attend
from fathom.model.cache import KVCache

SAYS = "grouped = repeated to all heads"

SOURCES = (
    "Hatched above and “computed” here: worked out from the config; no such model was trained. Times are measured on "
    "this machine: the attention of one layer for one new token, on random numbers."
)


@dataclass(frozen=True)
class Options:
    """query: the token whose attention is shown for every head. fault: keys and values repeated in the wrong order."""

    layer: int = 0
    query: int = -1
    fault: Fault | None = None


def kept(run: Pass) -> list[Options]:
    """Every layer, and the fault where it changes something."""
    config = run.subject.config.resolved()
    wrong = [Options(fault="tile")] * (1 < config.n_kv_head < config.n_head)
    return [Options(), *wrong, *(Options(layer) for layer in range(1, config.n_layer))]


def panel(run: Pass, options: Options) -> Panel:
    config, model = run.subject.config.resolved(), run.model
    if not config.n_layer:
        return Panel(absent="A bigram has no attention, so there are no heads and nothing that they could share.")
    layer, query = place("layer", options.layer, config.n_layer), run.place(options.query)
    h, g, pattern = config.n_head, config.n_kv_head, f"blocks.{layer}.attn.pattern"
    owner = group_view.tiled if options.fault else group_view.groups
    own, seen = owner(h, g), run.seen(*read(model, layer).values(), pattern)
    with torch.no_grad():
        off = grouped_is_repeated(model, layer, seen, own)
    counted = sum(size for block in model.blocks for x in (block.attn.k, block.attn.v) for size in sizes_of(x))
    cache, itemsize = KVCache(config, 1, run.t, dtype=model.embed.weight.dtype), model.embed.weight.dtype.itemsize
    length, every = config.context_length, choices(h)
    saved = [bytes_with(config, one, length, itemsize) for one in every]
    checks = [
        Check("C10", SAYS, off, TOLERANCES["grouped_equals_repeated"][SAYS]),
        Check("C9", "cache bytes", abs(float(cache.nbytes - bytes_with(config, g, run.t, itemsize))), 0.0),
        Check("C14", "parameters of keys and values", abs(float(counted - parameters_with(config, g))), 0.0),
        Check(
            "C9", "bytes shrink exactly by n_head / n_kv_head",
            float(max(abs(size * h - saved[-1] * one) for one, size in zip(every, saved))), 0.0,
        ),
    ]  # fmt: skip
    facts = {
        "layer": layer, "query": query, "n_head": h, "n_kv_head": g, "choices": every, "context_length": length,
        "prompt_tokens": run.t, "layers": config.n_layer, "head_dim": config.head_dim, "itemsize": itemsize,
        "seconds": seconds(run), "keys": min(length, group_view.MOST_KEYS), "note": note(h, g),
        "sources": SOURCES,
    }  # fmt: skip
    return Panel(series(run, layer, query, options.fault), checks, facts, (attend, repeated))


def sizes_of(linear: torch.nn.Module) -> list[int]:
    """Parameters of a projection; of a packed one, those that it stands for."""
    weight, bias = linear.weight, linear.bias
    return [x.numel() for x in (weight, bias) if isinstance(x, torch.Tensor)]


def note(h: int, g: int) -> str:
    """What kind of sharing it is."""
    if g == h:
        return "multi-head: every query head has keys and values of its own, so no order of repeating can be wrong"
    share = f"grouped-query: {h // g} query heads share one key and one value head"
    return "multi-query: all query heads share one key and one value head" if g == 1 else share


def seconds(run: Pass) -> list[float]:
    """Measured here, for every choice: the attention of one layer for one new token."""
    if (key := "seconds by n_kv_head") not in run.notes:
        config, weight = run.subject.config.resolved(), run.model.embed.weight
        run.notes[key] = [
            seconds_with(config, one, config.context_length, weight.dtype, weight.device)
            for one in choices(config.n_head)
        ]
    found: list[float] = run.notes[key]
    return found


def series(run: Pass, layer: int, query: int, fault: Fault | None) -> dict[str, Series]:
    """The wires, what each choice costs, and every head's attention from one token."""
    config, itemsize = run.subject.config.resolved(), run.model.embed.weight.dtype.itemsize
    h, g, length, every = config.n_head, config.n_kv_head, config.context_length, choices(config.n_head)
    imports = ("from fathom.inspect.group_view import bytes_with, groups, parameters_with, tiled",)
    pattern, owner = f"blocks.{layer}.attn.pattern", "tiled" if fault else "groups"
    wires = group_view.tiled(h, g) if fault else group_view.groups(h, g)
    looked = (f'with torch.no_grad(), fathom.look(model, "{pattern}") as seen:', "    model(ids)")
    sizes = torch.tensor([bytes_with(config, one, length, itemsize) for one in every])
    counts = torch.tensor([parameters_with(config, one) for one in every])
    by = ("choice",)
    fans = wires.bincount(minlength=g)
    return {
        "group": Series(wires, "computed", "head · n_kv_head // n_head", ("head",),
                        f"{owner}({h}, {g})[{{0}}]", imports),
        "fan_in": Series(fans, "computed", "query heads of each key and value head", ("kv_head",),
                         f"{owner}({h}, {g}).bincount(minlength={g})[{{0}}]", imports),
        "bytes": Series(sizes, "computed", "2 · layers · n_kv_head · head_dim · tokens · bytes a number", by,
                        f"bytes_with(model.config, {every}[{{0}}], {length}, {itemsize})", imports),
        "parameters": Series(counts, "computed", "layers · 2 · d_model · n_kv_head · head_dim, and biases", by,
                             f"parameters_with(model.config, {every}[{{0}}])", imports),
        "pattern": Series(run.seen(pattern)[pattern][0, :, query], "measured", pattern, ("head", "key"),
                          f'seen["{pattern}"][0, {{0}}, {query}, {{1}}]', looked),
    }  # fmt: skip
