"""One save, and what must be true of its folder whatever stopped it. Shared by the tests that stop it."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fathom.errors import FathomError
from fathom.formats import checkpoint

Contents = dict[str, bytes]
SAVES = {"a further step": 300, "the same step again": 200}


def files(step: int, mark: str = "") -> dict[str, checkpoint.Content]:
    """Two files given as bytes and one by a writer that needs several calls."""
    return {
        "model.bin": lambda path: write_in_two(path, f"model {step} {mark}".encode() * 400),
        "state.json": f'{{"step": {step}, "mark": "{mark}"}}'.encode(),
        "config.yaml": b"n_layer: 2\n",
    }


def prepare(folder: Path) -> Path:
    """What the tested save finds: steps 100 and 200."""
    for step in (100, 200):
        checkpoint.save(folder, step, files(step))
    return folder


def write_in_two(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            while part:
                part = part[os.write(descriptor, part) :]
    finally:
        os.close(descriptor)


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A temporary folder, in memory where there is such a place: the faults are the same and a sync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def contents(path: Path) -> Contents:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def good(folder: Path) -> dict[int, Contents]:
    """Every checkpoint of the folder that holds, by step."""
    found = {}
    for path in checkpoint.newest_first(folder):
        try:
            checkpoint.verify(path)
        except FathomError:
            continue
        found[checkpoint.step_of(path)] = contents(path)
    return found


def newest_two(states: Mapping[int, Contents]) -> dict[int, Contents]:
    return {step: states[step] for step in sorted(states)[-2:]}


def check(folder: Path, before: dict[int, Contents], new: dict[int, Contents], where: str) -> None:
    """The newest two of before the save or of after it are there bit for bit; the next save works and tidies up."""
    found = good(folder)
    allowed = [newest_two(before), newest_two(before | new)]
    assert any(wanted.items() <= found.items() for wanted in allowed), f"{where}: left with {sorted(found)}"
    assert all(state in (before.get(step), new.get(step)) for step, state in found.items()), f"{where}: a mixture"
    newest = checkpoint.latest(folder)
    assert (newest.step, contents(newest.path)) == (max(found), found[max(found)]), where
    checkpoint.save(folder, 900, files(900))
    assert checkpoint.latest(folder).step == 900, where
    assert good(folder).items() >= {max(found): found[max(found)]}.items(), f"{where}: lost by the next save"
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == 2 and all(re.fullmatch(r"step-\d{8}", name) for name in left), f"{where}: {left}"
