"""How much faster two processes train than one: `python benchmarks/scaling.py [--parallel ddp] [--processes 2] ...`.

A CPU: N processes of one thread each against one process of N threads, with the same batch. GPUs (`--device cuda`): N
processes against one, each with a GPU, the batch N times as large. In turn, `--rounds` times; the figure is the ratio
of the medians. `--memory` measures instead what each process holds, and what a step of its optimizer takes and sends.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "1M": {"d_model": 128, "n_layer": 4, "n_head": 4, "context_length": 64, "vocab_size": 65},
    "11M": {"d_model": 384, "n_layer": 6, "n_head": 6, "context_length": 256, "vocab_size": 65},
    "110M": {"d_model": 768, "n_layer": 12, "n_head": 12, "context_length": 256, "vocab_size": 32000, "d_ff": 2048},
    "gpt2": {"d_model": 768, "n_layer": 12, "n_head": 12, "context_length": 1024, "vocab_size": 50257},
}


def work(options: argparse.Namespace) -> None:
    """One of the processes: train some steps and print what was measured."""
    import torch

    from fathom.machine import keep_freed_memory
    from fathom.model.config import ModelConfig
    from fathom.model.presets import GPT2_CHOICES, LLAMA_CHOICES
    from fathom.training.loop import update
    from fathom.training.options import TrainOptions
    from fathom.training.session import Session
    from fathom.training.world import joined

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    shape = SHAPES[options.shape] | ({"context_length": 16} if options.memory else {})  # activations do not count
    config = ModelConfig(
        **shape, **{**(GPT2_CHOICES if "gpt" in options.shape else LLAMA_CHOICES), "tie_embeddings": True}
    )
    chosen = TrainOptions(batch_size=options.batch, micro_batch_size=options.micro, optimizer=options.optimizer,
                          parallel=options.parallel, device=options.device, dtype=options.dtype)  # fmt: skip
    with joined(options.device) as world:
        session = Session.start(config, chosen, world)
        ids = torch.randint(config.vocab_size, (options.batch, config.context_length + 1), generator=torch.Generator())
        seconds = []
        for _ in range(1 if options.memory else options.steps + 2):
            began = time.perf_counter()
            update(session, session.prepare(ids))
            seconds.append(time.perf_counter() - began)
        tokens = options.batch * config.context_length
        if world.first:
            figures = {"tokens_per_second": tokens / statistics.median(seconds[2:] or seconds), **held(session)}
            print(json.dumps(figures | optimizer_step(session)))
        else:
            optimizer_step(session)


def held(session: Any) -> dict[str, int]:
    """Bytes of the model, its gradients and the optimizer's state in this process."""

    def size(x: Any) -> int:
        return int((x.to_local() if hasattr(x, "to_local") else x).nbytes)

    model = {id(x): x for x in (*session.model.parameters(), *session.model.buffers())}
    states = [x for part in session.optimizers.parts for each in part.state.values() for x in each.values()]
    return {
        "model": sum(map(size, model.values())),
        "gradients": sum(size(p) for p in model.values() if p.requires_grad),
        "optimizer": sum(size(x) for x in states if hasattr(x, "nbytes")),
        "peak_resident": peak(),
    }


def peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def optimizer_step(session: Any, repeat: int = 3) -> dict[str, float]:
    """Seconds of a step of the optimizers, and the bytes that this process sends to others for it."""
    import torch
    import torch.distributed as dist

    exchange, taken, sent = dist.all_to_all_single, [], []

    def counted(received: Any, x: Any, sizes: list[int], counts: list[int]) -> Any:
        sent.append((sum(counts) - counts[session.world.rank]) * x.itemsize)
        return exchange(received, x, sizes, counts)

    dist.all_to_all_single = counted  # type: ignore[assignment]
    for _ in range(repeat):
        for p in session.model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        began = time.perf_counter()
        session.optimizers.step(session.scaler)
        taken.append(time.perf_counter() - began)
    return {"optimizer_seconds": statistics.median(taken), "optimizer_sent": sum(sent) / repeat}


def measured(options: argparse.Namespace, processes: int, threads: int, batch: int) -> dict[str, Any]:
    """What the first of these processes prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(os.environ, OMP_NUM_THREADS=str(threads), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1",
                  MASTER_PORT=str(port))  # fmt: skip
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", "--threads", str(threads), "--batch", str(batch)]
    started = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    figures: dict[str, Any] = json.loads(said[0].decode().splitlines()[-1])
    return figures


def compare(options: argparse.Namespace) -> None:
    n, gpu = options.processes, options.device.startswith("cuda")
    alone, several = [], []
    for turn in range(options.rounds):
        alone.append(measured(options, 1, 1 if gpu else n, options.batch))
        several.append(measured(options, n, 1, options.batch * n if gpu else options.batch))
        say(f"round {turn + 1}", options, alone[-1]["tokens_per_second"], several[-1]["tokens_per_second"])
    medians = [statistics.median(each["tokens_per_second"] for each in figures) for figures in (alone, several)]
    say(f"{options.shape} {options.parallel}", options, *medians)


def say(what: str, options: argparse.Namespace, one: float, many: float) -> None:
    n = options.processes
    ratio = f"{many / one / n:.3f} of linear" if options.device.startswith("cuda") else f"ratio {many / one:.3f}"
    print(f"{what}: one process {one:,.0f} tokens/s, {n} {many:,.0f}, {ratio}", flush=True)


def memory(options: argparse.Namespace) -> None:
    one, many = (measured(options, n, 1, options.batch) for n in (1, options.processes))
    kinds = ("model", "gradients", "optimizer")
    for name, each in (("one process", one), (f"each of {options.processes}, {options.parallel}", many)):
        parts = " + ".join(f"{kind} {each[kind] / 2**20:,.0f}" for kind in kinds)
        total = sum(each[kind] for kind in kinds) / 2**20
        print(f"{name}: {parts} = {total:,.0f} MiB; peak resident {each['peak_resident'] / 2**20:,.0f} MiB;"
              f" optimizer step {each['optimizer_seconds'] * 1000:,.0f} ms,"
              f" {each['optimizer_sent'] / 2**20:,.1f} MiB sent")  # fmt: skip
    print(f"ratio {sum(many[k] for k in kinds) / sum(one[k] for k in kinds):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="11M")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=12, help="sequences per step")
    parser.add_argument("--micro", type=int, default=None, help="sequences per forward pass")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
    elif given.memory:
        memory(given)
    else:
        compare(given)
