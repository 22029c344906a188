"""The report of a ladder: a table for the terminal, and one self-contained HTML page.

The page has charts, a table, and for each rung its idea, changed field, source and sample. Every number comes from
ladder.json, and every rung names its runs there. Quoted source is read from the running program.
"""

import inspect
import json
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from fathom.experiments.result import FILE, Estimate, LadderResult
from fathom.experiments.rungs import Rung
from fathom.experiments.rungs import difference as changed
from fathom.fields import plain
from fathom.files import atomic_write
from fathom.model.cost import flops_per_token, n_parameters
from fathom.report import html, plot
from fathom.report.html import Html, tag
from fathom.report.plot import Curve, Row, Theme, signed
from fathom.report.table import table


def source(reference: str) -> str:
    """The source of "fathom/model/attention.py:attend" or "...:Class.method", its indentation removed."""
    path, _, name = reference.partition(":")
    thing: Any = import_module(".".join(PurePosixPath(path).with_suffix("").parts))
    for part in name.split("."):
        thing = getattr(thing, part)
    return textwrap.dedent(inspect.getsource(thing))


HEADS = ("rung", "parameters", "FLOPs/token", "val loss", "bits/char", "what it bought", "")
NUMBERS = (1, 2, 3, 4, 5)


def terminal(result: LadderResult) -> Table:
    """The result as a table for the terminal."""
    return table(HEADS, rows(result), NUMBERS)


def rows(result: LadderResult) -> list[Sequence[str]]:
    """Rows of text under HEADS: the baselines, then each rung."""
    result_rows: list[Sequence[str]] = []
    for name, counted in result.references.named().items():
        result_rows.append(
            (name, "", "", f"{counted:.4f}", f"{result.bits_per_character(counted):.3f}", "", "reference")
        )
    for rung in result.ladder:
        loss, bought = result.loss(rung.key), result.gain(rung.key)
        result_rows.append(
            (
                rung.idea.title,
                f"{n_parameters(rung.config):,}",
                rounded(flops_per_token(rung.config, rung.config.context_length)),
                spread(loss) if loss else "not measured",
                f"{result.bits_per_character(loss.mean):.3f}" if loss else "",
                difference(bought) if bought else "",
                bought.verdict if bought else "",
            )
        )
    return result_rows


def spread(loss: Estimate) -> str:
    """Mean ± half the width of its interval."""
    return f"{loss.mean:.4f}" if loss.half_width is None else f"{loss.mean:.4f} ± {loss.half_width:.3f}"


def difference(bought: Estimate) -> str:
    """A signed difference ± half the width of its interval."""
    return signed(bought.mean) if bought.half_width is None else f"{signed(bought.mean)} ± {bought.half_width:.3f}"


def rounded(number: float) -> str:
    """1234567 -> 1.23M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def summary(result: LadderResult) -> list[str]:
    """The findings, in sentences."""
    sentences = []
    if result.options.seeds == 1:
        sentences.append("One seed gives no interval for a difference; use more seeds.")
    for verdict, words in (
        ("better", "Better than the rung below, beyond noise"),
        ("worse", "Worse than the rung below, beyond noise"),
        ("within noise", "Within noise, undecided by this ladder"),
    ):
        titles = [r.idea.title for r in result.ladder if (b := result.gain(r.key)) and b.verdict == verdict]
        sentences += [f"{words}: {', '.join(titles)}."] if titles else []
    if bigram := result.loss("bigram"):
        gap = bigram.mean - result.references.bigram
        sentences.append(f"The trained bigram is {signed(gap)} from the counted one, which is its limit.")
    return sentences


PAGE = "index.html"
CLASSES = {"better": "good", "worse": "bad"}
MEANINGS = (
    "Validation loss is the mean of -ln p over the same validation tokens for every rung, at the last step. Bits per "
    "character divide it by ln 2 and by characters per token.",
    "± is half the width of a 95 % t-interval over seeds; what an idea bought is paired by seed. A seed decides the "
    "first weights and the order of the data. Of twenty such intervals one misses the truth, on average. And it is the "
    "truth about this text, size and budget: an idea that helps large models or long training may buy nothing here, "
    "and a rung with more FLOPs takes more time for the same tokens.",
    "All rungs share one batch size and one set of learning rates. The defaults were chosen by validation loss on tiny "
    "Shakespeare, from about ten tries; with other settings the smaller differences (depth above all) came out "
    "otherwise.",
    "Baselines are counted on the training text and measured on the same validation tokens. ln V is uniform, the "
    "unigram entropy uses token frequencies, the count bigram the frequencies of pairs, with additive smoothing "
    "chosen by leave-one-out on the training text.",
    "FLOPs are the matrix products of forward and backward for one token of a full context.",
)


def write_page(result: LadderResult, folder: Path) -> Path:
    """Write index.html into the folder of the ladder."""
    path = folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(page(result), encoding="utf-8")
    return path


def page(result: LadderResult) -> str:
    """The whole page."""
    title = f"From a bigram to LLaMA on {Path(result.text.name).name}"
    sections = [section(place, rung, result) for place, rung in enumerate(result.ladder)]
    return html.page(title, tag("h1", title), *head(result), *overview(result), *sections, *provenance(result))


def head(result: LadderResult) -> list[Html]:
    """The set-up, the findings, and whether runs are missing."""
    o = result.options
    facts = {
        "training tokens": f"{result.text.n_train:,}",
        "vocabulary": f"{result.text.vocab_size:,}",
        "steps of every run": f"{result.steps:,}",
        "tokens each run reads": f"{result.tokens:,}",
        "seeds": f"{o.seeds}",
        "width": f"{o.d_model}",
        "context": f"{o.context_length}",
    }
    lead = (
        f"Each rung is the model below it with {'some fields' if o.rungs else 'one field'} of its config changed. "
        "All see the same data in the same order for the same number of steps, with the same optimizer settings."
    )
    wanted = len(result.ladder) * o.seeds
    cut = f"This ladder was interrupted: {len(result.trained)} of {wanted} runs are finished, and only those are shown."
    return [
        tag("p", lead, class_="lead"),
        tag("ul", *(tag("li", tag("b", value), tag("span", name)) for name, value in facts.items()), class_="facts"),
        *([] if result.complete else [tag("p", cut, class_="bad")]),
        *(tag("p", sentence) for sentence in summary(result)),
    ]


def overview(result: LadderResult) -> list[Html]:
    """Charts and table."""
    seed = result.options.seed
    return [
        html.figure(
            lambda theme: losses(result, theme),
            "Validation loss of each rung: mean over seeds with its 95 % interval; small dots are the seeds.",
        ),
        html.figure(
            lambda theme: gains(result, theme),
            "What each idea bought: by how much the loss fell from the rung below, paired by seed, with its 95 % "
            "interval. Grey: within noise.",
        ),
        html.figure(lambda theme: learning(result, theme), f"Validation loss during training, seed {seed}."),
        html.table(HEADS, rows(result), NUMBERS),
    ]


def losses(result: LadderResult, theme: Theme) -> Figure:
    shown = []
    for rung in result.ladder:
        if loss := result.loss(rung.key):
            shown.append(Row(rung.idea.title, loss.mean, loss.half_width, list(result.losses(rung.key).values())))
    counted = result.references.named()
    del counted["ln V"]  # far to the right of every trained model
    return plot.dots(shown, "validation loss, nats per token", counted, theme)


def gains(result: LadderResult, theme: Theme) -> Figure:
    shown = []
    for rung in result.ladder[1:]:
        if bought := result.gain(rung.key):
            unsure = bought.verdict not in CLASSES
            shown.append(Row(rung.idea.title, bought.mean, bought.half_width, faint=unsure))
    return plot.bars(shown, "fall of the validation loss, nats per token", theme)


def learning(result: LadderResult, theme: Theme) -> Figure:
    drawn = [
        Curve(rung.idea.title, run.steps, run.losses, colour=place)
        for place, rung in enumerate(result.ladder)
        for run in result.runs(rung.key)
        if run.seed == result.options.seed
    ]
    return plot.curves(drawn, "step", "validation loss, nats per token", result.references.named(), theme, (6.8, 5.4))


def section(place: int, rung: Rung, result: LadderResult) -> Html:
    """One rung: idea, numbers, change, source, sample, runs."""
    idea, below = rung.idea, result.ladder[place - 1] if place else None
    path, _, name = idea.source.partition(":")
    more = [tag("p", "More: ", tag("code", f"docs/{idea.page}"))] if idea.page else []
    samples = [run for run in result.runs(rung.key) if run.sample is not None]
    return html.join(
        tag("h2", f"{place + 1}. {idea.title}", id=idea.key),
        tag("p", idea.about),
        tag("ul", *numbers(rung, below, result), class_="facts"),
        *([tag("h3", "The change"), change(below, rung)] if below else []),
        tag("h3", "The lines that do it: ", tag("code", f"{name} in {path}")),
        html.code(source(idea.source)),
        *more,
        *(tag("h3", f"What it writes (seed {run.seed})") for run in samples),
        *(tag("pre", run.sample or "", class_="sample") for run in samples),
        runs(rung, result),
    )


def numbers(rung: Rung, below: Rung | None, result: LadderResult) -> list[Html]:
    """The facts of one rung."""
    loss, bought = result.loss(rung.key), result.gain(rung.key)
    more = f" ({n_parameters(rung.config) - n_parameters(below.config):+,})" if below else ""
    facts = {
        "parameters": f"{n_parameters(rung.config):,}{more}",
        "FLOPs per token of training": rounded(flops_per_token(rung.config, rung.config.context_length)),
    }
    if loss:
        facts["validation loss, nats per token"] = spread(loss)
        facts["bits per character"] = f"{result.bits_per_character(loss.mean):.3f}"
    items = [tag("li", tag("b", value), tag("span", name)) for name, value in facts.items()]
    if bought:
        kind = CLASSES.get(bought.verdict, "noise")
        text = tag("b", f"{difference(bought)}, {bought.verdict}", class_=kind)
        items.append(tag("li", text, tag("span", "what it bought, nats per token")))
    return items


def change(below: Rung, rung: Rung) -> Html:
    """The changed fields, old and new."""
    fields = changed(below.config, rung.config).items()
    return html.code("\n".join(f"{name} = {new!r}  # was {old!r}" for name, (old, new) in fields) + "\n")


def runs(rung: Rung, result: LadderResult) -> Html:
    """The runs behind the numbers of a rung."""
    places = {(run.rung, run.seed): place for place, run in enumerate(result.trained)}
    texts = [
        f"seed {run.seed}: {run.loss:.4f} ({run.folder}, {FILE} trained[{places[run.rung, run.seed]}])"
        for run in result.runs(rung.key)
    ]
    return tag("p", tag("small", "Runs: " + "; ".join(texts) + "." if texts else "No run of this rung was finished."))


def provenance(result: LadderResult) -> list[Html]:
    """What the terms mean, and where every number comes from."""
    text, o = result.text, result.options
    facts = (
        f"Text {text.name}, sha256 {text.fingerprint}: {text.n_train:,} training tokens and {text.n_val:,} "
        f"validation tokens, of which {o.eval_windows} evenly spread windows of {o.context_length} (or all, where "
        f"there are fewer) were used. Trained on {result.machine}. All numbers are in {FILE}, all models in models/."
    )
    table = [
        (run.rung, f"{run.seed}", f"{run.steps[-1]:,}", f"{run.loss:.4f}", f"{run.seconds:.1f}", run.folder)
        for run in result.trained
    ]
    heads = ("rung", "seed", "steps", "loss", "seconds", "model")
    return [
        tag("h2", "What the numbers mean, and where they come from", id="provenance"),
        *(tag("p", meaning) for meaning in MEANINGS),
        tag("p", facts),
        tag("details", tag("summary", "Settings"), html.code(json.dumps(plain(o), indent=1) + "\n")),
        tag("details", tag("summary", f"All {len(table)} runs"), html.table(heads, table, (1, 2, 3, 4))),
    ]
