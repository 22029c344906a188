"""P4: the residual stream, what is written to it, and what the model would say if it were read at each layer."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.glass.snippet import looking
from fathom.inspect.derived import streams, written
from fathom.inspect.identities import named, stream_is_a_sum
from fathom.inspect.lens import AT_ONCE, Fault, Readings, faults, lens, read
from fathom.inspect.names import names
from fathom.words import counted

ENDS = ("embed", "embed_norm", "position", "logits")
OF_BLOCK = ("", ".resid_pre", ".attn_norm", ".attn", ".attn_after", ".resid_mid", ".mlp_norm", ".mlp", ".mlp_after")
SAMPLE, UNASKED, MOST = 4, 10.0, 900.0  # positions that are timed; seconds that are spent unasked, and at all
READ = {  # what the lens reads at each row and position
    "top": "argmax of the lens's logits",
    "p_top": "max(softmax(logits of the lens))",
    "p_final": "softmax(logits of the lens), of the token that is likeliest in the end",
    "entropy": "-sum(p log p), p = softmax(logits of the lens)",
    "kl": "sum(q log(q / p)), q = softmax(logits), p = softmax(logits of the lens)",
}


@dataclass(frozen=True)
class Options:
    """watch: more tokens to watch, or their ids, separated by commas. compute: `all`, so that every token is read
    however long it takes. fault: a lens that is wrong on purpose."""

    watch: str = ""
    compute: str = ""
    fault: Fault = "none"


def panel(run: Pass, options: Options) -> Panel:
    (watch, problem), patterns = watched(run, options.watch), recorded(run)
    seen = run.seen(*patterns)
    first, cost = fitting(run, seen, options)
    found = read(run.model, seen, watch, options.fault, first)
    residuals = stream_is_a_sum(run.model, seen)
    checks = checked("C4", "lens_of_last_stream", named("lens_of_last_stream", found.off))
    checks += checked("C3", "stream_is_a_sum", residuals)
    ids = sorted({*found.top.flatten().tolist(), *found.watched.flatten().tolist()})
    facts = {
        "texts": {str(id): run.text_of(id) for id in ids},
        "faults": faults(run.model),
        "problem": problem,
        "first": first,
        **cost,
        "vocabulary": run.model.config.vocab_size,
    }
    line = f"found = read(model, seen, {watch}, {options.fault!r}, {first})"
    series = readings(found, patterns, line, first) | norms(run, seen)
    return Panel(series, checks, facts, (lens, read))


def kept(run: Pass) -> list[Options]:
    """Of an exported file: the lens as it is, and each that is wrong."""
    return [Options(), *(Options(fault=fault) for fault in faults(run.model))]


def fitting(run: Pass, seen: Mapping[str, Tensor], options: Options) -> tuple[int, dict[str, object]]:
    """The first position for which there is time, the last ones coming before the others, and what all would take."""
    sample, rows = min(SAMPLE, run.t), len(run.model.blocks) + 1
    if rows * run.t * run.model.config.vocab_size <= AT_ONCE:
        return 0, {"seconds": 0.0, "most": MOST}
    began = time.perf_counter()
    read(run.model, seen, (), "none", run.t - sample)
    each = (time.perf_counter() - began) / sample
    limit = MOST if options.compute == "all" else UNASKED
    return max(0, run.t - max(sample, int(limit / each))), {"seconds": run.t * each, "most": MOST}


def recorded(run: Pass) -> list[str]:
    """The names that this panel needs of those that the model has."""
    layers = range(len(run.model.blocks))
    wanted = {*ENDS, *(f"blocks.{layer}{name}" for layer in layers for name in OF_BLOCK)}
    return [name for name in names(run.model.config) if name in wanted]


def watched(run: Pass, text: str) -> tuple[list[int], str | None]:
    """The ids of the option `watch`, or why they cannot be watched."""
    words, size = [word for word in text.split(",") if word.strip()], run.model.config.vocab_size
    try:
        return [within(int(word), size) if word.strip().isdecimal() else id_of(run, word) for word in words], None
    except FathomError as error:
        return [], str(error)


def within(id: int, size: int) -> int:
    if id >= size:
        raise FathomError(f"watch has {id}; the ids of this model run from 0 to {size - 1:,}")
    return id


def id_of(run: Pass, text: str) -> int:
    """The id of a text that is one token."""
    tokenizer = run.subject.tokenizer
    if tokenizer is None:
        raise FathomError(f"watch has {text!r}, and {run.subject.name} has no tokenizer; give ids, separated by commas")
    if len(ids := tokenizer.encode(text)) != 1:
        raise FathomError(f"watch has {text!r}, which is {counted(len(ids), 'token')}; give one token, or its id")
    return ids[0]


def readings(found: Readings, patterns: Sequence[str], line: str, first: int) -> dict[str, Series]:
    """What the lens reads, as series; NaN, and -1 for tokens and ranks, before the first position."""
    at = f" - {first}" if first else ""
    setup = (*looking(patterns, "from fathom.inspect.lens import read"), line)
    dims = ("layer", "query")
    series = {
        name: Series(
            after(getattr(found, name), first, 1), "computed", formula, dims, f"found.{name}[{{0}}, {{1}}{at}]", setup
        )
        for name, formula in READ.items()
    }
    near, above = "tokens with the best rank at any layer", "1 + the number of larger logits of the lens"
    dims = ("query", "token")
    tokens, ranks = after(found.watched, first, 0), after(found.ranks, first, 0)
    series["watched"] = Series(tokens, "computed", near, dims, f"found.watched[{{0}}{at}, {{1}}]", setup)
    code = f"found.ranks[{{0}}{at}, {{1}}, {{2}}]"
    return series | {"ranks": Series(ranks, "computed", above, (*dims, "layer"), code, setup)}


def after(x: Tensor, first: int, dim: int) -> Tensor:
    """x with `first` positions that were not read before it."""
    shape = [first if d == dim else size for d, size in enumerate(x.shape)]
    return torch.cat((x.new_full(shape, float("nan") if x.is_floating_point() else -1), x), dim)


def norms(run: Pass, seen: Mapping[str, Tensor]) -> dict[str, Series]:
    """The norms of the stream at each row and of what each layer adds to it."""
    model, dims, load = run.model, ("layer", "query"), "from fathom.inspect.derived import streams, written"
    setup = looking((name for name in recorded(run) if name != "logits"), load)
    rows = torch.stack([x[0] for x in streams(model, seen)]).float().norm(dim=-1)  # (L + 1, t)
    code = "streams(model, seen)[{0}][0, {1}].float().norm()"
    series = {"stream": Series(rows, "computed", "norm of the stream", dims, code, setup)}
    for part in ("attn", "mlp"):
        layers = [layer for layer, block in enumerate(model.blocks) if getattr(block, part) is not None]
        if layers:
            added = torch.stack([written(model, seen, f"blocks.{layer}.{part}")[0] for layer in layers])
            code = f'written(model, seen, "blocks.{{0}}.{part}")[0, {{1}}].float().norm()'
            source = f"norm of what blocks.*.{part} adds to the stream"
            series[part] = Series(added.float().norm(dim=-1), "computed", source, dims, code, setup)
    return series
