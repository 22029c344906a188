"""The number format follows the request, then the hardware, then whether it pays."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.model.presets import BIGRAM, GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.training import precision
from fathom.training.batches import micro_batches
from fathom.training.loss import next_token_loss
from fathom.training.options import TrainOptions
from fathom.training.precision import Precision, choose, compiles, has_bf16

CPUINFO = Path("/proc/cpuinfo")
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def hardware(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: bf16)


@pytest.mark.parametrize(
    ("device", "bf16", "config", "dtype"),
    [
        (CPU, False, LLAMA2_7B, torch.float32),
        (CPU, True, LLAMA2_7B, torch.bfloat16),
        (CPU, True, replace(BIGRAM, d_model=64), torch.float32),
        (CUDA, True, BIGRAM, torch.bfloat16),
        (CUDA, False, GPT2, torch.float16),
        (MPS, False, GPT2, torch.float32),
    ],
)
def test_auto(monkeypatch: pytest.MonkeyPatch, device: Any, bf16: bool, config: Any, dtype: torch.dtype) -> None:
    hardware(monkeypatch, bf16)
    chosen = choose(TrainOptions(), config, device)
    assert chosen.dtype == dtype
    assert "\n" not in chosen.describe() and device.type in chosen.describe() + "GPU cuda"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_request_is_followed(name: Any, dtype: torch.dtype) -> None:
    chosen = choose(TrainOptions(dtype=name), BIGRAM, CPU)
    assert chosen.describe() == f"precision {name}: as requested"
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_fp16_on_a_cpu_is_one_line() -> None:
    with pytest.raises(FathomError, match="dtype=fp16 on a CPU"):
        choose(TrainOptions(dtype="fp16"), GPT2, CPU)


def test_only_fp16_scales_its_loss() -> None:
    one = torch.ones(())
    assert choose(TrainOptions(dtype="bf16"), GPT2, CPU).scaler().scale(one) is one
    assert precision.Precision(torch.float16, CPU, "").scaler().scale(one) > 1


@pytest.mark.skipif(not CPUINFO.exists(), reason="this system has no /proc/cpuinfo to compare with")
def test_a_cpu_has_bf16_where_the_kernel_says_so() -> None:
    flags = CPUINFO.read_text().split()
    assert has_bf16(CPU) == ("avx512_bf16" in flags or "amx_tile" in flags)


@pytest.mark.parametrize(
    ("options", "device", "on"),
    [
        (TrainOptions(), CPU, False),
        (TrainOptions(compile="on"), CPU, True),
        (TrainOptions(), CUDA, True),
        (TrainOptions(compile="off"), CUDA, False),
        (TrainOptions(max_iters=10), CUDA, False),
    ],
)
def test_compile_where_it_pays(
    options: TrainOptions, device: torch.device, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    chosen, line = compiles(options, device)
    assert chosen is on and line.startswith(f"compile {'on' if on else 'off'}: ")


def test_no_compiling_without_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compiles(TrainOptions(), CUDA) == (False, "compile off: there is no triton or no C compiler")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FathomError, match="no C"):
        compiles(TrainOptions(compile="on"), CPU)


def test_bf16_on_a_cpu_stays_near_fp32() -> None:
    """Loss and gradients as in fp32 but for bf16's eight bits, by the ways that are taken there."""
    config = replace(GPT2, vocab_size=50, d_model=32, n_layer=1, n_head=2, context_length=16)
    model, batch = Transformer(config), micro_batches(torch.randint(0, 50, (4, 17))).parts[0]
    exact = torch.autograd.grad(next_token_loss(model, batch), model.embed.weight)[0]
    bf16 = Precision(torch.bfloat16, CPU, "")
    bf16.use_fused_passes(model)
    with bf16.autocast():
        loss = next_token_loss(model, batch)
    near = torch.autograd.grad(loss, model.embed.weight)[0]
    assert 0 < (near - exact).norm() / exact.norm() < 0.03
