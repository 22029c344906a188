"""A save that is stopped at each of its calls, inside Python: runs everywhere, also where strace does not."""

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.formats import checkpoint
from tests.formats.saving import SAVES, check, contents, files, good, prepare, quick_directory

CALLS = [(os, "mkdir"), (os, "open"), (os, "write"), (os, "fsync"), (os, "close"), (os, "rename"), (os, "unlink")]
CALLS += [(os, "rmdir"), (os, "scandir"), (io, "open")]


class Dead(BaseException):
    """Nothing runs after it: every later call raises it too, as if the process were gone."""


class Fault:
    """Counts calls; what `act` says happens in place of call `when`, and of all later ones if `lasting`."""

    def __init__(self, when: int, act: Callable[[], BaseException], lasting: bool) -> None:
        self.when, self.act, self.lasting, self.count, self.name = when, act, lasting, 0, ""

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.when or (self.lasting and self.count > self.when > 0):
                self.name = self.name or name
                raise self.act()
            return call(*args, **kwargs)

        return wrapped


@contextmanager
def failing(fault: Fault) -> Iterator[Fault]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            patch.setattr(module, name, fault.wrap(name, getattr(module, name)))
        yield fault


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


FAULTS = {
    "killed": (Dead, True),
    "full once": (disk_full, False),
    "full from then on": (disk_full, True),
    "broken once": (disk_broken, False),
    "broken from then on": (disk_broken, True),
    "interrupted": (KeyboardInterrupt, False),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


@pytest.mark.parametrize("step", SAVES.values(), ids=SAVES.keys())
@pytest.mark.parametrize(("act", "lasting"), FAULTS.values(), ids=FAULTS.keys())
def test_no_fault_at_any_call_harms_what_was_saved(act: Any, lasting: bool, step: int, folder: Path) -> None:
    template = prepare(folder / "template")
    before, new = good(template), {step: contents(checkpoint.save(folder / "new", step, files(step, "new")))}
    for when in range(1, 1000):
        place = shutil.copytree(template, folder / str(when))
        saved = error = None
        with failing(Fault(when, act, lasting)) as fault:
            try:
                saved = checkpoint.save(place, step, files(step, "new"))
            except (FathomError, Dead, KeyboardInterrupt) as caught:
                error = caught
        where = f"call {when} ({fault.name})"
        if saved:
            assert contents(saved) == new[step] and fault.name != "fsync", where  # unsynced is not saved
            assert checkpoint.latest(place).step == step, where
        else:
            assert isinstance(error, Dead | KeyboardInterrupt) or "untouched" in str(error), where
        check(place, before, new, where)
        if not fault.name:  # beyond the last call
            break
    assert when > 40 and saved


def test_everything_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def log_sync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def log_rename(old: Path, new: Path) -> None:
        events.append(f"{Path(old).name} -> {Path(new).name}")
        rename(old, new)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here to tell which file a descriptor belongs to")
    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "rename", log_rename)
    checkpoint.save(tmp_path / "checkpoints", 7, files(7))
    assert events == [
        tmp_path.name,
        *("model.bin", "state.json", "config.yaml", "manifest.json", "step-00000007.partial"),
        "step-00000007.partial -> step-00000007",
        "checkpoints",
    ]
