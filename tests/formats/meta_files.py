"""Folders as Meta publishes them, made without anything of ours: from a model of the reference library, cut by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.formats.convert import read_ours
from fathom.formats.opened import Opened
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.presets import LLAMA2_7B, LLAMA2_70B
from tests.formats.reference import reference

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


LLAMA3_70B = replace(LLAMA2_70B, vocab_size=128256, context_length=8192, rope=Rotary(theta=500_000.0))
LLAMA31_70B = replace(
    LLAMA3_70B,
    context_length=131072,
    rope=Rotary(theta=500_000.0, scaling=RopeScaling(kind="llama3", factor=8.0, original_context_length=8192)),
)
LLAMA32_1B = replace(
    LLAMA31_70B,
    d_model=2048,
    n_layer=16,
    n_head=32,
    d_ff=8192,
    tie_embeddings=True,
    rope=Rotary(theta=500_000.0, scaling=RopeScaling(kind="llama3", factor=32.0, original_context_length=8192)),
)
SIZES = {"vocab_size": 48, "context_length": 4096, "n_layer": 2}
SEVEN = replace(LLAMA2_7B, **SIZES, d_model=24, n_head=4, d_ff=20)
THIRTEEN = replace(SEVEN, d_model=36, n_head=6, d_ff=44)
SEVENTY = replace(SEVEN, d_model=96, n_head=16, n_kv_head=8, d_ff=56)
THREE = replace(SEVENTY, context_length=8192, rope=Rotary(theta=500_000.0))

ROOM = torch.arange(3.0)  # rope.freqs, which LLaMA 1 and 2 carry along


def params(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    """params.json of LLaMA 2, or of Llama 3."""
    said = {"dim": config.d_model, "multiple_of": 4, "n_heads": config.n_head, "n_layers": config.n_layer}
    said |= {"n_kv_heads": config.n_kv_head} if config.n_kv_head else {}
    said |= {"rope_theta": config.rope.theta} if config.rope.theta != 10_000 else {}
    return {**said, "norm_eps": config.norm_eps, "vocab_size": -1, **changes}


def drawn(config: ModelConfig) -> torch.nn.Module:
    """A model of the reference library in which no weight is at a value that hides a mistake."""
    model = reference(config)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.3).add_(1.0 if tensor.dim() == 1 else 0.0)
    return model


def published(folder: Path, config: ModelConfig, count: int = 1, by_rows: bool = False, **changes: Any) -> Path:
    state = metas(drawn(config).state_dict(), config.n_head, config.resolved().n_kv_head)
    return publish(folder, cut({**state, "rope.freqs": ROOM}, count, by_rows), params(config, **changes))


def read(opened: Opened) -> dict[str, Tensor]:
    return dict(read_ours(opened))
