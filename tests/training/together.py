"""Several processes that train together, of one thread each, and what a run of any number of them does."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from fathom.data.batches import Batch
from fathom.model.config import Experts, ModelConfig
from fathom.training.loop import Batches, evaluate, update
from fathom.training.loss import accumulate
from fathom.training.options import TrainOptions
from fathom.training.run import open_finetune_run
from fathom.training.session import Session
from fathom.training.world import ALONE, World, joined

Work = Callable[..., Any]  # of a World and more, at the top of a module
ROWS, LENGTH, VOCABULARY = 12, 16, 50


def together(size: int, work: Work, *args: Any, folder: Path) -> Any:
    """What `work(world, *args)` returns in the first of `size` processes: numbers, tensors, lists and dicts of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(begin, (size, port, work, args, folder / "said.pt"), nprocs=size)
    return torch.load(folder / "said.pt")


def begin(rank: int, size: int, port: int, work: Work, args: tuple[Any, ...], said: Path) -> None:
    """One of the processes, as torchrun would start it."""
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    with joined("cpu") as world:
        result = work(world, *args)
    if world.first:
        torch.save(result, said)


SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "context_length": LENGTH, "d_model": 24, "n_layer": 2, "n_head": 3}
LLAMA = SIZES | {"n_kv_head": 1, "position": "rope", "norm": "rms", "mlp": "swiglu", "qk_norm": "on"}
GPT = SIZES | {"position": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "tie_embeddings": True}
MIXTURE = LLAMA | {"mlp": Experts(4, 2), "d_ff": 16}
NEW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (LLAMA, {}),
    "tied, accumulated, clipped": (GPT, {"micro_batch_size": 1, "clip": 0.1}),
    "muon": (LLAMA, {"optimizer": "muon"}),
    "muon, recomputed, accumulated": (GPT, {"optimizer": "muon", "micro_batch_size": 2, "checkpoint_blocks": True}),
    "dropout": (GPT | {"dropout": 0.2}, {}),
    "dropout, recomputed, accumulated": (
        LLAMA | {"dropout": 0.2},
        {"micro_batch_size": 1, "checkpoint_blocks": True},
    ),
    "experts": (MIXTURE, {"router_aux_loss_coef": 1.0}),
    "experts, accumulated": (MIXTURE, {"router_aux_loss_coef": 1.0, "micro_batch_size": 1}),
    "bigram": ({**LLAMA, "n_layer": 0}, {}),
}
BF16: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # a gradient is rounded to three digits in each process
    "bf16": (LLAMA, {"dtype": "bf16"}),
    "bf16, tied, recomputed, accumulated": (GPT, {"dtype": "bf16", "micro_batch_size": 2, "checkpoint_blocks": True}),
}
COMPILED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {"compiled": (LLAMA, {"compile": "on"})}


class Sequences:
    """Batches of sequences in which a token often follows from the one before."""

    def at(self, step: int) -> Tensor:
        random = torch.Generator().manual_seed(step)
        ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=random)
        for t in range(LENGTH):
            follows = torch.rand(ROWS, generator=random) < 0.7
            ids[:, t + 1] = torch.where(follows, (ids[:, t] * 3 + 1) % VOCABULARY, ids[:, t + 1])
        return ids


def new_session(name: str, parallel: str, steps: int, world: World = ALONE, **more: Any) -> Session:
    """A session of a row of NEW, BF16 or COMPILED, at step 0."""
    config, options = (NEW | BF16 | COMPILED)[name]
    common = {"batch_size": ROWS, "max_iters": steps, "device": "cpu", "dtype": "fp32", "learning_rate": 1e-2}
    chosen = TrainOptions(**(common | {"init": "by-width", "parallel": parallel} | options | more))
    return Session.start(ModelConfig(**config), chosen, world)


def tuned_session(folder: Path, parallel: str, world: World = ALONE) -> tuple[Session, Batches]:
    """A session of a run of fine-tuning, at step 0, and its batches."""
    run = open_finetune_run(folder)
    run = replace(run, options=replace(run.options, parallel=parallel))
    return run.start(world), run.batches()


def whole(session: Session, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: session.learner.whole(x).detach().clone() for name, x in tensors.items() if x is not None}


def measure(session: Session, batches: Batches, steps: int) -> dict[str, Any]:
    """Gradients of the first step, the loss of each step, the loss on other batches, and the weights at the end."""
    first = session.prepare(batches.at(0))
    accumulate(session.learner, first, session.precision, session.scaler, session.balance)
    gradients = whole(session, {name: p.grad for name, p in session.model.named_parameters()})
    session.optimizers.zero_grad()
    losses = [update(session, session.prepare(batches.at(step))).loss for step in range(steps)]
    unseen: list[Tensor | Batch] = [batches.at(1000 + i) for i in range(5)]
    validation = evaluate(session.model, unseen, session.precision, session.world)
    session.learner.let_go()
    trained = {name: p for name, p in session.model.named_parameters() if p.requires_grad}
    return {"gradients": gradients, "losses": losses, "validation": validation, "weights": whole(session, trained)}


def all_rows(
    world: World, steps: int, tuned: Mapping[str, Path], kinds: tuple[str, ...], new: Sequence[str] = tuple(NEW)
) -> dict[str, Any]:
    """`measure` of every row, as "kind: name"."""
    result = {}
    for kind in kinds:
        for name in new:
            result[f"{kind}: {name}"] = measure(new_session(name, kind, steps, world), Sequences(), steps)
        for name, folder in tuned.items():
            result[f"{kind}: {name}"] = measure(*tuned_session(folder, kind, world), steps)
    return result
