"""P12: weights in 8 or 4 bits. A block on its way there and back, what the format does to a matrix, and to the loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.glass.panel import Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.inspect import quant_view
from fathom.inspect.quant_view import Round, first_rows, packable, there_and_back, weight_of
from fathom.quant.scheme import Scheme, nbytes
from fathom.quant.schemes import SCHEMES, scheme_named
from fathom.words import counted

BINS = 64
OUTLIERS = 10
RESIZED = ("int8", "int4", "nf4")  # formats whose error is shown over the size of a block
WORK = 2e10  # numbers that are multiplied while layers are packed one at a time


@dataclass(frozen=True)
class Options:
    """layer and matrix: which weights. scheme: the number format. block: of the matrix, None: that with the largest
    weight beside its others. fault: unpacked with the halves of every byte exchanged."""

    layer: int = 0
    matrix: str = "attn.q"
    scheme: Literal["int8", "int4", "nf4", "nf4-single"] = "nf4"
    block: int | None = None
    fault: Literal["nibbles"] | None = None


def kept(run: Pass) -> list[Options]:
    """Every format of the first matrix, the fault, and the other matrices of the first layer."""
    first = Options()
    schemes = [replace(first, scheme=name) for name in SCHEMES]  # type: ignore[arg-type]
    others = [name.split(".", 2)[2] for name in packable(run.model) if name.startswith("blocks.0.")]
    matrices = [replace(first, matrix=plain_name(name)) for name in others]
    every = [
        first,
        *schemes,
        replace(first, fault="nibbles"),
        *matrices,
        replace(first, scheme="int4", fault="nibbles"),
    ]
    return list(dict.fromkeys(every))


def plain_name(name: str) -> str:
    """`attn.q`, also of a layer with an adapter, whose own matrix is `attn.q.base`."""
    return name.removesuffix(".base")


def panel(run: Pass, options: Options) -> Panel:
    names = list(packable(run.model))
    if not names:
        return Panel(absent="A bigram has no blocks. Only the matrices of blocks are packed: embeddings decide single "
                            "tokens and stay as they are.")  # fmt: skip
    name, scheme = chosen(names, options), scheme_named(options.scheme)
    shown = there_and_back(weight_of(packable(run.model)[name]), scheme, options.fault == "nibbles")
    weights, scales, codes, unpacked = shown.in_blocks
    block = int(quant_view.crest(weights).argmax()) if options.block is None else options.block
    if not 0 <= block < len(weights):
        raise FathomError(f"block is {block}; {name} has {counted(len(weights), 'block')}, 0 to {len(weights) - 1}")
    setup = lines(name, options, block)
    series = of_block(weights[block], scales[block], codes[block], unpacked[block], scheme, setup)
    series |= of_matrix(shown, setup) | of_model(run, names, options)
    facts = {
        "name": plain_name(name), "matrices": [plain_name(one) for one in names], "scheme": scheme.name,
        "schemes": [{"name": one.name, "bits": one.bits, "size": one.size} for one in SCHEMES.values()],
        "block": block, "blocks": len(weights), "start": scheme.start(block, shown.weight.shape[1]),
        "shape": list(shown.weight.shape), "bytes": nbytes(shown.packed), "bits": 8 * nbytes(shown.packed)
        / shown.weight.numel(), "error": shown.error, "sizes": list(quant_view.SIZES),
        "resized": list(RESIZED), "bins": BINS,
        "packed": run.subject.card()["packing"], "tried": tried(run, names, options), "tokens": run.t,
        "block_error": quant_view.block_errors(weights, unpacked)[block].item(),
        "usual_error": quant_view.block_errors(weights, unpacked).median().item(),
        "nearest": nearest([plain_name(one) for one in names], series["errors"].values),
        "crossing": crossing(series["size_error"].values), "filled": filled_up(shown.weight.shape[1], scheme),
        "sample": quant_view.SAMPLE if shown.weight.numel() > quant_view.SAMPLE else None,
    }  # fmt: skip
    checks = checked("C13", "packing_is_stable", quant_view.packing_is_stable(shown))
    kind: Any = type(scheme)
    source: tuple[Callable[..., Any], ...] = (there_and_back, kind.quantize, kind.blocks)
    return Panel(series, checks, facts, source)


def nearest(names: list[str], errors: Tensor) -> str:
    """In how many matrices int4 is nearer than NF4, and which. errors: (matrix, scheme)."""
    four, nf4 = (list(SCHEMES).index(name) for name in ("int4", "nf4"))
    int4 = [name for name, row in zip(names, errors.tolist()) if row[four] < row[nf4]]
    bits = [f"{SCHEMES[name].bits:.4g} bits" for name in ("int4", "nf4")]
    why = f" int4 has a scale for every 32 weights ({bits[0]}), NF4 one for 64 ({bits[1]})."
    if not int4:
        return f"NF4 is nearer than int4 in all {len(names)} matrices.{why}"
    few = ", ".join(int4[:3]) + " and others" * (len(int4) > 3)
    return f"int4 is nearer than NF4 in {len(int4)} of {len(names)} matrices: {few}.{why}"


def crossing(errors: Tensor) -> str:
    """In blocks of which sizes NF4 is nearer than int4. errors: (scheme, size), NaN where a format has no such size."""
    off = errors[RESIZED.index("nf4")] - errors[RESIZED.index("int4")]
    both = [(size, one) for size, one in zip(quant_view.SIZES, off.tolist()) if one == one]
    nearer = [str(size) for size, one in both if one < 0]
    if not nearer:
        return "For these weights int4 is nearer than NF4 at every size that both have."
    if len(nearer) == len(both):
        return "For these weights NF4 is nearer than int4 at every size."
    return f"For these weights NF4 is nearer than int4 in blocks of {', '.join(nearer)}."


def filled_up(width: int, scheme: Any) -> str:
    """What is said where rows are no whole number of blocks."""
    over = width % scheme.size if scheme.name.startswith("int") else 0
    if not over:
        return ""
    full = width - over + scheme.size
    return f" Its rows of {width} are filled up to {full}, since no block of {scheme.name} goes on in the next row."


def chosen(names: list[str], options: Options) -> str:
    """The name of the layer that the options mean."""
    layers = 1 + max(int(name.split(".")[1]) for name in names)
    if not -layers <= options.layer < layers:
        raise FathomError(f"layer is {options.layer}; expected 0 to {layers - 1}")
    start = f"blocks.{options.layer % layers}."
    here = {plain_name(name).removeprefix(start): name for name in names if name.startswith(start)}
    if options.matrix not in here:
        raise FathomError(f"no matrix is called {options.matrix!r}{near(options.matrix, here, then='layer')}"
                          f" {options.layer} has {', '.join(here)}")  # fmt: skip
    return here[options.matrix]


def lines(name: str, options: Options, block: int) -> tuple[str, ...]:
    """Python that makes what is shown of one matrix."""
    return (
        "from fathom.inspect import quant_view",
        "from fathom.quant.schemes import scheme_named",
        f"scheme, block = scheme_named({options.scheme!r}), {block}",
        f"weight = quant_view.weight_of(quant_view.packable(model)[{name!r}])",
        f"shown = quant_view.there_and_back(weight, scheme, {options.fault == 'nibbles'})",
        "weights, scales, codes, unpacked = shown.in_blocks",
    )


def of_block(
    weights: Tensor, scale: Tensor, codes: Tensor, unpacked: Tensor, scheme: Scheme, setup: tuple[str, ...]
) -> dict[str, Series]:
    """One block: weights, their scale, what they are in units of it, codes, levels, and what comes back."""
    levels, at = scheme.levels.to(codes.device), ("number",)
    scaled = quant_view.in_scales(weights[None], scale[None])[0]
    in_scales = "quant_view.in_scales(weights, scales)[block, {0}]"
    return {
        "weight": Series(weights, "measured", "weight", at, "weights[block, {0}]", setup),
        "scale": Series(scale[None], "computed", "the scale of the block", ("one",), "scales[block]", setup),
        "scaled": Series(scaled, "computed", "weight / scale", at, in_scales, setup),
        "code": Series(codes, "computed", "the nearest level", at, "codes[block, {0}]", setup),
        "level": Series(levels[codes], "computed", "levels[code]", at, "scheme.levels[codes[block, {0}]]", setup),
        "unpacked": Series(unpacked, "computed", "level · scale", at, "unpacked[block, {0}]", setup),
        "error": Series(
            unpacked - weights, "computed", "unpacked - weight", at, "(unpacked - weights)[block, {0}]", setup
        ),
    }


def of_matrix(shown: Round, setup: tuple[str, ...]) -> dict[str, Series]:
    """A whole matrix: where its numbers lie between the levels, the error over the size of a block, its largest
    weights."""
    weights, scales, codes, _ = shown.in_blocks
    levels = shown.scheme.levels
    low, high = float(levels[0]), float(levels[-1])
    over = [quant_view.errors_over_size(first_rows(shown.weight), scheme_named(name)) for name in RESIZED]
    error, bits = (torch.stack(each) for each in zip(*over))
    places = quant_view.outliers(shown.weight, OUTLIERS)
    rms = shown.weight.square().mean().sqrt()
    where = (*setup, f"places = quant_view.outliers(weight, {OUTLIERS})")
    sized = (*setup, "weight = quant_view.first_rows(weight)",
             f"over = [quant_view.errors_over_size(weight, scheme_named(name)) for name in {RESIZED!r}]")  # fmt: skip
    dims = ("scheme", "size")
    histogram = quant_view.histogram(quant_view.in_scales(weights, scales), low, high, BINS)
    counts = f"quant_view.histogram(quant_view.in_scales(weights, scales), {low}, {high}, {BINS})[{{0}}]"
    used = f"quant_view.levels_used(codes, {len(levels)})[{{0}}]"
    at = ("level",)
    return {
        "histogram": Series(histogram, "computed", "how many weights / scale are in a step", ("bin",), counts, setup),
        "levels": Series(levels, "computed", "the levels of the format", at, "scheme.levels[{0}]", setup),
        "used": Series(quant_view.levels_used(codes, len(levels)), "computed", "how many codes", at, used, setup),
        "size_error": Series(error, "computed", "rms(w - w') / rms(w)", dims, "over[{0}][0][{1}]", sized),
        "size_bits": Series(bits, "computed", "bits a weight, scales and all", dims, "over[{0}][1][{1}]", sized),
        "outlier": Series(shown.weight[tuple(places.T)], "measured", "weight", ("outlier",),
                          "weight[tuple(places[{0}])]", where),
        "outlier_unpacked": Series(shown.unpacked[tuple(places.T)], "computed", "level · scale", ("outlier",),
                                   "shown.unpacked[tuple(places[{0}])]", where),
        "outlier_place": Series(places, "computed", "row and column", ("outlier", "axis"), "places[{0}, {1}]", where),
        "outlier_times": Series(shown.weight[tuple(places.T)].abs() / rms, "computed", "|w| / rms(w)", ("outlier",),
                                "weight[tuple(places[{0}])].abs() / weight.square().mean().sqrt()", where),
    }  # fmt: skip


def tried(run: Pass, names: list[str], options: Options) -> list[int]:
    """Which matrices are packed one at a time: all, those of the layer, or the chosen one, as there is time for."""
    numbers = run.subject.card()["parameters"] * run.t
    own = chosen(names, options)
    start = ".".join(own.split(".")[:2]) + "."
    for group in (names, [name for name in names if name.startswith(start)]):
        if numbers * len(group) <= WORK:
            return [names.index(name) for name in group]
    return [names.index(own)]


def of_model(run: Pass, names: list[str], options: Options) -> dict[str, Series]:
    """Every matrix in every format, and the loss of the prompt where one alone is packed."""
    listed = f"names, schemes = {names!r}, {list(SCHEMES)!r}"
    setup: tuple[str, ...] = ("from fathom.inspect import quant_view", listed)
    if (key := "packing errors") not in run.notes:
        run.notes[key] = quant_view.errors({n: first_rows(weight_of(part)) for n, part in packable(run.model).items()})
    code = "quant_view.error_in(quant_view.first_rows(quant_view.weight_of(quant_view.packable(model)[names[{0}]])), "
    dims, what = ("matrix", "scheme"), "rms(w - w') / rms(w)"
    series = {"errors": Series(run.notes[key], "computed", what, dims, code + "schemes[{1}])", setup)}
    return series | (of_loss(run, names, options, listed) if run.t > 1 else {})


def of_loss(run: Pass, names: list[str], options: Options, listed: str) -> dict[str, Series]:
    """The loss of the prompt, and how it changes where one matrix alone is packed, and all of them."""
    places, scheme = tried(run, names, options), scheme_named(options.scheme)
    some = [names[place] for place in places]
    if (loss := f"packing losses {scheme.name} {places}") not in run.notes:
        alone = quant_view.losses_one_by_one(run.model, run.ids, some, scheme)
        before = quant_view.loss(run.model, run.ids)
        run.notes[loss] = alone, torch.tensor([before, quant_view.loss_with_packed(run.model, run.ids, names, scheme)])
    alone, all_of_them = run.notes[loss]
    imports = "from fathom.inspect import quant_view", "from fathom.quant.schemes import scheme_named"
    setup = (*imports, listed, f"scheme = scheme_named({scheme.name!r})")
    one = f"quant_view.losses_one_by_one(model, ids, [{some!r}[{{0}}]], scheme)[0]"
    both = "(quant_view.loss(model, ids), quant_view.loss_with_packed(model, ids, names, scheme))[{0}]"
    what = "loss with this matrix packed - loss"
    return {
        "loss_change": Series(alone, "computed", what, ("tried",), one, setup),
        "loss": Series(all_of_them, "computed", "loss before, and with all packed", ("packed",), both, setup),
    }
