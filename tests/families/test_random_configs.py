"""Random config.json files of every family: the logits of transformers, or a refusal, and never another model.

Each draw takes a model that opens and gives it one to three keys of other families, or other values. What transformers
ignores must be ignored or refused; what it follows must be followed or refused.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fathom
from fathom.errors import FathomError
from fathom.model.cache import KVCache
from fathom.model.transformer import Transformer
from tests.families.test_variants import EVERY
from tests.formats.hf import LLAMA3, YARN, make

IDS = torch.randint(61, (1, 64), generator=torch.Generator().manual_seed(1))
GPT = ("gpt2", "gpt_bigcode", "gptj", "gpt_neo", "mpt")  # which call their sizes otherwise
TYPES = (["sliding_attention", "full_attention"], ["full_attention"] * 2, ["sliding_attention"] * 2, None)
ROPES = (None, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}, YARN, LLAMA3)
BOTH, ONE = (True, False), (0.3, 1.0)
ACTIVATIONS = ("gelu", "relu", "silu", "gelu_pytorch_tanh", "relu2")
OF_GPT: dict[str, tuple[Any, ...]] = {
    "tie_word_embeddings": BOTH, "activation_function": ("gelu", "gelu_new", "relu"), "n_inner": (None, 30),
    "layer_norm_epsilon": (1e-3, 1e-5), "scale_attn_weights": BOTH, "scale_attn_by_inverse_layer_idx": BOTH,
}  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "tie_word_embeddings": BOTH, "attention_bias": BOTH, "mlp_bias": BOTH, "num_key_value_heads": (1, 2, 3, 6),
    "head_dim": (4, 8), "rope_scaling": (*ROPES, YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
                     YARN | {"truncate": False}),
    "sliding_window": (None, 7, 30), "layer_types": TYPES, "partial_rotary_factor": (1.0, 0.5),
    "rms_norm_eps": (1e-3, 1e-6), "norm_eps": (1e-3, 1e-5), "layer_norm_eps": (1e-3, 1e-5), "rope_theta": (500.0, 1e6),
    "hidden_act": ACTIVATIONS, "hidden_activation": ACTIVATIONS, "use_sliding_window": BOTH,
    "max_window_layers": (0, 1), "use_qk_norm": BOTH, "qk_layernorm": BOTH, "use_parallel_residual": BOTH,
    "logit_scale": ONE, "no_rope_layers": ([1, 1], [0, 1]), "residual_multiplier": ONE,
    "no_rope_layer_interval": (2, 3), "final_logit_softcapping": (None, 3.0), "attn_logit_softcapping": (None, 5.0),
    "clip_qkv": (None, 0.5), "use_bias": BOTH, "bias": BOTH, "qkv_bias": BOTH, "use_qkv_bias": BOTH,
    "attention_out_bias": BOTH, "enable_bias": BOTH, "attention_multiplier": ONE, "embedding_multiplier": (2.0,),
    "logits_scaling": (3.0,), "layer_norm_elementwise_affine": BOTH, "use_bidirectional_attention": BOTH,
    "rotary_pct": (0.5, 1.0), "word_embed_proj_dim": (24, 16), "do_layer_norm_before": BOTH,
    "query_pre_attn_scalar": (12, 30), "alibi": BOTH, "multi_query": BOTH, "parallel_attn": BOTH,
    "new_decoder_architecture": BOTH, "rotary_dim": (2, 4), "use_norm_bias": BOTH, "ffn_dim": (30,),
    "norm_topk_prob": BOTH, "num_experts_per_tok": (1, 2), "swiglu_limit": (0.3, 7.0), "swiglu_alpha": (1.702, 1.0),
}  # fmt: skip


def draw(seed: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of a model, its config, and what was changed in it."""
    source = random.Random(seed)
    name = source.choice(list(EVERY))
    base = EVERY[name]
    values = OF_GPT if base["model_type"] in GPT else VALUES
    change = {key: source.choice(values[key]) for key in source.sample(sorted(values), source.choice([1, 2, 3]))}
    if base["model_type"] not in GPT and source.random() < 0.3:
        change |= {"num_hidden_layers": 2, "hidden_size": source.choice([24, 48])}
    return name, base | change, change


def outputs(model: Transformer) -> list[Tensor]:
    """The logits in one pass, and over a cache in five pieces."""
    cache = KVCache(model.config, 1, 64)
    with torch.no_grad():
        return [model(IDS), torch.cat([model(piece, cache) for piece in IDS.split([20, 20, 1, 1, 22], 1)], 1)]


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(1000, 3000), marks=pytest.mark.slow)], ids=str)
def test_a_config_gives_what_transformers_computes_or_is_refused(seeds: range, tmp_path: Path) -> None:
    wrong, opened = [], 0
    for seed in seeds:
        name, values, change = draw(seed)
        folder = tmp_path / str(seed)
        try:
            torch.manual_seed(seed)
            theirs = make(values)
            with torch.no_grad():
                expected = theirs(IDS).logits
        except Exception:  # transformers has many ways to refuse a config
            continue
        theirs.save_pretrained(folder)
        for style in ("as saved", "as drawn"):
            if style == "as drawn":
                (folder / "config.json").write_text(json.dumps(values))
            try:
                model, _ = fathom.load(folder, device="cpu", dtype="fp32")
            except FathomError:
                continue
            opened += 1
            error = max((got - expected).abs().max().item() for got in outputs(model))
            if not error <= 2e-5 * max(1, expected.abs().max().item() / 5):
                wrong.append(f"{name}, {style}, seed {seed}: {error:.1e} with {change}")
    assert not wrong
    assert opened > len(seeds)  # of two for each seed
