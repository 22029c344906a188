"""The processes of a run: alone every question has one's own answer; several get the same one."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from fathom.errors import FathomError
from fathom.training.world import ALONE, joined

ASKED = """
import torch
from fathom.training.world import joined
with joined("cpu") as world:
    total, largest = world.total(torch.tensor([1.0, world.rank])), world.largest(torch.tensor(world.rank))
    print(world.rank, total.tolist(), int(largest), world.count(10), world.agreed(world.rank == 1), world.agreed(False))
    world.barrier()
"""


def test_one_process_is_a_world_of_its_own() -> None:
    world, x = ALONE, torch.ones(2)
    assert world.first and world.total(x) is x and world.largest(x) is x
    assert world.count(3) == 3 and world.agreed(True) and not world.agreed(False)
    with joined("cpu") as found:
        assert found == world and not torch.distributed.is_initialized()


def test_several_processes_get_one_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen([sys.executable, "-c", ASKED], env=common | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in started]
    assert said == [f"{rank} [2.0, 1.0] 1 20 True False" for rank in (0, 1)]


def test_more_processes_than_gpus_are_refused_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    for name, value in meeting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in ("0", "2"):
        monkeypatch.setenv("RANK", rank)
        said = r"^3 processes on a machine with 2 GPUs; .*: give --nproc 2 "
        with pytest.raises(FathomError, match=said) as found, joined("auto"):
            pass
        assert found.value.exit_code == 2
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    said = r"3 processes cannot share the GPU of a Mac; .*--device cpu"
    with pytest.raises(FathomError, match=said), joined("mps"):
        pass
