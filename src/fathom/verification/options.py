"""Options of `fathom.evaluate`: which windows are scored, and how the model is run. Does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `fathom.evaluate` and `fathom eval`."""

    stride: int | None = None  # tokens from one window to the next; None: half of the context length
    windows: int | None = None  # only so many windows or records, spread evenly; None: all
    quantize: str | None = None  # int8, int4, nf4, nf4-single or all: what packing the weights so costs
    dtype: str = "auto"  # auto (as stored), fp32, bf16 or fp16
    device: str = "auto"  # auto, cpu, cuda or mps
