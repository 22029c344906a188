"""How several processes begin one run: with the same code, options and data, in a folder that the first one creates.

What could differ is compared before anything is computed, and the process that differs is named. A run that torchrun
starts again goes on from its newest checkpoint.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import torch

import fathom
from fathom.errors import FathomError
from fathom.fields import plain
from fathom.formats.fingerprint import fingerprint
from fathom.processes import launch_name, this_process
from fathom.training.run import FinetuneRun, Run
from fathom.training.world import World

R = TypeVar("R", bound=Run)
LAUNCH = ".launch"  # in the folder of a run that torchrun started: the names of that launch, one for each machine
SOURCES = (".py", ".cpp", ".h")
CODE, TORCH, DATA, BASE = "code of fathom", "version of torch", "data of the run", "base model"  # options have one word


def require_same(world: World, facts: Mapping[str, Any]) -> None:
    """FathomError in all processes where one has other facts than the first. Values as JSON carries them."""
    if world.size == 1:
        return
    first, *others = world.gather({"host": socket.gethostname(), **plain_values(facts)})
    for rank, other in enumerate(others, 1):
        for name in first | other:
            if name != "host" and first.get(name) != other.get(name):
                raise FathomError(f"rank {rank} ({other['host']}) {difference(name, other.get(name), first.get(name))}")


def plain_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON carries: what it has no word for as text."""
    return {name: x if isinstance(x, bool | int | float | NoneType) else str(x) for name, x in facts.items()}


def difference(name: str, own: Any, first: Any) -> str:
    """What sets a process apart from the first, and what to do."""
    if name == CODE:
        return "has other source files of fathom than rank 0; install the same version everywhere"
    if name == TORCH:
        return f"has torch {own} and rank 0 {first}; install the same version everywhere"
    if name == DATA:
        return "finds other data in the folder of the run than rank 0; give an --out-dir that all machines share"
    if name == BASE:
        return "finds another model than rank 0 where the base should be; give the same one everywhere"
    named = (f"{name}={value}" if value is not None else f"no {name}" for value in (own, first))
    return "was started with {} and rank 0 with {}; give all processes the same options".format(*named)


def of_program() -> dict[str, Any]:
    """What runs here."""
    return {CODE: sources(Path(fathom.__file__).parent), TORCH: torch.__version__}


def sources(package: Path) -> str:
    """A hash of the names and the content of its source files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in SOURCES):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()


def of_run(run: Run) -> dict[str, Any]:
    """The data of a run as this process finds them, and the model that it began from."""
    files = sorted(path for path in (run.folder / "data").rglob("*") if path.is_file())
    data = [plain(run.data), [(path.name, path.stat().st_size) for path in files]]
    return {DATA: data} | ({BASE: fingerprint(run.base.path)} if isinstance(run, FinetuneRun) else {})


@contextmanager
def created_by_first(
    world: World, create: Callable[[], AbstractContextManager[R]], open: Callable[[Path], R]
) -> Iterator[R]:
    """The run that the first process creates, in all of them; it takes its place when the block has succeeded in all.

    The others wait, however long text is tokenised, and open what was made.
    """
    if world.first:
        with create() as run:
            world.share(str(run.folder.absolute()))
            require_same(world, of_run(run))
            yield run
            remember_launch(world, run.folder)
    else:
        run = opened(Path(world.share()), open)
        require_same(world, of_run(run))
        yield run
        remember_launch(world, run.folder)
    world.share()  # the folder is in its place


def opened(folder: Path, open: Callable[[Path], R]) -> R:
    """A run that another process has created. FathomError where this machine does not see it."""
    if not folder.is_dir():
        raise FathomError(f"{folder}, which rank 0 has made, is not here; give an --out-dir that all machines share")
    return open(folder)


def remember_launch(world: World, folder: Path) -> None:
    """Write down which launch creates a run, if it is one that may be started again: its name on each machine, as any
    of them may have the first process then."""
    names = world.gather(launch_name())
    if world.first and this_process().restarts:
        (folder / LAUNCH).write_text("\n".join(dict.fromkeys(names)))


def was_created_before(world: World, folder: Path) -> bool:
    """Whether torchrun has started the processes again after they had created the run: then it goes on. Each machine
    counts its own restarts."""
    path, said = folder / LAUNCH, world.gather([launch_name(), this_process().attempt])
    again = world.first and path.is_file() and any(attempt for _, attempt in said)
    return bool(world.share(again and any(name in path.read_text().splitlines() for name, _ in said)))
