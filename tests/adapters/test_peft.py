"""Adapters in peft's own folders: it reads ours, we read its, and the logits are the same."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.lora import add, parameters
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft import load, save
from fathom.formats.load import load as load_model
from fathom.model.transformer import Transformer
from tests.adapters.models import adapted, base_folder
from tests.formats import hf
from tests.formats.reference import to_ours

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
    model = hf.make(BASES[name])
    model.save_pretrained(folder / "base")  # type: ignore[operator]
    return folder / "base"


def theirs(base: Path) -> nn.Module:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    model: nn.Module = library.AutoModelForCausalLM.from_pretrained(base).float().eval()
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
        try:
            config = peft().LoraConfig(task_type="CAUSAL_LM", **settings)
        except TypeError as problem:
            pytest.skip(f"this version of peft: {problem}")
        model: nn.Module = peft().get_peft_model(theirs(base), config).eval()
    for part in model.modules():
        if hasattr(part, "lora_A") and any(a.weight.shape[1] != part.in_features for a in part.lora_A.values()):
            pytest.skip("this version of peft mixes up the sides of GPT-2's matrices in PiSSA")
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


THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "embedding": ("llama", {"target_modules": ["embed_tokens"]}),
    "embedding and head": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "tied embedding": ("gpt2", {"target_modules": ["wte", "c_attn"]}),
    "tied head": ("llama, tied", {"target_modules": ["lm_head"]}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 2, r"^model\.layers\.1.*q_proj": 3, r"layers.\d+.mlp.down_proj": 5},
            "alpha_pattern": {"(q_proj|v_proj)": 9, "layers.0.self_attn.v_proj": 100},
        },
    ),
    "patterns, rslora": (
        "gpt2",
        {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_attn": 6}, "use_rslora": True},
    ),
    "regular expression": ("llama", {"target_modules": r".*layers\.(0|1)\.(self_attn\.[qk]|mlp\.up)_proj"}),
    "some layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "all but some": ("gpt2", {"target_modules": ["c_proj"], "exclude_modules": ["mlp.c_proj"]}),
    "full names": ("gpt2", {"target_modules": ["transformer.h.1.mlp.c_fc"]}),
    "pissa of some": ("gpt2", {"target_modules": ["c_attn"], "init_lora_weights": "pissa", "use_rslora": True}),
    "dora of some": ("gpt2", {"target_modules": ["c_attn"], "use_dora": True}),
    "gaussian": ("gpt2", {"target_modules": ["c_fc"], "init_lora_weights": "gaussian", "lora_dropout": 0.3}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", THEIRS)
def test_we_read_their_other_settings(tmp_path: Path, case: str) -> None:
    name, settings = THEIRS[case]
    base, x = base_in(tmp_path, name), ids()
    model = theirs_on(base, r=4, lora_alpha=6, **settings)
    model.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    mine = ours(base)
    before = mine(x)
    load(mine, tmp_path / "adapter")
    assert (mine(x) - before).abs().max() > 1000 * CLOSE
    assert (mine(x) - model(x).logits).abs().max() < CLOSE
    save(mine, tmp_path / "again", base=base)
    again = peft().PeftModel.from_pretrained(theirs(base), tmp_path / "again").eval()
    assert (again(x).logits - model(x).logits).abs().max() < CLOSE


@pytest.mark.filterwarnings("ignore")
def test_we_read_their_converted_pissa(tmp_path: Path) -> None:
    """Saved with `path_initial_model_for_weight_conversion`, PiSSA is a plain LoRA of twice the rank."""
    base, x = base_in(tmp_path, "gpt2"), ids()
    config = peft().LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="pissa", target_modules="all-linear")
    model = peft().get_peft_model(theirs(base), config).eval()
    if model.base_model.model.transformer.h[0].attn.c_attn.lora_A["default"].weight.shape[1] != 24:
        pytest.skip("this version of peft mixes up the sides of GPT-2's matrices in PiSSA")
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "first")
    model.peft_config["default"].init_lora_weights = "pissa"
    nudge(parameter for parameter in model.parameters() if parameter.requires_grad)
    model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    mine = ours(base)
    adapter = load(mine, tmp_path / "adapter")
    assert adapter.config.rank == 8 and not adapter.config.pissa
    assert (mine(x) - model(x).logits).abs().max() < CLOSE


MINE: dict[str, tuple[str, dict[str, Any]]] = {
    "q alone": ("gpt2", {"targets": ("attn.q",)}),
    "q and v": ("gpt2", {"targets": ("attn.q", "attn.v"), "rslora": True}),
    "q and v, dora": ("gpt2", {"targets": ("attn.q", "attn.v"), "dora": True}),
    "k, pissa": ("gpt2", {"targets": ("attn.k", "mlp.up"), "init": "pissa"}),
    "ranks": ("gpt2", {"ranks": (("attn.k", 2), ("blocks.1.*.out", 5)), "alphas": (("attn.v", 11.0),)}),
    "ranks, rslora": ("llama", {"ranks": (("q_proj", 2), ("mlp.*", 5)), "alphas": (("mlp.up", 11.0),), "rslora": True}),
    "embed": ("gpt2", {"targets": ("embed", "attn.q")}),
    "both ends": ("llama", {"targets": ("embed", "unembed")}),
    "one block": ("llama", {"targets": ("blocks.1.*.*",)}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", MINE)
def test_they_read_our_other_settings(tmp_path: Path, case: str) -> None:
    name, settings = MINE[case]
    base, x = base_in(tmp_path, name), ids()
    mine = ours(base)
    before = mine(x)
    add(mine, LoraOptions(rank=3, alpha=5, **settings))
    nudge(parameters(mine))
    assert (mine(x) - before).abs().max() > 1000 * CLOSE
    save(mine, tmp_path / "adapter", base=base)
    model = peft().PeftModel.from_pretrained(theirs(base), tmp_path / "adapter").eval()
    assert (mine(x) - model(x).logits).abs().max() < CLOSE
    again = ours(base)
    load(again, tmp_path / "adapter", base=base)
    assert (mine(x) - again(x)).abs().max() < CLOSE


@pytest.mark.filterwarnings("ignore")
def test_both_merge_to_the_same_model(tmp_path: Path) -> None:
    base = base_in(tmp_path, "gpt2")
    model = theirs_on(base, r=4, target_modules=["c_attn", "c_fc"], use_dora=True)
    model.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    mine = ours(base)
    load(mine, tmp_path / "adapter")
    merged = model.merge_and_unload()  # type: ignore[operator]
    ours_merged = merged_copy(mine).state_dict()
    for name, tensor in to_ours(mine.config, merged.state_dict(), "hf").items():
        assert torch.allclose(ours_merged[name], tensor, atol=1e-6)


def test_nothing_of_our_adapter_is_lost(tmp_path: Path) -> None:
    """Without peft: the same matrices come back, block by block, and the same options."""
    base, model = base_folder(tmp_path / "base", "gpt2")
    options = LoraOptions(rank=3, alpha=7.0, rslora=True, dropout=0.25, ranks=(("attn.k", 2),))
    parts = lora.wrapped(adapted(model, options))
    notes = save(model, tmp_path / "adapter", base=base)
    assert notes == ["attn.q, attn.k and attn.v were written as one adapter of c_attn, of rank 8"]
    model_again = ours(base)
    read, again = load(model_again, tmp_path / "adapter", base=base), lora.wrapped(model_again)
    assert list(again) == list(parts)
    for name, part in parts.items():
        before, after = part.adapters["default"], again[name].adapters["default"]
        assert torch.equal(after.a, before.a)
        assert torch.allclose(again[name].delta("default"), part.delta("default"), atol=1e-6)
        assert isinstance(after.dropout, nn.Dropout) and after.dropout.p == 0.25 and after.rslora
    assert (read.config.rslora, read.config.dropout) == (True, 0.25)
