"""Steps of training and of fine-tuning, as the training loop takes them: forward, backward, clip, update.

The data are random ids. One round is one step; the first, which also makes the optimizer's state, is not counted.
Does not know limits.
"""

from dataclasses import dataclass

import torch

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.bench.options import BenchOptions
from fathom.bench.probes import seconds
from fathom.errors import FathomError
from fathom.machine import free_memory, pick_device
from fathom.model.config import ModelConfig
from fathom.model.cost import training_bytes
from fathom.model.transformer import Transformer
from fathom.train.finetune import groups
from fathom.train.loop import Session, update
from fathom.train.options import TrainOptions

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
    choices = training(options)
    session = Session(model, choices, model.embed.weight.device, groups(model, choices, 1.0))
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
