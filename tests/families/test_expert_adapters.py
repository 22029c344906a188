"""Adapters of experts as peft has them: of single experts, and of one parameter for all; both ways, to 1e-5."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fathom
from fathom.adapters import lora
from fathom.adapters import peft as ours
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from tests.families.test_variants import EVERY, logits
from tests.formats.hf import make

MIXTURES = ("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "Qwen3-MoE, dense layers", "OLMoE", "Granite MoE", "GLM-4.5",
            "Phi-3.5-MoE", "gpt-oss")  # fmt: skip
BOTH = ["experts.gate_up_proj", "experts.down_proj"]


def base(folder: Path, name: str) -> Any:
    """The library's model of a variant, saved."""
    torch.manual_seed(2)
    theirs: Any = make(EVERY[name])
    theirs.save_pretrained(folder)
    return theirs


def draw(model: nn.Module) -> None:
    torch.manual_seed(6)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.normal_(std=0.2)


def of_peft(folder: Path, adapter: Path, kind: type) -> Any:
    library = pytest.importorskip("peft", reason="needs the extra `peers`")
    theirs = kind.from_pretrained(folder).eval()  # type: ignore[attr-defined]
    return library.PeftModel.from_pretrained(theirs, adapter).eval()


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()) / 10))


@pytest.mark.parametrize("targets", [("all-linear",), ("gate", "down"), ("blocks.1.mlp.experts.0.up", "attn.v")])
@pytest.mark.parametrize("name", MIXTURES)
def test_what_we_write_is_what_peft_computes(tmp_path: Path, name: str, targets: tuple[str, ...]) -> None:
    if name == "GLM-4.5":
        targets = tuple(target.replace("blocks.1", "blocks.2") for target in targets)
    theirs = base(tmp_path / "base", name)
    model, _ = fathom.load(tmp_path / "base", device="cpu")
    plain = logits(model)
    if name == "Qwen3-MoE, dense layers" and targets[0].startswith("blocks"):
        targets = ("blocks.2.mlp.experts.0.up", "attn.v")
    lora.add(model, LoraOptions(targets=targets, rank=3, alpha=5))
    draw(model)
    expected = logits(model)
    assert (expected - plain).abs().max() > 1e-3
    ours.save(model, tmp_path / "adapter")
    again, _ = fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    assert equal(logits(again), expected)
    assert equal(logits(of_peft(tmp_path / "base", tmp_path / "adapter", type(theirs))), expected)


PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("Mixtral", {"target_parameters": BOTH}),
    ("Qwen3-MoE", {"target_parameters": BOTH, "target_modules": ["q_proj", "o_proj"]}),
    ("Qwen3-MoE", {"target_parameters": BOTH[:1]}),
    ("Qwen3-MoE, dense layers", {"target_parameters": BOTH[1:], "use_rslora": True}),
    ("Qwen2-MoE", {"target_parameters": [*BOTH, "shared_expert.up_proj.weight"]}),
    ("OLMoE", {"target_parameters": BOTH, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"gate_up_proj": 9}}),
    ("Granite MoE", {"target_parameters": BOTH, "target_modules": ["k_proj"]}),
    ("GLM-4.5", {"target_parameters": [*BOTH, "mlp.down_proj.weight"]}),
    ("Phi-3.5-MoE", {"target_parameters": ["model.layers.1.mlp.experts.down_proj"]}),
]


@pytest.mark.parametrize("name, options", PARAMETERS)
def test_what_peft_writes_is_what_we_compute(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    library = pytest.importorskip("peft", reason="needs the extra `peers`")
    theirs = base(tmp_path / "base", name)
    options = {"target_modules": [], **options}
    wrapped = library.get_peft_model(theirs, library.LoraConfig(r=3, lora_alpha=5, **options))
    draw(wrapped)
    wrapped.eval().save_pretrained(tmp_path / "adapter")
    expected = logits(wrapped)
    model, _ = fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    assert equal(logits(model), expected)
    ours.save(model, tmp_path / "again")
    assert equal(logits(of_peft(tmp_path / "base", tmp_path / "again", type(theirs))), expected)
    lora.merge(model)
    assert equal(logits(model), expected)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"target_parameters": ["mlp.gate.weight"]}, "target_parameters has 'mlp.gate.weight', which no adapter can"),
        ({"target_parameters": ["experts.gate_up"]}, "which no adapter can have here; .*experts.gate_up_proj"),
        ({"target_parameters": [*BOTH, "self_attn.q_proj.weight"]}, "has 'self_attn.q_proj.weight', which no"),
        ({"target_parameters": BOTH[:1]}, "a of .*experts.gate_up_proj is .15, 12.; the model and a rank of 15 expect"),
        ({"r": 2}, "a of .*experts.gate_up_proj is .15, 24.; the model and a rank of 10 expect"),
        ({"target_parameters": "experts"}, "target_parameters is 'experts'; expected names of layers"),
    ],
)
def test_another_parameter_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    base(tmp_path / "base", "Qwen3-MoE")
    model, _ = fathom.load(tmp_path / "base", device="cpu")
    lora.add(model, LoraOptions(targets=("mlp.experts.*.up", "down"), rank=3))
    ours.save(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FathomError, match=says):
        fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")


def test_parameters_of_a_model_without_experts_are_refused(tmp_path: Path) -> None:
    base(tmp_path / "base", "Qwen3")
    model, _ = fathom.load(tmp_path / "base", device="cpu")
    lora.add(model, LoraOptions(targets=("q_proj",), rank=3))
    ours.save(model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_parameters": BOTH}))
    with pytest.raises(FathomError, match="target_parameters has"):
        fathom.load(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")


@torch.no_grad()
@pytest.mark.parametrize("targets", [("all-linear",), ("blocks.1.mlp.experts.0.up", "attn.v")])
@pytest.mark.parametrize("name", ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "Granite MoE"])
def test_llama_cpp_adds_an_adapter_of_experts(tmp_path: Path, name: str, targets: tuple[str, ...]) -> None:
    library: Any = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    base(tmp_path / "base", name)
    model, _ = fathom.load(tmp_path / "base", device="cpu")
    lora.add(model, LoraOptions(targets=targets, rank=3, alpha=5))
    draw(model)
    ours.save(model, tmp_path / "adapter", base=tmp_path / "base")
    fathom.export(tmp_path / "base", tmp_path / "base.gguf", "gguf")
    fathom.export(tmp_path / "adapter", tmp_path / "adapter.gguf", "gguf")
    files = {"model_path": str(tmp_path / "base.gguf"), "lora_path": str(tmp_path / "adapter.gguf")}
    theirs = library.Llama(**files, logits_all=True, n_ctx=64, n_threads=1, verbose=False, type_k=0, type_v=0)
    ids = torch.randint(61, (1, 32), generator=torch.Generator().manual_seed(2))
    theirs.eval(ids[0].tolist())
    assert (model(ids)[0] - torch.tensor(theirs.scores[:32])).abs().max() < 1e-4
