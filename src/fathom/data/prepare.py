"""Text of any size as shards of tokens, by several processes: a plan, pieces of it, and a manifest in the end.

What a shard holds hangs on the plan alone, not on how many processes there are or which was first. Each is whole or
absent, so that a call that was stopped or killed goes on where it was, and ends with the same bytes.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.data.corpus import MANIFEST
from fathom.data.inputs import Source, pieces_of
from fathom.data.shard_worker import FETCHED
from fathom.data.shards import FORMAT, PLAN, Manifest, Shard, SourceAbout, identity
from fathom.data.token_file import Progress
from fathom.errors import FathomError
from fathom.fields import build
from fathom.files import new_folder, replacing, sync
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plan:
    """What shards are made of. `call`: what must be the same where one goes on; files may have changed."""

    sources: tuple[Source, ...]
    tokenizer: str  # as it was named
    val_fraction: float
    field: str
    keep: bool = False  # files of the hub stay in its cache

    def call(self) -> dict[str, Any]:
        data = [[source.name, source.weight] for source in self.sources]
        return {"data": data, "tokenizer": self.tokenizer, "val_fraction": self.val_fraction, "field": self.field}

    def to_json(self) -> dict[str, Any]:
        files = [file.as_plain() for source in self.sources for file in source.files]
        pieces = pieces_of(self.sources)
        sources = [(source.name, source.weight, len(source.files), source.size) for source in self.sources]
        rest = {"keep": self.keep, "sources": sources, "files": files, "pieces": pieces}
        return {"format": FORMAT, **self.call(), **rest}


class Shelf:
    """A folder in which shards are made, and which of them are finished."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.n_pieces = len(plan["pieces"])

    def missing(self) -> list[int]:
        """The pieces without a shard, the largest first, so that no process works alone in the end."""
        left = [number for number in range(self.n_pieces) if self.shard(number) is None]
        return sorted(left, key=lambda number: -self.size(number))

    def size(self, number: int) -> int:
        """About how many bytes a piece is."""
        _, parts = self.plan["pieces"][number]
        sizes = [self.plan["files"][place][1] for place, _, _ in parts]
        spans = [(stop or size) - start for (_, start, stop), size in zip(parts, sizes)]
        return sum(min(span, size) if span > 0 else size for span, size in zip(spans, sizes))

    def shard(self, number: int) -> Shard | None:
        """The description of a finished shard whose files are there."""
        try:
            text = (self.folder / f"shard-{number:05}.json").read_text(encoding="utf-8")
            shard = build(Shard, json.loads(text), "")
            here = all((self.folder / file.name).is_file() for file in (shard.train, shard.val))
        except (OSError, ValueError, FathomError):
            return None
        return shard if here else None

    def clean(self) -> None:
        """Remove what a process that was killed left half-written."""
        for left in self.folder.glob(".*.partial"):
            left.unlink(missing_ok=True)
        shutil.rmtree(self.folder / FETCHED, ignore_errors=True)

    @property
    def empty(self) -> bool:
        """Whether no finished shard holds a document."""
        shards = filter(None, map(self.shard, range(self.n_pieces)))
        return not any(shard.train.n_documents + shard.val.n_documents for shard in shards)

    def finish(self) -> None:
        """Write the manifest, once all shards are there. FathomError: there is no text in any."""
        if not (self.folder / MANIFEST).is_file():
            if self.empty:
                raise FathomError(f"{self.plan['data'][0][0]}: no documents; expected text to learn from")
            with replacing(self.folder / MANIFEST) as file:
                file.write(self.manifest().to_json())
        for number in range(self.n_pieces):
            (self.folder / f"shard-{number:05}.json").unlink(missing_ok=True)

    def manifest(self) -> Manifest:
        tokenizer, plan = tokenizers.load(self.folder / tokenizers.FILE), self.plan
        shards = tuple(shard for number in range(self.n_pieces) if (shard := self.shard(number)))
        sources = tuple(SourceAbout(*values) for values in plan["sources"])
        own, size = identity(tokenizer), tokenizer.vocab_size
        return Manifest(FORMAT, plan["tokenizer"], size, own, plan["val_fraction"], sources, shards)


def begin(folder: Path, plan: Plan, make: Callable[[], Tokenizer]) -> tuple[Shelf, bool]:
    """A folder for the shards of a plan, and whether it is new; or one that an earlier call began, to go on in.

    make: the tokenizer, learned where it has to be. FathomError: the folder holds something else, or another call's.
    """
    values: dict[str, Any] = json.loads(json.dumps(plan.to_json()))
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        tokenizer = make()
        with new_folder(folder) as partial:
            tokenizers.save(tokenizer, partial / tokenizers.FILE)
            (partial / PLAN).write_text(json.dumps(values), encoding="utf-8")
            sync(partial / PLAN)
        return Shelf(folder, values), True
    if not (folder / PLAN).is_file():
        raise FathomError(f"{folder} exists and holds something else; give -o a new folder")
    try:
        begun = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        changed = [name for name, value in plan.call().items() if begun[name] != json.loads(json.dumps(value))]
    except (ValueError, KeyError, TypeError):
        raise FathomError(f"{folder / PLAN}: damaged; remove {folder} and begin again") from None
    if changed:
        was = ", ".join(f"{name} {json.dumps(begun[name])}" for name in changed)
        raise FathomError(f"{folder} was begun with {was}; repeat that call, or give -o another folder")
    learned = tokenizers.is_learned(plan.tokenizer)
    if not learned and identity(make()) != identity(tokenizers.load(folder / tokenizers.FILE)):
        raise FathomError(f"{plan.tokenizer} has changed since {folder} was begun; give -o another folder")
    if begun["files"] == values["files"]:
        return Shelf(folder, begun), False
    _replan(folder, begun, values)
    return Shelf(folder, values), False


def fill(shelf: Shelf, new: bool, workers: int, progress: Progress, stopped: Callable[[], bool]) -> bool:
    """Write the shards that are missing, and the manifest. False: it was stopped, and can go on.

    FathomError: a text cannot be read, or a process ended. What is finished stays; a new folder without is removed.
    """
    shelf.clean()
    try:
        if not (shelf.folder / MANIFEST).is_file() and (missing := shelf.missing()):
            run(shelf, missing, workers, progress, stopped)
        if stopped():
            return False
        shelf.finish()
    except FathomError as problem:
        left = shelf.missing()
        if new and (len(left) == shelf.n_pieces or shelf.empty):
            shutil.rmtree(shelf.folder, ignore_errors=True)
            raise
        done = f"{shelf.n_pieces - len(left)} of {shelf.n_pieces} shards are finished"
        raise FathomError(f"{problem}; {done}: run the same command again to go on") from None
    finally:
        if shelf.folder.is_dir():
            shelf.clean()
    return True


def _replan(folder: Path, begun: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Files have changed: keep the shards whose parts are as they were, and write the new plan."""
    if (folder / MANIFEST).is_file():
        raise FathomError(f"{folder} is finished, and files of its data have changed since; give -o another folder")

    def parts(plan: Mapping[str, Any], number: int) -> list[Any]:
        listed = plan["pieces"][number : number + 1]
        return [
            [source, [[plan["files"][place], start, stop] for place, start, stop in found]] for source, found in listed
        ]

    for number in range(len(begun["pieces"])):
        if parts(begun, number) != parts(values, number):
            (folder / f"shard-{number:05}.json").unlink(missing_ok=True)
            for part in ("train", "val"):
                (folder / f"{part}-{number:05}.npy").unlink(missing_ok=True)
    with replacing(folder / PLAN) as file:
        file.write(json.dumps(values).encode())


@dataclass
class Process:
    """A worker, and the piece that it is at."""

    name: str
    process: "subprocess.Popen[str]"
    piece: int | None = None

    def give(self, piece: int | None) -> None:
        self.piece = piece
        with suppress(OSError):  # one that has ended says so on its other pipe
            if piece is not None and self.process.stdin:
                self.process.stdin.write(f"{piece}\n")
                self.process.stdin.flush()


def run(shelf: Shelf, missing: Sequence[int], n_workers: int, progress: Progress, stopped: Callable[[], bool]) -> None:
    """Have the missing shards written. FathomError: one cannot be, or a process has ended."""
    total = sum(map(shelf.size, range(shelf.n_pieces)))
    done, left = total - sum(map(shelf.size, missing)), list(missing)
    progress(done, total)
    with started(shelf.folder, min(n_workers, len(missing))) as (processes, answers):
        for process in processes:
            process.give(left.pop(0))
        while any(process.piece is not None for process in processes):
            if stopped():
                return
            try:
                process, line = answers.get(timeout=0.1)
            except queue.Empty:
                continue
            values = json.loads(line) if line else {}
            if "problem" in values:
                raise FathomError(values["problem"])
            if not line and not stopped():
                raise FathomError(_ended(process, shelf))
            if not line:
                return
            done += shelf.size(values["done"])
            progress(done, total)
            process.give(left.pop(0) if left else None)


def _ended(process: Process, shelf: Shelf) -> str:
    """How a process has ended that should not have."""
    code = process.process.wait()
    with suppress(ValueError):
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    at = ""
    if process.piece is not None:
        place = shelf.plan["pieces"][process.piece][1][0][0]
        at = f" while it tokenised {shelf.plan['files'][place][0]}"
    hint = " (where memory was short, use fewer --workers)" if code == -9 else ""
    return f"{process.name} (process {process.process.pid}) {how}{at}{hint}"


@contextmanager
def started(folder: Path, count: int) -> Iterator[tuple[list[Process], "queue.Queue[tuple[Process, str]]"]]:
    """Workers, and what they answer; an empty line where one has ended. None is left when the block ends."""
    answers: queue.Queue[tuple[Process, str]] = queue.Queue()
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = os.environ | one_thread | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "fathom.data.shard_worker", str(folder)]
    processes = list[Process]()

    def listen(process: Process) -> None:
        if process.process.stdout:
            for line in process.process.stdout:
                answers.put((process, line))
        answers.put((process, ""))

    try:
        for number in range(1, count + 1):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
            )
            processes.append(Process(f"worker {number}", process))
            threading.Thread(target=listen, args=processes[-1:], daemon=True).start()
        yield processes, answers
    finally:
        for worker in processes:
            worker.process.kill()
        for worker in processes:
            worker.process.wait()
            if worker.process.stdin:
                with suppress(OSError):
                    worker.process.stdin.close()
