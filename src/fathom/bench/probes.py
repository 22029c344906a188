"""Limits of this machine: memory bandwidth, and throughput of matrix products.

Every figure of a benchmark is given as a fraction of one of the two, measured in the same process with the same
threads. A limit is the best of several runs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.anatomy.cost import matrices
from fathom.machine import free_memory
from fathom.model.config import ModelConfig
from fathom.native.panels import on_large_pages, private

RUNS = 7
BUFFER = 1 << 29  # bytes, larger than the caches
ROWS = 512  # of the left factor: enough to be bound by arithmetic and not by memory


@dataclass(frozen=True)
class Probes:
    """Bandwidths in GB (1e9 bytes) a second, products in GFLOP a second; a multiply and an add are two FLOPs."""

    read_gb_s: float
    copy_gb_s: float  # read and written bytes together
    gemm_gflop_s: float
    gemm: str  # what was multiplied


def probe(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Probes:
    """All of them; the product is that of the model's largest matrix with ROWS tokens."""
    width, out = max(matrices(config).values(), key=lambda sizes: sizes[0] * sizes[1])
    read, copy = bandwidth(device)
    what = f"{ROWS} x {width} x {out}, {str(dtype)[6:]}"
    return Probes(read, copy, products(ROWS, (width, out), dtype, device), what)


def bandwidth(device: torch.device, size: int = BUFFER) -> tuple[float, float]:
    """GB/s of reading a large buffer, the better of two ways, and of copying one half of it to the other."""
    free = free_memory(device)
    size = size if free is None else min(size, free // 4)
    size -= size % 64
    buffer = large(size, device)
    numbers, whole = buffer.view(torch.float32), buffer.view(torch.int64)
    first, second = buffer.chunk(2)
    reading = min(best(numbers.amax, device), best(whole.sum, device))
    return size / reading / 1e9, size / best(lambda: second.copy_(first), device) / 1e9


def large(size: int, device: torch.device) -> Tensor:
    """So many bytes of zeros; on a CPU in huge pages where the system has them, so that pages do not slow it."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=torch.uint8, device=device)
    memory = private(size)
    on_large_pages(memory)
    return torch.frombuffer(memory, dtype=torch.uint8, count=size).fill_(0)


def products(rows: int, matrix: tuple[int, int], dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of (rows, in) times (in, out)."""
    width, out = matrix
    x = torch.ones(rows, width, dtype=dtype, device=device)
    weight = torch.ones(out, width, dtype=dtype, device=device)
    return 2 * rows * width * out / best(lambda: F.linear(x, weight), device) / 1e9


def best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    return min(seconds(call, device) for _ in range(RUNS + 1))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes until its work is done."""
    settle(device)
    began = time.perf_counter()
    call()
    settle(device)
    return time.perf_counter() - began


def settle(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()
