"""MXFP4 of gpt-oss: equal to transformers' dequantisation, number by number and as a whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fathom
from fathom.errors import FathomError
from fathom.formats.huggingface import open_huggingface
from tests.families.test_variants import EVERY, logits
from tests.formats.hf import make
from tests.formats.test_quantized import everything
from tests.mutants import survive

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 8, "num_local_experts": 3}
PACKED = {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"], "quant_method": "mxfp4"}


def write(folder: Path, **settings: Any) -> Tensor:
    """A folder as published, of random codes; the logits of the library's model with what it unpacks of them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(4)
    values = EVERY["gpt-oss"] | SIZES
    model: Any = make(values)
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, width, out = stored.pop(name).shape
        codes = torch.randint(256, (experts, out, width // 32, 16), dtype=torch.uint8)
        exponents = torch.randint(118, 126, codes.shape[:-1], dtype=torch.uint8)
        stored |= {f"{name}_blocks": codes, f"{name}_scales": exponents}
        weight = convert_moe_packed_tensors(codes, exponents, dtype=torch.float32)
        model.get_parameter(name).data.copy_(weight)
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": PACKED | settings}))
    return logits(model)


def test_a_model_is_what_the_library_unpacks(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    expected = write(tmp_path)
    model, _ = fathom.load(tmp_path, device="cpu")
    assert (logits(model) - expected).abs().max() <= 1e-5
    library = pytest.importorskip("transformers")
    settings = library.Mxfp4Config(dequantize=True)
    theirs = library.GptOssForCausalLM.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.float32)
    assert (logits(model) - logits(theirs.eval())).abs().max() <= 1e-5
    for layer in range(2):
        whole = theirs.model.layers[layer].mlp.experts
        for i, expert in enumerate(model.blocks[layer].mlp.experts):
            assert torch.equal(expert.gate.weight, whole.gate_up_proj[i].T[::2])
            assert torch.equal(expert.up.weight, whole.gate_up_proj[i].T[1::2])
            assert torch.equal(expert.down.weight, whole.down_proj[i].T)
    assert "4 matrices packed by MXFP4" in open_huggingface(tmp_path).format
    narrow, _ = fathom.load(tmp_path, quantize="int8", device="cpu")
    assert (logits(narrow) - expected).abs().median() < 0.02  # some tokens go to other experts


def test_every_code_and_exponent(tmp_path: Path) -> None:
    """All 16 numbers of E2M1 times powers of two from 2^-127 on, in float64."""
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    write(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj"
    codes, exponents = stored[f"{name}_blocks"], stored[f"{name}_scales"]
    codes.copy_(torch.arange(codes.numel()).view(codes.shape) % 256)
    exponents.copy_(torch.arange(exponents.numel()).view(exponents.shape) % 252)  # more would be infinite
    save_file(stored, tmp_path / "model.safetensors")
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    numbers = torch.cat((numbers, -numbers))
    pairs = torch.stack((numbers[(codes & 15).long()], numbers[(codes >> 4).long()]), -1).flatten(-2)
    expected = (pairs * 2.0 ** (exponents.double() - 127)[..., None]).flatten(2)
    assert torch.equal(open_huggingface(tmp_path).tensors[name].read().mT.double(), expected)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"quant_method": "mxfp5"}, "quant_method is 'mxfp5'; supported are .*mxfp4"),
        ({"group_size": 64}, "group_size is 64; expected no such key in MXFP4"),
        ({"modules_to_not_convert": ["experts"]}, "floats in .*experts"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    write(tmp_path, **change)
    with pytest.raises(FathomError, match=says):
        open_huggingface(tmp_path)


@pytest.mark.parametrize("which", ["missing", "shape", "kind"])
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, which: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    write(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    scales = stored.pop(name)
    stored |= {} if which == "missing" else {name: scales[:, 1:].contiguous() if which == "shape" else scales.float()}
    save_file(stored, tmp_path / "model.safetensors")
    says = {
        "missing": "scales is missing",
        "shape": "scales is 3 x 63 x 3; expected 3 x 64 x 3",
        "kind": "scales is F32",
    }
    with pytest.raises(FathomError, match=says[which]):
        open_huggingface(tmp_path)


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_do_no_harm(tmp_path: Path, count: int) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    write(tmp_path)

    survive(everything, tmp_path / "model.safetensors", count)
    survive(everything, tmp_path / "config.json", count)
