"""Adapters in peft's own folders: it reads ours, we read its, and the logits are the same."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.adapters.lora import add, parameters
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft import load, save
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from tests.formats import hf

CLOSE = 1e-5
BASES = {"gpt2": hf.GPT2, "llama": hf.LLAMA, "llama, tied": hf.LLAMA | {"tie_word_embeddings": True}}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
OURS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}, "pissa": {"init": "pissa"}
}  # fmt: skip


def base_in(folder: Path, name: str) -> Path:
    made = hf.make(BASES[name])
    made.save_pretrained(folder / "base")  # type: ignore[operator]
    return folder / "base"


def theirs(base: Path) -> nn.Module:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    model: nn.Module = library.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return model


def peft() -> Any:
    return pytest.importorskip("peft", reason="needs the extra `peers`")


def ours(base: Path) -> Transformer:
    return load_model(base, "fp32", "cpu")[0]


def ids() -> Tensor:
    return torch.randint(61, (2, 17))


def nudge(parts: Any) -> None:
    """As if it had been trained."""
    with torch.no_grad():
        for parameter in parts:
            parameter.add_(torch.randn_like(parameter) * 0.2 * (1 + parameter.abs().mean()))


def theirs_on(base: Path, **settings: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft().LoraConfig(task_type="CAUSAL_LM", **settings)
        model: nn.Module = peft().get_peft_model(theirs(base), config).eval()
    nudge(parameter for parameter in model.parameters() if parameter.requires_grad)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BASES)
def test_we_read_theirs(tmp_path: Path, name: str, kind: str) -> None:
    base, x = base_in(tmp_path, name), ids()
    model = theirs_on(base, r=4, lora_alpha=6, target_modules="all-linear", **KINDS[kind])
    model.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    mine = ours(base)
    before = mine(x)
    load(mine, tmp_path / "adapter")
    assert (mine(x) - before).abs().max() > 1000 * CLOSE
    assert (mine(x) - model(x).logits).abs().max() < CLOSE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("name", BASES)
def test_they_read_ours(tmp_path: Path, name: str, kind: str) -> None:
    base, x = base_in(tmp_path, name), ids()
    mine = ours(base)
    before = mine(x)
    add(mine, LoraOptions(rank=3, alpha=5, **OURS[kind]))
    nudge(parameters(mine))
    assert (mine(x) - before).abs().max() > 1000 * CLOSE
    save(mine, tmp_path / "adapter", base=base)
    model = peft().PeftModel.from_pretrained(theirs(base), tmp_path / "adapter").eval()
    assert (mine(x) - model(x).logits).abs().max() < CLOSE
    again = ours(base)
    load(again, tmp_path / "adapter", base=base)
    assert (mine(x) - again(x)).abs().max() < CLOSE
