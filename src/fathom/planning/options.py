"""Options of `fathom plan`, and counts as people write them. Does not import torch."""

import re
from dataclasses import dataclass
from typing import Literal

from fathom.errors import FathomError
from fathom.training.optimizers import NAMES as OPTIMIZERS
from fathom.training.options import Parallel

Method = Literal["full", "lora", "qlora"]
Dtype = Literal["auto", "fp32", "bf16"]

# On how much of a device's peak a training run's products come, all else included: 38 to 43% on 8,192 to 16,384 H100
# (Grattafiori et al. 2024, "The Llama 3 Herd of Models", table 4); 46% on TPU v4 (Chowdhery et al. 2022, "PaLM", table
# 3).
MFU, MFU_SOURCE = 0.40, "the share of peak of Llama 3, 38 to 43% (Grattafiori et al. 2024, table 4)"


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is planned. Every field but `model` is an option of `fathom plan`."""

    model: str  # preset, known model, config.json, recipe in YAML, model or run
    method: Method | None = None  # what learns: all weights, or an adapter on frozen (lora) or packed ones; None: full
    devices: str | None = None  # devices to train on, such as 8xH100-80GB; None: this machine, measured for two seconds
    tokens: str | None = None  # tokens to train on, such as 10B; None: the steps of the preset, where it has some
    batch: int | None = None  # sequences per step, over all devices; None: the preset's, otherwise 8, at least one each
    micro_batch: int | None = None  # sequences per forward pass of a device; None: the most that fit
    context_length: int | None = None  # tokens of a sequence; None: the model's
    parallel: Parallel = "auto"  # whether devices hold all (ddp) or their share (fsdp); auto: ddp if it fits
    recompute: bool = False  # compute blocks again in the backward pass: less memory, a third more time
    optimizer: str | None = None  # optimizer of the matrices; None: the preset's, otherwise adamw
    rank: int = 8  # rank of the adapter
    dtype: Dtype = "auto"  # number format of products; auto: as training chooses
    mfu: float | None = None  # share of the devices' peak that training reaches; None: 0.4

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise FathomError(problem)

    @property
    def n_tokens(self) -> int | None:
        return None if self.tokens is None else count(self.tokens, "--tokens")


def problems(options: PlanOptions) -> list[str]:
    """What is wrong with these options, each one line: found, expected, what to do."""
    messages = []
    for name in ("batch", "micro_batch", "context_length", "rank"):
        if (value := getattr(options, name)) is not None and value < 1:
            messages.append(f"{name} is {value}; it must be at least 1")
    if options.mfu is not None and not 0 < options.mfu <= 1:
        messages.append(f"mfu is {options.mfu:g}; it is a share of the peak, above 0 and at most 1, such as 0.4")
    if options.mfu is not None and options.devices is None:
        messages.append("mfu was given without devices; on this machine the share is measured: leave it out, or name"
                        " --devices")  # fmt: skip
    if options.optimizer is not None and options.optimizer not in OPTIMIZERS:
        messages.append(f"optimizer is {options.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    if options.optimizer == "muon" and options.method in ("lora", "qlora"):
        messages.append(f"optimizer is muon, which trains whole matrices, with method {options.method}; use adamw")
    if options.tokens is not None:
        count(options.tokens, "--tokens")
    return messages


UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def count(text: str, name: str) -> int:
    """`2.5B`, `300_000`, `1e9` as a whole number."""
    found = re.fullmatch(r"\s*(\d[\d_,]*(?:\.\d+)?(?:e\d{1,2})?)\s*([kmbgt]?)\s*", text, re.I)
    value = float(re.sub("[_,]", "", found[1])) * UNITS[found[2].lower()] if found else 0
    if not 1 <= value <= 1e18:
        raise FathomError(f"{name} is {text!r}; expected a number of at least 1, such as 300M, 2.5B or 2T")
    return round(value)
