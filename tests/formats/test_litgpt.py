"""litgpt's lit_model.pth and model_config.yaml, against transformers' LLaMA and GPT-2-like models and litgpt itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats.convert import read_ours
from fathom.formats.detect import open_model
from fathom.formats.load import load
from tests.formats.hf import LLAMA, LLAMA3, make
from tests.mutants import survive

IDS = torch.arange(60)[None]
CONFIG: dict[str, Any] = {
    "name": "tiny", "hf_config": {"org": "x", "name": "y"}, "scale_embeddings": False, "block_size": 256,
    "vocab_size": 61, "padding_multiple": 64, "padded_vocab_size": 61, "n_layer": 2, "n_head": 6, "head_size": 4,
    "n_embd": 24, "rotary_percentage": 1.0, "parallel_residual": False, "bias": False, "lm_head_bias": False,
    "attn_bias": False, "n_query_groups": 2, "shared_attention_norm": False, "norm_class_name": "RMSNorm",
    "norm_eps": 1e-5, "mlp_class_name": "LLaMAMLP", "gelu_approximate": "none", "intermediate_size": 40,
    "rope_condense_ratio": 1, "rope_base": 10000, "rope_adjustments": None, "n_expert": 0, "n_expert_per_token": 0,
    "attention_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window_size": None,
    "sliding_window_indices": None, "post_attention_norm": False, "post_mlp_norm": False, "norm_qk": False,
    "attention_scores_scalar": None, "rope_indices": None, "rope_local_base_freq": None,
}  # fmt: skip
PARTS = {
    "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2", "self_attn.o_proj": "attn.proj",
    "mlp.gate_proj": "mlp.fc_1", "mlp.up_proj": "mlp.fc_2", "mlp.down_proj": "mlp.proj",
}  # fmt: skip


def of_llama(theirs: Any, together: bool = False) -> dict[str, Tensor]:
    """litgpt's state dict of a LLaMA; `together`: as before 0.5, each head of keys with its queries."""
    state, result = theirs.state_dict(), {}
    names = {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "lm_head": "lm_head"}
    for layer in range(2):
        block = f"model.layers.{layer}."
        names |= {block + part: f"transformer.h.{layer}.{name}" for part, name in PARTS.items()}
        q, k, v = (state[f"{block}self_attn.{x}_proj.weight"] for x in "qkv")
        if together:
            groups = [x.unflatten(0, (2, -1)) for x in (q, k, v)]
            result[f"transformer.h.{layer}.attn.attn.weight"] = torch.cat(groups, 1).flatten(0, 1)
        else:
            result[f"transformer.h.{layer}.attn.qkv.weight"] = torch.cat((q, k, v))
    return result | {f"{name}.weight": state[f"{theirs_name}.weight"] for theirs_name, name in names.items()}


def write(folder: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    torch.save({"model": state}, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.dump(CONFIG | changes))
    return folder


@pytest.mark.parametrize("together", [False, True])
def test_logits_are_those_of_the_same_llama(tmp_path: Path, together: bool) -> None:
    theirs = make(LLAMA)
    write(tmp_path, of_llama(theirs, together))
    for path in (tmp_path, tmp_path / "lit_model.pth"):
        assert (load(path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5
    assert open_model(tmp_path).format == "litgpt"


def test_rotary_scaling(tmp_path: Path) -> None:
    theirs = make(LLAMA | {"rope_theta": 500_000.0, "rope_scaling": LLAMA3})
    adjustments = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 64}
    write(tmp_path, of_llama(theirs), rope_base=500_000, rope_adjustments=adjustments)
    assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5
    theirs = make(LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    write(tmp_path, of_llama(theirs), rope_condense_ratio=4)
    assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5


def test_equal_embeddings_are_one(tmp_path: Path) -> None:
    theirs = make(LLAMA | {"tie_word_embeddings": True})
    write(tmp_path, of_llama(theirs))
    model, _ = load(tmp_path, device="cpu")
    assert model.config.tie_embeddings and (model(IDS) - theirs(IDS).logits).abs().max() <= 1e-5


PYTHIA = {
    "bias": True, "norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "parallel_residual": True,
    "rotary_percentage": 0.5, "n_query_groups": 6,
}  # fmt: skip


def test_logits_are_those_of_the_same_pythia(tmp_path: Path) -> None:
    theirs = make(LLAMA | {"model_type": "gpt_neox", "rotary_pct": 0.5, "hidden_act": "gelu", "layer_norm_eps": 1e-5})
    parts = {
        "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2", "attention.dense": "attn.proj",
        "mlp.dense_h_to_4h": "mlp.fc", "mlp.dense_4h_to_h": "mlp.proj", "attention.query_key_value": "attn.qkv",
        "gpt_neox.embed_in": "transformer.wte", "gpt_neox.final_layer_norm": "transformer.ln_f",
        "embed_out": "lm_head", "gpt_neox.layers": "transformer.h",
    }  # fmt: skip
    state = {}
    for name, tensor in theirs.state_dict().items():
        if "query_key_value" in name:  # q, k and v of each head, one head after another
            tensor = tensor.unflatten(0, (6, 3, 4)).transpose(0, 1).flatten(0, 2)
        for old, new in parts.items():
            name = name.replace(old, new)
        state[name] = tensor
    write(tmp_path, state, **PYTHIA)
    with torch.no_grad():
        assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5


VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "one head of keys": {"n_query_groups": 1},
    "qkv biases, norms of q and k": {"attn_bias": True, "norm_qk": True},
    "biases": {"bias": True},
    "gpt": {"bias": True, "norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP"},
    "gpt, tanh": {"mlp_class_name": "GptNeoxMLP", "gelu_approximate": "tanh"},
    "geglu": {"mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh"},
    "llama 3": {"rope_adjustments": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                     "original_max_seq_len": 64}},
    "condensed": {"rope_condense_ratio": 4},
    "wide heads": {"head_size": 8},
    "pythia": PYTHIA,
    "one norm for both": PYTHIA | {"shared_attention_norm": True},
    "a bias of logits": PYTHIA | {"lm_head_bias": True, "rotary_percentage": 1.0},
    "half of each head": {"rotary_percentage": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_litgpt(tmp_path: Path, variant: str) -> None:
    pytest.importorskip("litgpt", reason="needs litgpt")
    from litgpt.config import Config  # type: ignore[import-not-found]
    from litgpt.model import GPT  # type: ignore[import-not-found]
    from litgpt.utils import incremental_save, save_config  # type: ignore[import-not-found]

    known = {key: value for key, value in CONFIG.items() if key in Config.__dataclass_fields__}
    config = Config(**known | VARIANTS[variant])
    theirs = GPT(config).eval()
    with torch.no_grad():
        for x in theirs.parameters():
            x.normal_(std=0.3)
    save_config(config, tmp_path)
    with incremental_save(tmp_path / "lit_model.pth") as saver:  # as convert_hf_checkpoint does
        saver.save(theirs.state_dict())
    with torch.no_grad():
        assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS)).abs().max() <= 1e-5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"shared_attention_norm": True}, r"model_config.yaml: shared_attention_norm is True with parallel_residual False"),
    ({"rotary_percentage": 0.25}, r"rope.rotated=1; it must be even"),
    ({"parallel_residual": 1}, r"parallel_residual is 1; expected"),
    ({"n_expert": 8}, r"n_expert is 8; expected None or 0"),
    ({"final_logit_softcapping": 30.0}, r"final_logit_softcapping is 30.0; expected None"),
    ({"mlp_class_name": "LLaMAMoE"}, r"mlp_class_name is 'LLaMAMoE', gelu_approximate 'none'"),
    ({"new_feature": 3}, r"new_feature is 3; expected no such key"),
    (
        {"rope_adjustments": {"factor": 2.0, "beta_fast": 3}},
        r"rope_adjustments is .* expected factor, high",
    ),
    ({"attention_scores_scalar": 9}, r"attention_scores_scalar is 9; expected 4, the width of a head"),
    ({"name": "Gemma-2b"}, r"name has Gemma"),
    ({"n_layer": 3}, r"'transformer.h.2.norm_1.weight' is missing"),
    ({"n_query_groups": 3}, r"attn.qkv is \(40, 24\); expected 48 rows of queries, keys and values"),
    ({"n_head": 0}, r"n_head is 0; it must be at least 1"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_settings_that_are_no_choices_of_ours(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    write(tmp_path, of_llama(make(LLAMA)), **change)
    with pytest.raises(FathomError, match=says):
        load(tmp_path, device="cpu")


def everything(path: Path) -> None:
    for _ in read_ours(open_model(path.parent)):
        pass


def test_mutants_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, of_llama(make(LLAMA)))
    survive(everything, tmp_path / "lit_model.pth", 200)
    survive(everything, tmp_path / "model_config.yaml", 200)
