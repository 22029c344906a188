"""The report of a ladder as one self-contained HTML page: an overview, then every model in detail.

Every number comes from ladder.json, and every model names its runs there. Quoted source is read from the running
program.
"""

import inspect
import json
import textwrap
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from fathom.anatomy.cost import flops_per_token, n_active_parameters, n_parameters
from fathom.experiments.charts import learning
from fathom.experiments.overview import concept, ladder_table, take_away_table
from fathom.experiments.result import FILE, LadderResult
from fathom.experiments.rungs import Idea, Rung
from fathom.experiments.rungs import difference as changed
from fathom.experiments.tables import BOUGHT, WORTH, apart, difference, limits, peeking, reason, spread, verdict
from fathom.experiments.take_aways import FINISHED, TAKE_AWAYS
from fathom.fields import plain
from fathom.files import atomic_write
from fathom.report import html
from fathom.report.html import Html, tag

PAGE = "index.html"
HASH = 12  # characters of a fingerprint that are shown
MEANINGS = (
    "Validation loss is the mean of -ln p over the same validation tokens for every model, at the last step. Bits per "
    "character are the loss divided by ln 2 and by the characters per token.",
    "± is half the width of a 95% t-interval over seeds. Differences are taken seed by seed: both models of a "
    "comparison start from the same seed and read the same data in the same order. Of twenty such intervals, one "
    "misses the true value on average. The verdicts hold for this text, size and budget: an idea that helps large "
    "models or long training may buy nothing here.",
    "All models share one batch size and one set of learning rates, chosen by validation loss on tiny Shakespeare. "
    "With other settings, small differences may come out otherwise.",
    "The baselines are counted on the training text and measured on the same validation tokens: ln V is a uniform "
    "guess, unigram uses the frequency of each token, and the count bigram that of each pair, with additive smoothing "
    "chosen by leave-one-out on the training text.",
    "FLOPs are the matrix products of forward and backward for one token of a full context.",
)


def source(reference: str) -> str:
    """The source of "fathom/model/attention.py:attend" or "...:Class.method", its indentation removed."""
    path, _, name = reference.partition(":")
    thing: Any = import_module(".".join(PurePosixPath(path).with_suffix("").parts))
    for part in name.split("."):
        thing = getattr(thing, part)
    return textwrap.dedent(inspect.getsource(thing))


def rounded(number: float) -> str:
    """1234567 -> 1.23M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def write_page(result: LadderResult, folder: Path) -> Path:
    """Write index.html into the folder of the ladder."""
    path = folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(page(result), encoding="utf-8")
    return path


def page(result: LadderResult) -> str:
    """The whole page."""
    title = f"From a bigram to LLaMA on {Path(result.text.name).name}"
    rungs = [
        *(section(f"{place}. ", rung, rung.idea, result) for place, rung in enumerate(result.ladder, 1) if rung.idea),
        *(section("", rung, rung.idea, result) for rung in result.beside if rung.idea),
    ]
    cut = f"This ladder was interrupted: {len(result.trained)} of {wanted(result)} runs are finished; they are shown."
    first = [*([] if result.complete else [tag("p", cut, class_="bad")]), ladder_table(result)]
    return html.page(
        title,
        html.found(title, finding(result), *first),
        *overview(result),
        html.folded("Rung by rung", *rungs, id="rungs"),
        *without(result),
        html.folded("How it was set up", *head(result), id="set-up"),
        provenance(result),
    )


def wanted(result: LadderResult) -> int:
    """The number of runs of a whole ladder."""
    return len(result.models) * result.options.seeds


def finding(result: LadderResult) -> str:
    """What was found, in one sentence."""
    ends = [result.loss(rung.key) for rung in (result.ladder[0], result.ladder[-1])]
    gains = {rung.title: result.gain(rung.key) for rung in result.ladder[1:]}
    known = {title: gain.mean for title, gain in gains.items() if gain is not None}
    if not ends[0] or not ends[1] or not known:
        return "Not enough runs are finished to say what was found."
    best = max(known, key=lambda title: known[title])
    return (
        f"From the first rung to the last, the validation loss falls from {ends[0].mean:.3f} to {ends[1].mean:.3f} "
        f"nats per token; what buys most is {best} ({known[best]:.3f})."
    )


def head(result: LadderResult) -> list[Html]:
    """The set-up, and whether runs are missing."""
    o = result.options
    facts = {
        "training tokens": f"{result.text.n_train:,}",
        "vocabulary": f"{result.text.vocab_size:,}",
        "steps of each run": f"{result.steps:,}",
        "tokens each run reads": f"{result.tokens:,}",
        "seeds": f"{o.seeds}",
        "width": f"{o.d_model}",
        "context": f"{o.context_length}",
    }
    lead = (
        f"Each rung is the model below it with {'some fields' if o.rungs else 'one field'} of its config changed. "
        "All read the same data in the same order for the same number of steps, with the same optimizer settings."
    )
    return [
        tag("p", lead, class_="lead"),
        tag("ul", *(tag("li", tag("b", value), tag("span", name)) for name, value in facts.items()), class_="facts"),
    ]


def overview(result: LadderResult) -> list[Html]:
    """What the table leaves open, the finished models without an idea, and the learning curves."""
    taken = html.folded(
        "Leave one out",
        tag("p", "What each idea is worth in the finished model: how far the loss rises without it."),
        take_away_table(result),
        *(tag("p", sentence) for sentence in peeking(result)),
        id="take-aways",
    )
    return [
        tag("p", "What each idea buys on top of those before it: how far the validation loss falls."),
        *(tag("p", sentence) for sentence in (*apart(result), *limits(result))),
        *([taken] if result.take_aways else []),
        html.folded(
            "While they learn",
            tag("div", html.figure(lambda theme: learning(result, theme), caption(result)), class_="narrow"),
            id="curves",
        ),
    ]


def caption(result: LadderResult) -> str:
    return f"Validation loss of each rung during training, from step 0 (seed {result.options.seed})."


def section(number: str, rung: Rung, idea: Idea, result: LadderResult) -> Html:
    """One rung: idea, numbers, change, source, sample, runs."""
    below = result.below(rung.key)
    path, _, name = idea.source.partition(":")
    samples = [run for run in result.runs(rung.key) if run.sample is not None]
    return html.folded(
        f"{number}{rung.title}",
        tag("p", idea.about, " More: ", concept(rung.page), "."),
        tag("ul", *numbers(rung, below, result), class_="facts"),
        *([tag("h3", "The change"), change(below, rung)] if below else []),
        tag("h3", "The lines that do it: ", tag("code", f"{name} in {path}")),
        html.code(source(idea.source)),
        *([tag("h3", "What it writes")] if samples else []),
        *(
            html.join(tag("p", f"seed {run.seed}", class_="faint"), tag("pre", run.sample or "", class_="sample"))
            for run in samples
        ),
        runs(rung, result),
        id=rung.key,
        level="h3",
    )


def numbers(rung: Rung, below: Rung | None, result: LadderResult) -> list[Html]:
    """The facts of one rung."""
    loss, bought = result.loss(rung.key), result.gain(rung.key)
    active = n_active_parameters(rung.config)
    more = f" ({n_parameters(rung.config) - n_parameters(below.config):+,})" if below else ""
    facts = {
        "parameters": f"{n_parameters(rung.config):,}{more}",
        **({"of which a token meets": f"{active:,}"} if active != n_parameters(rung.config) else {}),
        "FLOPs per token of training": rounded(flops_per_token(rung.config, rung.config.context_length)),
    }
    if loss:
        facts["validation loss, nats per token"] = spread(loss)
        facts["bits per character"] = f"{result.bits_per_character(loss.mean):.3f}"
    if bought:
        facts[f"what it bought: {reason(bought)}"] = f"{difference(bought)}, {verdict(bought, BOUGHT)}"
    return [tag("li", tag("b", value), tag("span", name)) for name, value in facts.items()]


def change(below: Rung, rung: Rung) -> Html:
    """The changed fields, old and new."""
    fields = changed(below.config, rung.config).items()
    return html.code("\n".join(f"{name} = {new!r}  # was {old!r}" for name, (old, new) in fields) + "\n")


def without(result: LadderResult) -> list[Html]:
    """A card for every idea that was left out: what the models do in its place, how that is written, and the runs."""
    cards, whole = [], {rung.key: rung for rung in result.ladder}
    for idea in TAKE_AWAYS:
        own = [rung for rung in result.take_aways if rung.key in {f"{name}-{idea.key}" for name in FINISHED}]
        if not own:
            continue
        instead = (
            html.code(source(f"fathom/experiments/take_aways.py:{idea.attend.__name__}"))
            if idea.attend
            else change(whole[own[0].whole or ""], own[0])
        )
        parts = [tag("h3", f"Without {idea.title}", id=own[0].key), tag("p", idea.without)]
        for rung in own:
            if worth := result.worth(rung):
                name = dict(FINISHED.values())[rung.whole or ""]
                said = f"{difference(worth)}, {verdict(worth, WORTH)}. {reason(worth)}."
                parts.append(tag("p", tag("b", f"{name}: "), said))
        parts += [instead, *(runs(rung, result) for rung in own)]
        cards.append(tag("div", *parts, class_="card"))
    return [html.folded("Left out, one by one", tag("div", *cards, class_="cards"), id="without")] if cards else []


def runs(rung: Rung, result: LadderResult) -> Html:
    """The runs behind the numbers of a model."""
    places = {(run.rung, run.seed): place for place, run in enumerate(result.trained)}
    texts = [
        f"seed {run.seed}: {run.loss:.4f} ({run.folder or 'no folder'}, {FILE} trained[{places[run.rung, run.seed]}])"
        for run in result.runs(rung.key)
    ]
    words = "Runs: " + "; ".join(texts) + "." if texts else "No run of this model was finished."
    return tag("p", tag("small", words))


def provenance(result: LadderResult) -> Html:
    """What the terms mean, and where every number comes from."""
    text, o = result.text, result.options
    facts = (
        f"Text {text.name} (sha256 {text.fingerprint[:HASH]}…): {text.n_train:,} training tokens and {text.n_val:,} "
        f"validation tokens, of which {o.eval_windows} evenly spread windows of {o.context_length} (or all, where "
        f"there are fewer) were used. Trained on {result.machine}. All numbers and the whole hash are in {FILE}, the "
        "models in models/."
    )
    return html.folded(
        "What the numbers mean, and where they come from",
        *(tag("p", meaning) for meaning in MEANINGS),
        tag("p", facts),
        tag("details", tag("summary", "Settings"), html.code(json.dumps(plain(o), indent=1) + "\n")),
        id="provenance",
    )
