"""`fathom.replay`: one step of a run again, from the checkpoint before it: its batch, its losses, its gradients."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.adapters.merge import in_floats
from fathom.data.batches import IGNORED, Batch, as_batch
from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG, read_config
from fathom.formats.run import METRICS
from fathom.model.transformer import Transformer
from fathom.report.table import plain, table
from fathom.tokenizer.protocol import Tokenizer
from fathom.training.checkpoints import restore_from
from fathom.training.events import read_metrics, silent
from fathom.training.loop import update
from fathom.training.run import Run, open_finetune_run, open_run
from fathom.training.session import Session
from fathom.words import counted

SHOWN = 40  # characters of a row that a terminal shows


@dataclass(frozen=True)
class Row:
    """A row of the batch: its tokens as text, what each is to be followed by, and the loss there in nats, NaN where
    nothing is learned."""

    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over what is learned."""
        known = [loss for loss in self.losses if not math.isnan(loss)]
        return sum(known) / max(1, len(known))


@dataclass(frozen=True)
class Part:
    """Of a part of the model, such as blocks.0.attn: the norms of its gradient before clipping, of its weights before
    the step, and of what the step changed."""

    name: str
    gradient: float
    weights: float
    change: float


@dataclass(frozen=True)
class Replayed:
    """A step that was made again. begin: the step of the checkpoint from which, 0: from the first weights. recorded:
    the line that the run wrote of it, None where it wrote none. model: with the weights before the step."""

    folder: Path
    step: int
    begin: int
    loss: float
    grad_norm: float
    learning_rate: float
    recorded: Mapping[str, Any] | None
    rows: tuple[Row, ...]
    parts: tuple[Part, ...]
    ids: Tensor
    tokenizer: Tokenizer
    model: Transformer

    @property
    def equal(self) -> bool:
        """Whether loss and gradient norm are those that the run wrote, to the bit."""
        ours = {"loss": self.loss, "grad_norm": self.grad_norm}
        return self.recorded is not None and all(self.recorded.get(name) == value for name, value in ours.items())

    def verdict(self) -> str:
        """How it compares with what the run wrote."""
        if self.recorded is None:
            return "the run wrote nothing of this step"
        if self.equal:
            return "equal to the bit to what the run wrote"
        return (
            f"the run wrote loss {self.recorded.get('loss')} and gradient norm {self.recorded.get('grad_norm')}: not"
            " the same to the bit, as on another machine, with other thread counts or with several processes"
        )

    def to_json(self) -> dict[str, Any]:
        """All but the model."""
        rows = [{"text": "".join(row.tokens), "loss": row.loss, "losses": list(row.losses)} for row in self.rows]
        parts = {
            one.name: {"gradient": one.gradient, "weights": one.weights, "change": one.change} for one in self.parts
        }
        own = {name: getattr(self, name) for name in ("step", "begin", "loss", "grad_norm", "learning_rate", "equal")}
        return {"folder": str(self.folder), **own, "rows": rows, "parts": parts}

    def __repr__(self) -> str:
        """As a terminal shows it."""
        start = f"step {self.begin:,}'s checkpoint" if self.begin else "the first weights"
        lines = [
            f"{self.folder}, step {self.step:,}, from {start}",
            f"loss {self.loss!r}, gradient norm {self.grad_norm!r}, learning rate {self.learning_rate:.3g}",
            self.verdict(),
            "",
        ]
        worst = [worst_token(row) for row in self.rows]
        cells = [(str(n), f"{row.loss:.4f}", each, shown(row)) for n, (row, each) in enumerate(zip(self.rows, worst))]
        lines.append(plain(table(("row", "loss", "largest, at", "text"), cells, numbers=(0, 1))).rstrip())
        figures = [
            (one.name, f"{one.gradient:.3g}", f"{one.weights:.3g}", f"{one.change / max(one.weights, 1e-30):.2e}")
            for one in self.parts
        ]
        heads = ("part", "gradient", "weights", "change / weights")
        lines += ["", plain(table(heads, figures, numbers=(1, 2, 3))).rstrip()]
        return "\n".join(lines)


def worst_token(row: Row) -> str:
    """The token that surprised most, and its loss."""
    known = [(loss, place) for place, loss in enumerate(row.losses) if not math.isnan(loss)]
    if not known:
        return ""
    loss, place = max(known)
    return f"{loss:.2f} {json.dumps(row.targets[place], ensure_ascii=False)}"


def shown(row: Row) -> str:
    """The beginning of its text on one line."""
    text = json.dumps("".join(row.tokens), ensure_ascii=False)[1:-1]
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def replay(run: str | Path, step: int) -> Replayed:
    """Make one step of a run again, from the newest checkpoint before it, or from its first weights.

        >>> print(fathom.replay("runs/demo", 120))

    run: the folder of `fathom train` or `fathom finetune`. step: counted from 1. Nothing in the folder changes. On the
    machine and with the threads of the run, loss and gradient norm are the same to the bit, which is compared.

    FathomError where there is no such run, it never made that step, or every checkpoint before it is damaged.
    """
    folder = Path(run)
    opened = opened_run(folder)
    lines = {line["step"]: line for line in read_metrics(folder / METRICS) if "loss" in line}
    if not 1 <= step <= max(lines, default=0):
        raise FathomError(f"step is {step}; {folder} has made {counted(max(lines, default=0), 'step')}, counted from 1")
    session = opened.start()
    begin = restored(opened, session, step - 1)
    batches = opened.batches()
    while session.step < step - 1:
        advance(session, batches, lines)
    rows = as_batch(batches.at(session.step))
    losses = token_losses(session, rows)
    before = {name: p.detach().clone() for name, p in session.model.named_parameters() if p.requires_grad}
    gradients: dict[str, Tensor] = {}

    def note() -> None:
        for name, p in session.model.named_parameters():
            if p.grad is not None:
                gradients[name] = p.grad.detach().norm().cpu()

    ready = plain_model(session)
    session.seconds = float(lines.get(step - 1, {}).get("seconds", 0.0))
    progress = update(session, session.prepare(rows), note)
    return Replayed(
        folder,
        step,
        begin,
        progress.loss,
        progress.grad_norm,
        progress.learning_rate,
        lines.get(step),
        tuple(row_of(opened.tokenizer, rows, losses, at) for at in range(len(rows.ids))),
        tuple(parts_of(session.model, before, gradients)),
        rows.ids,
        opened.tokenizer,
        ready,
    )


def opened_run(folder: Path) -> Run:
    """The run in a folder, of either verb."""
    tuned = (folder / CONFIG).is_file() and "finetune" in read_config(folder / CONFIG)
    return open_finetune_run(folder) if tuned else open_run(folder)


def restored(run: Run, session: Session, most: int) -> int:
    """Puts a session where the newest sound checkpoint of at most this step was saved; returns its step."""
    problems = []
    for path in checkpoint.newest_first(run.checkpoints):
        if (step := checkpoint.step_of(path)) > most:
            continue
        try:
            checkpoint.verify(path)
        except FathomError as problem:
            problems.append(str(problem))
            continue
        restore_from(path, run, session, silent)
        return step
    if problems:
        raise FathomError(f"no checkpoint before step {most + 1} is intact; the newest: {problems[0]}")
    return 0


def advance(session: Session, batches: Any, lines: Mapping[int, Mapping[str, Any]]) -> None:
    """One step as the run made it. Where minutes end the run its rate follows the clock, which is as the run wrote."""
    if session.options.max_minutes and (line := lines.get(session.step)) is not None:
        session.seconds = float(line["seconds"])
    update(session, session.prepare(batches.at(session.step)))


@torch.no_grad()
def token_losses(session: Session, rows: Batch) -> list[float]:
    """-ln p of every target of the batch, with the dropout of the step, in the order of micro-batches."""
    found: list[float] = []
    for part in session.prepare(rows).parts:
        if session.learner.masks is not None:
            session.learner.masks.keys = part.keys
        with session.precision.autocast():
            x = session.model.hidden(part.ids, part.past).flatten(0, 1)
            x = x if part.places is None else x.index_select(0, part.places)
            logits = session.model.unembed(x).float()
        found += torch.nn.functional.cross_entropy(logits, part.targets, reduction="none").tolist()
    return found


def row_of(tokenizer: Tokenizer, rows: Batch, losses: Sequence[float], at: int) -> Row:
    trained = rows.targets != IGNORED
    begin = int(trained[:at].sum())
    read = rows.ids[at] if rows.documents is None else rows.ids[at][rows.documents[at] >= 0]
    known = iter(losses[begin : begin + int(trained[at].sum())])
    each = tuple(next(known) if one else math.nan for one in trained[at][: len(read)].tolist())
    targets = rows.targets[at][: len(read)].clamp(min=0).tolist()
    pieces = [tokenizer.decode_bytes([id]).decode("utf-8", "replace") for id in (*read.tolist(), *targets)]
    return Row(tuple(pieces[: len(read)]), tuple(pieces[len(read) :]), each)


def parts_of(model: Transformer, before: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Iterator[Part]:
    """The parts of the model in the order of computation: blocks.0.attn and so on."""
    after = dict(model.named_parameters())
    groups: dict[str, list[str]] = {}
    for name in before:
        words = name.split(".")
        groups.setdefault(".".join(words[:3] if words[0] == "blocks" else words[:1]), []).append(name)

    def size(tensors: Iterator[Tensor]) -> float:
        return math.sqrt(sum(float(x.float().norm()) ** 2 for x in tensors))

    for group, names in groups.items():
        gradient = size(gradients[name] for name in names if name in gradients)
        change = size(after[name].detach() - before[name] for name in names)
        yield Part(group, gradient, size(before[name] for name in names), change)


def plain_model(session: Session) -> Transformer:
    """A copy with the weights that it has now, to be looked into."""
    copy = in_floats(session.model)
    state = {name: value.clone() for name, value in copy.state_dict().items()}
    alone = Transformer(copy.config)
    alone.load_state_dict(state)
    return alone.eval()
