"""The same on a GPU as on a CPU. Where there is none the checks still run, on the CPU, to be checked themselves."""

import pytest
import torch

from tests.gpu.checks import CHECKS

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
COMPILES = {"compiled"}  # minutes of a C++ compiler on a CPU
CASES = [pytest.param(name, "cuda", marks=GPU) for name in CHECKS]
CASES += [pytest.param(name, "cpu", marks=[pytest.mark.slow] * (name in COMPILES)) for name in CHECKS]


@pytest.mark.parametrize(("check", "device"), CASES)
def test_what_must_hold(check: str, device: str) -> None:
    found = list(CHECKS[check](torch.device(device)))
    assert found and not [each for each in found if not each.ok]
