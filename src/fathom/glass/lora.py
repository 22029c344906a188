"""P11: what changed the weights. Spectra of W and of its change beside chance, the loss when the change or the weights
are cut to a rank, or the change is scaled, and what an adapter's gradients are at the start."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fathom.adapters import lora
from fathom.adapters.layer import Lora
from fathom.adapters.svd import SVD
from fathom.errors import FathomError, near
from fathom.glass.changes import STRONGEST, Found, changes, counted_rank, loss_at, setup_of, spectra_of
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.inspect.identities import worst
from fathom.lab import changed as lab
from fathom.lab.changed import STARTS, Changed, Decomposed, shape_of
from fathom.lab.spectra import RankSummary, is_large
from fathom.words import counted

MOST_WORK = 2_000_000_000  # sum of m n min(m, n): a few seconds of SVD on one core
ALONE = (
    "Nothing has changed them here: open an adapter of this model, or choose an adapter or a fine-tune of it under "
    "“beside”, to see what it added."
)
MOST_NUMBERS = 2_000_000_000  # whose norms are worked out: a few seconds of reading
GRID = tuple(n / 4 for n in range(9))  # weights of the change that are tried: 0 to 2


@dataclass(frozen=True)
class Options:
    """layer, part: the matrix that is shown, such as 0 and attn.q, or embed; by default the first that changed. rank:
    to which matrices are cut, and that of a new adapter. weight: by which the change is multiplied. fault: a change
    that is scaled by alpha in place of alpha / r."""

    layer: int | None = None
    part: str = ""
    rank: int = 4
    weight: float = 1.0
    fault: Literal["none", "alpha"] = "none"


def panel(run: Pass, options: Options) -> Panel:
    if options.rank < 1:
        raise FathomError(f"rank is {options.rank}; an adapter has at least 1")
    found, note = changes(run, options.fault)
    first = next(iter(found.values()))
    name = chosen(first.changed, options)
    series, numbers = spectra(run, found, name)
    rows, parts, overview = where(run, found)
    series |= gradients(run, first, name, options.rank) | overview
    said = too_large(found) or (run.t < 2 and "A loss needs a token to predict: give a text of two tokens or more.")
    series |= {} if said else measured(run, found, options)
    facts = {
        "matrix": name,
        "shape": list(shape_of(first.changed.layers[name])),
        "matrices": [about(each, found) for each in first.changed.layers],
        "changes": {kind: one.owner.subject.name for kind, one in found.items() if kind},
        "base": run.subject.name,
        "rows": rows,
        "parts": parts,
        "numbers": numbers,
        "adapter": adapter_of(found.get("lora"), name),
        "starts": STARTS,
        "strongest": STRONGEST,
        "notes": [each for each in (note, said, "" if any(found) else ALONE) if each],
        "most": most_changed(rows, parts, overview),
        "full_rank": full_rank(found),
    }
    source = (SVD.cut, Lora.forward, Decomposed.cut_change, Decomposed.cut_weights, lab.gradients_at_init)
    return Panel(series, list(checks(run, found, name, options, series)), facts, source)


def kept(run: Pass) -> list[Options]:
    """Every layer and every matrix, where there are not too many, and the wrong scale where there is an adapter."""
    found, _ = changes(run, "none")
    first = next(iter(found.values())).changed
    each = [*map(Options, sorted(numbered(first))), *(Options(*place(name)) for name in first.layers)]
    return [Options(), *(each if len(each) <= 72 else []), *([Options(fault="alpha")] if "lora" in found else [])]


def adapter_of(one: Found | None, name: str) -> dict[str, Any] | None:
    """The adapters that are active on this matrix, or on any where they leave it alone."""
    if one is None:
        return None
    model = one.changed.model
    parts = lora.wrapped(model)
    part = parts.get(name) or next(iter(parts.values()))
    each = [part.adapters[key] for key in part.active.weights if key in part.adapters]
    rank = sum(len(adapter.a) for adapter in each if isinstance(adapter, Lora))
    scales = [adapter.scale for adapter in each if isinstance(adapter, Lora)]
    names = lora.names(model)
    count = sum(parameter.numel() for key in names for parameter in lora.parameters(model, key))
    return {"names": names, "here": name in parts, "rank": rank, "scales": scales, "parameters": count}


def chosen(changed: Changed, options: Options) -> str:
    """The layer that is shown. FathomError where there is none of that name."""
    usual = next((name for name in changed.names if name.startswith("blocks.")), changed.names[0])
    layer, part = place(usual)
    layer, part = layer if options.layer is None else options.layer, options.part or part
    inside = [name for name in changed.layers if place(name)[0] == layer]
    parts = list(dict.fromkeys(place(name)[1] for name in changed.layers))
    if part not in parts:
        raise FathomError(f"there is no matrix {part!r}{near(part, parts, then='matrices')} are {', '.join(parts)}")
    if layer is not None and not inside:
        raise FathomError(f"there is no layer {layer}; the layers are {sorted(numbered(changed))}")
    names = (part, called(layer, part), *inside)
    return next(name for name in names if name in changed.layers)


def numbered(changed: Changed) -> set[int]:
    """The layers that have matrices."""
    return {layer for layer, _ in map(place, changed.layers) if layer is not None}


def place(name: str) -> tuple[int | None, str]:
    """blocks.3.attn.q -> 3, attn.q; embed -> None, embed."""
    words = name.split(".", 2)
    return (int(words[1]), words[2]) if words[0] == "blocks" else (None, name)


def about(name: str, found: Mapping[str, Found]) -> dict[str, Any]:
    layer, part = place(name)
    changed = [kind for kind, one in found.items() if kind and name in one.changed.names]
    return {"name": name, "layer": layer, "part": part, "changed": changed}


def where(run: Pass, found: Mapping[str, Found]) -> tuple[list[int | None], list[str], dict[str, Series]]:
    """How much of each matrix changed: the layers, the matrices, and a table of them for each change."""
    first = next(iter(found.values())).changed
    changes = {kind: one.changed for kind, one in found.items() if kind}
    names = [name for name in first.layers if any(name in one.names for one in changes.values())]
    if sum(math.prod(shape_of(first.layers[name])) for name in names) > MOST_NUMBERS:
        return [], [], {}
    names.sort(key=lambda name: place(name)[0] is None)  # what is in no layer stands last
    rows, parts = (list(dict.fromkeys(each)) for each in zip(*map(place, names))) if names else ([], [])
    setup = (
        *setup_of(run, found),
        "from fathom.glass.lora import called",
        "from fathom.lab.changed import relative",
        f"rows, parts = {rows}, {parts}",
    )
    series, dims = {}, ("layer", "matrix")
    for kind, one in changes.items():
        table = [[lab.relative(one, called(row, part)) for part in parts] for row in rows]
        code = f"relative(found[{kind!r}].changed, called(rows[{{0}}], parts[{{1}}]))"
        series[f"where_{kind}"] = Series(
            torch.tensor(table), "computed", "‖ΔW‖ / ‖W‖ of each matrix", dims, code, setup
        )
    return rows, parts, series


def most_changed(rows: Sequence[int | None], parts: Sequence[str], overview: Mapping[str, Series]) -> str:
    """The three matrices that changed most, in words; "" where nothing did."""
    said = []
    for name, one in overview.items():
        flat = torch.nan_to_num(one.values).flatten()
        values, places = flat.topk(min(3, int((flat > 0).sum())))
        each = [
            f"{called(rows[at // len(parts)], parts[at % len(parts)])} ({value:.1%})"
            for value, at in zip(values.tolist(), places.tolist())
        ]
        what = " by the fine-tune" if name == "where_full" and len(overview) > 1 else ""
        said.append(f"Changed most{what}: {', '.join(each)}.")
    return " ".join(said)


def called(layer: int | None, part: str) -> str:
    """3, attn.q -> blocks.3.attn.q; None, embed -> embed."""
    return part if layer is None else f"blocks.{layer}.{part}"


def too_large(found: Mapping[str, Found]) -> str:
    """Why the losses are not computed; "" where they are."""
    work = max(one.changed.work for one in found.values())
    if work <= MOST_WORK:
        return ""
    count = max(len(one.changed.names) for one in found.values())
    return (
        f"The loss at each rank needs the decomposition of {counted(count, 'matrix', 'matrices')}, about "
        f"{work / MOST_WORK:,.0f} times what is computed on a page; fathom svd --loss-vs-rank does it. Only the matrix "
        "that is shown was decomposed."
    )


def spectra(run: Pass, found: Mapping[str, Found], name: str) -> tuple[dict[str, Series], dict[str, Any]]:
    """Singular values, energy and directions of one matrix and of its changes; and their ranks as facts."""
    every, series, numbers = spectra_of(run, found, name), {}, {}
    setup = (*setup_of(run, found), f"every = Spectra(found, {name!r})")
    for kind in every.terms:
        title = f"{name}.weight" if kind == "weight" else f"what changed {name}.weight ({kind})"
        rank = ("rank",)
        s = every.terms[kind].s
        code = f"every.terms[{kind!r}].s[{{0}}]"
        series[kind] = Series(s, "computed", f"singular values of {title}", rank, code, setup)
        code, source = f"every.chance({kind!r})[{{0}}]", "singular values of a random matrix of this shape and norm"
        series[f"{kind}_chance"] = Series(every.chance(kind), "computed", source, rank, code, setup)
        code, source = f"every.energy({kind!r})[{{0}}]", "sum of the first sigma^2 over all"
        series[f"{kind}_energy"] = Series(every.energy(kind), "computed", source, rank, code, setup)
        if kind != "weight" and not is_large(every.weight):
            code, source = f"every.near({kind!r})[{{0}}]", "largest |cosine| of a direction of W + dW to any of W"
            series[f"{kind}_near"] = Series(every.near(kind), "computed", source, ("direction",), code, setup)
        whole = every.norm(kind) ** 2 if is_large(every.weight) and kind == "weight" else None
        numbers[kind] = {**vars(RankSummary.of(s, whole)), "norm": every.norm(kind), "rank": counted_rank(every, kind)}
        numbers[kind]["relative"] = every.norm(kind) / max(every.norm("weight"), 1e-30)
    return series, numbers


def full_rank(found: Mapping[str, Found]) -> int:
    """From which on no matrix is cut."""
    return max(one.decomposed.full_rank for one in found.values())


def gradients(run: Pass, first: Found, name: str, rank: int) -> dict[str, Series]:
    """What reaches A and B of a new adapter on this matrix, from the loss of the prompt."""
    if run.t < 2:
        return {}
    rank = min(rank, *shape_of(first.changed.layers[name]))
    key = f"lora gradients {name} {rank}"
    if key not in run.notes:
        run.notes[key] = lab.gradients_at_init(run.model, run.ids, name, rank)
    setup = (
        "from fathom.lab.changed import gradients_at_init",
        f"gradients = gradients_at_init(model, ids, {name!r}, {rank})",
    )
    source = f"norms of the gradients of a new adapter of rank {rank} on {name}"
    return {"gradients": Series(run.notes[key], "measured", source, ("start", "factor"), "gradients[{0}, {1}]", setup)}


def measured(run: Pass, found: Mapping[str, Found], options: Options) -> dict[str, Series]:
    """The loss of the prompt at each rank and at each weight of the change."""
    full = full_rank(found)
    ranks = sorted({*lab.ranks_up_to(full), min(options.rank, full)})
    weights = sorted({*GRID, options.weight})
    setup = (*setup_of(run, found), f"ranks, weights = {ranks}, {weights}")
    series = {"ranks": Series(torch.tensor(ranks), "computed", "ranks that are tried", ("rank",), "ranks[{0}]", setup)}
    red = next(iter(kind for kind in ("full", "lora", "") if kind in found))
    losses: dict[str, tuple[str, str, str, Sequence[float]]]
    losses = {f"cut_{kind}": ("cut_change", kind, "W + dW cut to r", ranks) for kind in found if kind}
    losses["cut_weights"] = ("cut_weights", red, "W + dW itself cut to r" if red else "W cut to r", ranks)
    losses |= {f"scaled_{kind}": ("scaled", kind, "W + weight dW", weights) for kind in found if kind}
    for key, (method, kind, source, places) in losses.items():
        over = "weights" if places is weights else "ranks"
        values = torch.tensor([loss_at(run, found[kind], method, place) for place in places])
        code = f"found[{kind!r}].{method}({over}[{{0}}])"
        series[key] = Series(values, "measured", f"loss of {source}", (over[:-1],), code, setup)
    if any(found):
        values, source = torch.tensor(weights), "weights of the change that are tried"
        series["weights"] = Series(values, "computed", source, ("weight",), "weights[{0}]", setup)
    return series


def checks(
    run: Pass, found: Mapping[str, Found], name: str, options: Options, series: Mapping[str, Series]
) -> Iterator[Check]:
    """C12 of every matrix that is drawn, C11 of the adapter and of a new one, and that the full rank is no cut."""
    every = spectra_of(run, found, name)
    if not is_large(every.weight):
        matrices = {"weight": every.weight, **{kind: lab.whole(delta) for kind, delta in every.deltas.items()}}
        cuts = [lab.cut_loses_the_tail(x, every.terms[kind], options.rank) for kind, x in matrices.items()]
        yield from checked("C12", "cut_loses_the_tail", max(cuts, key=lambda one: worst([*one.values()])))
    start = lab.at_init_it_changes_nothing(run.model, run.ids, name, min(options.rank, *every.weight.shape))
    yield from checked("C11", "adapter_is_its_delta", start)
    if "gradients" in series:
        zero = series["gradients"].values
        says = "while B = 0 nothing reaches A, and while A = 0 nothing reaches B"
        yield Check("C11", says, worst([float(zero[0, 0]), *map(float, zero[1])]), 0.0)
    if "lora" in found and "cut_lora" in series:
        one, rank = found["lora"], counted_rank(every, "lora")
        ran = lab.merged_as_it_runs(one.changed, run.ids, one.owner.logits, name, rank)
        yield from checked("C11", "adapter_is_its_delta", ran)
    for kind, one in found.items():
        if kind and (values := series.get(f"cut_{kind}")) is not None:
            expected = lab.next_token_loss(one.owner.logits[None], run.ids).item()
            says = f"the full rank gives the loss of {one.owner.subject.name}"
            yield Check("C12", says, abs(float(values.values[-1]) - expected) / max(1.0, expected), 1e-4)
