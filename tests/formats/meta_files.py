"""Folders as Meta publishes them, made without anything of ours: from a model of the reference library, cut by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HF = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
}


def metas(state: Mapping[str, Tensor], heads: int, kv_heads: int) -> dict[str, Tensor]:
    """The reference library's tensors with Meta's names, and the rows of q and k as Meta has them: pair after pair."""
    found = {}
    for name, x in state.items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        new = HF[name] if name in HF else f"layers.{layer}.{HF[part]}"
        for kind, count in (("wq", heads), ("wk", kv_heads)):
            if kind in new:
                rows, columns = x.shape
                x = x.view(count, 2, rows // count // 2, columns).transpose(1, 2).reshape(rows, columns)
        found[new] = x
    return found


def cut(state: Mapping[str, Tensor], count: int, embed_by_rows: bool) -> list[dict[str, Tensor]]:
    """The shards of a release: each matrix along the dimension in which Meta's model has it in parallel."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, x in state.items():
        by_columns = "wo" in name or "w2" in name or ("tok_embeddings" in name and not embed_by_rows)
        parts = [x] * count if "norm" in name or "rope" in name else x.chunk(count, 1 if by_columns else 0)
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.clone()
    return shards


def publish(folder: Path, shards: list[dict[str, Tensor]], params: Mapping[str, Any]) -> Path:
    """The folder, with one file for each shard."""
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    for number, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{number:02d}.pth")
    return folder


def hidden(dim: int, multiple_of: int = 256, ffn_dim_multiplier: float | None = None, **_: Any) -> int:
    """The width of the MLP as Meta's FeedForward works it out, from 4 dim on."""
    width = int(2 * (4 * dim) / 3)
    if ffn_dim_multiplier is not None:
        width = int(ffn_dim_multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)
