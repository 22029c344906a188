"""This machine: its free memory, and how long the parts of a training step take, measured in about two seconds.

A step is made of equal blocks and of what stands around them. So two small models of the same widths, of one and of
three blocks, are trained for a few steps on random tokens, by the same loop as any run; what two more blocks take is
what each block takes. A model too large for that is estimated by one product of its largest matrix.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.anatomy.cost import matrices, n_parameters
from fathom.anatomy.training import Step, flops, memory, peak
from fathom.bench.probes import products, settle
from fathom.bench.shapes import random_model
from fathom.machine import (
    free_memory,
    keep_freed_memory,
    peak_memory,
    pick_device,
    release_freed_memory,
    reset_peak_memory,
    resident_memory,
)
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.quant.schemes import scheme_named
from fathom.training.batches import MicroBatches, micro_batches
from fathom.training.loss import accumulate
from fathom.training.optimizer import clip
from fathom.training.options import TrainOptions
from fathom.training.precision import choose
from fathom.training.session import Session

SECONDS = 0.6  # for each of the two models, and the longest step of one that is tried
ROUNDS = 2  # at least
SHORTEST = 64  # tokens of a row that is tried
MOST = 12 * 10**9  # bytes of the larger small model with everything that it learns with
ROWS = 256  # of the product


@dataclass(frozen=True)
class Pieces:
    """Seconds of one forward and backward pass: of a block and of all else; and of the step of the optimizer."""

    block: float
    ends: float
    update_block: float
    update_ends: float

    def seconds(self, n_layer: int, passes: int) -> float:
        return passes * (n_layer * self.block + self.ends) + n_layer * self.update_block + self.update_ends


@dataclass(frozen=True)
class Speed:
    """Products in GFLOP a second, and the pieces of a step; None: the model is too large to try. slack: bytes that the
    process held at most beyond what arithmetic says, which is how memory is given out and taken back."""

    gflop_s: float
    product: str
    pieces: Pieces | None
    slack: int = 0


TINY = ModelConfig(vocab_size=64, context_length=16, d_model=32, n_layer=1, n_head=2, norm="layer", mlp="gelu")


def process_memory(options: TrainOptions, device: torch.device) -> int:
    """Bytes of a process that has made a step of a tiny model: Python, torch, and what torch loads when it is used."""
    keep_freed_memory()
    session = Session.start(TINY, options)
    one_step(session, session.prepare(torch.zeros(options.batch_size, 17, dtype=torch.long, device=device)))
    return resident_memory()


def speed(config: ResolvedConfig, step: Step, options: TrainOptions, device: torch.device) -> Speed:
    """Measured now."""
    keep_freed_memory()
    dtype = choose(options, config, device).dtype
    sizes = [*(matrices(config).values() if config.n_layer else ()), (config.d_model, config.vocab_size)]
    width, out = max(sizes, key=lambda size: size[0] * size[1])
    rate = products(ROWS, (width, out), dtype, device)
    what = f"{ROWS} × {width:,} times {width:,} × {out:,} in {str(dtype)[6:]}"
    found = pieces(config, step, options, device, rate)
    return Speed(rate, what, None) if found is None else Speed(rate, what, *found)


def pieces(
    config: ResolvedConfig, step: Step, options: TrainOptions, device: torch.device, rate: float
) -> tuple[Pieces, int] | None:
    """Of a pass of `step`; rate: GFLOP a second, by which the trial is made small enough."""
    most = min(MOST, (free_memory(device) or MOST) // 2)
    counts = (1, 3) if config.n_layer > 1 else (config.n_layer, config.n_layer)
    small = [replace(config, n_layer=n) for n in counts]
    if 16 * n_parameters(small[1]) > most:
        return None
    trial = smaller(small[1], step, rate)
    if trial is None:
        return None
    ((once, update_once), (thrice, update_thrice)), beyond = timed(small, trial, options, device)
    work, tried = (each.rows * sum(one.n for one in flops(config, each).values()) for each in (step, trial))
    whole = work / tried
    if counts[0] == counts[1]:
        return Pieces(0.0, whole * once, 0.0, update_once), round(whole * beyond[0])
    block, update_block = (max(0.0, many - one) / 2 for one, many in ((once, thrice), (update_once, update_thrice)))
    ends, update_ends = max(0.0, once - block), max(0.0, update_once - update_block)
    slack = beyond[0] + (config.n_layer - 1) * (beyond[1] - beyond[0]) / 2
    return Pieces(whole * block, whole * ends, update_block, update_ends), max(0, round(whole * slack))


def smaller(config: ResolvedConfig, step: Step, rate: float) -> Step | None:
    """The step with fewer rows, then shorter ones, where it would take too long; None: even the shortest would."""
    while step.rows * sum(one.n for one in flops(config, step).values()) > 1e9 * rate * SECONDS:
        if step.rows == 1 and step.t < 2 * SHORTEST:
            return None
        step = replace(step, rows=step.rows // 2) if step.rows > 1 else replace(step, t=step.t // 2)
    return step


def timed(
    configs: Sequence[ResolvedConfig], step: Step, options: TrainOptions, device: torch.device
) -> tuple[list[tuple[float, float]], list[int]]:
    """Of each model, seconds of a forward and backward pass, and of clipping and the optimizer's step: medians. They
    take turns, so that a busy machine slows all of them alike. And the slack of each."""
    ids = torch.randint(configs[0].vocab_size, (step.rows, step.t + 1), device=device)
    batch = micro_batches(ids, device=device)
    step = replace(step, passes=1)
    cold = warmed(configs[0], step, options, batch)[1]
    sessions, beyond = zip(*(warmed(config, step, options, batch) for config in configs))
    took: list[list[tuple[float, float]]] = [[] for _ in sessions]
    ends = time.perf_counter() + len(sessions) * SECONDS
    while len(took[0]) < ROUNDS or time.perf_counter() < ends:
        for session, times in zip(sessions, took):
            times.append(one_step(session, batch))
    once = max(0, cold - beyond[0])
    return [(median(passes), median(updates)) for passes, updates in (zip(*one) for one in took)], [
        once + slack for slack in beyond
    ]


def warmed(config: ResolvedConfig, step: Step, options: TrainOptions, batch: MicroBatches) -> tuple[Session, int]:
    """A session that has made some steps, and its slack: what the process held at most beyond what arithmetic says."""
    device = pick_device(options.device)
    release_freed_memory()
    reset_peak_memory()
    before = resident_memory()
    session = started(config, step, options, device)
    for _ in range(ROUNDS):
        one_step(session, batch)
    held = peak(memory(config, step), step).n
    return session, peak_memory(device) - before - held if device.type == "cpu" else 0


def one_step(session: Session, batch: MicroBatches) -> tuple[float, float]:
    """What `update` of the training loop does, in its two halves."""
    began = time.perf_counter()
    accumulate(session.learner, batch, session.precision, session.scaler, session.balance).item()
    settle(session.device)
    between = time.perf_counter()
    clip(session.model, session.options.clip).item()
    session.optimizers.step(session.scaler)
    session.optimizers.zero_grad()
    settle(session.device)
    return between - began, time.perf_counter() - between


def started(config: ResolvedConfig, step: Step, options: TrainOptions, device: torch.device) -> Session:
    """A session of this small model: all of it learns, or an adapter on frozen weights."""
    options = replace(options, batch_size=step.rows, micro_batch_size=None, checkpoint_blocks=step.recompute)
    if step.method == "full":
        return Session.start(config, options)
    scheme = scheme_named("nf4") if step.method == "qlora" else None
    model = random_model(config, choose(options, config, device).dtype, device, scheme)
    lora.add(model, LoraOptions(rank=step.rank), seed=0)
    return Session(model, options, device)
