"""What benchmarks/gpu.py measures, each part a function that tells its figures as it finds them.

Every limit (what a copy and a large matrix product reach) is measured in the same process as what is held against it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.model.config import ModelConfig
from fathom.model.cost import cache_bytes, training_bytes, training_flops
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer

PEAKS = {  # dense bf16 TFLOP/s as the makers state them, by a part of the card's name; the first that fits
    "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H800": 989, "B200": 2250, "B100": 1800,
    "A100": 312, "A800": 312, "A10G": 70, "A10": 125, "A40": 150, "A6000": 155, "L40S": 362, "L40": 181, "L4": 121,
    "RTX 5090": 210, "RTX 4090": 165, "RTX 4080": 98, "RTX 3090": 71,
}  # fmt: skip
PROMPT, NEW, VOCABULARY = 128, 64, 50304  # GPT-2's vocabulary filled up to a multiple of 64, as products want it
AT_ONCE = 2**28  # logits held at a time: a gigabyte in fp32, 1/80 of a large card
SMALL = {"d_model": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "context_length": 64}  # for --tiny


@dataclass(frozen=True)
class Task:
    """Where to measure, until when (time.monotonic), and whom to tell: `tell(name, figure)`."""

    device: torch.device
    tiny: bool
    text: Path | None
    until: float
    tell: Callable[[str, Any], None]

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def seconds(task: Task, run: Callable[[], object], repeat: int = 5, cold: bool = False) -> float:
    """The median of some runs after two for warming up; `cold`: with nothing of its data in the card's cache."""
    other = torch.empty(2**28 if cold and not task.tiny else 1, dtype=torch.uint8, device=task.device)
    times = []
    for _ in range(repeat + 2):
        other.zero_()
        times.append(once(task, run))
    return statistics.median(times[2:])


def once(task: Task, run: Callable[[], object]) -> float:
    """By the card's own clock, so that what comes before in its queue does not count."""
    if task.device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def copy_speed(task: Task) -> float:
    """Bytes per second that a copy within the card's memory reads and writes."""
    x = torch.randn(2**20 if task.tiny else 2**30, dtype=torch.bfloat16, device=task.device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / seconds(task, lambda: y.copy_(x), 10)


def product_speed(task: Task) -> float:
    """FLOP/s of a large square bf16 product."""
    n = 256 if task.tiny else 8192
    x, y = (torch.randn(n, n, dtype=torch.bfloat16, device=task.device) for _ in range(2))
    return 2 * n**3 / seconds(task, lambda: x @ y, 10)


def peak_of(task: Task) -> float | None:
    """FLOP/s that the maker states, where the card is known."""
    name = torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else ""
    return next((1e12 * peak for part, peak in PEAKS.items() if all(word in name for word in part.split())), None)


def checks(task: Task) -> None:
    """What must hold on any device; see tests/gpu/checks.py."""
    from tests.gpu.checks import CHECKS

    wrong = []
    for name, check in CHECKS.items():
        if task.tiny and name == "compiled":
            continue
        try:
            found = list(check(task.device))
            wrong += [f"{each.what}: {each.difference:.2g} > {each.allowed:g}" for each in found if not each.ok]
            figures = {each.what: [each.difference, each.allowed] for each in found}
        except Exception as error:  # a fault of one check must not hide the others
            wrong.append(f"{name}: {one_line(error)}")
            figures = {}
        task.tell(name, figures)
        task.tell("wrong", wrong)
    if wrong:
        raise RuntimeError(f"{len(wrong)} checks failed, first {wrong[0]}")


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def train(task: Task) -> None:
    """Steps of GPT-2 124M on random tokens: as `fathom train` takes them, and with the loss in larger pieces."""
    from fathom.train.loop import update

    config = replace(GPT2, vocab_size=VOCABULARY)
    if task.tiny:
        config = replace(config, **SMALL)
    peak, probe = peak_of(task), product_speed(task)
    task.tell("peak_flops", peak)
    task.tell("product_flops", probe)
    rows, session, ids = filled(task, config)
    tokens = ids.shape[0] * config.context_length
    flops = training_flops(replace(config, vocab_size=min(config.vocab_size, GPT2.vocab_size)), config.context_length)
    task.tell("shape", {"rows": rows, "context": config.context_length, "rows_per_step": ids.shape[0]})
    for name, step in (("loop", lambda: update(session, ids)), ("pieces", lambda: step_in_pieces(session, ids))):
        if task.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with compiled_loss() if name == "pieces" and not task.tiny else unchanged():
            taken = seconds(task, step, 3 if task.tiny else 10)
            hot = hottest(task, step)
        rate = flops / config.context_length * tokens / taken
        task.tell(name, {
            "seconds_per_step": taken, "tokens_per_second": tokens / taken, "flops": rate,
            "of_peak": peak and rate / peak, "of_product": rate / probe, "kernels_ms": hot,
            "memory": torch.cuda.max_memory_allocated() if task.device.type == "cuda" else None,
        })  # fmt: skip


def filled(task: Task, config: ModelConfig) -> tuple[int, Any, Tensor]:
    """As many rows a pass as fit well (at most 64), a session that has taken two steps, and the tokens of a step."""
    from fathom.train.loop import Session, update
    from fathom.train.options import TrainOptions

    free = torch.cuda.mem_get_info()[0] if task.device.type == "cuda" else 2**30
    rows = 64
    while rows > 1 and bytes_needed(config, rows) > 0.7 * free:
        rows //= 2
    rows = min(rows, 2) if task.tiny else rows
    options = TrainOptions(
        batch_size=2 * rows, micro_batch_size=rows, learning_rate=1e-4, max_iters=10000,
        dtype="bf16", compile="off" if task.tiny else "on",
    )  # fmt: skip
    torch.manual_seed(0)
    session = Session(Transformer(config), options, task.device)
    ids = torch.randint(0, min(config.vocab_size, GPT2.vocab_size), (2 * rows, config.context_length + 1))
    losses = [update(session, ids).loss for _ in range(2)]
    task.tell("losses", losses)
    return rows, session, ids


def bytes_needed(config: ModelConfig, rows: int) -> int:
    kinds = training_bytes(config, config.context_length, rows, itemsize=2)
    return sum(kinds.values()) - kinds["logits"] + 3 * 4 * AT_ONCE


def step_in_pieces(session: Any, ids: Tensor) -> float:
    """The loop's step from its own parts, with `AT_ONCE` logits at a time."""
    from fathom.train.loss import next_token_loss
    from fathom.train.optimizer import clip

    session.optimizers.set_learning_rates(1.0)
    whole, losses = ids.to(session.device), []
    for part in whole.split(session.options.micro_batch_size):
        with session.precision.autocast():
            loss, _ = next_token_loss(session.model, part[:, :-1], part[:, 1:], AT_ONCE)
            loss = loss / whole[:, 1:].numel()
        loss.backward()
        losses.append(loss.detach())
    clip(session.model, session.options.clip)
    session.optimizers.step(session.scaler)
    session.optimizers.zero_grad()
    return torch.stack(losses).sum().item()


@contextmanager
def compiled_loss() -> Iterator[None]:
    """The cross entropy of a piece compiled: it then reads the logits once and not five times."""
    from fathom.train import loss

    plain = loss.summed
    loss.summed = torch.compile(plain, dynamic=False)
    try:
        yield
    finally:
        loss.summed = plain


@contextmanager
def unchanged() -> Iterator[None]:
    yield


def hottest(task: Task, step: Callable[[], object], count: int = 15) -> dict[str, float]:
    """Milliseconds of the kernels that take most of a step."""
    if task.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            step()
            task.wait()
    except RuntimeError as error:  # a card that does not let itself be looked at
        return {one_line(error): 0.0}
    times = sorted(((e.self_device_time_total / 1000, e.key[:90]) for e in seen.key_averages()), reverse=True)
    return {name: round(ms, 3) for ms, name in times[:count]}


def decode(task: Task, scheme: str | None) -> None:
    """One sequence of LLaMA 2 7B's shape, random weights: 128 tokens read, 64 written, in several ways."""
    from fathom.backend.cuda_graph import Recorded
    from fathom.backend.matvec import FewRows, choose_ways, few_rows
    from fathom.quant.model import quantize_model

    config = replace(LLAMA2_7B, **SMALL, d_ff=96) if task.tiny else LLAMA2_7B
    copy = copy_speed(task)
    task.tell("copy_bytes_per_second", copy)
    model = random_model(task, config)
    if scheme:
        quantize_model(model, scheme)
    moved = weight_bytes(model) + cache_bytes(config, 1, 96 if task.tiny else PROMPT + NEW // 2, 2)
    task.tell("bytes_per_token", moved)
    prompt = torch.randint(0, config.vocab_size, (1, 16 if task.tiny else PROMPT), device=task.device)
    new = 8 if task.tiny else NEW
    tokens, expected = plainly(model, prompt, 8 if scheme else new)

    def told(name: str, taken: float, difference: float) -> None:
        figures = {"seconds_per_token": taken, "tokens_per_second": 1 / taken, "of_copy": moved / taken / copy}
        task.tell(name, figures | {"logits_apart": difference})
        if not difference <= 5e-2:
            raise RuntimeError(f"{name}: logits are {difference:.2g} from those of the plain model, allowed 0.05")

    count = tokens.shape[1]
    told("plain", seconds(task, lambda: plainly(model, prompt, count), 3) / count, 0.0)

    def recorded(name: str, compiled: bool) -> None:
        step = Recorded(model, 1, prompt.shape[1] + new, compiled)
        difference = forced(step, prompt, tokens, expected)
        told(name, seconds(task, lambda: steps(step, prompt, new), 5) / new, difference)

    recorded("recorded", False)
    if few_rows(model):
        task.tell("ways", choose_ways(model, lambda run: 1000 * seconds(task, run, 20, cold=True)))
        recorded("recorded, own kernels", False)
        if task.left > 60:
            recorded("recorded, own kernels, compiled", not task.tiny)
        for name, part in list(model.named_modules()):
            if isinstance(part, FewRows):
                model.set_submodule(name, part.base)
    if scheme is None and task.left > 60:
        recorded("recorded, compiled", not task.tiny)


def random_model(task: Task, config: ModelConfig) -> Transformer:
    """Made where it will be, in bf16."""
    from fathom.model.skeleton import skeleton

    model = skeleton(config).to(torch.bfloat16).to_empty(device=task.device)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02) if p.ndim > 1 else p.fill_(1.0)
    return model.eval().requires_grad_(False)


def weight_bytes(model: Transformer) -> int:
    """What one token reads of the weights: all, but of the embedding one row."""
    tensors = {x.data_ptr(): x.nbytes for x in (*model.parameters(), *model.buffers())}
    return sum(tensors.values()) - (0 if model.config.tie_embeddings else model.embed.weight.nbytes)


@torch.no_grad()
def plainly(model: Transformer, prompt: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """(1, new) greedy tokens with a KVCache, kernel by kernel, and the logits (1, V) of the last."""
    from fathom.model.cache import KVCache

    weight = model.embed.weight
    cache = KVCache(model.config, 1, prompt.shape[1] + new, dtype=weight.dtype, device=weight.device)
    logits, chosen = model(prompt, cache)[:, -1], []
    for _ in range(new - 1):
        chosen.append(logits.argmax(-1, keepdim=True))
        logits = model(chosen[-1], cache)[:, -1]
    return torch.cat([*chosen, logits.argmax(-1, keepdim=True)], 1), logits


def forced(step: Any, prompt: Tensor, tokens: Tensor, expected: Tensor) -> float:
    """How far the last logits are from those of the plain model after the same tokens."""
    step.forget()
    step.read(prompt)
    for token in tokens[:, :-1].split(1, dim=1):
        logits = step.step(token)
    return ((logits - expected).float().norm() / expected.float().norm()).item()


def steps(step: Any, prompt: Tensor, new: int) -> Tensor:
    """The tokens after a prompt that has been read; reading it is not counted, so it is done once and kept."""
    step.cache.place.fill_(prompt.shape[1])
    step.length = prompt.shape[1]
    ids = prompt[:, -1:]
    for _ in range(new):
        ids = step.step(ids).argmax(-1, keepdim=True)
    return ids


def shakespeare(task: Task) -> None:
    """`fathom train shakespeare` on a text: how soon it is how good."""
    from fathom import train as trained
    from fathom.train.events import Evaluated

    curve: list[tuple[int, float, float]] = []

    def listen(event: object) -> None:
        if isinstance(event, Evaluated):
            curve.append((event.step, event.loss, event.seconds))
            task.tell("validation", curve)

    options: dict[str, Any] = {"data": str(task.text), "device": str(task.device)}
    options["max_minutes"] = max(0.1, (task.left - 15) / 60)
    model = {} if not task.tiny else {"d_model": 32, "n_layer": 1, "n_head": 2, "context_length": 32}
    options |= {"max_iters": 6, "eval_interval": 3, "batch_size": 4, "sample_interval": None} if task.tiny else {}
    with tempfile.TemporaryDirectory() as folder:
        result = trained("shakespeare", Path(folder) / "run", model=model, options=options, report=listen)
    best = min(loss for _, loss, _ in curve)
    reached = {f"{goal}": next((s for _, loss, s in curve if loss <= goal), None) for goal in (1.55, 1.5, 1.4697, 1.46)}
    task.tell("result", {"best": best, "steps": result.step, "seconds": result.seconds, "seconds_to": reached})


PARTS: dict[str, Callable[[Task], None]] = {
    "checks": checks,
    "train": train,
    "decode bf16": lambda task: decode(task, None),
    "decode int4": lambda task: decode(task, "int4"),
    "shakespeare": shakespeare,
}
