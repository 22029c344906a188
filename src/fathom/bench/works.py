"""The works that are timed: decoding, prefill, steps of training and fine-tuning, start-up.

decode: greedy tokens one after another over a cache filled with random keys and values (their contents do not change
the time). prefill: a prompt of random ids into an empty cache, and the token after it. Training: steps of the training
loop on random ids, the first not timed. Start-up: imports, in a process of their own, load, and the first token.
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
from fathom.anatomy.training import Step, memory, peak
from fathom.backend.inference import cache_for, prepare_for_inference
from fathom.bench.options import UNCOUNTED, BenchOptions
from fathom.bench.probes import seconds, settle
from fathom.errors import FathomError
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.generation.options import GenerateOptions
from fathom.machine import free_memory, keep_freed_memory, pick_device
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.training.loop import update
from fathom.training.options import TrainOptions
from fathom.training.session import Session
from fathom.training.tuning import micro_batch

RANK = 8


@dataclass(frozen=True)
class Steps:
    """Tokens per second of each round, the dtype of products, and which matrices an adapter is on."""

    rounds: tuple[float, ...]
    dtype: torch.dtype
    targets: tuple[str, ...] = ()


def train(config: ModelConfig, options: BenchOptions) -> Steps:
    """Training of all weights in fp32 with AdamW."""
    device = pick_device(options.device)
    check_length(config, options)
    step = Step(options.length, options.rows, itemsize=4)
    needed = peak(memory(config, step), step).n
    free = free_memory(device)
    if free is not None and needed > free:
        raise FathomError(f"training needs about {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free; choose"
                          " a smaller shape or batch")  # fmt: skip
    session = Session.start(config, training(options))
    return Steps(steps(session, options), session.precision.dtype)


def finetune(model: Transformer, options: BenchOptions) -> Steps:
    """LoRA of rank RANK on q, k and v of a GPT-2, or on all linear layers of the blocks.

    The default of peers: c_attn of GPT-2, every matrix of a LLaMA.
    """
    check_length(model.config, options)
    targets = ("attn.q", "attn.k", "attn.v") if model.config.position == "learned" else ("all-linear",)
    layers = lora.add(model, LoraOptions(rank=RANK, targets=targets), seed=options.seed)
    device, choices = model.embed.weight.device, training(options)
    if device.type == "cpu":  # as `fathom finetune` does
        rows = micro_batch(options.rows, options.length * model.config.d_model)
        choices = replace(choices, micro_batch_size=rows)
    session = Session(model, choices, device)
    first = (name.removeprefix("blocks.0.") for name in layers if name.startswith("blocks.0."))
    return Steps(steps(session, options), session.precision.dtype, tuple(first))


def training(options: BenchOptions) -> TrainOptions:
    """Options of the training loop."""
    rows, dtype, device, seed = options.rows, options.dtype, options.device, options.seed
    return TrainOptions(batch_size=rows, dtype=dtype, device=device, seed=seed, learning_rate=1e-4)


def steps(session: Session, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each step after the first."""
    keep_freed_memory()
    ids = torch.randint(session.model.config.vocab_size, (options.rows, options.length + 1), device=session.device)
    batch = session.prepare(ids)
    update(session, batch)
    taken = [seconds(lambda: update(session, batch), session.device) for _ in range(options.repeat)]
    return tuple(options.rows * options.length / each for each in taken)


def check_length(config: ModelConfig, options: BenchOptions) -> None:
    if options.length > config.context_length:
        raise FathomError(
            f"prompt is {options.length} and the context length {config.context_length}; give at most that"
        )


CHUNK = GenerateOptions.prefill_chunk


def prepare(model: Transformer) -> Transformer:
    """The model as generation runs it: prepared for inference."""
    return prepare_for_inference(model)


@torch.no_grad()
def decode(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.check_length(options.length + options.new)
    cache = empty_cache(model, options.rows, options.length + options.new)
    cache.store.normal_()
    ids = random_ids(model, options.rows, 1)
    counted = options.rows * (options.new - UNCOUNTED)
    return tuple(counted / time_steps(model, cache, ids, options) for _ in range(options.repeat))


def time_steps(model: Transformer, cache: KVCache, ids: Tensor, options: BenchOptions) -> float:
    """Seconds of the timed steps."""
    cache.rewind(0)
    cache.advance(options.length)  # its contents do not change the time
    began = 0.0
    for step in range(options.new):
        if step == UNCOUNTED:
            settle(ids.device)
            began = time.perf_counter()
        ids = model.unembed(model.hidden(ids, cache)[:, -1]).float().argmax(-1, keepdim=True)  # (b, 1)
    settle(ids.device)
    return time.perf_counter() - began


def mean_filled(options: BenchOptions) -> float:
    """Average number of tokens in the cache that a timed decoding step reads, its own included."""
    return options.length + 1 + (UNCOUNTED + options.new - 1) / 2


@torch.no_grad()
def prefill(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.check_length(options.length)
    cache = empty_cache(model, options.rows, options.length)
    ids = random_ids(model, options.rows, options.length)
    device = ids.device
    seconds(lambda: read(model, cache, ids), device)  # to warm up
    rounds = [seconds(lambda: read(model, cache, ids), device) for _ in range(options.repeat)]
    return tuple(ids.numel() / taken for taken in rounds)


def read(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """Prompts (b, t) into an empty cache -> the likeliest next tokens (b,)."""
    cache.rewind(0)
    for chunk in ids.split(CHUNK, dim=1):
        x = model.hidden(chunk, cache)[:, -1]  # (b, d)
    return model.unembed(x).argmax(-1)


def empty_cache(model: Transformer, rows: int, length: int) -> KVCache:
    return cache_for(model, rows, length)


def random_ids(model: Transformer, rows: int, length: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (rows, length), device=model.embed.weight.device)


IMPORTS = "import fathom.adapters.load, fathom.generation.generate"
Prepare = Callable[[Transformer], Transformer]


@torch.no_grad()
def startup(path: Path, options: BenchOptions, prepare: Prepare) -> tuple[tuple[float, float, float], ...]:
    """Seconds of each round: imports, load, prompt and first token. The first round, which fills the file cache, is
    left out."""
    rounds = []
    for _ in range(options.repeat + 1):
        began = time.perf_counter()
        model = prepare(load(path, options.dtype, options.device, options.quantize)[0])
        loaded = time.perf_counter()
        ids = random_ids(model, options.rows, options.length)
        read(model, empty_cache(model, *ids.shape), ids)
        settle(ids.device)
        rounds.append((imports(), loaded - began, time.perf_counter() - loaded))
        del model  # before the next one is loaded
    return tuple(rounds[1:])


def imports() -> float:
    """Seconds of a process that only imports what generation needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def write(model: Transformer, folder: Path) -> None:
    """Write the model as a folder that `load` opens."""
    write_config(folder / CONFIG, {"model": asdict(model.config)})
    write_weights(model, folder / WEIGHTS)
