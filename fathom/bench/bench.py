"""One call of `fathom bench`: a model, a work, the memory it took, and then what this machine could do at most.

The probes come last, so that their buffers are not in the peak of memory.
"""

import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from fathom.adapters.load import load
from fathom.bench import works
from fathom.bench.options import LEARNING, BenchOptions
from fathom.bench.probes import Probes, probe
from fathom.bench.result import Figure, Result
from fathom.bench.shapes import SHAPES, random_model
from fathom.formats.detect import open_model
from fathom.machine import describe, pick_device
from fathom.model.config import ModelConfig
from fathom.model.cost import cache_bytes, flops, flops_per_token, matrices, n_parameters
from fathom.model.transformer import Transformer
from fathom.quant.schemes import scheme_named
from fathom.train.precision import DTYPES, choose, has_bf16

# What a work cannot do without, counted by hand: bytes that a token's step reads, FLOPs that a pass computes.
#
# A multiply and an add are two FLOPs; products only, attention counted whole, as in model/cost. Does not measure.


@runtime_checkable
class Weighed(Protocol):
    """A layer that says how many bytes its packed weights take; a bias may stand beside them."""

    @property
    def nbytes(self) -> int: ...


def weight_bytes(model: nn.Module) -> int:
    """Of all weights that every step reads, as they are stored, scales included. Of an embedding it reads a row."""
    parts = [part for part in model.modules() if not isinstance(part, nn.Embedding)]
    packed = sum(part.nbytes for part in parts if isinstance(part, Weighed))
    floats = {id(p): p.nbytes for part in parts for p in part.parameters(recurse=False)}
    return packed + sum(floats.values())


def step_bytes(model: Transformer, rows: int, filled: float) -> float:
    """What one step of `rows` sequences reads with so many tokens in the cache: weights once, each row's cache."""
    per_token = cache_bytes(model.config, rows, 1, model.embed.weight.element_size())
    return weight_bytes(model) + per_token * filled


def prefill_flops(config: ModelConfig, length: int, rows: int, chunk: int) -> int:
    """Of reading `rows` prompts, `chunk` tokens at a time, and saying the token after the last."""
    total = flops(config, 1, rows)["unembed"]
    for past in range(0, length, chunk):
        count = flops(config, min(chunk, length - past), rows, past)
        total += sum(count.values()) - count["unembed"]
    return total


def finetune_flops(config: ModelConfig, length: int, rows: int, rank: int, targets: Iterable[str]) -> int:
    """Of a step of an adapter: frozen matrices take part forward and toward x, everything else has three products.

    targets: names of the blocks' matrices that are adapted, such as attn.q.
    """
    count, sizes = flops(config, length, rows), matrices(config)
    frozen = sum(n for name, n in count.items() if name in sizes or name == "unembed")
    pairs = sum(count.values()) - frozen
    width = sum(sum(sizes[name]) for name in targets)
    return 2 * frozen + 3 * pairs + 3 * 2 * length * rows * rank * width * config.n_layer


@dataclass(frozen=True)
class Measured:
    """Rounds, and the bytes or FLOPs that a token (unit tok/s) or all of it (unit s) cannot do without."""

    name: str
    unit: str
    rounds: tuple[float, ...]
    bytes: float = 0.0
    flops: float = 0.0

    def held(self, probes: Probes) -> Figure:
        """Beside what the machine allows."""
        needed, speed = (self.bytes, probes.read_gb_s) if self.bytes else (self.flops, probes.gemm_gflop_s)
        if not needed:
            return Figure(self.name, self.unit, self.rounds)
        limit = needed / (1e9 * speed) if self.unit == "s" else 1e9 * speed / needed
        what, rate = ("GB read", "GB/s") if self.bytes else ("GFLOP", "GFLOP/s")
        each = " a token" if self.unit == "tok/s" else ""
        return Figure(
            self.name, self.unit, self.rounds, limit, f"{needed / 1e9:,.4g} {what}{each}, {speed:,.1f} {rate}"
        )


@dataclass(frozen=True)
class Done:
    """A work's figures, of which model, and in which dtype its products were computed."""

    figures: tuple[Measured, ...]
    config: ModelConfig
    dtype: torch.dtype


def bench(options: BenchOptions) -> Result:
    """Measure one work. FathomError where the model, the shape or the memory does not allow it."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    done = WORK[options.work](options)
    peak = peak_mib(device)
    probes = probe(done.config, done.dtype, device)
    figures = tuple(measured.held(probes) for measured in done.figures)
    return Result(about(options, done, device), figures, probes, peak)


def decode(options: BenchOptions) -> Done:
    model = prepared(options)
    rounds = works.decode(model, options)
    needed = step_bytes(model, options.rows, works.mean_filled(options)) / options.rows
    return Done((Measured("decode", "tok/s", rounds, bytes=needed),), model.config, model.embed.weight.dtype)


def prefill(options: BenchOptions) -> Done:
    model = prepared(options)
    rounds = works.prefill(model, options)
    needed = prefill_flops(model.config, options.length, options.rows, works.CHUNK) / (options.rows * options.length)
    return Done((Measured("prefill", "tok/s", rounds, flops=needed),), model.config, model.embed.weight.dtype)


def train(options: BenchOptions) -> Done:
    config = SHAPES[options.shape or "110M"] if options.model is None else open_model(options.model).config
    learned = works.train(config, options)
    needed = flops_per_token(config, options.length)
    return Done((Measured("train", "tok/s", learned.rounds, flops=needed),), config, learned.dtype)


def finetune(options: BenchOptions) -> Done:
    model = built(options)
    learned = works.finetune(model, options)
    rows, length = options.rows, options.length
    needed = finetune_flops(model.config, length, rows, works.RANK, learned.targets) / (rows * length)
    return Done((Measured("finetune", "tok/s", learned.rounds, flops=needed),), model.config, learned.dtype)


def start(options: BenchOptions) -> Done:
    """A shape is written to a folder first, which goes when all is done."""
    if options.model is not None:
        return started(Path(options.model), options)
    with tempfile.TemporaryDirectory() as folder:
        works.write(built(options, packed=False), Path(folder))
        return started(Path(folder), options)


def started(path: Path, options: BenchOptions) -> Done:
    model = prepared_by(options)(load(path, options.dtype, options.device, options.quantize)[0])
    needed, config, dtype = weight_bytes(model), model.config, model.embed.weight.dtype
    del model
    parts = works.startup(path, options, prepared_by(options))
    whole = Measured("startup", "s", tuple(sum(part) for part in parts), bytes=needed)
    named = [Measured(name, "s", rounds) for name, rounds in zip(("imports", "load", "first token"), zip(*parts))]
    return Done((whole, *named), config, dtype)


WORK: dict[str, Callable[[BenchOptions], Done]] = {
    "decode": decode,
    "prefill": prefill,
    "train": train,
    "finetune": finetune,
    "startup": start,
}


def prepared_by(options: BenchOptions) -> Callable[[Transformer], Transformer]:
    """What is done to a model before it is measured."""
    return (lambda model: model) if options.plain else works.prepare


def prepared(options: BenchOptions) -> Transformer:
    """The model that infers."""
    return prepared_by(options)(built(options))


def built(options: BenchOptions, packed: bool = True) -> Transformer:
    """The model asked for: loaded, or of random weights."""
    quantize = options.quantize if packed else None
    if options.model is not None:
        return load(options.model, options.dtype, options.device, quantize)[0]
    config, scheme = SHAPES[options.shape or "110M"], None if quantize is None else scheme_named(quantize)
    return random_model(config, dtype_of(config, options), pick_device(options.device), scheme)


def dtype_of(config: ModelConfig, options: BenchOptions) -> torch.dtype:
    """Of a shape's weights: as asked for, else as the loop chooses, else bf16 where the machine multiplies it."""
    device = pick_device(options.device)
    if options.work in LEARNING:
        return choose(works.training(options), config, device).dtype
    if options.dtype == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return DTYPES[options.dtype]


def about(options: BenchOptions, done: Done, device: torch.device) -> dict[str, Any]:
    """What ran, where and how."""
    return {
        "work": options.work,
        "model": options.name,
        "parameters": n_parameters(done.config),
        "dtype": str(done.dtype).removeprefix("torch."),
        "quantize": options.quantize,
        "prompt": options.length,
        "new": options.new,
        "batch": options.rows,
        "repeat": options.repeat,
        "plain": options.plain,
        "threads": torch.get_num_threads(),
        "device": describe(device),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }


def peak_mib(device: torch.device) -> float:
    """Largest memory so far: of this process, on a GPU of what torch held there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
