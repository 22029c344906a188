"""One call of `fathom bench`: a model, a work, its peak memory, and the limits of this machine.

What a work needs at least (bytes that a token's step reads, FLOPs of a pass) is arithmetic: a multiply and an add are
two FLOPs, products only, attention counted whole, as in model/cost. The probes of the machine run last, so that their
buffers do not count in the peak memory.
"""

import platform
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from fathom.adapters.load import load
from fathom.anatomy import training
from fathom.anatomy.cost import cache_bytes, flops, flops_per_token, matrices, n_parameters
from fathom.anatomy.training import Step
from fathom.bench import works
from fathom.bench.options import LEARNING, BenchOptions
from fathom.bench.probes import Probes, probe
from fathom.bench.result import Figure, Result
from fathom.bench.shapes import SHAPES, random_model
from fathom.formats.detect import open_model
from fathom.machine import describe, peak_memory, pick_device
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.schemes import scheme_named
from fathom.training.precision import DTYPES, choose, has_bf16


@runtime_checkable
class HasBytes(Protocol):
    """A layer that knows the bytes of its packed weights; a bias is not in them."""

    @property
    def nbytes(self) -> int: ...


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights that every step reads, as stored, scales included. The embedding, of which it reads a row,
    is not among them."""
    parts = [part for part in model.modules() if not isinstance(part, nn.Embedding)]
    packed = sum(part.nbytes for part in parts if isinstance(part, HasBytes))
    floats = {id(p): p.nbytes for part in parts for p in part.parameters(recurse=False)}
    return packed + sum(floats.values())


def step_bytes(model: Transformer, rows: int, filled: float) -> float:
    """Bytes that one step of `rows` sequences reads with `filled` tokens in the cache: the weights once, each row's
    cache."""
    per_token = cache_bytes(model.config, rows, 1, model.embed.weight.element_size())
    return weight_bytes(model) + per_token * filled


def prefill_flops(config: ModelConfig, length: int, rows: int, chunk: int) -> int:
    """FLOPs of reading `rows` prompts, `chunk` tokens at a time, and of the logits after the last token."""
    total = flops(config, 1, rows)["unembed"]
    for past in range(0, length, chunk):
        count = flops(config, min(chunk, length - past), rows, past)
        total += sum(count.values()) - count["unembed"]
    return total


def finetune_flops(config: ModelConfig, length: int, rows: int, rank: int, targets: Iterable[str]) -> int:
    """FLOPs of a step of an adapter. targets: names of the blocks' matrices that are adapted, such as attn.q."""
    sizes = matrices(config)
    adapted = rank * config.n_layer * sum(sum(sizes[name]) for name in targets)
    return rows * sum(one.n for one in training.flops(config, Step(length, method="lora"), adapted).values())


@dataclass(frozen=True)
class Measurement:
    """Rounds of one figure, and the bytes or FLOPs needed by a token (unit tok/s) or by all of it (unit s)."""

    name: str
    unit: str
    rounds: tuple[float, ...]
    bytes: float = 0.0
    flops: float = 0.0

    def against(self, probes: Probes) -> Figure:
        """With the limit that the machine sets."""
        needed, speed = (self.bytes, probes.read_gb_s) if self.bytes else (self.flops, probes.gemm_gflop_s)
        if not needed:
            return Figure(self.name, self.unit, self.rounds)
        limit = needed / (1e9 * speed) if self.unit == "s" else 1e9 * speed / needed
        what, rate = ("GB read", "GB/s") if self.bytes else ("GFLOP", "GFLOP/s")
        each = " per token" if self.unit == "tok/s" else ""
        return Figure(
            self.name, self.unit, self.rounds, limit, f"{needed / 1e9:,.4g} {what}{each}, {speed:,.1f} {rate}"
        )


@dataclass(frozen=True)
class WorkResult:
    """A work's figures, the model's config, and the dtype of its products."""

    figures: tuple[Measurement, ...]
    config: ModelConfig
    dtype: torch.dtype


def bench(options: BenchOptions) -> Result:
    """Measure one work. FathomError where the model or shape cannot be loaded or does not fit into memory."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    work = WORK[options.work](options)
    peak = peak_memory(device) / 2**20
    probes = probe(work.config, work.dtype, device)
    figures = tuple(measurement.against(probes) for measurement in work.figures)
    return Result(describe_run(options, work, device), figures, probes, peak)


def decode(options: BenchOptions) -> WorkResult:
    model = prepared(options)
    rounds = works.decode(model, options)
    needed = step_bytes(model, options.rows, works.mean_filled(options)) / options.rows
    return WorkResult((Measurement("decode", "tok/s", rounds, bytes=needed),), model.config, model.embed.weight.dtype)


def prefill(options: BenchOptions) -> WorkResult:
    model = prepared(options)
    rounds = works.prefill(model, options)
    needed = prefill_flops(model.config, options.length, options.rows, works.CHUNK) / (options.rows * options.length)
    return WorkResult((Measurement("prefill", "tok/s", rounds, flops=needed),), model.config, model.embed.weight.dtype)


def train(options: BenchOptions) -> WorkResult:
    config = SHAPES[options.shape or "110M"] if options.model is None else open_model(options.model).config
    steps = works.train(config, options)
    needed = flops_per_token(config, options.length)
    return WorkResult((Measurement("train", "tok/s", steps.rounds, flops=needed),), config, steps.dtype)


def finetune(options: BenchOptions) -> WorkResult:
    model = built(options)
    steps = works.finetune(model, options)
    rows, length = options.rows, options.length
    needed = finetune_flops(model.config, length, rows, works.RANK, steps.targets) / (rows * length)
    return WorkResult((Measurement("finetune", "tok/s", steps.rounds, flops=needed),), model.config, steps.dtype)


def startup(options: BenchOptions) -> WorkResult:
    """A shape is written to a temporary folder first."""
    if options.model is not None:
        return load_and_run(Path(options.model), options)
    with tempfile.TemporaryDirectory() as folder:
        works.write(built(options, packed=False), Path(folder))
        return load_and_run(Path(folder), options)


def load_and_run(path: Path, options: BenchOptions) -> WorkResult:
    model = prepared_by(options)(load(path, options.dtype, options.device, options.quantize)[0])
    needed, config, dtype = weight_bytes(model), model.config, model.embed.weight.dtype
    del model
    parts = works.startup(path, options, prepared_by(options))
    whole = Measurement("startup", "s", tuple(sum(part) for part in parts), bytes=needed)
    named = [Measurement(name, "s", rounds) for name, rounds in zip(("imports", "load", "first token"), zip(*parts))]
    return WorkResult((whole, *named), config, dtype)


WORK: dict[str, Callable[[BenchOptions], WorkResult]] = {
    "decode": decode,
    "prefill": prefill,
    "train": train,
    "finetune": finetune,
    "startup": startup,
}


def prepared_by(options: BenchOptions) -> Callable[[Transformer], Transformer]:
    """How a model is prepared before it is measured."""
    return (lambda model: model) if options.plain else works.prepare


def prepared(options: BenchOptions) -> Transformer:
    """The model, prepared for inference."""
    return prepared_by(options)(built(options))


def built(options: BenchOptions, packed: bool = True) -> Transformer:
    """The model of the options: loaded, or of a shape with random weights."""
    quantize = options.quantize if packed else None
    if options.model is not None:
        return load(options.model, options.dtype, options.device, quantize)[0]
    config, scheme = SHAPES[options.shape or "110M"], None if quantize is None else scheme_named(quantize)
    return random_model(config, dtype_of(config, options), pick_device(options.device), scheme)


def dtype_of(config: ModelConfig, options: BenchOptions) -> torch.dtype:
    """Dtype of a shape's weights: as given, else as the training loop chooses, else bf16 where the CPU or GPU has
    it."""
    device = pick_device(options.device)
    if options.work in LEARNING:
        return choose(works.training(options), config, device).dtype
    if options.dtype == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return DTYPES[options.dtype]


def describe_run(options: BenchOptions, work: WorkResult, device: torch.device) -> dict[str, Any]:
    """What ran, where and how, as plain values."""
    return {
        "work": options.work,
        "model": options.name,
        "parameters": n_parameters(work.config),
        "dtype": str(work.dtype).removeprefix("torch."),
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
