"""Which number format the forward pass computes in, and whether blocks are compiled.

Weights and optimizer state stay fp32. bf16 has fp32's range and needs nothing else; fp16 has not, so the loss is
scaled up and the gradients are scaled down again (Micikevicius et al. 2018, section 3.2).
"""

import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.amp import GradScaler

from fathom.backend.training import use_fused_passes
from fathom.errors import FathomError
from fathom.model.config import ModelConfig
from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer
from fathom.training.options import TrainOptions
from fathom.words import counted

NARROW = 128  # d_model below which a CPU gains less in matrix products than conversions cost


@dataclass(frozen=True)
class Precision:
    """The number format that was chosen, for which device and why."""

    dtype: torch.dtype
    device: torch.device
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass and the loss."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def use_fused_passes(self, model: Transformer) -> None:
        """On a CPU in bf16, exchange norms, MLPs and attention for those that are fast in it."""
        if self.device.type == "cpu" and self.dtype != torch.float32:
            use_fused_passes(model)

    def scaler(self) -> GradScaler:
        """Scales the loss in fp16; with any other format it is disabled and changes nothing."""
        return GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def describe(self) -> str:
        """One line for the user."""
        return f"precision {NAMES[self.dtype]}: {self.reason}"


NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


def choose(options: TrainOptions, config: ModelConfig, device: torch.device) -> Precision:
    """The requested format, or with `auto` the fastest on this device for a model of this width."""
    requested, width = options.dtype, config.d_model
    if requested == "fp16" and device.type == "cpu":
        raise FathomError("dtype=fp16 on a CPU; expected a GPU for it; use bf16, fp32 or auto")
    if requested != "auto":
        return Precision(DTYPES[requested], device, "as requested")
    if not has_bf16(device):
        if device.type == "cuda":
            return Precision(torch.float16, device, "this GPU has no bf16; the loss is scaled")
        return Precision(torch.float32, device, f"this {device.type} has no fast bf16")
    if bf16_pays(device, width):
        return Precision(torch.bfloat16, device, f"this {device.type} has it")
    return Precision(torch.float32, device, f"bf16 is not faster at width {width} on a {device.type}")


def bf16_pays(device: torch.device, width: int) -> bool:
    """Whether bf16 saves more time in matrix products than conversions cost."""
    return device.type != "cpu" or width >= NARROW


def has_bf16(device: torch.device) -> bool:
    """Whether this device multiplies bf16 matrices in hardware."""
    match device.type:
        case "cuda":
            return torch.cuda.get_device_capability(device) >= (8, 0) if torch.version.hip is None else True
        case "cpu":
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        case _:
            return False


COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")
LONG = 1000  # steps from which on compiling, about a minute, pays
LEAST_MINUTES = 5.0


def compile_blocks(model: Transformer, options: TrainOptions, device: torch.device) -> str:
    """Compile the blocks where `compiles` says so; returns the reason, for the user."""
    compiled, reason = compiles(options, device)
    for block in model.blocks if compiled else ():
        if isinstance(block.mlp, ExpertsMLP):  # each expert has another number of tokens at every step
            block.mlp.forward = torch.compiler.disable(block.mlp.forward)  # type: ignore[method-assign]
        block.compile()  # they are alike, so one compilation serves all
    return reason


def compiles(options: TrainOptions, device: torch.device) -> tuple[bool, str]:
    """Whether to torch.compile, and why, in one line for the user."""
    if options.compile == "on" and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise FathomError("compile=on, but there is no C++ compiler; install one or leave it off")
    if options.compile != "auto":
        return options.compile == "on", f"compile {options.compile}: as requested"
    if device.type != "cuda":
        return False, f"compile off: not worth it on a {device.type}"
    if importlib.util.find_spec("triton") is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return False, "compile off: there is no triton or no C compiler"
    if options.max_iters < LONG:
        return False, f"compile off: {counted(options.max_iters, 'step')} would not repay it"
    if options.max_minutes is not None and options.max_minutes < LEAST_MINUTES:
        return False, f"compile off: {counted(options.max_minutes, 'minute')} would not repay it"
    return True, f"compile on: it is worth it on a {device.type} over {counted(options.max_iters, 'step')}"
