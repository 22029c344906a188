"""P3: all heads at once. A thumbnail of each pattern, what it does in numbers, and one head in full."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import MAX_BYTES, Pass
from fathom.inspect import head_stats
from fathom.inspect.derived import Tensors
from fathom.inspect.identities import Residuals, pattern_is_causal
from fathom.inspect.names import Size, n_bytes
from fathom.model.attention import attend

KEPT_BYTES = 2_500_000  # of an exported file, before they are packed
LENGTH = 64  # tokens of the text that is said twice, at most
COPYING = 0.5  # of its attention, from which on a head is called an induction head
STATISTICS = {
    "sink": "share of attention to the first token",
    "previous": "share of attention to the token before",
    "induction": "share of attention to what followed the same token before",
    "entropy": "entropy of the pattern's rows in nats, the mean over queries",
    "out_norm": "‖z W_out‖, the mean over tokens",
}


@dataclass(frozen=True)
class Options:
    """layer and head: the one head that is shown in full; None: all of them as thumbnails. text: the prompt, or random
    tokens said twice, where only copying helps."""

    layer: int | None = None
    head: int | None = None
    text: Literal["prompt", "twice"] = "prompt"


def panel(run: Pass, options: Options) -> Panel:
    if not run.model.blocks:
        return Panel(absent="A bigram has no attention: each token is predicted from the one before it alone.")
    if options.text == "twice":
        run = twice(run)
    if options.layer is None or options.head is None:
        return grid(run, options)
    within(options.layer, len(run.model.blocks), "layer")
    within(options.head, heads(run), "head")
    return one(run, options, options.layer, options.head)


def kept(run: Pass) -> list[Options]:
    """All thumbnails, of both texts, each head in full as far as there is room in a file, and the head that copies most
    of what is said twice."""
    if not run.model.blocks:
        return [Options()]
    room = KEPT_BYTES // (8 * run.t * run.t + 12_000)  # two series of it, and the lines that are beside them
    every = [Options(layer, head) for layer in range(len(run.model.blocks)) for head in range(heads(run))]
    copies = measured(twice(run))[0]["induction"].nan_to_num(-1.0)
    layer, head = divmod(int(copies.argmax()), heads(run))
    return [Options(), Options(text="twice"), Options(layer, head, "twice"), *every[:room]]


def teaching(run: Pass) -> tuple[tuple[int, int] | None, bool]:
    """The layer and head to be shown first to someone who has never seen one, and whether it is an induction head: the
    one that copies most of random tokens said twice, or, where none does, the one that looks most at the token before.
    None: there is no head."""
    if not run.model.blocks:
        return None, False
    if "teaching" not in run.notes:
        copies = measured(twice(run))[0]["induction"].nan_to_num(-1.0)
        copying = copies.max().item() > COPYING
        chosen = copies if copying else measured(run)[0]["previous"].nan_to_num(-1.0)
        layer, head = divmod(int(chosen.argmax()), heads(run))
        run.notes["teaching"] = (layer, head), copying
    found: tuple[tuple[int, int], bool] = run.notes["teaching"]
    return found


def heads(run: Pass) -> int:
    return run.subject.config.resolved().n_head


def within(at: int, count: int, what: str) -> None:
    """FathomError where there is no such layer or head."""
    if not 0 <= at < count:
        raise FathomError(f"there is no {what} {at}; the model has {what}s 0 to {count - 1}")


def text(run: Pass, options: Options) -> tuple[str, ...]:
    """The line of Python that makes the ids, where they are not the prompt's."""
    return () if options.text == "prompt" else (f"ids = torch.tensor({run.ids.tolist()})",)


def facts(run: Pass) -> dict[str, Any]:
    """group: query heads to a KV head; after: whether the heads' sum is normed before it is added to the stream."""
    config = run.subject.config.resolved()
    copies = int(head_stats.follows_a_copy(run.ids[0]).any(-1).sum())
    about = {"group": config.n_head // config.n_kv_head, "copies": copies, "tokens": run.tokens()}
    return about | {"views": list(head_stats.VIEWS), "after": config.residual in ("post", "sandwich")}


def twice(run: Pass) -> Pass:
    """A pass of random tokens said twice, drawn with the seed of this one and made once."""
    if "heads said twice" not in run.notes:
        config, tokenizer = run.subject.config.resolved(), run.subject.tokenizer
        prefix = tuple(tokenizer.prefix) if tokenizer else ()
        size = config.vocab_size if tokenizer is None else min(config.vocab_size, tokenizer.vocab_size)
        generator = torch.Generator().manual_seed(run.seed)
        ids = head_stats.said_twice(size, min(LENGTH, config.context_length), generator, prefix)
        run.notes["heads said twice"] = Pass(run.subject, ids.to(run.ids.device), run.seed)
    found: Pass = run.notes["heads said twice"]
    return found


def recordings(run: Pass) -> Iterator[tuple[list[int], Tensors]]:
    """The patterns, values and outputs of all layers, as many layers at a time as have room."""
    paths = [f"blocks.{layer}.attn" for layer in range(len(run.model.blocks))]
    parts = [[f"{path}.{part}" for part in ("pattern", "v", "z")] for path in paths]
    size, itemsize = Size(1, run.t, run.t), run.model.embed.weight.dtype.itemsize
    each = sum(n_bytes(run.subject.config, parts[0], size, itemsize).values())
    count = max(1, MAX_BYTES // 2 // each)
    for start in range(0, len(paths), count):
        names = [name for names in parts[start : start + count] for name in names]
        yield list(range(len(paths)))[start : start + count], run.seen(*names)


def measured(run: Pass) -> tuple[dict[str, Tensor], Tensor, Residuals]:
    """The statistics (l, h) of all heads, their thumbnails (4, l, h, n, n), and how far C1 is off."""
    numbers: dict[str, list[Tensor]] = {name: [] for name in STATISTICS}
    thumbs, residuals = [], Residuals()
    for layers, seen in recordings(run):
        for layer in layers:
            path, attn = f"blocks.{layer}.attn", run.model.blocks[layer].attn
            found = head_stats.of_layer(run.model, seen, run.ids, layer)
            for name, values in found.items():
                numbers[name].append(values)
            thumbs.append(head_stats.thumbnails(attn, seen[f"{path}.pattern"][0], seen[f"{path}.v"][0]))
        now = pattern_is_causal(run.model, seen, layers)
        residuals = {says: max(off, residuals.get(says, 0.0)) for says, off in now.items()}
    return {name: torch.stack(values) for name, values in numbers.items()}, torch.stack(thumbs, 1), residuals


def grid(run: Pass, options: Options) -> Panel:
    numbers, thumbs, residuals = measured(run)
    setup = (
        *text(run, options),
        "from fathom.inspect.head_stats import all_thumbnails, bytes_of, of_layer",
        'names = [f"blocks.*.attn.{part}" for part in ("pattern", "v", "z")]',
        "with torch.no_grad(), fathom.look(model, *names) as seen:",
        "    model(ids)",
    )
    series = {}
    for name, values in numbers.items():
        code = f'of_layer(model, seen, ids, {{0}})["{name}"][{{1}}]'
        series[name] = Series(values, "computed", STATISTICS[name], ("layer", "head"), code, setup)
    series["thumbs"] = Series(
        head_stats.bytes_of(thumbs),
        "computed",
        "255 sqrt(share / largest): attention of the queries of a row to the keys of a column",
        ("view", "layer", "head", "query", "key"),
        "bytes_of(all_thumbnails(model, seen))[{0}, {1}, {2}, {3}, {4}]",
        setup,
    )
    series["largest"] = Series(
        head_stats.largest(thumbs),
        "computed",
        "what the brightest colour of each view stands for",
        ("view",),
        "head_stats.largest(all_thumbnails(model, seen))[{0}]",
        (*setup, "from fathom.inspect import head_stats"),
    )
    source = (attend, *(getattr(head_stats, name) for name in ("sink", "previous_token", "induction", "entropy")))
    return Panel(series, c1(residuals), facts(run), (*source, head_stats.out_norms, head_stats.thumbnail))


def one(run: Pass, options: Options, layer: int, head: int) -> Panel:
    """One head in full."""
    path, attn = f"blocks.{layer}.attn", run.model.blocks[layer].attn
    seen = run.seen(f"{path}.pattern", f"{path}.v", f"{path}.z")
    pattern = seen[f"{path}.pattern"][0, head]
    norms = head_stats.value_norms(attn, seen[f"{path}.v"][0])[head]
    setup = (
        *text(run, options),
        f'with torch.no_grad(), fathom.look(model, "{path}.pattern", "{path}.v", "{path}.z") as seen:',
        "    model(ids)",
    )
    weigh = (
        *setup,
        "from fathom.inspect.head_stats import of_layer, value_norms",
        f'norms = value_norms(model.blocks[{layer}].attn, seen["{path}.v"][0])[{head}]',
    )
    at, table = f'seen["{path}.pattern"][0, {head}, {{0}}, {{1}}]', ("query", "key")
    series = {
        "pattern": Series(pattern, "measured", f"{path}.pattern", table, at, setup),
        "weighted": Series(pattern * norms, "computed", "pattern · ‖v W_out‖", table, f"{at} * norms[{{1}}]", weigh),
        "value_norm": Series(norms, "computed", "‖v W_out‖", ("key",), "norms[{0}]", weigh),
    }
    for name, values in head_stats.of_layer(run.model, seen, run.ids, layer).items():
        code = f'of_layer(model, seen, ids, {layer})["{name}"][{head}]'
        series[name] = Series(values[head], "computed", STATISTICS[name], (), code, weigh)
    about = facts(run) | {"layer": layer, "head": head}
    return Panel(series, c1(pattern_is_causal(run.model, seen, [layer])), about, (attend, head_stats.value_norms))


def c1(residuals: Residuals) -> list[Check]:
    return checked("C1", "pattern_is_causal", residuals)
