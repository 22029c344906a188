"""Starting: how long until the first token stands, and where the time goes.

The file lies in the system's cache after the first round, which is not counted. Imports are timed in a process of
their own, as a process has them once. Does not know limits.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from fathom.adapters.load import load
from fathom.bench.options import BenchOptions
from fathom.bench.probes import settle
from fathom.bench.works import empty_cache, random_ids, read
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.native import WEIGHTS, write_weights
from fathom.model.transformer import Transformer

IMPORTS = "import fathom.adapters.load, fathom.generate.generate"
Prepare = Callable[[Transformer], Transformer]


@torch.no_grad()
def startup(path: Path, options: BenchOptions, prepare: Prepare) -> tuple[tuple[float, float, float], ...]:
    """Seconds of each round: imports, load, a prompt read and the first token said."""
    rounds = []
    for _ in range(options.repeat + 1):
        began = time.perf_counter()
        model = prepare(load(path, options.dtype, options.device, options.quantize)[0])
        loaded = time.perf_counter()
        ids = random_ids(model, options.rows, options.length)
        read(model, empty_cache(model, *ids.shape), ids)
        settle(ids.device)
        rounds.append((imports(), loaded - began, time.perf_counter() - loaded))
        del model  # before the next one comes
    return tuple(rounds[1:])


def imports() -> float:
    """Seconds of a process that imports what generation needs, and does nothing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def write(model: Transformer, folder: Path) -> None:
    """The model as a folder that `load` opens."""
    write_config(folder / CONFIG, {"model": asdict(model.config)})
    write_weights(model, folder / WEIGHTS)
