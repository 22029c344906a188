"""P6: break it. Parts are taken away, one by choice or each in turn, and what the model then says is compared.

What would take long is not computed unasked: the panel says what it would cost.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import LOOKING, Pass
from fathom.glass.patching import ABOUT, patch
from fathom.glass.snippet import looking
from fathom.inspect import ablate
from fathom.inspect.ablate import Cut, Effect, Fault, How, columns, continued, effect, logits_without, part_of, places
from fathom.inspect.identities import zeroing_a_head
from fathom.inspect.patch import What

LIKELIEST = 6  # tokens that are compared, of before and of after
MORE = 64  # at most so many new tokens
UNASKED, MOST = 10.0, 900.0  # seconds that are spent unasked, and at all
ABSENT = "This model has no blocks, so there is nothing to take away: its logits are unembed(embed(token))."


@dataclass(frozen=True)
class Options:
    """What is changed, how, and what may take long.

    cut: names of what is taken away, separated by spaces, such as blocks.2.attn.head.3. how: what stands in its place.
    new: tokens of new text. other: a second prompt, whose activations (`what`) are put into this pass, which is then
    read at position query, from the end where negative. compute: of sweep, patch and text, what is computed however
    long it takes, and only: the one layer that a sweep is for. fault: a cut that is wrong on purpose.
    """

    query: int = -1
    cut: str = ""
    how: How = "zero"
    new: int = 16
    other: str = ""
    what: What = "stream"
    compute: str = ""
    only: int | None = None
    fault: Fault = "none"


def panel(run: Pass, options: Options) -> Panel:
    if not len(run.model.blocks):
        return Panel(absent=ABSENT)
    at, parts = run.place(options.query), options.cut.split()
    cut = Cut(run.model, recorded(run), options.how, drawn(run), options.fault)
    with LOOKING:
        seconds, checks = tried(run, cut, parts)
        parts, after, problem = broken(run, cut, parts)
        changed, sweeping = swept(run, cut, options, seconds)
        text = texts(run, cut, parts, options, seconds)
    series = compared(run, after, parts, options) | sweep_series(run, changed, options)
    facts = {
        "at": at,
        "cut": parts,
        "problem": problem,
        "strongest": strongest(run, changed),
        "columns": columns(run.model.config),
        "seconds": seconds,
        "sweep": sweeping,
        "text": text,
        "faults": ["slices"],
        "texts": {str(id): run.text_of(id) for id in series["tokens"].values.unique().tolist()},
    }
    found = patch(run, options.other, options.what, at, allowed(options, "patch", seconds))
    facts["patch"] = {"about": ABOUT, **found.facts}
    return Panel({**series, **found.series}, [*checks, *found.checks], facts, (Cut, logits_without, effect))


def kept(run: Pass) -> list[Options]:
    """Of an exported file: the model as it is with the sweep, and without the head that matters most."""
    if not len(run.model.blocks):
        return [Options()]
    found = panel(run, Options()).facts["strongest"]
    return [Options(), *([Options(cut=found)] if found else [])]


def strongest(run: Pass, found: Effect) -> str | None:
    """The head without which the last token's prediction changes most, of those that a sweep is there for."""
    heads = found.kl[:, : run.model.config.n_head, -1].nan_to_num(-1.0)  # (L, h)
    layer, head = divmod(int(heads.argmax()), heads.shape[1])
    return f"blocks.{layer}.attn.head.{head}" if heads[layer, head] >= 0 else None


def recorded(run: Pass) -> dict[str, Tensor]:
    return dict(run.seen(*ablate.recorded(run.model.config), "logits"))


def drawn(run: Pass) -> Tensor:
    """Of `resample`: positions of the prompt, by the seed of the pass."""
    return places(run.t, MORE, run.seed).to(run.ids.device)


def tried(run: Pass, cut: Cut, parts: Sequence[str]) -> tuple[float, list[Check]]:
    """The seconds of one pass; and C7 for the first head that is cut, or the first of all."""
    began = time.perf_counter()
    logits_without(run.model, run.ids, [])
    seconds = time.perf_counter() - began
    heads = (part_of(run.model.config, name) for name in parts if ".head." in name and ".query." not in name)
    part = next(heads, part_of(run.model.config, "blocks.0.attn.head.0"))
    assert part.head is not None
    name = f"blocks.{part.layer}.attn.head.{part.head}"
    [one] = Cut(run.model, cut.seen, fault=cut.fault).edits([[name]])
    return seconds, checked("C7", "zeroing_a_head", zeroing_a_head(run.model, run.ids, part.layer, part.head, one))


def broken(run: Pass, cut: Cut, parts: list[str]) -> tuple[list[str], Tensor, str | None]:
    """What was taken away, the logits (t, V) without it, and why it could not be taken away, where it could not."""
    try:
        return parts, logits_without(run.model, run.ids, cut.edits([parts]))[0], None
    except FathomError as error:
        return [], run.kept["logits"][0], str(error)


def allowed(options: Options, what: str, seconds: float) -> "Allowance":
    return Allowance(seconds, what in options.compute.split())


@dataclass(frozen=True)
class Allowance:
    """Whether some passes are run, given the seconds of one and whether they were asked for."""

    seconds: float
    asked: bool

    def cost(self, passes: int) -> dict[str, object]:
        """What so many passes cost, and whether they are run."""
        total = passes * self.seconds
        limit = MOST if self.asked else UNASKED
        return {"passes": passes, "seconds": total, "computed": total <= limit, "most": MOST}


def swept(run: Pass, cut: Cut, options: Options, seconds: float) -> tuple[Effect, dict[str, object]]:
    """The effect of each part cut alone, NaN where it was not computed; and what it costs."""
    n_layer, n_columns = len(run.model.blocks), len(columns(run.model.config))
    layers = range(n_layer) if options.only is None else [options.only % n_layer]
    known: dict[int, Effect] = run.notes.setdefault(f"sweep {options.how} {options.fault}", {})
    missing = [layer for layer in layers if layer not in known]
    cost = allowed(options, "sweep", seconds).cost(len(missing) * n_columns)
    for layer in missing if cost["computed"] else ():
        known[layer] = ablate.sweep(cut, run.ids, run.kept["logits"][0], [layer])
    shape = (n_layer, n_columns, run.t)
    both = [torch.full(shape, float("nan")) for _ in range(2)]
    for layer, found in known.items():
        both[0][layer], both[1][layer] = found.kl[0].cpu(), found.change[0].cpu()
    whole = allowed(options, "sweep", seconds).cost(n_layer * n_columns)
    return Effect(*both), whole | {"computed": len(known) == n_layer, "layers": sorted(known), "columns": n_columns}


def texts(run: Pass, cut: Cut, parts: Sequence[str], options: Options, seconds: float) -> dict[str, object]:
    """New text with and without the parts, or why there is none."""
    room = run.model.config.resolved().context_length - run.t
    new = max(0, min(options.new, MORE, room))
    cost = allowed(options, "text", seconds).cost(2 * new)
    if not new:
        return cost | {"why": "the prompt fills the model's context: there is no room for new text"}
    if not cost["computed"]:
        return cost | {"why": None}
    try:
        both = [memoised(run, cut, names, new) for names in ([], parts)]
    except FathomError as error:
        return cost | {"why": str(error)}
    before, after = ([{"id": id, "text": run.text_of(id)} for id in ids] for ids in both)
    return cost | {"why": None, "before": before, "after": after}


def memoised(run: Pass, cut: Cut, parts: Sequence[str], new: int) -> list[int]:
    """`continued`, once for each cut."""
    key = f"text {cut.how} {cut.fault} {' '.join(parts)} {new}" if parts else f"text {new}"
    if key not in run.notes:
        run.notes[key] = continued(cut, run.ids, parts, new)
    return run.notes[key]


def setup(run: Pass, options: Options, parts: Sequence[str] = ()) -> tuple[str, ...]:
    """The lines that make `before`, `after` and `found` of this cut."""
    load = "from fathom.inspect.ablate import Cut, columns, effect, logits_without, places"
    return (
        *looking([*ablate.recorded(run.model.config), "logits"], load),
        f"cut = Cut(model, seen, {options.how!r}, places({run.t}, {MORE}, {run.seed}), {options.fault!r})",
        'before = seen["logits"][0]',
        f"after = logits_without(model, ids, cut.edits([{list(parts)!r}]))[0]",
        "found = effect(before, after, ids)",
    )


def compared(run: Pass, after: Tensor, parts: Sequence[str], options: Options) -> dict[str, Series]:
    """Before and after: the likeliest tokens, and at each position the change of the log-probability and KL."""
    before, lines, token, query = run.kept["logits"][0], setup(run, options, parts), ("query", "token"), ("query",)
    tokens, found = likeliest(before, after), effect(before, after, run.ids)
    load = ("from fathom.glass.ablation import likeliest", *lines, "tokens = likeliest(before, after)")
    series = {"tokens": Series(tokens, "computed", "the likeliest tokens", token, "tokens[{0}, {1}]", load)}
    for name, logits in (("before", before), ("after", after)):
        p, code = (
            logits.double().softmax(-1).gather(-1, tokens),
            f"{name}[{{0}}].double().softmax(-1)[tokens[{{0}}, {{1}}]]",
        )
        series[name] = Series(p, "computed", f"softmax(logits), {name} the cut", token, code, load)
    divergence = "sum(p log(p / q)), p before the cut and q after it"
    series["kl"] = Series(found.kl, "computed", divergence, query, "found.kl[{0}]", lines)
    gain = "log q - log p of the token that follows"
    series["change"] = Series(found.change, "computed", gain, query, "found.change[{0}]", lines)
    return series


def likeliest(before: Tensor, after: Tensor) -> Tensor:
    """Tokens (t, n) to compare at each position of logits (t, V): the likeliest before and after, then the next."""
    n = min(LIKELIEST, before.shape[-1] // 2)
    first, then = before.topk(2 * n, -1).indices.tolist(), after.topk(n, -1).indices.tolist()
    lists = [list(dict.fromkeys([*old[:n], *new, *old[n:]]))[: 2 * n] for old, new in zip(first, then)]
    return torch.tensor(lists, device=before.device)


def sweep_series(run: Pass, found: Effect, options: Options) -> dict[str, Series]:
    """The effect of each part cut alone, at each position."""
    lines = (*setup(run, options), "columns = columns(model.config)")
    one = 'effect(before, logits_without(model, ids, cut.edits([[f"blocks.{0}{columns[{1}]}"]])), ids)'
    dims, what = ("layer", "part", "query"), f"{options.how} in the place of one part"
    return {
        "sweep_kl": Series(found.kl, "computed", f"KL with {what}", dims, f"{one}.kl[0, {{2}}]", lines),
        "sweep_change": Series(
            found.change, "computed", f"log-probability gained with {what}", dims, f"{one}.change[0, {{2}}]", lines
        ),
    }
