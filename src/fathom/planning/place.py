"""Where a run is planned: named devices, by what their makers say, or this machine, as it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fathom.anatomy.amounts import NOTHING, Amount
from fathom.anatomy.training import Step
from fathom.errors import FathomError
from fathom.planning.devices import Devices
from fathom.planning.options import MFU, MFU_SOURCE, PlanOptions
from fathom.planning.subject import Subject

SLACK = 0.2  # of the free memory of a CPU, set aside for what its allocator holds besides
TYPICAL = 0.6  # of the speed of one large product a whole step reaches on a CPU (docs/scale.md)


@dataclass(frozen=True)
class Place:
    """n devices, each with `usable` bytes. process: what is held before there is a model."""

    title: str
    n: int
    usable: int
    itemsize: int
    source: str
    devices: Devices | None = None
    mfu: float = MFU
    fused: bool = False
    process: Amount = NOTHING
    options: Any = None  # TrainOptions of a trial on this machine
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, devices: Devices, options: PlanOptions) -> Place:
        """Named devices. FathomError where they do not compute as asked."""
        if options.dtype == "fp32":
            raise FathomError("dtype is fp32 with --devices, whose table holds products in 16 bits; leave it out")
        share = f"{options.mfu:.0%}, as given" if options.mfu else f"{MFU:.0%}, {MFU_SOURCE}"
        kind = devices.kind
        notes = (
            f"{kind.title}: {kind.tflops:g} TFLOP/s dense in 16 bits, {kind.gb:g} GB at {kind.gb_s:,} GB/s, of which 1"
            f" is set aside; {devices.way[0]} {devices.way[1]:g} GB/s one way ({kind.source})",
            f"share of the peak: {share}",
        )
        return cls(str(devices), devices.n, kind.usable, 2, kind.source, devices, options.mfu or MFU, notes=notes)

    def time(
        self, what: Subject, step: Step, flops: Mapping[str, Amount], sent: Mapping[str, Amount], batch: int
    ) -> dict[str, Any]:
        """Seconds of a step and how they follow."""
        each = sum(one.n for one in flops.values())
        if self.devices is None:
            return self.measured_time(what, step, each, batch)
        rate = self.devices.kind.tflops * self.mfu
        compute = each * batch / (self.n * rate * 1e12)
        travel = sum(one.n for one in sent.values()) / (self.devices.way[1] * 1e9)
        seconds = max(compute, travel)
        way = f"{each * batch:,} / ({self.n} × {self.devices.kind.tflops:g}e12 × {self.mfu:g})"
        return {
            "seconds": seconds, "compute": compute, "travel": travel, "how": way, "mfu": self.mfu,
            "tokens_per_second": batch * step.t / seconds, "bound": "traffic" if travel > compute else "products",
        }  # fmt: skip

    def measured_time(self, what: Subject, step: Step, each: int, batch: int) -> dict[str, Any]:
        """By a trial of two seconds."""
        import torch

        from fathom.machine import pick_device
        from fathom.planning.trial import speed

        found = speed(what.config, step, self.options, pick_device(self.options.device))
        torch.set_grad_enabled(True)
        pieces, n = found.pieces, what.config.n_layer
        result = {"slack": found.slack, "gflop_s": found.gflop_s, "product": found.product}
        result |= {"pieces": pieces and vars(pieces)}
        if pieces is None:
            seconds = each * batch / (found.gflop_s * 1e9 * TYPICAL)
            how = f"{each * batch:,} / ({found.gflop_s:,.0f}e9 × {TYPICAL:g})"
        else:
            seconds = pieces.seconds(n, step.passes)
            ms = [f"{1e3 * value:,.4g}" for value in vars(pieces).values()]
            how = f"{step.passes} × ({n} × {ms[0]} + {ms[1]}) + {n} × {ms[2]} + {ms[3]} ms"
        share = each * batch / seconds / (found.gflop_s * 1e9)
        return result | {
            "seconds": seconds, "how": how, "mfu": share, "tokens_per_second": batch * step.t / seconds,
        }  # fmt: skip


def here(what: Subject, options: PlanOptions) -> Place:
    """This machine, with what its process holds already and what is free beside that."""
    from fathom.machine import describe, free_memory, pick_device
    from fathom.planning.trial import process_memory
    from fathom.training import train  # noqa: F401  # what a run imports is in memory, so that it counts
    from fathom.training.options import TrainOptions
    from fathom.training.precision import choose

    own = what.train or TrainOptions()
    optimizer = options.optimizer or (own.optimizer if (options.method or what.method) == "full" else "adamw")
    trial = TrainOptions(
        optimizer=optimizer, dtype=options.dtype if options.dtype != "auto" else own.dtype, compile="off",
        device=own.device, clip=own.clip, max_iters=1, warmup_steps=0,
    )  # fmt: skip
    device = pick_device(trial.device)
    precision, cpu = choose(trial, what.config, device), device.type == "cpu"
    process = process_memory(trial, device) if cpu else 0
    free = free_memory(device)
    usable = 1 << 62 if free is None else int(free * (1 - SLACK)) + process
    itemsize = precision.dtype.itemsize
    return Place(
        f"this machine: {describe(device)}", 1, usable, itemsize, "measured now", fused=cpu and itemsize == 2,
        process=Amount(process, f"{process:,}"), options=trial, notes=(precision.describe(),),
    )  # fmt: skip
