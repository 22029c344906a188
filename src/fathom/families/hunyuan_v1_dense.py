"""Hunyuan's dense models (Tencent 2025): a LLaMA whose queries and keys are normalised after rotation, in each head.
Files stretch the rotation by `alpha`, which is a larger theta and is written as that."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, nothing, places, require
from fathom.families.internlm3 import without_dynamic
from fathom.families.names import place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    rope = dict(read_hf_rope(without_dynamic(values), fields["context_length"]))
    c = fields["head_dim"] or fields["d_model"] // max(1, fields["n_head"])
    if (alpha := alpha_of(values)) is not None:
        if c <= 2:
            raise values.error(f"alpha stretches a rotation of {c} channels; expected more than 2")
        rope["rope_theta"] *= alpha ** (c / (c - 2))
    return {"bias": ("qkv", "out") if bias else (), **rope}


def alpha_of(values: Values) -> float | None:
    """What theta is raised by; None: nothing."""
    for name in ("rope_parameters", "rope_scaling"):
        part = values.entries.get(name)
        if isinstance(part, dict) and part.get("rope_type", part.get("type")) == "dynamic" and part.get("alpha"):
            return Values(part, f"{values.where}: {name}").number("alpha")
    return None


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "model_type": "hunyuan_v1_dense",
        "hidden_act": "silu",
        "attention_bias": bool(z.bias),
        "attention_dropout": z.dropout,
        "use_qk_norm": True,
        **write_hf_rope(z),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("hunyuan-dense", z, bias=())
    return {}


def holds(z: ResolvedConfig) -> bool:
    return z.bias in ((), ("qkv", "out")) and alike(z)


hf = llama.FAMILY.columns["hf"]
NORMS = {f"blocks.N.attn.{x[0]}_norm": place(f"model.layers.N.self_attn.{x}_layernorm") for x in ("query", "key")}
TENSORS = {**hf.tensors, **NORMS}
FAMILY = replace(
    llama.FAMILY,
    name="hunyuan_v1_dense",
    title="Hunyuan",
    choices={**llama.FAMILY.choices, "qk_norm": "rotated"},
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("hunyuan_v1_dense",), tensors=TENSORS, keys={**hf.keys, "norm_eps": key("rms_norm_eps=1e-5")},
            allowed={**hf.allowed, "use_qk_norm": (None, True)}, read=read_hf, write=write_hf,
        ),
        "gguf": column("hunyuan-dense", places(TENSORS), nothing, write_gguf),
    },
    classes=("HunYuanDenseV1Config", "HunYuanDenseV1ForCausalLM"),
)  # fmt: skip
