"""What a run records during training: metrics, its page, a plot of its loss, samples or answers, speed and trend.

A `Record` is the listener that the loop reports to. It adds to each event what belongs beside it, and passes all on.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

import torch

from fathom.errors import Diverged
from fathom.formats.run import METRICS, best_step
from fathom.generation.generate import generate
from fathom.generation.options import GenerateOptions
from fathom.machine import peak_memory
from fathom.report.plot import loss_curve, save
from fathom.training import events
from fathom.training.events import Evaluated, Event, Metrics, Note, Progress, Report, Sample, broadcast, loss_curves
from fathom.training.page import State, write_page
from fathom.training.run import FinetuneRun, Run
from fathom.training.session import Session
from fathom.training.trackers import Trackers
from fathom.training.trend import Trend
from fathom.words import counted, duration

DRAWING = 0.02  # the share of a run's time that renewing its page and its plot may take


@contextmanager
def recording(run: Run, session: Session, report: Report) -> Iterator["Record"]:
    """The record of a run from where its session is; the plot is up to date when the block ends, however it ends.

    Of several processes the first one writes it. The others see the same events, and come to the same decisions.
    """
    with ExitStack() as stack:
        lines = events.metrics_until(run.folder / METRICS, session.step)
        listeners: list[Report] = []
        if session.world.first:
            listeners = [report]
            if run.options.log:  # before metrics.jsonl forgets the steps that were lost
                trackers = Trackers(run.options.log, run.folder, run.settings(), session.step, report)
                listeners.insert(0, stack.enter_context(closing(trackers)))
            listeners.insert(0, stack.enter_context(closing(Metrics(run.folder / METRICS, lines))))
        record = Record(run, session, broadcast(listeners), lines)
        try:
            yield record
        except Diverged as problem:
            record.state, record.problem = "diverged", str(problem)
            raise
        finally:
            if record.state == "training":
                record.state = "finished" if session.finished else "stopped"
            record.draw()


class Record:
    """Passes events on to `send`, and adds samples, speed, the trend of the losses and figures in the run folder."""

    def __init__(self, run: Run, session: Session, send: Report, lines: Sequence[Mapping[str, Any]]) -> None:
        """lines: of the run's metrics so far."""
        self.run, self.session, self.send = run, session, send
        guessing = math.log(run.config.vocab_size)
        self.trend = Trend(guessing, run.options.keep_going, lambda: best_step(run.checkpoints))
        self.trend.replay(lines)
        self.samples = [str(line["sample"]) for line in lines if "sample" in line]
        self.sampled = max((line["step"] for line in lines if "sample" in line), default=-1)  # the step of the last one
        self.speed_known = False
        self.state: State = "training"
        self.problem = ""  # why it has diverged
        self.drawn, self.cost = -math.inf, 0.0  # when, and how many seconds it took

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            known = bits(self.run, event.loss)
            figures = known["bits_per_character"], known["bits_per_byte"]
            peak = peak_memory(self.session.device) or None
            event = Evaluated(event.step, event.loss, event.seconds, *figures, event.experts, peak)
        self.send(event)
        for note in self.trend(event):
            self.send(note)
        if isinstance(event, Progress):
            self.measure(event)
            interval = self.run.options.sample_interval
            if interval is not None and self.session.due(interval):
                self.sample()
        if isinstance(event, Evaluated) and time.perf_counter() - self.drawn >= self.cost / DRAWING:
            self.draw()

    def begin(self) -> None:
        """Before the first step of this process: how an existing model answers before it is fine-tuned."""
        if isinstance(self.run, FinetuneRun) and self.session.step == 0:
            if (expected := self.run.expected()) is not None:
                self.send(Note(f"question: {shortened(self.question())}\nanswer in the data: {shortened(expected)}"))
            self.sample()

    def end(self) -> None:
        """After the last step: the answers before and after, and which checkpoint is the best."""
        if isinstance(self.run, FinetuneRun) and self.session.finished:
            if self.sampled != self.session.step:
                self.sample()
            before, after = (shortened(self.samples[place]) for place in (0, -1))
            self.send(Note(f"before: {before}\nafter:  {after}"))
        if note := self.trend.closing():
            self.send(note)

    def question(self) -> str:
        prompt = self.run.prompt()
        return prompt if isinstance(prompt, str) else self.run.tokenizer.decode(prompt)

    def sample(self) -> None:
        question = self.question() if isinstance(self.run, FinetuneRun) else ""
        self.samples.append(write_sample(self.run, self.session))
        self.sampled = self.session.step
        self.send(Sample(self.session.step, self.samples[-1], question))

    def measure(self, event: Progress) -> None:
        """Say once how fast this machine is, and how long the run will take."""
        speed = None if self.speed_known else self.session.length.speed(event.step, event.seconds)
        if speed is None:
            return
        self.speed_known = True
        minutes, left = self.run.options.max_minutes, self.run.options.max_iters - event.step
        rest = f"{duration(left / speed)} to go"
        if minutes:
            rest = f"about {counted(event.steps, 'step')} in {counted(minutes, 'minute')}"
        if left > 0:
            self.send(Note(f"speed: {speed:.3g} steps/s measured on this machine, {rest}{self.each(event)}"))

    def each(self, event: Progress) -> str:
        """How fast several processes are, together and each."""
        if (size := self.session.world.size) == 1:
            return ""
        tokens = event.tokens / max(event.seconds, 1e-9)
        return f"; {tokens:,.0f} tokens/s in {size} processes, {tokens / size:,.0f} in each"

    def draw(self) -> None:
        """Renew the page and the picture of the loss."""
        if not self.session.world.first:
            return
        began = time.perf_counter()
        write_page(self.run, self.session, self.trend, self.state, self.problem)
        save_plot(self.run)
        self.drawn = time.perf_counter()
        self.cost = self.drawn - began


def bits(run: Run, loss: float) -> dict[str, float]:
    """Nats per token as bits per character and per byte: figures that models with different tokenizers share."""
    total = loss / math.log(2) * run.data.n_val
    return {"bits_per_character": total / run.data.val_characters, "bits_per_byte": total / run.data.val_bytes}


def write_sample(run: Run, session: Session) -> str:
    """A few lines by the model as it is now, from a random generator of their own: training is not changed by them.

    A question is answered with the likeliest tokens, so that two answers differ because the model does.
    """
    options = run.options
    temperature = 0.0 if isinstance(run, FinetuneRun) and run.asks else 0.8
    choices = GenerateOptions(max_new_tokens=options.sample_tokens, temperature=temperature, seed=options.seed)
    passes = session.precision.autocast() if session.learner.lowered else nullcontext()
    with passes, torch.compiler.set_stance("force_eager"):  # every token has another shape: nothing to compile for
        (sample,) = generate(session.model, run.tokenizer, [run.prompt()], choices)
    session.learner.let_go()
    return sample.text


def save_plot(run: Run) -> None:
    """The loss so far, as loss.png and loss.svg."""
    training, validation = loss_curves(run.folder / METRICS)
    for kind in ("png", "svg"):
        figure = loss_curve(training, validation, references={"guessing": math.log(run.config.vocab_size)})
        save(figure, run.folder / f"loss.{kind}")


def shortened(text: str, most: int = 300) -> str:
    """A text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
