"""The stream of a model in bf16: its checks hold within what its numbers can hold, and mistakes are red there too."""

import pytest
import torch

from fathom.glass.panel import Check
from fathom.glass.panels import filled, rounded
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from tests.architectures import GPT, LLAMA, ids_for, model_of

STREAM = ("lens", "attribution", "ablation")


def in_bf16(config, std: float = 0.2) -> Pass:
    model = model_of(config, std).bfloat16()
    return Pass(Subject("half", model, None), ids_for(config, 1, 12))


@pytest.mark.parametrize("id", STREAM)
@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_the_stream_of_a_model_in_bf16(id: str, config) -> None:
    shown, _ = filled(id, in_bf16(config), {"new": 0} if id == "ablation" else {})
    assert shown.ok, [check for check in shown.checks if not check.ok]


@pytest.mark.parametrize("id, fault", [("lens", "no norm"), ("lens", "normed twice"), ("ablation", "slices")])
def test_a_mistake_is_red_in_bf16(id: str, fault: str) -> None:
    shown, _ = filled(id, in_bf16(LLAMA, std=0.5), {"fault": fault})
    assert not shown.ok


def test_what_is_exact_stays_exact() -> None:
    exact, near = Check("C3", "x", 0.0, 0.0), Check("C4", "x", 0.0, 1e-5)
    assert rounded(exact, torch.bfloat16).tolerance == 0
    assert rounded(near, torch.float32).tolerance == 1e-5 and rounded(near, torch.bfloat16).tolerance == 1e-5 * 2**13
