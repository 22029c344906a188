"""Decoding and prefill: what `fathom generate` asks of a model, without text and sampling.

decode: new tokens one after another, the likeliest each time, behind a cache that is filled with random keys and
values: what stands in it does not change the time, and nothing has to be read for it. prefill: a prompt of random ids
into an empty cache, and the token after it. Does not know limits.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.load import load
from fathom.adapters.options import LoraOptions
from fathom.backend.inference import quicken
from fathom.bench.options import UNCOUNTED, BenchOptions
from fathom.bench.probes import seconds, settle
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.generate.options import GenerateOptions
from fathom.machine import free_memory, pick_device
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.cost import training_bytes
from fathom.model.transformer import Transformer
from fathom.train.finetune import micro_batch
from fathom.train.loop import Session, update
from fathom.train.options import TrainOptions

# Steps of training and of fine-tuning, as the training loop takes them: forward, backward, clip, update.
#
# The data are random ids. One round is one step; the first, which also makes the optimizer's state, is not counted.
# Does not know limits.

RANK = 8


@dataclass(frozen=True)
class Learned:
    """Tokens per second of each round, what products were computed in, and which matrices an adapter stands on."""

    rounds: tuple[float, ...]
    dtype: torch.dtype
    targets: tuple[str, ...] = ()


def train(config: ModelConfig, options: BenchOptions) -> Learned:
    """All weights, fp32, with AdamW."""
    device = pick_device(options.device)
    require_room(config, options)
    needed = sum(training_bytes(config, options.length, options.rows).values())
    free = free_memory(device)
    if free is not None and needed > free:
        raise FathomError(f"training needs about {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free; choose"
                          " a smaller shape or batch")  # fmt: skip
    session = Session.start(config, training(options))
    return Learned(steps(session, options), session.precision.dtype)


def finetune(model: Transformer, options: BenchOptions) -> Learned:
    """An adapter of rank RANK on all linear layers of GPT-2's attention that read the stream, or of all blocks.

    What peers do by default: c_attn of GPT-2, every matrix of a LLaMA.
    """
    require_room(model.config, options)
    targets = ("attn.q", "attn.k", "attn.v") if model.config.position == "learned" else ("all-linear",)
    layers = lora.add(model, LoraOptions(rank=RANK, targets=targets), seed=options.seed)
    device, choices = model.embed.weight.device, training(options)
    if device.type == "cpu":  # as `fathom finetune` does
        rows = micro_batch(options.rows, options.length * model.config.d_model)
        choices = replace(choices, micro_batch_size=rows)
    session = Session(model, choices, device)
    first = (name.removeprefix("blocks.0.") for name in layers if name.startswith("blocks.0."))
    return Learned(steps(session, options), session.precision.dtype, tuple(first))


def training(options: BenchOptions) -> TrainOptions:
    """The loop's own options."""
    rows, dtype, device, seed = options.rows, options.dtype, options.device, options.seed
    return TrainOptions(batch_size=rows, dtype=dtype, device=device, seed=seed, learning_rate=1e-4)


def steps(session: Session, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each step after the first."""
    ids = torch.randint(session.model.config.vocab_size, (options.rows, options.length + 1), device=session.device)
    update(session, ids)
    taken = [seconds(lambda: update(session, ids), session.device) for _ in range(options.repeat)]
    return tuple(options.rows * options.length / each for each in taken)


def require_room(config: ModelConfig, options: BenchOptions) -> None:
    if options.length > config.context_length:
        raise FathomError(f"prompt is {options.length}, and the model reads {config.context_length}; give at most that")


CHUNK = GenerateOptions.prefill_chunk


def prepare(model: Transformer) -> Transformer:
    """The model as generation runs it."""
    return quicken(model)


@torch.no_grad()
def decode(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.admit(options.length + options.new)
    cache = empty_cache(model, options.rows, options.length + options.new)
    cache.store.normal_()
    ids = random_ids(model, options.rows, 1)
    counted = options.rows * (options.new - UNCOUNTED)
    return tuple(counted / decoded(model, cache, ids, options) for _ in range(options.repeat))


def decoded(model: Transformer, cache: KVCache, ids: Tensor, options: BenchOptions) -> float:
    """Seconds of the counted steps."""
    cache.length, began = options.length, 0.0
    for step in range(options.new):
        if step == UNCOUNTED:
            settle(ids.device)
            began = time.perf_counter()
        ids = model.unembed(model.hidden(ids, cache)[:, -1]).float().argmax(-1, keepdim=True)  # (b, 1)
    settle(ids.device)
    return time.perf_counter() - began


def mean_filled(options: BenchOptions) -> float:
    """Tokens in the cache that a counted step of decoding reads, its own included, on average."""
    return options.length + 1 + (UNCOUNTED + options.new - 1) / 2


@torch.no_grad()
def prefill(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.admit(options.length)
    cache = empty_cache(model, options.rows, options.length)
    ids = random_ids(model, options.rows, options.length)
    device = ids.device
    seconds(lambda: read(model, cache, ids), device)  # to warm up
    rounds = [seconds(lambda: read(model, cache, ids), device) for _ in range(options.repeat)]
    return tuple(ids.numel() / taken for taken in rounds)


def read(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """(b, t) prompts into the cache, from its beginning -> (b,) the likeliest next tokens."""
    cache.length = 0
    for chunk in ids.split(CHUNK, dim=1):
        x = model.hidden(chunk, cache)[:, -1]  # (b, d)
    return model.unembed(x).argmax(-1)


def empty_cache(model: Transformer, rows: int, length: int) -> KVCache:
    weight = model.embed.weight
    return KVCache(model.config, rows, length, dtype=weight.dtype, device=weight.device)


def random_ids(model: Transformer, rows: int, length: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (rows, length), device=model.embed.weight.device)


# Starting: how long until the first token stands, and where the time goes.
#
# The file lies in the system's cache after the first round, which is not counted. Imports are timed in a process of
# their own, as a process has them once. Does not know limits.

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
