"""config.json: rotary tables against transformers, configs there and back, and every refusal in one line."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.families.registry import families, from_hf, ids, of
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.position import frequencies, rope_scale
from fathom.model.presets import GPT2 as PRESET_GPT2
from fathom.model.presets import LLAMA2_7B, LLAMA2_70B
from tests.formats.hf import GPT2, LLAMA, LLAMA3, VARIANTS, YARN
from tests.formats.reference import reference

MODELS: dict[str, ModelConfig] = {
    "gpt2": PRESET_GPT2,
    "7b": LLAMA2_7B,
    "70b": LLAMA2_70B,
    "tied, biases": replace(LLAMA2_7B, tie_embeddings=True, bias=True, norm_eps=1e-6, head_dim=64),
    "linear": replace(LLAMA2_7B, rope=Rotary(scaling=RopeScaling(kind="linear", factor=2.0))),
    "llama3": replace(
        LLAMA2_7B, rope=Rotary(theta=5e5, scaling=RopeScaling(kind="llama3", factor=8.0, original_context_length=8192))
    ),
    "yarn": replace(
        LLAMA2_7B,
        rope=Rotary(scaling=RopeScaling(kind="yarn", factor=16.0, original_context_length=4096, attention_factor=1.2)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_the_same_config(name: str) -> None:
    config = MODELS[name]
    said = json.loads(json.dumps(of(config).write("hf", config)))
    assert from_hf(said, "config.json")[1].resolved() == config.resolved()
    for version in ({"rope_parameters"}, {"rope_theta", "rope_scaling"}):  # either half is enough
        half = {field: value for field, value in said.items() if field not in version}
        assert from_hf(half, "config.json")[1].resolved() == config.resolved()


ROPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "theta": {"rope_theta": 5e5},
    "none": {"rope_scaling": None, "rope_theta": 3e4},
    "default": {"rope_scaling": {"rope_type": "default"}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4}},
    "llama3.1": {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    "llama3.2": {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"factor": 32.0}},
    "llama3, no original": {"rope_scaling": {k: v for k, v in LLAMA3.items() if k[0] != "o"}},
    "yarn": {"rope_scaling": YARN},
    "yarn, factor 1": {"rope_scaling": YARN | {"factor": 1.0}},
    "yarn, no factor": {"rope_scaling": YARN | {"factor": None}},
    "yarn, betas": {"rope_scaling": YARN | {"beta_fast": 4, "beta_slow": 0.5}},
    "yarn, attention_factor": {"rope_scaling": YARN | {"attention_factor": 0.7}},
    "yarn, mscale": {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 1.0}},
    "yarn, one mscale": {"rope_scaling": YARN | {"mscale": 0.707}},
    "yarn, truncate": {"rope_scaling": YARN | {"truncate": True}},
    "yarn, a ramp that is not rounded": {"rope_scaling": YARN | {"truncate": False, "beta_fast": 9.0}},
    "yarn, long": {
        "max_position_embeddings": 1 << 17,
        "rope_scaling": YARN | {"original_max_position_embeddings": 8192},
    },
    "yarn, one turn": {"rope_scaling": YARN | {"original_max_position_embeddings": 5}},
    "yarn, all channels": {"rope_theta": 12.0, "rope_scaling": YARN | {"original_max_position_embeddings": 1 << 20}},
    "version 5": {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
    "version 5, plain": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}},
    "both": {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
}


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("name", ROPES)
def test_rotary_tables_are_those_of_transformers(name: str, head_dim: int) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    values = json.loads(json.dumps(LLAMA | {"head_dim": head_dim} | ROPES[name]))  # theirs changes what it is given
    ours = from_hf(json.loads(json.dumps(values)), "config.json")[1].resolved()
    theirs = LlamaRotaryEmbedding(library.LlamaConfig.from_dict(values))
    assert torch.allclose(frequencies(ours), theirs.inv_freq, rtol=2e-6, atol=0)
    assert rope_scale(ours) == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_we_write_is_what_transformers_reads(name: str) -> None:
    """Every field that decides the function, in the library's own view of both files."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    cls = {"llama": library.LlamaConfig, "gpt2": library.GPT2Config}[VARIANTS[name]["model_type"]]
    given = cls.from_dict(json.loads(json.dumps(VARIANTS[name])))
    written = cls.from_dict(json.loads(json.dumps(rewritten(given.to_dict()))))
    other = ("pdrop", "token_id", "architectures", "n_inner", "n_ctx", "rope_parameters", "rope_scaling", "rope_theta")
    same = {k: v for k, v in given.to_dict().items() if not k.endswith(other)}
    assert {k: v for k, v in written.to_dict().items() if k in same} == same
    if "rope_parameters" in given.to_dict():
        assert {k: written.rope_parameters[k] for k in given.rope_parameters if k != "type"} == {
            k: v for k, v in given.rope_parameters.items() if k != "type"
        }


def test_defaults_are_those_of_the_library() -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    for values, cls in ((LLAMA, library.LlamaConfig), (GPT2, library.GPT2Config)):
        given = cls.from_dict(dict(values)).to_dict()
        few = {k: v for k, v in values.items() if k not in ("rms_norm_eps", "layer_norm_epsilon")}
        whole = {k: v for k, v in given.items() if k not in ("rms_norm_eps", "layer_norm_epsilon")}
        assert from_hf(few, "c")[1].resolved() == from_hf(whole, "c")[1].resolved()
    assert from_hf(LLAMA | {"rms_norm_eps": None}, "c")[1].norm_eps == library.LlamaConfig().rms_norm_eps
    assert from_hf(GPT2, "c")[1].norm_eps == library.GPT2Config().layer_norm_epsilon


def rewritten(values: dict[str, Any]) -> dict[str, Any]:
    """A config.json read and written again."""
    family, config = from_hf(values, "config.json")
    return family.write("hf", config)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        LLAMA,
        {"model_type": "qwen9"},
        "model_type is 'qwen9', architectures None; the nearest family is Qwen",
    ),
    (LLAMA, {"model_type": None, "architectures": ["QwenForCausalLM"]}, "architectures .'QwenForCausalLM'.; supported"),
    (LLAMA, {"model_type": ["llama"]}, f"supported are {', '.join(ids('hf'))}$"),
    (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected None or 'silu'"),
    (LLAMA, {"sliding_window": 4096}, "sliding_window is 4096"),
    (LLAMA, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is .* by 'gptq'"),
    (LLAMA, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    (LLAMA, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    (LLAMA, {"attention_bias": "yes"}, "attention_bias is 'yes'; expected true or false"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    (LLAMA, {"num_key_value_heads": 4}, "n_head=6 is not a multiple of n_kv_head=4"),
    (LLAMA, {"num_attention_heads": 5}, "d_model=24 is not a multiple of n_head=5"),
    (LLAMA, {"head_dim": 5}, "head_dim=5 is odd"),
    (LLAMA, {"hidden_size": None}, "hidden_size is missing; expected a whole number"),
    (LLAMA, {"hidden_size": "24"}, "hidden_size is '24'; expected a whole number"),
    (LLAMA, {"hidden_size": 24.0}, "hidden_size is 24.0"),
    (LLAMA, {"hidden_size": True}, "hidden_size is True; expected a whole number"),
    (LLAMA, {"hidden_size": 0}, "hidden_size is 0; it must be at least 1"),
    (LLAMA, {"hidden_size": -24}, "hidden_size is -24; it must be at least 1"),
    (LLAMA, {"hidden_size": 1 << 31}, "hidden_size is 2147483648"),
    (LLAMA, {"hidden_size": int("9" * 4000)}, "hidden_size is 9999"),
    (LLAMA, {"hidden_size": [[[[[24]]]]]}, "hidden_size is"),
    (LLAMA, {"vocab_size": {"a": "b" * 10_000}}, "vocab_size is"),
    (LLAMA, {"tie_word_embeddings": 1}, "tie_word_embeddings is 1; expected true or false"),
    (LLAMA, {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf; expected a finite number"),
    (LLAMA, {"rms_norm_eps": 0.0}, "norm_eps=0.0"),
    (LLAMA, {"rms_norm_eps": int("9" * 400)}, "rms_norm_eps is 999"),
    (LLAMA, {"rope_theta": 0}, "rope_theta is 0.0; it must be above 1"),
    (LLAMA, {"rope_theta": "10000"}, "rope_theta is '10000'; expected a finite number"),
    (
        LLAMA,
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "'dynamic' is not supported; choose one of linear, llama3, yarn",
    ),
    (LLAMA, {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
    (LLAMA, {"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
    (LLAMA, {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0.0; it must be above 0"),
    (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
    (LLAMA, {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor is 1.0; it must be above 1"),
    (
        LLAMA,
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}},
        "max_position_embeddings is 0",
    ),
    (LLAMA, {"rope_scaling": YARN | {"truncate": "no"}}, "truncate is 'no'"),
    (LLAMA, {"rope_scaling": YARN | {"beta_fast": -1}}, "beta_fast is -1.0"),
    (LLAMA, {"rope_scaling": YARN | {"beta_slow": 40}}, "beta_fast is 32.0; it must be above 40"),
    (LLAMA, {"rope_scaling": YARN | {"attention_factor": -1}}, "attention_factor is -1.0"),
    (LLAMA, {"rope_scaling": YARN | {"attention_factor": 0.0}}, "attention_factor is 0.0"),
    (LLAMA, {"rope_scaling": YARN | {"mscale": 1e300, "mscale_all_dim": 1.0}}, "attention_factor"),
    (LLAMA, {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": -7.2134752}}, "mscale_all_dim is -7.21"),
    (LLAMA, {"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected fields for all layers alike"),
    (LLAMA, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "expected fields for all layers alike"),
    (
        LLAMA,
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        "500000.0, elsewhere it is 10000.0",
    ),
    (LLAMA, {"rope_scaling": YARN, "rope_parameters": LLAMA3}, "elsewhere it is"),
    (GPT2, {"activation_function": "silu"}, "activation_function is 'silu'"),
    (GPT2, {"scale_attn_weights": False}, "scale_attn_weights is False"),
    (GPT2, {"add_cross_attention": True}, "add_cross_attention is True"),
    (GPT2, {"n_positions": None}, "n_ctx is missing"),
    (GPT2, {"n_inner": 0}, "n_inner is 0"),
    (GPT2, {"layer_norm_epsilon": -1.0}, "norm_eps=-1.0"),
]


@pytest.mark.parametrize("values, change, says", BAD)
def test_what_is_refused_by_name(values: dict[str, Any], change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says) as caught:
        from_hf(values | change, "config.json")
    assert str(caught.value).startswith("config.json: ") and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "change",
    [
        {"pretraining_tp": 2},
        {"use_cache": False},
        {"hidden_act": "swish"},
        {"auto_map": {}},
        {"attention_dropout": 0.1},
    ],
)
def test_what_changes_nothing_is_ignored(change: dict[str, Any]) -> None:
    assert from_hf(LLAMA | change, "c")[1] == from_hf(LLAMA, "c")[1]


@pytest.mark.parametrize(
    "config, says",
    [
        (replace(LLAMA2_7B, qk_norm="on"), "qk_norm=on, and transformers has no LLaMA like that"),
        (replace(LLAMA2_7B, n_head=3, head_dim=8, n_kv_head=1), "d_model=4096 is not a multiple of n_head=3"),
    ],
)
def test_what_transformers_cannot_hold_as_llama(config: ModelConfig, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        families()["llama"].write("hf", config)


def test_the_real_sizes_are_those_of_the_library() -> None:
    """What we write for LLaMA 2 7B makes the library's model of that size, on the meta device."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    with torch.device("meta"):
        model = library.AutoModelForCausalLM.from_config(
            library.LlamaConfig.from_dict(of(LLAMA2_7B).write("hf", LLAMA2_7B))
        )
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference(LLAMA2_7B).parameters())
