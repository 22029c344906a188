"""What this machine can do at best, measured once, which takes seconds, and kept in the cache folder."""

import contextlib
import json
import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fathom.anatomy import cost
from fathom.bench.probes import ROWS, bandwidth, products
from fathom.data.corpus import cache_folder
from fathom.errors import FathomError
from fathom.fields import build
from fathom.files import replacing
from fathom.json_file import read_object
from fathom.machine import describe
from fathom.model.config import ModelConfig

BUFFER = 1 << 28  # bytes that are read to measure the bandwidth
FILE = "limits.json"


@dataclass(frozen=True)
class Limits:
    """GB/s read from memory, GFLOP/s of a model's largest product with ROWS tokens, and the day they were measured."""

    read_gb_s: float
    gemm_gflop_s: float
    day: str


def known(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Limits | None:
    """The limits for this model on this machine, where they were measured before."""
    found = kept().get(name_of(largest(config), dtype, device))
    with contextlib.suppress(FathomError):  # damaged: measured again
        return None if found is None else build(Limits, found, FILE)
    return None


def measured(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Limits:
    """The limits: measured now, and kept, where they are not known."""
    if found := known(config, dtype, device):
        return found
    size = largest(config)
    found = Limits(bandwidth(device, BUFFER)[0], products(ROWS, size, dtype, device), time.strftime("%Y-%m-%d"))
    values = kept() | {name_of(size, dtype, device): asdict(found)}
    with contextlib.suppress(FathomError), replacing(cache_folder() / FILE) as file:  # nowhere to keep them: next time
        file.write(json.dumps(values, indent=1).encode())
    return found


def kept() -> dict[str, Any]:
    """What was measured on this machine, and on others that share the folder; nothing where the file is damaged."""
    with contextlib.suppress(FathomError):
        return read_object(cache_folder() / FILE)
    return {}


def largest(config: ModelConfig) -> tuple[int, int]:
    """The widths in and out of the model's largest product."""
    sizes = [*cost.matrices(config).values()] if config.n_layer else []
    return max([*sizes, (config.d_model, config.vocab_size)], key=lambda size: size[0] * size[1])


def name_of(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> str:
    """What decides the limits: the machine, the library, and what is multiplied."""
    return f"{platform.node()}, {describe(device)}, torch {torch.__version__}, {size[0]} x {size[1]}, {str(dtype)[6:]}"
