"""A save that is killed, or told that the disk is full or broken, at each of its system calls, by strace.

The claim is about the kernel's view and not about Python's: `inject=CALL:signal=SIGKILL:when=N` ends the process before
the N-th CALL happens, with no handler, `finally` or buffer having a say.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.formats.forked_saves import REFUSED, SAVED
from tests.formats.saving import SAVES, check, contents, good, prepare, quick_directory

CHANGING = "openat,mkdir,mkdirat,write,pwrite64,writev,ftruncate,fallocate,fsync,fdatasync,chmod,fchmod,fchmodat"
CHANGING += ",rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"
READING = ",close,read,lseek,stat,newfstatat,statx,access,getdents64,fcntl,ioctl"
ONCE = {"killed": "signal=SIGKILL:when={}", "full": "error=ENOSPC:when={}", "broken": "error=EIO:when={}"}
LASTING = {"full from then on": "error=ENOSPC:when={}+", "broken from then on": "error=EIO:when={}+"}


class Saver:
    """One process with everything imported, whose children save under strace."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.formats.forked_saves"],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT},
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, folder: Path, step: int, *strace: str) -> tuple[int, str]:
        """The wait status of one save, and what strace wrote; ConnectionError where it may not trace."""
        pid = self.ask(f"{step} {folder}")
        log = folder.parent / "strace.log"
        tracer = subprocess.Popen(["strace", "-o", log, *strace, "-p", pid], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        status = int(self.ask("go"))
        tracer.stderr.close()
        tracer.wait()
        if "attached" not in said:
            raise ConnectionError(said.strip())
        return status, log.read_text()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer, f"the saving process ended with {self.process.wait()}"
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=60)


def only(calls: str) -> str:
    return "trace=" + ",".join(f"?{call}" for call in calls.split(","))  # ?: not every machine has each


@pytest.fixture(scope="module")
def saver() -> Iterator[Saver]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed; test_checkpoint_faults covers the same from inside Python")
    saver = Saver()
    try:
        with quick_directory() as place:
            saver(place / "probe", 1, "-e", only(CHANGING))
    except ConnectionError as error:
        pytest.skip(f"strace may not trace here: {error}")
    else:
        yield saver
    finally:
        saver.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


def inject_everywhere(saver: Saver, folder: Path, step: int, calls: str, fault: str) -> Counter[str]:
    """Inject `fault` at every one of these system calls of one save and check each outcome; returns their counts."""
    template = prepare(folder / "template")
    undisturbed = shutil.copytree(template, folder / "undisturbed")
    status, log = saver(undisturbed, step, "-e", only(calls))
    assert status == 0
    before, new = good(template), {step: contents(undisturbed / f"step-{step:08d}")}
    counts = Counter(re.findall(r"^(\w+)\(", log, re.MULTILINE))
    for call, n in [(call, n) for call, count in counts.items() for n in range(1, count + 1)]:
        place = shutil.copytree(template, folder / "place")
        status, log = saver(place, step, "-e", only(call), "-e", f"inject={call}:{fault.format(n)}")
        where = f"{fault} at {call} {n}, status {status}: {log.splitlines()[-3:]}"
        if "SIGKILL" in fault:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, where
        else:
            assert "(INJECTED)" in log and os.WIFEXITED(status) and os.WEXITSTATUS(status) in (SAVED, REFUSED), where
            assert status or (good(place)[step] == new[step] and call != "fsync"), where  # unsynced is not saved
        check(place, before, new, where)
        shutil.rmtree(place)
    return counts


@pytest.mark.parametrize("step", SAVES.values(), ids=SAVES.keys())
@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE.keys())
def test_no_fault_at_any_changing_call_harms_what_was_saved(saver: Saver, folder: Path, step: int, fault: str) -> None:
    counts = inject_everywhere(saver, folder, step, CHANGING, fault)
    assert counts["fsync"] == 8 and counts.total() > 43, counts  # 4 files, manifest, folder, parent, and its parent


@pytest.mark.slow
@pytest.mark.parametrize("step", SAVES.values(), ids=SAVES.keys())
@pytest.mark.parametrize("fault", [*ONCE.values(), *LASTING.values()], ids=[*ONCE.keys(), *LASTING.keys()])
def test_no_fault_at_any_call_on_files_harms_what_was_saved(saver: Saver, folder: Path, step: int, fault: str) -> None:
    counts = inject_everywhere(saver, folder, step, CHANGING + READING, fault)
    assert counts.total() > 150, counts
