"""What gpu.py measures: each part is a function that reports its figures as it gets them.

Every limit (what a copy and a large matrix product reach) is measured in the same process as what is held against it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.anatomy.cost import cache_bytes, training_flops
from fathom.anatomy.training import Step, memory
from fathom.bench import probes, works
from fathom.bench.bench import weight_bytes
from fathom.bench.shapes import random_model
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.quant.schemes import scheme_named

PEAKS = {  # nominal dense bf16 TFLOP/s by words of the card's name; the first entry that matches counts
    "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H800": 989, "B200": 2250, "B100": 1800,
    "A100": 312, "A800": 312, "A10G": 70, "A10": 125, "A40": 150, "A6000": 155, "L40S": 362, "L40": 181, "L4": 121,
    "RTX 5090": 210, "RTX 4090": 165, "RTX 4080": 98, "RTX 3090": 71,
}  # fmt: skip
PROMPT, NEW, VOCABULARY = 128, 64, 50304  # GPT-2's vocabulary padded to a multiple of 64, as products want it
AT_ONCE = 2**28  # logits held at a time: a gigabyte in fp32, 1/80 of a large card
SMALL = {"d_model": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "context_length": 64}  # for --tiny


@dataclass(frozen=True)
class Task:
    """Where to measure, until when (time.monotonic), and `report(name, figure)`."""

    device: torch.device
    tiny: bool
    text: Path | None
    until: float
    report: Callable[[str, Any], None]

    @property
    def left(self) -> float:
        return self.until - time.monotonic()


def seconds(task: Task, run: Callable[[], object], repeat: int = 5, cold: bool = False) -> float:
    """The median of some runs after two to warm up; `cold`: with none of its data in the card's cache."""
    other = torch.empty(2**28 if cold and not task.tiny else 1, dtype=torch.uint8, device=task.device)
    times = []
    for _ in range(repeat + 2):
        other.zero_()
        times.append(seconds_once(task, run))
    return statistics.median(times[2:])


def seconds_once(task: Task, run: Callable[[], object]) -> float:
    """By the card's own clock, so that earlier work in its queue does not count."""
    if task.device.type != "cuda":
        return probes.seconds(run, task.device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def copy_speed(task: Task) -> float:
    """Bytes per second that a copy within the card's memory reads and writes."""
    return 1e9 * probes.bandwidth(task.device, 2**22 if task.tiny else 2**32)[1]


def product_speed(task: Task) -> float:
    """FLOP/s of a large square bf16 product."""
    n = 256 if task.tiny else 8192
    return 1e9 * probes.products(n, (n, n), torch.bfloat16, task.device)


def nominal_peak(task: Task) -> float | None:
    """The nominal FLOP/s of a known card."""
    name = torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else ""
    return next((1e12 * peak for words, peak in PEAKS.items() if all(word in name for word in words.split())), None)


def checks(task: Task) -> None:
    """What must hold on any device; see tests/gpu/checks.py."""
    from tests.gpu.checks import CHECKS

    wrong = []
    for name, check in CHECKS.items():
        if task.tiny and name == "compiled":
            continue
        try:
            differences = list(check(task.device))
            wrong += [f"{each.what}: {each.difference:.2g} > {each.allowed:g}" for each in differences if not each.ok]
            figures = {each.what: [each.difference, each.allowed] for each in differences}
        except Exception as error:  # an error in one check must not hide the others
            wrong.append(f"{name}: {one_line(error)}")
            figures = {}
        task.report(name, figures)
        task.report("wrong", wrong)
    if wrong:
        raise RuntimeError(f"{len(wrong)} checks failed, first {wrong[0]}")


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def train(task: Task) -> None:
    """Steps of GPT-2 124M on random tokens: as `fathom train` takes them, and with the loss in larger pieces."""
    from fathom.training.loop import update

    config = replace(GPT2, vocab_size=VOCABULARY)
    if task.tiny:
        config = replace(config, **SMALL)
    peak, product = nominal_peak(task), product_speed(task)
    task.report("peak_flops", peak)
    task.report("product_flops", product)
    rows, session, batch = start(task, config)
    tokens = batch.n_tokens
    flops = training_flops(replace(config, vocab_size=min(config.vocab_size, GPT2.vocab_size)), config.context_length)
    task.report("shape", {"rows": rows, "context": config.context_length, "rows_per_step": 2 * rows})
    for name, loss in (("loop", nullcontext()), ("pieces", larger_pieces(compiled=not task.tiny))):
        if task.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with loss:
            taken = seconds(task, lambda: update(session, batch), 3 if task.tiny else 10)
            kernels = slowest_kernels(task, lambda: update(session, batch))
        rate = flops / config.context_length * tokens / taken
        task.report(name, {
            "seconds_per_step": taken, "tokens_per_second": tokens / taken, "flops": rate,
            "of_peak": peak and rate / peak, "of_product": rate / product, "kernels_ms": kernels,
            "memory": torch.cuda.max_memory_allocated() if task.device.type == "cuda" else None,
        })  # fmt: skip


def start(task: Task, config: ModelConfig) -> tuple[int, Any, Any]:
    """As many rows a pass as fit well (at most 64), a session that has taken two steps, and the batch of a step."""
    from fathom.training.loop import update
    from fathom.training.options import TrainOptions
    from fathom.training.session import Session

    free = torch.cuda.mem_get_info()[0] if task.device.type == "cuda" else 2**30
    rows = 2 if task.tiny else 64
    while rows > 1 and bytes_needed(config, rows) > 0.7 * free:
        rows //= 2
    options = TrainOptions(
        batch_size=2 * rows, micro_batch_size=rows, learning_rate=1e-4, max_iters=10000,
        dtype="bf16", compile="off" if task.tiny else "on",
    )  # fmt: skip
    torch.manual_seed(0)
    session = Session(Transformer(config), options, task.device)
    ids = torch.randint(0, min(config.vocab_size, GPT2.vocab_size), (2 * rows, config.context_length + 1))
    batch = session.prepare(ids)
    task.report("losses", [update(session, batch).loss for _ in range(2)])
    return rows, session, batch


def bytes_needed(config: ModelConfig, rows: int) -> int:
    kinds = memory(config, Step(config.context_length, rows))
    return sum(x.n for name, x in kinds.items() if name != "logits") + 3 * 4 * AT_ONCE


@contextmanager
def larger_pieces(compiled: bool) -> Iterator[None]:
    """`AT_ONCE` logits at a time, and their cross entropy compiled: it then reads them once and not five times."""
    from fathom.training import loss

    usual = loss.next_token_loss, loss.summed
    loss.next_token_loss = partial(loss.next_token_loss, at_once=AT_ONCE)  # type: ignore[assignment]
    if compiled:
        loss.summed = torch.compile(loss.summed, dynamic=False)
    try:
        yield
    finally:
        loss.next_token_loss, loss.summed = usual


def slowest_kernels(task: Task, step: Callable[[], object], count: int = 15) -> dict[str, float]:
    """Milliseconds of the kernels that take most of a step."""
    if task.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            step()
            torch.cuda.synchronize()
    except RuntimeError as error:  # a card that does not allow profiling
        return {one_line(error): 0.0}
    times = sorted(((e.self_device_time_total / 1000, e.key[:90]) for e in profiled.key_averages()), reverse=True)
    return {name: round(ms, 3) for ms, name in times[:count]}


def decode(task: Task, scheme: str | None) -> None:
    """One sequence of LLaMA 2 7B's shape, random weights: 128 tokens read, 64 written, in several ways."""
    from fathom.backend.cuda_graph import RecordedStep
    from fathom.backend.inference import InferenceModel, cache_for
    from fathom.backend.matvec import use_matvec

    config = replace(LLAMA2_7B, **SMALL, d_ff=96) if task.tiny else LLAMA2_7B
    copy = copy_speed(task)
    task.report("copy_bytes_per_second", copy)
    torch.manual_seed(0)
    packing = None if scheme is None else scheme_named(scheme)
    model = random_model(config, torch.bfloat16, task.device, packing).requires_grad_(False)
    moved = weight_bytes(model) + cache_bytes(config, 1, 96 if task.tiny else PROMPT + NEW // 2, 2)
    task.report("bytes_per_token", moved)
    prompt = torch.randint(0, config.vocab_size, (1, 16 if task.tiny else PROMPT), device=task.device)
    new = 8 if task.tiny else NEW
    tokens, expected = greedy(model, prompt, 8 if scheme else new)

    def report(name: str, taken: float, difference: float) -> None:
        figures = {"seconds_per_token": taken, "tokens_per_second": 1 / taken, "of_copy": moved / taken / copy}
        task.report(name, figures | {"logit_difference": difference})
        if not difference <= 5e-2:
            raise RuntimeError(f"{name}: logits differ by {difference:.2g} from the plain model's, allowed are 0.05")

    def measure(name: str) -> None:
        prepared = InferenceModel(model, RecordedStep)
        cache = cache_for(prepared, 1, prompt.shape[1] + new)
        difference = logit_difference(prepared, cache, prompt, tokens, expected)
        report(name, seconds(task, lambda: write(prepared, cache, prompt, new), 5) / new, difference)

    count = tokens.shape[1]
    report("plain", seconds(task, lambda: greedy(model, prompt, count), 3) / count, 0.0)
    measure("recorded")
    if why_not := use_matvec(model):
        task.report("own kernels", why_not)
    else:
        measure("recorded, own kernels")  # as `fathom generate` runs it


@torch.no_grad()
def greedy(model: Transformer, prompt: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """(1, new) greedy tokens with a KVCache, kernel by kernel, and the logits (1, V) of the last."""
    cache = works.empty_cache(model, 1, prompt.shape[1] + new)
    logits, chosen = model(prompt, cache)[:, -1], []
    for _ in range(new - 1):
        chosen.append(logits.argmax(-1, keepdim=True))
        logits = model(chosen[-1], cache)[:, -1]
    return torch.cat([*chosen, logits.argmax(-1, keepdim=True)], 1), logits


@torch.no_grad()
def logit_difference(model: Transformer, cache: KVCache, prompt: Tensor, tokens: Tensor, expected: Tensor) -> float:
    """Relative difference of the last logits from the plain model's after the same tokens."""
    model.hidden(prompt, cache)
    for token in tokens[:, :-1].split(1, dim=1):
        logits = model(token, cache)[:, -1]
    return ((logits - expected).float().norm() / expected.float().norm()).item()


@torch.no_grad()
def write(model: Transformer, cache: KVCache, prompt: Tensor, new: int) -> Tensor:
    """The tokens after a prompt that is in the cache already: reading it does not count, so it is read once."""
    cache.rewind(prompt.shape[1])
    ids = prompt[:, -1:]
    for _ in range(new):
        ids = model(ids, cache)[:, -1].argmax(-1, keepdim=True)
    return ids


def shakespeare(task: Task) -> None:
    """`fathom train shakespeare` on a text: its loss over time."""
    from fathom import train as train_run
    from fathom.training.events import Evaluated

    curve: list[tuple[int, float, float]] = []

    def listen(event: object) -> None:
        if isinstance(event, Evaluated):
            curve.append((event.step, event.loss, event.seconds))
            task.report("validation", curve)

    options: dict[str, Any] = {"data": str(task.text), "device": str(task.device)}
    options["max_minutes"] = max(0.1, (task.left - 15) / 60)
    model = {} if not task.tiny else {"d_model": 32, "n_layer": 1, "n_head": 2, "context_length": 32}
    options |= {"max_iters": 6, "eval_interval": 3, "batch_size": 4, "sample_interval": None} if task.tiny else {}
    with tempfile.TemporaryDirectory() as folder:
        result = train_run("shakespeare", Path(folder) / "run", model=model, options=options, report=listen)
    best = min(loss for _, loss, _ in curve)
    reached = {f"{goal}": next((s for _, loss, s in curve if loss <= goal), None) for goal in (1.55, 1.5, 1.4697, 1.46)}
    task.report("result", {"best": best, "steps": result.step, "seconds": result.seconds, "seconds_to": reached})


PARTS: dict[str, Callable[[Task], None]] = {
    "checks": checks,
    "train": train,
    "decode bf16": lambda task: decode(task, None),
    "decode int4": lambda task: decode(task, "int4"),
    "shakespeare": shakespeare,
}
