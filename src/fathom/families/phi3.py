"""Phi-3, Phi-3.5, Phi-4 and their minis (Abdin et al. 2024): a LLaMA whose q, k and v are one matrix, and gate and up
another. Some see a window, some rotate a part of each head by LongRoPE; the others are written as a LLaMA."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fathom.families import gguf_columns, llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places, require
from fathom.families.names import place
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import Layers, ResolvedConfig, RopeScaling

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


ORIGINAL = "original_max_position_embeddings"


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    head_dim = fields["d_model"] // max(1, fields["n_head"])
    values = replace(values, entries={ORIGINAL: 4096, **values.entries})
    rope = read_hf_rope(values, fields["context_length"], fields.get("head_dim") or head_dim)
    return {"bias": (), "layers": mistral.read_window(values, fields, None), **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    scaling = z.rope.scaling
    original = scaling.original_context_length if scaling else None
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "attention_bias": False,
        ORIGINAL: original or z.context_length,
        "sliding_window": z.layers.window,
        "pad_token_id": None,
        **write_hf_rope(z),
    }


LISTS = {"short": "rope_factors_short", "long": "rope_factors_long"}


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """LongRoPE's factors are tensors, and the window is honoured, which llama.cpp passes over."""
    window = values.get("attention.sliding_window", int, 0)
    layers = Layers("l", window) if 0 < window < fields["context_length"] else Layers("g")
    if f"{LISTS['long']}.weight" not in tensors:
        return {"layers": layers}
    original = values.count("rope.scaling.original_context_length", fields["context_length"])
    lists: dict[str, Any] = {}
    for ours, name in LISTS.items():
        stored = tensors.get(f"{name}.weight")
        if stored is None or len(stored.shape) != 1:
            raise values.error(f"{name}.weight is missing or no vector; expected LongRoPE's factors")
        lists[ours] = tuple(round(x, 6) for x in stored.read().tolist())
    temperature, known = (
        values.number("rope.scaling.attn_factor", 1.0),
        values.get("rope.scaling.type", str, "longrope"),
    )
    if known not in ("longrope", "none"):
        raise values.error(f"{values.prefix}rope.scaling.type is {known!r}; expected longrope")
    ratio = fields["context_length"] / original
    usual = math.sqrt(1 + math.log(max(1.0, ratio)) / math.log(max(2, original)))
    given = None if math.isclose(temperature, usual, rel_tol=1e-6) else temperature
    scaling = RopeScaling(
        kind="longrope", factor=ratio, original_context_length=original, attention_factor=given, **lists
    )
    return {"layers": layers, "rope_scaling": scaling}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("phi3", z, layers=Layers("g"))
    if z.rope.scaling is None or z.rope.scaling.kind != "longrope":
        return {}
    from fathom.model.position import rope_scale  # imports torch

    original = z.rope.scaling.original_context_length or z.context_length
    return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": rope_scale(z)}


def factors(z: ResolvedConfig) -> dict[str, Tensor]:
    """LongRoPE's two lists as tensors."""
    if z.rope.scaling is None or z.rope.scaling.kind != "longrope":
        return {}
    return {f"{name}.weight": torch.tensor(getattr(z.rope.scaling, ours)) for ours, name in LISTS.items()}


def holds(z: ResolvedConfig) -> bool:
    """What a LLaMA or Mistral cannot have: longrope, or heads that are rotated in part."""
    longrope = z.rope.scaling is not None and z.rope.scaling.kind == "longrope"
    square = z.head_dim * z.n_head == z.d_model
    return (longrope or z.rope.rotated is not None) and z.layers.pattern in ("g", "l") and not z.bias and square


hf = mistral.FAMILY.columns["hf"]
QKV = {f"blocks.N.attn.{x}": place(f"model.layers.N.self_attn.qkv_proj[{i}/3]") for i, x in enumerate("qkv", 1)}
UP = {f"blocks.N.mlp.{x}": place(f"model.layers.N.mlp.gate_up_proj[{i}/2]") for i, x in enumerate(("gate", "up"), 1)}
CELLS = {**gguf_columns.QKV, **gguf_columns.UP}
GGUF = column("phi3", places(hf.tensors, cells=CELLS), read_gguf, write_gguf)
FAMILY = replace(
    llama.FAMILY,
    name="phi3",
    title="Phi-3",
    free=("layers", "rope"),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf,
            ids=("phi3",),
            tensors={**hf.tensors, **QKV, **UP},
            keys={**llama.FAMILY.columns["hf"].keys, "norm_eps": key("rms_norm_eps=1e-5")},
            allowed={**hf.allowed, "attention_bias": (None, False), "mlp_bias": (None, False)},
            read=read_hf,
            write=write_hf,
        ),
        "gguf": replace(GGUF, extra_tensors=factors, skipped=r"rope_factors_(short|long)\.weight"),
    },
    classes=("Phi3Config", "Phi3ForCausalLM"),
)
