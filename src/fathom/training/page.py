"""The page of a run, renewed while it trains: what is trained on what, its loss, what it writes or answers, what next.

One file with nothing to fetch. Every number is one of metrics.jsonl, facts.json or config.yaml in the same folder.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from fathom.anatomy.cost import n_parameters
from fathom.families.registry import obstacles
from fathom.fields import plain
from fathom.files import atomic_write
from fathom.formats.run import METRICS, PAGE
from fathom.machine import describe as describe_device
from fathom.report import html
from fathom.report.html import Html, tag
from fathom.report.live import BARS, clock
from fathom.report.loss_chart import Loss, loss_chart
from fathom.training.commands import Command, commands, near
from fathom.training.events import curves_in, read_metrics
from fathom.training.presets import PRESETS
from fathom.training.result import BALANCE
from fathom.training.run import FinetuneRun, Run
from fathom.training.session import Session
from fathom.training.travels import travels
from fathom.training.trend import Trend
from fathom.training.words import in_words, listed
from fathom.words import counted

RENEWED = 10  # seconds after which a browser reads the page of a running run again
SAMPLES = 6  # shown at most; the others are folded away
HASH = 12  # characters of a fingerprint that are shown
State = Literal["training", "finished", "stopped", "diverged"]
STATUS = re.compile(r'<span class="state[ a-z]*">(training|finished|stopped|diverged): step')
HEAD = 1 << 16  # characters of a page, in which its status stands
Lines = Sequence[Mapping[str, Any]]


def write_page(run: Run, session: Session, trend: Trend, state: State, problem: str = "") -> None:
    """Write page.html into the folder of the run, whole or not at all."""
    with atomic_write(run.folder / PAGE) as temporary:
        temporary.write_text(page(run, session, trend, state, problem), encoding="utf-8")


def page(run: Run, session: Session, trend: Trend, state: State, problem: str = "") -> str:
    """The whole page. problem: why the run has diverged."""
    lines = read_metrics(run.folder / METRICS)
    samples = [line for line in lines if "sample" in line]
    parts = [
        tag("h1", str(run.folder), " ", status(session, state)),
        tag("p", lead(run, session), class_="lead"),
        facts(session, trend, lines),
        *([tag("p", problem, class_="bad")] if problem else []),
        *losses(run, trend, lines),
        *experts(session, lines),
        *(answers(run, samples) if isinstance(run, FinetuneRun) else texts(run, samples)),
        *trained(run, session),
        *further(run, session),
    ]
    return html.page(str(run.folder), *parts, renewed=RENEWED if state == "training" else None)


def status(session: Session, state: State) -> Html:
    """How far the run is."""
    of = f" of {session.steps:,}" if session.steps and state != "finished" else ""
    kind = {"finished": " good", "diverged": " bad"}.get(state, "")
    return tag("span", f"{state}: step {session.step:,}{of}", class_=f"state{kind}")


def state_of(folder: Path) -> State | None:
    """What the page of a run says of it, from its first characters; None: there is no page yet."""
    try:
        with (folder / PAGE).open(encoding="utf-8", errors="replace") as file:
            found = STATUS.search(file.read(HEAD))
    except OSError:
        return None
    return found[1] if found else None  # type: ignore[return-value]


def lead(run: Run, session: Session) -> str:
    """What was trained on what, in a sentence or two."""
    total, data = n_parameters(session.model.config), run.data.corpus
    if not isinstance(run, FinetuneRun):
        return f"A language model of {total:,} parameters, trained from random weights on {data}."
    learned = sum(group.count for group in session.groups)
    if not run.tuning.adapted:
        return f"{near(run.base.path)}, a model of {total:,} parameters, all of which are fine-tuned on {data}."
    packed = f", whose weights are packed as {run.tuning.packing}," if run.tuning.packing else ""
    return (
        f"An adapter ({run.tuning.method}, rank {run.tuning.rank}) for {near(run.base.path)}{packed} fine-tuned on "
        f"{data}. It trains {learned:,} parameters, {learned / total:.1%} of the model's {total:,}."
    )


def facts(session: Session, trend: Trend, lines: Lines) -> Html:
    """The figures of the run."""
    named = {}
    if trend.best is not None:
        loss = trend.best[0]
        bits = next((line.get("bits_per_character") for line in lines if line.get("val_loss") == loss), None)
        named["best validation loss, nats per token"] = f"{loss:.4f}"
        named["perplexity"] = f"{math.exp(min(loss, 700)):,.2f}"
        named |= {"bits per character": f"{bits:.3f}"} if bits is not None else {}
    named["steps"] = f"{session.step:,}"
    named["tokens read"] = f"{session.tokens:,}"
    if session.tokens:
        named["time in all"] = clock(session.seconds)
        named["tokens per second"] = f"{session.tokens / max(session.seconds, 1e-9):,.0f}"
    return tag("ul", *(tag("li", tag("b", value), tag("span", name)) for name, value in named.items()), class_="facts")


def losses(run: Run, trend: Trend, lines: Lines) -> Iterator[Html]:
    """The curve, and what it means."""
    training, validation = curves_in(lines)
    best = None if trend.best is None else (float(trend.best[1]), trend.best[0])
    words = "" if trend.best is None else f"best {trend.best[0]:.3f} at step {trend.best[1]:,}"
    overfits = best[0] if best and trend.overfitting else None
    drawn = loss_chart(Loss(training, validation, best, words, overfits, math.log(run.config.vocab_size)))
    yield tag("h2", "Loss", id="loss")
    if not drawn:
        yield tag("p", "Nothing has been measured yet.")
        return
    caption = (
        "Training loss as measured (thin) and smoothed, and validation loss, on text that the model does not learn "
        f"from. Guessing among the {run.config.vocab_size:,} tokens of the vocabulary gives "
        f"{math.log(run.config.vocab_size):.2f}."
    )
    yield tag("figure", drawn, tag("figcaption", caption))
    for sentence in meaning(run, trend):
        yield tag("p", sentence)


def meaning(run: Run, trend: Trend) -> Iterator[str]:
    """What the losses say, in sentences."""
    if trend.best is None or trend.last is None:
        return
    (loss, step), (last, end) = trend.best, trend.last
    if trend.diverged:
        yield f"The run diverged: its validation loss is {last:,.4f} at step {end:,}. Lower the learning rate (--lr)."
    if trend.overfitting:
        yield (
            f"The model has been overfitting since step {step:,}: the validation loss rises from {loss:.4f} to "
            f"{last:.4f}, while the training loss still falls. More text, a smaller model or fewer steps prevent that."
        )
    for saved in trend.saved():
        which = ", the last" if saved == end else ""
        yield f"The run is loaded from the checkpoint with the lowest validation loss: step {saved:,}{which}."


def experts(session: Session, lines: Lines) -> Iterator[Html]:
    """How the experts of each block were used before the last evaluation."""
    uses = [line["experts"] for line in lines if line.get("experts")]
    if not uses or session.balance is None:
        return
    losses = [line[BALANCE] for line in lines if BALANCE in line]
    rows = []
    for block, use in zip(session.balance.experts, uses[-1]):
        bars = "".join(BARS[min(int(part / max(use) * len(BARS)), len(BARS) - 1)] for part in use)
        rows.append((f"{block}", f"{max(use):.2f}", f"{min(use):.2f}", bars))
    yield tag("h2", "Experts", id="experts")
    yield tag("p", "How many tokens the experts ran since the evaluation before, over an even share of them.")
    yield html.table(("block", "most used", "least used", "each expert"), rows, numbers=(1, 2))
    if losses:
        used = next(iter(session.balance.experts.values())).used
        even = f"with all experts used alike it is {used}"
        yield tag("p", f"Load-balancing loss: {losses[-1]:.3f} at the last step, {losses[0]:.3f} at the first; {even}.")


def texts(run: Run, samples: Lines) -> Iterator[Html]:
    """What the model wrote while it learned, as it came."""
    if not samples:
        return
    prompt = run.options.sample_prompt
    yield tag("h2", "What it writes", id="samples")
    yield tag("p", f"Samples as they came{', each after the prompt in grey' if prompt else ''}.")
    yield from cards(samples, prompt)


def answers(run: FinetuneRun, samples: Lines) -> Iterator[Html]:
    """The same question answered before and after, side by side, and in between; or the same text continued."""
    if not samples:
        return
    asked, expected = str(samples[0].get("question", "")), run.expected()
    yield tag("h2", "Before and after", id="answers")
    yield tag("div", tag("small", "question" if run.asks else "the text to continue"), asked.strip(), class_="question")
    if expected is not None:
        yield tag("div", tag("small", "answer in the data"), expected.strip(), class_="question")
    first, *between = samples
    last = [between.pop()] if between else []
    yield tag("div", card(first, "first"), *(card(line, "last") for line in last), class_="pair")
    if between:
        yield tag("h3", "In between")
        yield from cards(between)


def cards(samples: Lines, prompt: str = "") -> Iterator[Html]:
    """Texts side by side with their steps; of many, those between the first and the last few are folded away."""
    drawn = [card(line, prompt=prompt) for line in samples]
    shown, folded = drawn, list[Html]()
    if len(drawn) > SAMPLES:
        shown, folded = [drawn[0], *drawn[1 - SAMPLES :]], drawn[1 : 1 - SAMPLES]
    yield tag("div", *shown, class_="cards")
    if folded:
        more = tag("summary", f"{len(folded)} more, after the first of these")
        yield tag("details", more, tag("div", *folded, class_="cards"))


def card(line: Mapping[str, Any], kind: str = "", prompt: str = "") -> Html:
    step = "before the first step" if line["step"] == 0 else f"after step {line['step']:,}"
    text = str(line["sample"])
    text = (text.strip() if "question" in line else text.rstrip("\n")) or "(nothing)"
    before = tag("span", prompt, class_="faint") if prompt else ""
    return tag("section", tag("h3", step), tag("pre", before, text), class_=f"card {kind}".strip())


def trained(run: Run, session: Session) -> Iterator[Html]:
    """Model, data, training and machine; all settings below."""
    config, options, data = session.model.config, run.options, run.data
    length = run.length if isinstance(run, FinetuneRun) else config.context_length
    rows = {
        "model": f"{in_words(config)}.",
        "parameters": f"{n_parameters(config):,}",
        "tokenizer": f"{run.tokenizer.kind}, {run.tokenizer.vocab_size:,} tokens",
        "data": f"{data.corpus} (sha256 {data.fingerprint[:HASH]}…): {data.n_train:,} tokens to learn from, "
        f"{data.n_val:,} to validate on",
        "preset": preset(run),
        "batch": f"{counted(options.batch_size, 'sequence')} of at most {counted(length, 'token')}",
        "optimizer": "; ".join(
            f"{group.optimizer} for {group.role}, learning rate {group.learning_rate:g}" for group in session.groups
        ),
        "seed": f"{options.seed}",
        "machine": f"{describe_device(session.device)}; {session.precision.describe()}",
    }
    settings = yaml.safe_dump(run.settings(), sort_keys=False, allow_unicode=True)
    yield tag("h2", "What was trained", id="model")
    cells = (tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows.items() if value)
    yield tag("table", tag("tbody", *cells), class_="about")
    yield tag("details", tag("summary", "All settings (config.yaml)"), tag("pre", settings))


def preset(run: Run) -> str:
    """The preset, and what this run has otherwise; empty where there was none."""
    if run.preset not in PRESETS:
        return ""
    recipe = PRESETS[run.preset]
    theirs = plain(recipe.options()) | plain(recipe.config(run.config.vocab_size).resolved())
    ours = plain(run.options) | plain(run.config.resolved())
    changed = [f"{name}={ours[name]}" for name in theirs if ours[name] != theirs[name]]
    return f"{run.preset}" + (f", with {', '.join(changed)}" if changed else "")


def further(run: Run, session: Session) -> Iterator[Html]:
    """What the model exports to, and the commands that go from here."""
    found = travels(session.model.config, run.tokenizer.kind)
    yield tag("h2", "What next", id="next")
    if found is None:
        yield tag("p", f"No other format holds this model: {obstacles(session.model.config)}.")
    else:
        yield tag("p", f"Exports to {listed(found[1])}, as {found[0].title}.")
    lines = commands(run, session, found[1] if found else [])
    yield tag("div", *(part for line in lines for part in command(line)), class_="commands")


def command(line: Command) -> tuple[Html, Html]:
    return tag("small", line.about), tag("pre", tag("code", line.line))
