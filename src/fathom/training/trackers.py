"""Experiment trackers beside the run folder, which stays the truth: TensorBoard, Weights & Biases, trackio, a CSV.

All get the numbers of metrics.jsonl, under the same names and steps. One that fails says so once, and the run goes on.
"""

import contextlib
import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml

from fathom.errors import FathomError
from fathom.files import atomic_write
from fathom.training.events import Event, Note, Report, line_of, read_metrics

NAMES = {  # of metrics.jsonl, and here
    "loss": "loss/train",
    "val_loss": "loss/val",
    "load_balancing_loss": "loss/load_balancing",
    **{
        name: name
        for name in ("learning_rate", "grad_norm", "bits_per_character", "bits_per_byte", "tokens", "seconds")
    },
}
IDS = "trackers.json"  # how each tracker knows the run, so that it goes on there when the run is resumed
CSV = "metrics.csv"
PATIENCE = 60  # seconds that a service may take to answer, or for the rest of a run's numbers
Line = Mapping[str, Any]  # of metrics.jsonl


class Tracker(Protocol):
    """One place where numbers go. Its methods may raise anything; then it is left out."""

    where: str  # what the user is told; "" where nothing need be said

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def values_of(line: Line) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by the names of trackers."""
    return {NAMES[name]: value for name, value in line.items() if name in NAMES and value is not None}


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; those of lost steps after `step` are hidden."""

    where = ""

    def __init__(self, folder: Path, id: str, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        if not step:
            self.writer.add_text("settings", f"```yaml\n{yaml.safe_dump(dict(settings), sort_keys=False)}```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases: the project of WANDB_PROJECT, or fathom; WANDB_MODE=offline keeps it in the run's folder."""

    def __init__(self, folder: Path, id: str, settings: Mapping[str, Any], step: int) -> None:
        import wandb

        offline = os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled")
        if not offline and not wandb.Settings().api_key and not wandb.api.api_key:
            raise FathomError("not logged in; run wandb login, or set WANDB_MODE=offline")
        choices = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "fathom",
            name=os.environ.get("WANDB_NAME") or folder.name,
            id=id,
            resume="allow",
            dir=folder,
            config=dict(settings),
            settings=choices,
        )
        self.where = f"offline, in {folder / 'wandb'}; send it with wandb sync" if offline else str(self.run.url)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """trackio: the project of TRACKIO_PROJECT, or fathom, on this machine, or where trackio's own variables say."""

    def __init__(self, folder: Path, id: str, settings: Mapping[str, Any], step: int) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT") or "fathom"
        with contextlib.redirect_stdout(io.StringIO()):  # where the result of --json goes
            self.run: Any = trackio.init(
                project=project,
                name=f"{folder.name}-{id}",
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
            )
        self.where = f"see it with trackio show --project {project}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        import trackio

        finish: Any = trackio.finish
        with contextlib.redirect_stdout(io.StringIO()):
            finish()  # not the run's own: the package would finish it again, and say so, as the process ends


class Csv:
    """metrics.csv: a row for each step, a column for each number."""

    where = ""

    def __init__(self, folder: Path, id: str, settings: Mapping[str, Any], step: int) -> None:
        self.step, self.row = step, dict[str, float]()
        with atomic_write(folder / CSV) as new:
            new.write_text(",".join(["step", *NAMES.values()]) + "\n", encoding="utf-8")
        self.file = (folder / CSV).open("a", encoding="utf-8", newline="")
        self.writer = csv.DictWriter(self.file, ["step", *NAMES.values()])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The row is written when its step is over: an evaluation may add to it."""
        if step != self.step:
            self.write()
        self.step, self.row = step, {**self.row, **values}

    def write(self) -> None:
        if self.row:
            self.writer.writerow({"step": self.step, **self.row})
            self.file.flush()
            self.row = {}

    def close(self) -> None:
        self.write()
        self.file.close()


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "csv": Csv,
}
REWRITTEN = ("csv",)  # made anew from metrics.jsonl, however often the run was resumed


def require_packages(names: Sequence[str]) -> None:
    """FathomError for a tracker whose package is not installed."""
    for name in names:
        spec = None if name == "csv" else find_spec(name)
        if name != "csv" and (spec is None or spec.origin is None):  # a folder that is called so has none
            others = ",".join(other for other in names if other != name)
            instead = f"log to {others} alone" if others else "leave --log out"
            raise FathomError(f"{name} is not installed; pip install 'fathom-lm[{name}]', or {instead}")


class Trackers:
    """A listener that passes numbers on to the trackers of a run. `report`: told where they are, and which one fails.

    before: the lines of metrics.jsonl as the last process left it; those after `step` are of steps that were lost, and
    will come again, the same. A tracker that is new to the run is given those up to `step`.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], step: int, report: Report
    ) -> None:
        self.report, self.open = report, dict[str, Tracker]()
        before = read_metrics(folder / "metrics.jsonl") if step else []
        self.sent = {kind_of(line) for line in before}
        ids = read_ids(folder / IDS) if step else {}
        known = set(ids)
        ids |= {name: secrets.token_hex(4) for name in names if name not in ids}
        with atomic_write(folder / IDS) as new:
            new.write_text(json.dumps(ids, indent=1), encoding="utf-8")
        for name in names:
            with self.forgiven(name):
                self.open[name] = TRACKERS[name](folder, ids[name], settings, step)
            if name in self.open and (name not in known or name in REWRITTEN):
                for line in before:
                    if line["step"] <= step:
                        self.pass_on(name, line)
        for name, tracker in self.open.items():
            if tracker.where:
                report(Note(f"{name}: {tracker.where}"))

    def __call__(self, event: Event) -> None:
        line = line_of(event)
        if line is None or not values_of(line):
            return
        for name in list(self.open):
            if name in ("wandb", "trackio") and kind_of(line) in self.sent:
                continue  # they cannot forget the steps that were lost
            self.pass_on(name, line)

    def pass_on(self, name: str, line: Line) -> None:
        if name in self.open and (values := values_of(line)):
            with self.forgiven(name):
                self.open[name].log(line["step"], values)

    @contextmanager
    def forgiven(self, name: str) -> Iterator[None]:
        """Whatever a tracker raises is told once, and ends it; the run goes on."""
        try:
            yield
        except Exception as problem:
            self.open.pop(name, None)
            text = " ".join(str(problem).split())[:200]
            kind = "" if isinstance(problem, FathomError) else f"{type(problem).__name__}: "
            self.report(Note(f"{name} failed ({kind}{text}); the run goes on without it", warning=True))

    def close(self) -> None:
        for name, tracker in list(self.open.items()):
            with self.forgiven(name):
                tracker.close()


def kind_of(line: Line) -> tuple[int, bool]:
    """Which numbers a line holds: of a step, or of an evaluation after it."""
    return line["step"], "val_loss" in line


def read_ids(path: Path) -> dict[str, str]:
    """How trackers know the run; nothing where the file is gone or damaged: then they begin a new one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(id) for name, id in values.items() if name in TRACKERS}
    except (OSError, ValueError, AttributeError):
        return {}
