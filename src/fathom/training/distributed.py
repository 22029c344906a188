"""One model on several devices: DistributedDataParallel, where each holds all of it, or FSDP2, where each holds a part.

Every process reads its rows of the batch and learns from the sum of all gradients, so that any number of them make the
same run. What DDP does (Li et al. 2020) and FSDP (Zhao et al. 2023) is PyTorch's; the loop knows only a `Learner`.
"""

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fathom.errors import FathomError
from fathom.machine import free_memory
from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer
from fathom.training.batches import MicroBatch
from fathom.training.loss import Learner, next_token_loss
from fathom.training.optimizer import assign
from fathom.training.options import TrainOptions
from fathom.training.world import World
from fathom.words import counted


def parallelize(
    model: Transformer, options: TrainOptions, world: World, device: torch.device, dtype: torch.dtype
) -> Learner:
    """Bring the model to its device, or its devices, as `options.parallel` says; parameters may become DTensors.

    dtype: of the forward pass. Comes after everything that exchanges modules, and before the optimizers, which must
    hold the parameters that are left. FathomError where the processes cannot share the batch.
    """
    if world.size == 1:
        model.to(device)
        return Learner(model)
    if options.batch_size % world.size:
        raise FathomError(
            f"batch_size={options.batch_size} over {world.size} processes; expected a multiple of their number, as each"
            f" takes as many rows: give --train.batch-size {-(-options.batch_size // world.size) * world.size}"
        )
    require_same_passes(model, options, world)
    kind, reason = choose(model, options, world, device)
    if kind == "ddp":
        return Replicas(model.to(device), reason)
    if options.optimizer == "adamw8bit":
        raise FathomError("optimizer=adamw8bit packs blocks that would lie across two devices; expected adamw or muon"
                          " with fsdp, or --train.parallel ddp")  # fmt: skip
    from fathom.training.sharding import Shards  # what it imports costs a second, which one process need not wait

    return Shards(model, device, dtype, reason)


def require_same_passes(model: Transformer, options: TrainOptions, world: World) -> None:
    """FathomError where experts would be compared over other tokens than one process compares them over."""
    size, rows = options.micro_batch_size, options.batch_size // world.size
    if size is None or rows % size == 0 or not any(isinstance(block.mlp, ExpertsMLP) for block in model.blocks):
        return
    raise FathomError(
        f"micro_batch_size={size} and {counted(rows, 'row')} a process; expected a divisor, as the load-balancing loss"
        " compares experts within a micro-batch: give --train.micro-batch-size 1, or leave it out"
    )


def choose(model: Transformer, options: TrainOptions, world: World, device: torch.device) -> tuple[str, str]:
    """ddp or fsdp, and why, in one line for the user. All processes choose alike."""
    sizes = training_state(model, options)
    needed, free = sum(sizes.values()), free_memory(device)
    if free is not None and device.type == "cpu":  # the model is there already, and neighbours share the memory
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        free = free // neighbours + sizes["model"]
    fits = not world.agreed(free is not None and needed > free)
    if options.parallel == "auto":
        kind, why = ("ddp", "fit") if fits else ("fsdp", "do not fit")
        parts = " + ".join(f"{name} {size / 2**30:,.2f}" for name, size in sizes.items())
        room = "" if free is None else f" of {free / 2**30:,.2f}"
        reason = f"{parts} = {needed / 2**30:,.2f} GiB {why} one device{room}"
    else:
        kind, reason = options.parallel, "as requested"
    each = "each holds all of the model" if kind == "ddp" else "each holds a part of the model"
    return kind, f"parallel {kind}: {counted(world.size, 'process', 'processes')}, {each}; {reason}"


def training_state(model: Transformer, options: TrainOptions) -> dict[str, int]:
    """Bytes of one device that holds all of the model, its gradients and what the optimizers keep."""
    weights = {id(x): x.nbytes for x in (*model.parameters(), *model.buffers())}
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    kept = sum(group.state_bytes for group in assign(model, options))
    return {"model": sum(weights.values()), "gradients": gradients, "optimizer": kept}


class Replicas(Learner):
    """A whole model in each process. DDP sums the gradients while the backward pass computes the next ones."""

    def __init__(self, model: Transformer, reason: str) -> None:
        super().__init__(model, reason)
        with warnings.catch_warnings():  # newer versions of torch have another name for broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            self.ddp = DistributedDataParallel(LossOf(model), broadcast_buffers=False, gradient_as_bucket_view=True)
        self.ddp.register_comm_hook(None, summed)

    def loss(self, part: MicroBatch) -> Tensor:
        result: Tensor = self.ddp(part)
        return result

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel once a step, with the last of its micro-batches."""
        return nullcontext() if last else self.ddp.no_sync()


class LossOf(nn.Module):
    """The loss as the forward pass of a module, as DDP expects it: `model.hidden` alone would pass its hooks by."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: MicroBatch) -> Tensor:
        return next_token_loss(self.model, part)


def summed(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum over all processes: losses are divided by the targets of all of them, so no mean is wanted."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Any] = work.get_future()
    return future.then(lambda done: done.value()[0])
