"""What the machine is said to be, against the system itself."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from fathom.errors import FathomError
from fathom.machine import free_memory, pick_device

FAULTS = """
import resource, sys, torch
from fathom.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(1 << 20, 30 << 20, 1 << 19):  # each larger than all before: glibc's own threshold follows too late
    torch.empty(size, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_kept_memory_is_not_faulted_in_again() -> None:
    whole = sum(range(1 << 20, 30 << 20, 1 << 19)) // os.sysconf("SC_PAGE_SIZE")  # every block faulted in anew
    assert faults("keep") < whole / 4 < faults("leave")


def test_free_memory_is_what_the_system_has() -> None:
    free = free_memory()
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_cpu_is_always_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device(name) == torch.device("cpu")


@pytest.mark.parametrize(("name", "word"), [("cdua", "cuda"), ("cuda", "finds no cuda"), ("tpu", "Choose one of")])
def test_a_device_that_is_not_there_is_one_line(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FathomError, match=word):
        pick_device(name)
