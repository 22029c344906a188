"""Apertus (Swiss AI 2025): a LLaMA with xIELU in an MLP without a gate, and normalised queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.names import place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    if not (values.entries.get("rope_scaling") or values.entries.get("rope_parameters")):
        raise values.error("rope_parameters is missing; expected those of the model, since transformers would guess")
    bias = values.get("attention_bias", bool, False)
    return {"bias": ("qkv", "out") if bias else (), **read_hf_rope(values, fields["context_length"])}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["ApertusForCausalLM"],
        "model_type": "apertus",
        "hidden_act": "xielu",
        "attention_bias": bool(z.bias),
        "attention_dropout": z.dropout,
        "qk_norm": True,
        "post_norm": False,
        **write_hf_rope(z),
    }


def holds(z: ResolvedConfig) -> bool:
    return z.bias in ((), ("qkv", "out")) and alike(z)


hf = llama.FAMILY.columns["hf"]
LAYER = "model.layers.N"
NAMES = {
    "attn_norm": "attention_layernorm",
    "mlp_norm": "feedforward_layernorm",
    **{f"mlp.{name}": f"mlp.act_fn.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")},
}
TENSORS = {part: cell for part, cell in hf.tensors.items() if part != "blocks.N.mlp.gate"}
TENSORS |= {f"blocks.N.{ours}": place(f"{LAYER}.{theirs}") for ours, theirs in NAMES.items()}
FAMILY = replace(
    llama.FAMILY,
    name="apertus",
    title="Apertus",
    choices={**llama.FAMILY.choices, "mlp": "xielu", "qk_norm": "on"},
    holds=holds,
    columns={
        "ours": replace(llama.FAMILY.columns["ours"], tensors={part: place(part) for part in TENSORS}),
        "hf": replace(
            hf,
            ids=("apertus",),
            keys={**hf.keys, "norm_eps": key("rms_norm_eps=1e-5")},
            allowed={
                **hf.allowed,
                "hidden_act": (None, "xielu"),
                "qk_norm": (None, True),
                "post_norm": (None, False),
                "mlp_bias": (None, False),
            },
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
    },
    classes=("ApertusConfig", "ApertusForCausalLM"),
)
