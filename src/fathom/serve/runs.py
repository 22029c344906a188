"""Runs of the folder that is served: watched while they train, and small ones started, stopped and resumed.

A run that is started is `fathom train` in a process of its own, with a preset and a text that are known by name, into
the folder that is served. A signal ends it between two steps, with a checkpoint.
"""

import atexit
import contextlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import PathConvertor, register_url_convertor

from fathom.errors import FathomError, near
from fathom.glass import runs
from fathom.words import counted

MOST_MINUTES = 10.0
AT_ONCE = 2  # runs that train side by side
PATIENCE = 15  # seconds that a run has to end once it was told to


class AnyText(PathConvertor):
    """A name with slashes, and with line ends too, so that it is looked for and said not to be there."""

    regex = "(?s:.*)"


register_url_convertor("text", AnyText())


@dataclass
class Child:
    """A process that trains, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    said: Path
    stopped: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def problem(self) -> str:
        """Its last line, where it ended by itself with an error; "" where it did not."""
        if self.running or self.stopped or not self.process.returncode:
            return ""
        lines = [line for line in self.said.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"fathom train ended with exit code {self.process.returncode}"


@dataclass
class Starter:
    """Starts, stops and resumes runs in one folder."""

    folder: Path
    children: dict[str, Child] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.said = tempfile.TemporaryDirectory(prefix="fathom-")
        atexit.register(self.close)

    def start(self, preset: str, data: str, minutes: float) -> str:
        """Train a preset on a text for at most so many minutes; returns the run's name. FathomError: one of them is
        unknown or out of bounds, or enough runs train already."""
        presets, corpora = [one["name"] for one in runs.presets()], runs.corpora()
        for what, name, known in (("preset", preset, presets), ("text", data, corpora)):
            if name not in known:
                raise FathomError(f"no {what} {name!r}{near(name, known, then='known')} are {', '.join(known)}")
        if not 0 < minutes <= MOST_MINUTES:
            raise FathomError(f"minutes is {minutes:g}; expected more than 0 and at most {MOST_MINUTES:g}")
        names = (f"{preset}-{n}" for n in itertools.count(1))
        name = next(name for name in names if not (self.folder / name).exists() and name not in self.children)
        self.launch(name, "train", preset, "--data", data, "--max-minutes", f"{minutes:g}")
        return name

    def resume(self, name: str) -> None:
        """Continue a run that was stopped. FathomError: it trains, has ended, or is not there."""
        found = {one["name"]: one for one in runs.listed(self.folder)}
        run = found.get(name) or {}
        if not run or run["problem"]:
            raise FathomError(f"there is no run {name!r}{near(name, found) or ' to resume'}")
        if self.trains(name) or run["state"] == "training":
            raise FathomError(f"{name} is training; stop it first")
        if run["state"] != "stopped":
            raise FathomError(f"{name} has {run['state']}; start another one")
        self.launch(name, "train" if run["kind"] == "train" else "finetune", "--resume")

    def launch(self, name: str, verb: str, *given: str) -> None:
        """A process of its own, which Ctrl-C in this terminal does not reach. FathomError: enough train already."""
        if sum(child.running for child in self.children.values()) >= AT_ONCE:
            raise FathomError(f"{counted(AT_ONCE, 'run')} train already; stop one, or wait")
        self.folder.mkdir(parents=True, exist_ok=True)
        said = Path(self.said.name) / f"{len(self.children)}.txt"
        command = [sys.executable, "-m", "fathom", verb, *given, "--out-dir", str(self.folder / name)]
        with said.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.children[name] = Child(process, said)

    def trains(self, name: str) -> bool:
        return name in self.children and self.children[name].running

    def stop(self, name: str) -> None:
        """Tell a run that was started here to end, as Ctrl-C does. FathomError: it was not, or has ended."""
        if not self.trains(name):
            raise FathomError(f"{name} was not started here, or has ended; stop it where it trains, with Ctrl-C")
        child = self.children[name]
        child.stopped = True
        child.process.terminate()  # SIGTERM, as no parent can have it ignored; a run takes it as it takes Ctrl-C

    def listed(self) -> list[dict[str, Any]]:
        """The runs of the folder, with what is known of those that were started here."""
        found = {one["name"]: {**one, "ours": self.trains(one["name"])} for one in self.read()}
        for name, child in self.children.items():
            if problem := child.problem():
                found[name] = {"name": name, "problem": problem, "ours": False}
            elif child.running and name in found and not found[name]["problem"]:
                found[name] |= {"state": "stopping" if child.stopped else "training"}
            elif child.running and name not in found:
                found[name] = {"name": name, "problem": None, "state": "starting", "ours": True}
        return list(found.values())

    def read(self) -> list[dict[str, Any]]:
        """What the folder holds; nothing, while a first run has not written it yet."""
        waiting = any(child.running for child in self.children.values())
        return [] if waiting and not self.folder.is_dir() else runs.listed(self.folder)

    def close(self) -> None:
        """Tell every run to end, and wait until it has saved what it learned."""
        atexit.unregister(self.close)
        running = {name: child for name, child in self.children.items() if child.running}
        for name in running:
            self.stop(name)
        for child in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(PATIENCE)
            if child.running:
                child.process.kill()
                child.process.wait()
        self.said.cleanup()


class Start(BaseModel):
    """A small run."""

    model_config = ConfigDict(extra="forbid", strict=True)
    preset: str = Field(max_length=100)
    data: str = Field(max_length=100)
    minutes: float = Field(gt=0, le=MOST_MINUTES)


def add_runs(app: FastAPI, folder: Path | None) -> Starter | None:
    """The routes of the runs in a folder; without one they say how to serve one. Returns what starts runs there."""
    starter = Starter(folder) if folder is not None else None

    def ours() -> Starter:
        if starter is None:
            raise FathomError("no folder of runs is served; open the page with: fathom serve runs")
        return starter

    @app.get("/api/runs")
    def listed() -> Mapping[str, Any]:
        if starter is None:
            return {"runs": None}
        found = starter
        return {"runs": found.listed(), "ladders": runs.ladders(found.folder) if found.folder.is_dir() else [],
                "presets": runs.presets(), "corpora": runs.corpora(), "most_minutes": MOST_MINUTES}  # fmt: skip

    @app.get("/api/ladders/{name:text}")
    def ladder(name: str) -> Mapping[str, Any]:
        return runs.ladder_cards(ours().folder, name)

    @app.get("/api/runs/{name:text}")
    def rows(name: str, after: int = 0) -> Mapping[str, Any]:
        found = ours()
        return runs.rows(found.folder, name, after) | {"ours": found.trains(name)}

    @app.post("/api/runs/start")
    def start(ask: Start) -> Mapping[str, str]:
        return {"name": ours().start(ask.preset, ask.data, ask.minutes)}

    @app.post("/api/runs/{name:text}/stop")
    def stop(name: str) -> Mapping[str, str]:
        ours().stop(name)
        return {"name": name}

    @app.post("/api/runs/{name:text}/resume")
    def resume(name: str) -> Mapping[str, str]:
        ours().resume(name)
        return {"name": name}

    return starter
