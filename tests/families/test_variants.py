"""Families that are variants of LLaMA or GPT-2: logits of transformers, the cache, files written again to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fathom
from fathom.backend.inference import prepare_for_inference
from fathom.errors import FathomError
from fathom.families.registry import from_hf, of, with_id
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.safetensors_file import open_safetensors
from fathom.model.transformer import Transformer
from tests.formats.hf import GPT2, LLAMA, LLAMA3, YARN, make

LLAMAS: dict[str, dict[str, Any]] = {
    "Qwen2": {"model_type": "qwen2"},
    "Qwen2, tied, YaRN": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_scaling": YARN},
    "Qwen3": {"model_type": "qwen3", "head_dim": 8},
    "Qwen3, biases": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
    "LLaMA, biases of attention": {"attention_bias": True},
    "LLaMA, biases of the MLP": {"mlp_bias": True},
    "Arcee": {"model_type": "arcee", "hidden_act": "relu2"},
    "Arcee, biases": {"model_type": "arcee", "hidden_act": "relu2", "attention_bias": True, "mlp_bias": True},
    "Mistral": {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
    "Phi-3": {"model_type": "phi3", "pad_token_id": None},
    "ERNIE 4.5": {"model_type": "ernie4_5", "head_dim": 8},
    "ERNIE 4.5, biases": {"model_type": "ernie4_5", "head_dim": 8, "use_bias": True},
    "Helium": {"model_type": "helium", "head_dim": 4},
    "Seed-OSS": {"model_type": "seed_oss", "head_dim": 8},
    "Seed-OSS, other biases": {"model_type": "seed_oss", "head_dim": 4, "attention_out_bias": True, "mlp_bias": True},
}
GPTS: dict[str, dict[str, Any]] = {
    "GPT-2, exact GELU": {"activation_function": "gelu"},
    "GPT-2, ReLU": {"activation_function": "relu"},
    "GPT-2, scores by layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "StarCoder": {"model_type": "gpt_bigcode", "activation_function": "gelu_pytorch_tanh", "multi_query": True},
    "StarCoder, exact GELU": {"model_type": "gpt_bigcode", "activation_function": "gelu"},
}
WINDOW = {"sliding_window": 12, "head_dim": 8}
LONG = {"type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [1.5, 4.0]}
GEMMA = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
SOFT = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 12}
FALCON = {"model_type": "falcon", "tie_word_embeddings": True, "activation": "gelu"}
EXPERTS = {"num_experts_per_tok": 2, "pad_token_id": None}
RAMP = YARN | {"beta_fast": 9.0, "truncate": False}
GLM4 = {**EXPERTS, "n_routed_experts": 5, "n_shared_experts": 1, "moe_intermediate_size": 12}
OSS = {**EXPERTS, "num_local_experts": 4, "rope_scaling": YARN}
TYPES = ["sliding_attention", "full_attention"]
MODERN: dict[str, dict[str, Any]] = {
    "Mistral, a window": {"model_type": "mistral", **WINDOW},
    "Ministral": {"model_type": "ministral", **WINDOW, "layer_types": TYPES},
    "Phi-3, a window": {"model_type": "phi3", "pad_token_id": None, "sliding_window": 12},
    "Phi-3, longrope": {"model_type": "phi3", "pad_token_id": None, "rope_scaling": LONG,
                        "original_max_position_embeddings": 128},
    "SmolLM3": {"model_type": "smollm3", "no_rope_layers": [1, 0], "pad_token_id": None},
    "Gemma": {"model_type": "gemma", "head_dim": 8, **GEMMA},
    "Gemma 2": {"model_type": "gemma2", **WINDOW, **GEMMA, **SOFT},
    "Gemma 2, untied, no cap": {"model_type": "gemma2", **WINDOW, **GEMMA, "tie_word_embeddings": False,
                                "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "Gemma 3": {"model_type": "gemma3_text", **WINDOW, **GEMMA, "query_pre_attn_scalar": 12, "layer_types": TYPES},
    "Granite": {"model_type": "granite", "embedding_multiplier": 7.0, "residual_multiplier": 0.4,
                "attention_multiplier": 0.2, "logits_scaling": 6.0, "pad_token_id": None},
    "OLMo": {"model_type": "olmo", "rms_norm_eps": 1e-5},
    "OLMo 2": {"model_type": "olmo2"},
    "OLMo 3": {"model_type": "olmo3", "sliding_window": 12, "layer_types": TYPES},
    "GLM-4": {"model_type": "glm", "head_dim": 8, "partial_rotary_factor": 0.5, "attention_bias": True,
              "pad_token_id": None},
    "GLM-4 0414": {"model_type": "glm4", "head_dim": 8, "partial_rotary_factor": 0.5, "pad_token_id": None},
    "StarCoder2": {"model_type": "starcoder2", "sliding_window": 12, "norm_epsilon": 1e-5,
                   "hidden_act": "gelu_pytorch_tanh"},
    "StableLM": {"model_type": "stablelm", "partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "StableLM 2 12B": {"model_type": "stablelm", "partial_rotary_factor": 0.5, "qk_layernorm": True,
                       "use_parallel_residual": True},
    "StableLM, normed heads": {"model_type": "stablelm", "partial_rotary_factor": 0.5, "qk_layernorm": True,
                               "layer_norm_eps": 0.01},
    "Nemotron": {"model_type": "nemotron", "hidden_act": "relu2", "partial_rotary_factor": 0.5},
    "Command-R": {"model_type": "cohere", "logit_scale": 0.5, "pad_token_id": None, "tie_word_embeddings": True},
    "Command-R+": {"model_type": "cohere", "logit_scale": 0.5, "pad_token_id": None, "tie_word_embeddings": True,
                   "use_qk_norm": True},
    "Command-R7B": {"model_type": "cohere2", "logit_scale": 0.5, "pad_token_id": None, "sliding_window": 12,
                    "head_dim": 8, "layer_types": TYPES, "tie_word_embeddings": True},
    "Mixtral": {"model_type": "mixtral", **EXPERTS, "num_local_experts": 5, "head_dim": 8, "sliding_window": None},
    "Mixtral, a window": {"model_type": "mixtral", **EXPERTS, "num_local_experts": 3, **WINDOW},
    "Qwen3-MoE": {"model_type": "qwen3_moe", **EXPERTS, "num_experts": 5, "head_dim": 8, "moe_intermediate_size": 12,
                  "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "Qwen3-MoE, shares": {"model_type": "qwen3_moe", **EXPERTS, "num_experts": 4, "head_dim": 8,
                          "moe_intermediate_size": 12, "norm_topk_prob": False},
    "Qwen2-MoE": {"model_type": "qwen2_moe", **EXPERTS, "num_experts": 5, "moe_intermediate_size": 12,
                  "shared_expert_intermediate_size": 14, "norm_topk_prob": False},
    "Qwen2-MoE, no biases": {"model_type": "qwen2_moe", **EXPERTS, "num_experts": 3, "moe_intermediate_size": 12,
                             "shared_expert_intermediate_size": 14, "norm_topk_prob": True, "qkv_bias": False},
    "Qwen2-MoE, every other layer": {"model_type": "qwen2_moe", **EXPERTS, "num_experts": 3, "decoder_sparse_step": 2,
                                     "moe_intermediate_size": 12, "shared_expert_intermediate_size": 14,
                                     "norm_topk_prob": True, "num_hidden_layers": 5},
    "Qwen3-MoE, dense layers": {"model_type": "qwen3_moe", **EXPERTS, "num_experts": 5, "head_dim": 8,
                                "moe_intermediate_size": 12, "norm_topk_prob": True, "mlp_only_layers": [1, 3],
                                "num_hidden_layers": 4},
    "OLMoE": {"model_type": "olmoe", **EXPERTS, "num_experts": 5, "norm_topk_prob": False},
    "Granite MoE": {"model_type": "granitemoe", **EXPERTS, "num_local_experts": 5, "embedding_multiplier": 7.0,
                    "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 6.0},
    "GLM-4.5": {"model_type": "glm4_moe", **GLM4, "head_dim": 8, "attention_bias": True, "num_hidden_layers": 3,
                "first_k_dense_replace": 2, "use_qk_norm": True, "routed_scaling_factor": 1.8},
    "GLM-4.5, shares": {"model_type": "glm4_moe", **GLM4, "first_k_dense_replace": 0, "n_shared_experts": 2,
                        "norm_topk_prob": False, "partial_rotary_factor": 1.0, "rope_scaling": YARN},
    "Phi-3.5-MoE": {"model_type": "phimoe", **EXPERTS, "num_local_experts": 6, "attention_bias": True,
                    "lm_head_bias": True, "router_jitter_noise": 0.2, "sliding_window": 12},
    "Phi-3.5-MoE, longrope": {"model_type": "phimoe", **EXPERTS, "num_local_experts": 5, "router_jitter_noise": 0.1,
                              "rope_scaling": LONG | {"short_mscale": 1.3, "long_mscale": 1.3,
                                                      "original_max_position_embeddings": 128}},
    "gpt-oss": {"model_type": "gpt_oss", **EXPERTS, "num_local_experts": 5, **WINDOW, "rope_scaling": RAMP,
                "swiglu_limit": 0.5},
    "gpt-oss, fewer biases": {"model_type": "gpt_oss", **EXPERTS, "num_local_experts": 3, **WINDOW,
                              "rope_scaling": YARN, "attention_bias": False, "layer_types": ["full_attention"] * 2},
    "Apertus": {"model_type": "apertus", "hidden_act": "xielu", "pad_token_id": None, "rope_scaling": LLAMA3},
    "Apertus, biases": {"model_type": "apertus", "hidden_act": "xielu", "pad_token_id": None, "head_dim": 8,
                        "attention_bias": True, "rope_scaling": YARN},
    "Phi": {"model_type": "phi", "hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
    "Pythia": {"model_type": "gpt_neox", "hidden_act": "gelu", "rotary_pct": 0.5, "use_parallel_residual": True},
    "GPT-NeoX, in order": {"model_type": "gpt_neox", "hidden_act": "gelu", "rotary_pct": 0.5,
                           "use_parallel_residual": False},
    "OPT": {"model_type": "opt", "ffn_dim": 40, "word_embed_proj_dim": 24, "activation_function": "relu"},
    "Falcon": FALCON,
    "Falcon, biases, in order": {**FALCON, "bias": True, "parallel_attn": False, "multi_query": False,
                                 "ffn_hidden_size": 40, "rope_theta": 500.0},
    "Falcon 2": {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "Falcon 40B": {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    "Ministral 3": {"model_type": "ministral3", "head_dim": 8, "pad_token_id": None,
                    "rope_parameters": YARN | {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1}},
    "Hunyuan": {"model_type": "hunyuan_v1_dense", "head_dim": 8, "pad_token_id": None,
                "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "Hunyuan, biases": {"model_type": "hunyuan_v1_dense", "head_dim": 8, "pad_token_id": None, "attention_bias": True},
    "EXAONE 4": {"model_type": "exaone4", **WINDOW, "layer_types": TYPES},
}  # fmt: skip
FAMILIES = {**{name: LLAMA | x for name, x in LLAMAS.items()}, **{name: GPT2 | x for name, x in GPTS.items()}}
IDS = torch.randint(61, (2, 64), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        out = model(IDS)
    return out if isinstance(out, Tensor) else out.logits


def written(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.read() for name, tensor in open_safetensors(folder / "model.safetensors").items()}


@torch.no_grad()
def greedily(model: Transformer, ids: Tensor, new: int) -> list[int]:
    """The prompt, which goes through the cache in two pieces, and the likeliest tokens after it."""
    cache = fathom.KVCache(model.config, 1, 64)
    model(ids[:, :5], cache)
    step = ids[:, 5:]
    for _ in range(new):
        step = model(step, cache)[:, -1:].argmax(-1)
        ids = torch.cat((ids, step), 1)
    return ids[0].tolist()


OLDER: dict[str, dict[str, Any]] = {
    "GPT-J": {"model_type": "gptj", "rotary_dim": 2, "tie_word_embeddings": False},
    "GPT-Neo": {"model_type": "gpt_neo", "hidden_size": 24, "num_layers": 2, "num_heads": 6, "window_size": 12,
                "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256},
    "MPT": {"model_type": "mpt", "d_model": 24, "n_layers": 2, "n_heads": 6, "max_seq_len": 256,
            "layer_norm_epsilon": 0.1},
    "nanochat": {"model_type": "nanochat", "hidden_act": "relu2", "pad_token_id": None, "hidden_size": 24,
                 "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 40,
                 "final_logit_softcapping": 3.0, "attention_bias": True},
    "BLOOM": {"model_type": "bloom", "hidden_size": 24, "seq_length": 256, "layer_norm_epsilon": 0.1,
              "pad_token_id": None},
}  # fmt: skip
EVERY = FAMILIES | {name: LLAMA | x for name, x in MODERN.items()} | {name: GPT2 | x for name, x in OLDER.items()}


@pytest.mark.parametrize("change", EVERY.values(), ids=EVERY)
def test_a_variant_is_what_transformers_computes(tmp_path: Path, change: dict[str, Any]) -> None:
    theirs = make(change)
    theirs.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    opened = open_model(tmp_path / "theirs")
    family = with_id("hf", change["model_type"], change)
    assert family is not None and opened.family is family
    ours, _ = fathom.load(tmp_path / "theirs", device="cpu")
    assert (logits(ours) - logits(theirs)).abs().max() <= 1e-5

    theirs.generation_config.eos_token_id = None  # type: ignore[union-attr]  # it is a token like any other
    greedy = theirs.generate(  # type: ignore[operator]
        IDS[:1, :9], attention_mask=torch.ones(1, 9), max_new_tokens=24, do_sample=False
    )
    assert greedily(ours, IDS[:1, :9], 24) == greedy[0].tolist()

    assert write_model(ours, None, "hf", tmp_path / "hf").equal
    again, _ = fathom.load(tmp_path / "hf", device="cpu")
    assert torch.equal(logits(again), logits(ours))
    kind = json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"]
    assert kind in of(ours.config).columns["hf"].ids
    if family.written_as is None and of(ours.config) is family:
        mine, back = written(tmp_path / "hf"), written(tmp_path / "theirs")
        assert mine.keys() == back.keys() and all(torch.equal(mine[name], back[name]) for name in mine)


REFUSED = ("Qwen3, biases", "Arcee, biases")  # llama.cpp's architectures have none of these biases
HELD = {name: LLAMA | change for name, change in LLAMAS.items() if name not in REFUSED}


@pytest.mark.parametrize("change", HELD.values(), ids=HELD)
def test_gguf_holds_a_variant(tmp_path: Path, change: dict[str, Any]) -> None:
    theirs = make(change)
    theirs.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    ours, _ = fathom.load(tmp_path / "theirs", device="cpu")
    assert write_model(ours, None, "gguf", tmp_path / "m.gguf").equal
    again, _ = fathom.load(tmp_path / "m.gguf", device="cpu")
    assert again.config.resolved() == ours.config.resolved() and torch.equal(logits(again), logits(ours))


@pytest.mark.parametrize("change", EVERY.values(), ids=EVERY)
def test_prepared_for_inference_it_computes_the_same(change: dict[str, Any]) -> None:
    torch.manual_seed(3)
    config = from_hf(change, "config.json")[1]
    model = Transformer(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.3)
    expected = logits(model)
    assert (logits(prepare_for_inference(model)) - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True; expected None or False"),
        (
            {"model_type": "qwen3", "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
            "layer_types is",
        ),
        ({"model_type": "cohere2", "use_qk_norm": True}, "use_qk_norm is True; expected None or False"),
        ({"model_type": "stablelm", "qk_layernorm": 1}, "qk_layernorm is 1; expected"),
        ({"model_type": "qwen3"}, "head_dim is missing"),
        ({"model_type": "arcee", "hidden_act": "silu"}, "hidden_act is 'silu'; expected 'relu2'"),
        ({"model_type": "llama", "partial_rotary_factor": 0.75}, "partial_rotary_factor=0.75 is not supported"),
        ({"model_type": "llama", "rope_scaling": {"type": "longrope"}}, "rope_type 'longrope' is not supported"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "short_factor is None; expected a list"),
        ({"model_type": "gemma2", "hidden_activation": "silu"}, "hidden_activation is 'silu'; expected"),
        ({"model_type": "ministral", "sliding_window": 9, "layer_types": ["linear"]}, "layer_types is"),
        (
            {"model_type": "olmo3", "rope_theta": 10_000.0},
            "which transformers does not read for all",
        ),
        ({"model_type": "gemma3_text", **GEMMA, "attn_logit_softcapping": 5.0}, "attn_logit_softcapping is 5"),
        (
            {"model_type": "phimoe", **EXPERTS, "num_local_experts": 4, "partial_rotary_factor": 0.5},
            "rotates whole heads",
        ),
        ({"model_type": "phi3", "sliding_window": 9, "layer_types": ["full_attention"] * 2}, "one window is for all"),
        ({"model_type": "starcoder2", "sliding_window": 9, "layer_types": TYPES[:2]}, "one window is for all"),
        ({"model_type": "gpt_neox", "rope_theta": 777.0}, "rope_theta is 777.0; GPT-NeoX calls it rotary_emb_base"),
        ({"model_type": "gpt_neox", "partial_rotary_factor": 0.5}, "GPT-NeoX calls it rotary_pct"),
        (
            {"model_type": "gptj", "n_positions": 9, "n_embd": 8, "n_head": 1, "n_layer": 1, "rotary_dim": None},
            "rotary_dim is null",
        ),
        ({"model_type": "falcon", "alibi": True}, "alibi is True; expected None or False"),
        ({"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn is False"),
        ({"model_type": "gpt_oss", **EXPERTS, "num_local_experts": 4}, "rope_parameters is missing"),
        ({"model_type": "gpt_oss", **OSS, "sliding_window": None}, "sliding_window is null; expected a number"),
        ({"model_type": "gpt_oss", **OSS, "swiglu_alpha": 1.5}, "swiglu_alpha is 1.5; expected None or 1.702"),
        ({"model_type": "gpt_oss", **OSS, "hidden_act": "gelu"}, "hidden_act is 'gelu'; expected"),
        ({"model_type": "apertus", "hidden_act": "xielu", "mlp_bias": True, "rope_scaling": YARN}, "mlp_bias is True"),
        ({"model_type": "apertus"}, "rope_parameters is missing"),
        (
            {"model_type": "apertus", "hidden_act": "silu", "rope_scaling": YARN},
            "hidden_act is 'silu'; expected .*xielu",
        ),
        ({"model_type": "apertus", "qk_norm": False, "rope_scaling": YARN}, "qk_norm is False; expected None or True"),
        ({"model_type": "ministral3", "head_dim": 8}, "rope_parameters is missing"),
        ({"model_type": "gemma", "use_bidirectional_attention": True, **GEMMA}, "use_bidirectional_attention is True"),
        ({"model_type": "gpt_neox", "head_dim": 8}, "head_dim is 8; expected None"),
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv is 8.0; expected None"),
        ({"model_type": "smollm3", "no_rope_layers": [2, 1]}, "no_rope_layers is"),
    ],
)
def test_another_function_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says):
        from_hf(LLAMA | change, "config.json")


def test_gguf_has_no_place_for_other_activations(tmp_path: Path) -> None:
    config = from_hf(GPT2 | {"activation_function": "relu"}, "config.json")[1]
    with pytest.raises(FathomError, match="mlp='relu', and GGUF's gpt2 has gelu alone"):
        write_model(Transformer(config), None, "gguf", tmp_path / "m.gguf")
    assert not [*tmp_path.iterdir()]
