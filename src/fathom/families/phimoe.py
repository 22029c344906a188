"""Phi-3.5-MoE (Abdin et al. 2024): LayerNorm, biases, and two of many experts, which SparseMixer chooses and weighs.

GGUF is refused: llama.cpp's phimoe weighs experts by a softmax, which gives other logits.
"""

from dataclasses import replace
from typing import Any

from fathom.families import experts, llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import Bias, Experts, ResolvedConfig

N, MSCALES = "num_local_experts", ("short_mscale", "long_mscale")


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    near = values.get("router_jitter_noise", float, 0.01)
    mlp = experts.read(values, N, False, weigh="mixer", near=near)
    attention, unembed = (values.get(name, bool, False) for name in ("attention_bias", "lm_head_bias"))
    bias: tuple[Bias, ...] = ("qkv", "out", "norm") if attention else ("norm",)
    head_dim = fields["head_dim"] or fields["d_model"] // max(1, fields["n_head"])
    rope = read_hf_rope(with_mscale(values), fields["context_length"], head_dim)
    if rope["rope_rotated"] is not None:
        raise values.error("partial_rotary_factor is not 1; expected none, since transformers rotates whole heads here")
    return {
        "mlp": mlp,
        "bias": (*bias, "unembed") if unembed else bias,
        "layers": mistral.read_window(values, fields, None),
        **rope,
    }


def with_mscale(values: Values) -> Values:
    """The values with LongRoPE's `attention_factor` under its usual name: here two keys, for short texts and long."""
    entries = dict(values.entries)
    for name in ("rope_scaling", "rope_parameters"):
        rope = entries.get(name)
        if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) == "default":
            continue
        short_texts, long_texts = (rope.get(key) for key in MSCALES)
        kind = rope.get("rope_type", rope.get("type"))
        if kind != "longrope" or short_texts is None or short_texts != long_texts:
            raise values.error(
                f"{name} is {short(kind)} with short_mscale {short(short_texts)} and long_mscale {short(long_texts)};"
                " expected longrope, and one number for both"
            )
        entries[name] = {key: value for key, value in rope.items() if key not in MSCALES}
        entries[name]["attention_factor"] = short_texts
    return replace(values, entries=entries)


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp, rope = experts.mixture(z), write_hf_rope(z)
    for name in ("rope_scaling", "rope_parameters"):
        if rope[name] and "attention_factor" in rope[name]:
            rope[name] |= dict.fromkeys(MSCALES, rope[name]["attention_factor"])
    return {
        "architectures": ["PhimoeForCausalLM"],
        "model_type": "phimoe",
        "hidden_act": "silu",
        "attention_bias": "qkv" in z.bias,
        "lm_head_bias": "unembed" in z.bias,
        N: mlp.n,
        "num_experts_per_tok": mlp.used,
        "router_jitter_noise": mlp.near,
        "sliding_window": z.layers.window,
        **rope,
    }


def holds(z: ResolvedConfig) -> bool:
    """Two experts for each token, and LongRoPE with its temperature or nothing."""
    mlp, scaling = z.mlp, z.rope.scaling
    if not isinstance(mlp, Experts) or mlp != Experts(mlp.n, 2, False, weigh="mixer", near=mlp.near):
        return False
    rotated = scaling is None or (scaling.kind == "longrope" and scaling.attention_factor is not None)
    bias = [part for part in z.bias if part != "unembed"] in (["norm"], ["qkv", "out", "norm"])
    return bias and rotated and z.layers.pattern in ("g", "l") and z.rope.rotated is None and z.rope.local_theta is None


hf = mistral.FAMILY.columns["hf"]
TENSORS = experts.tensors(
    hf.tensors,
    "model.layers.N.block_sparse_moe.gate",
    "model.layers.N.block_sparse_moe.experts.M",
    {"gate": "w1", "up": "w3", "down": "w2"},
)
FAMILY = replace(
    llama.FAMILY,
    name="phimoe",
    title="Phi-3.5-MoE",
    choices={**llama.FAMILY.choices, "norm": "layer", "mlp": Experts(16, 2, False, weigh="mixer", near=0.01)},
    free=("layers", "rope", "unembed"),
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("phimoe",),
            keys={**hf.keys, "norm_eps": key("rms_norm_eps=1e-5")},
            allowed={**{name: values for name, values in hf.allowed.items() if name != N}, "num_experts_per_tok": (2,)},
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
    },
    classes=("PhimoeConfig", "PhimoeForCausalLM"),
)
