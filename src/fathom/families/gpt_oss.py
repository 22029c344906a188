"""gpt-oss (OpenAI 2025): mixtures of experts with biases and a clamped SwiGLU; each head has a sink in its softmax, and
every other layer a window. Files keep all experts of a layer in one tensor, gate and up taking turns in its columns."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places, read_pattern, refusal, require, write_pattern
from fathom.families.names import place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values, key
from fathom.model.config import Experts, Layers, ResolvedConfig

N, LIMIT, WINDOW = "num_local_experts", "swiglu_limit", "sliding_window"
ALPHA = 1.702  # of its SwiGLU
FIXED = 7.0  # the limit in llama.cpp


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    if not (values.entries.get("rope_scaling") or values.entries.get("rope_parameters")):
        raise values.error("rope_parameters is missing; expected those of the model, since transformers would guess")
    if values.entries.get(WINDOW, 0) is None:
        raise values.error(f"{WINDOW} is null; expected a number of tokens")
    usual = Layers("lg", values.count(WINDOW, 128))
    attention = ("qkv", "out") if values.get("attention_bias", bool, True) else ()
    return {
        "bias": (*attention, "mlp", "sink"),
        "layers": read_layers(values, fields["n_layer"], usual),
        "mlp": experts.read(values, N, renormalise=True, limit=values.number(LIMIT, 7.0)),
        **read_hf_rope(values, fields["context_length"]),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "attention_bias": "qkv" in z.bias,
        "attention_dropout": z.dropout,
        N: mlp.n,
        "num_experts_per_tok": mlp.used,
        LIMIT: mlp.limit,
        "swiglu_alpha": ALPHA,
        **write_layers(z),
        WINDOW: z.layers.window or 128,  # null is no number, even where no layer has one
        **write_hf_rope(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """llama.cpp fixes the limit, and no key says that the ramp of YaRN is not truncated, as the model was trained."""
    scaling = fields["rope_scaling"]
    return {
        "bias": (*(part for part in fields["bias"] if part in ("qkv", "out")), "mlp", "sink"),
        "layers": read_pattern(values, "lg", 128, fields["n_layer"]),
        "mlp": Experts(values.count(gguf_experts.COUNT), values.count(gguf_experts.USED), limit=FIXED),
        "rope_scaling": replace(scaling, truncate=False) if scaling is not None else None,
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    require("gpt-oss", z, bias=("qkv", "out", "mlp", "sink"))
    if mlp.limit != FIXED:
        raise refusal("gpt-oss", f"mlp.limit={mlp.limit}", str(FIXED))
    if z.rope.scaling is not None and z.rope.scaling.truncate:
        raise refusal("gpt-oss", "rope.scaling.truncate=True", "False")
    return {
        gguf_experts.WIDTH: z.d_ff,
        gguf_experts.COUNT: mlp.n,
        gguf_experts.USED: mlp.used,
        **write_pattern("gpt-oss", z, "lg"),
    }


def holds(z: ResolvedConfig) -> bool:
    mlp = z.mlp
    if not isinstance(mlp, Experts) or mlp != Experts(mlp.n, mlp.used, limit=mlp.limit) or not mlp.limit:
        return False
    return z.bias in (("mlp", "sink"), ("qkv", "out", "mlp", "sink")) and "n" not in z.layers.pattern and alike(z)


hf = llama.FAMILY.columns["hf"]
MLP = "model.layers.N.mlp"
PROJECTIONS = {"gate": "gate_up_proj[e][_].T[1/2g]", "up": "gate_up_proj[e][_].T[2/2g]", "down": "down_proj[e][_].T"}
TENSORS = experts.tensors(hf.tensors, f"{MLP}.router", f"{MLP}.experts", PROJECTIONS)
TENSORS["blocks.N.attn.sinks"] = place("model.layers.N.self_attn.sinks")
CELLS = {"blocks.N.attn.sinks": "blk.N.attn_sinks.weight", "blocks.N.mlp_norm": "blk.N.post_attention_norm"}
GGUF = column("gpt-oss", places(TENSORS, cells=gguf_experts.CELLS | CELLS), read_gguf, write_gguf)
FAMILY = replace(
    llama.FAMILY,
    name="gpt_oss",
    title="gpt-oss",
    choices={**llama.FAMILY.choices, "mlp": Experts(32, 4, limit=7.0)},
    free=("layers", "sink"),
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("gpt_oss",),
            keys={
                **hf.keys,
                "n_kv_head": key("num_key_value_heads=8"),
                "head_dim": key("head_dim=64"),
                "norm_eps": key("rms_norm_eps=1e-5"),
            },
            allowed={**hf.allowed, "swiglu_alpha": (None, ALPHA)},
            honoured=(N, LIMIT, WINDOW),
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
        "gguf": replace(
            GGUF,
            keys={**GGUF.keys, "d_ff": key(f"{gguf_experts.WIDTH}|feed_forward_length")},
            allowed=gguf_experts.ALLOWED,
            honoured=(gguf_experts.COUNT,),
        ),
    },
    classes=("GptOssConfig", "GptOssForCausalLM"),
)
