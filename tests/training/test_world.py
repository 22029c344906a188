"""The processes of a run: alone every question has one's own answer; several get the same one."""

import os
import socket
import subprocess
import sys

import torch

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
