"""Mixes of number types: every tensor has the type and the bytes that llama.cpp's own quantiser gives it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.formats import gguf
from fathom.formats.ggml_blocks import IDS, TYPES, packed
from fathom.formats.gguf_mix import MIXES, types
from fathom.formats.gguf_model import write_gguf
from fathom.formats.opened import tensor_at
from fathom.model.config import ModelConfig
from tests.architectures import model_of
from tests.formats import ggml_library

SIZES = {"vocab_size": 96, "context_length": 64, "d_model": 256, "n_layer": 10, "n_head": 8, "d_ff": 512}
LLAMA = ModelConfig(**SIZES, n_kv_head=2, position="rope", norm="rms", mlp="swiglu")
CONFIGS = {
    "llama": LLAMA,
    "tied": replace(LLAMA, tie_embeddings=True, n_layer=3),
    "gpt2": ModelConfig(**SIZES | {"n_layer": 3}, position="learned", norm="layer", mlp="gelu", bias=True),
    "rows of 11 x 32": replace(LLAMA, d_ff=352, n_layer=3),
    "rows of 3 x 32": replace(LLAMA, d_model=96, n_layer=3, tie_embeddings=True),
    "rows of 100": replace(LLAMA, d_ff=100, n_layer=3),
}
F32 = TYPES[IDS["F32"]]


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """Type and bytes of each."""
    infos = gguf.read_header(path).tensors.items()
    return {name: (x.kind.name, tensor_at(path, x.offset, (x.nbytes,), "uint8").numpy().tobytes()) for name, x in infos}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_as_llama_quantize_writes_it(tmp_path: Path, config: ModelConfig, mix: str) -> None:
    state = model_of(config, std=0.15).state_dict()
    write_gguf(tmp_path / "whole.gguf", config, state, None, "F32")
    write_gguf(tmp_path / "ours.gguf", config, state, None, mix)
    ggml_library.quantised(tmp_path / "whole.gguf", tmp_path / "theirs.gguf", mix)
    ours, theirs = tensors(tmp_path / "ours.gguf"), tensors(tmp_path / "theirs.gguf")
    assert {name: kind for name, (kind, _) in ours.items()} == {name: kind for name, (kind, _) in theirs.items()}
    assert ours == theirs
    both = [gguf.read_header(tmp_path / name).metadata for name in ("ours.gguf", "theirs.gguf")]
    assert both[0]["general.file_type"] == both[1]["general.file_type"]


KEYS = {"context_length": 64, "embedding_length": 256, "feed_forward_length": 256, "attention.head_count": 4}
FALCON = KEYS | {"block_count": 20, "attention.head_count_kv": 1, "attention.layer_norm_epsilon": 1e-5}
EXPERTS = KEYS | {"block_count": 3, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5}
EXPERTS |= {"expert_count": 8, "expert_used_count": 2, "rope.dimension_count": 64}
PARTS = {
    "falcon": ("attn_qkv", "attn_output", "ffn_down", "ffn_up"),
    "llama": ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down_exps", "ffn_gate_inp"),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("name", "keys"), [("falcon", FALCON), ("llama", EXPERTS)], ids=["falcon", "experts"])
def test_architectures_with_rules_of_their_own(tmp_path: Path, name: str, keys: dict[str, Any], mix: str) -> None:
    shape = (2, 256)
    names = [f"blk.{i}.{part}.weight" for i in range(keys["block_count"]) for part in PARTS[name]]
    names += ["token_embd.weight", "output.weight"]
    numbers = torch.linspace(-1, 1, 512).view(shape)
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in keys.items()}
    metadata["tokenizer.ggml.model"] = "no_vocab"
    out = {x: gguf.Outgoing(shape, F32, lambda: packed(numbers, F32)) for x in names}
    gguf.write(tmp_path / "whole.gguf", metadata, out)
    ggml_library.quantised(tmp_path / "whole.gguf", tmp_path / "theirs.gguf", mix)
    theirs = {x: kind for x, (kind, _) in tensors(tmp_path / "theirs.gguf").items()}
    chosen = types(mix, metadata, names)
    assert {x: chosen.of(x, shape).name for x in names} == theirs


RECORDED = {  # type of the values and of `down` in each layer of a LLaMA of 10 layers: llama-quantize
    "Q4_K_M": ("6446446466", "6446446466"),
    "Q4_K_S": ("5555444444", "5444444444"),
    "Q5_K_M": ("6556556566", "6556556566"),
    "Q5_K_S": ("5555555555", "5555555555"),
    "Q6_K": ("6666666666", "6666666666"),
}


@pytest.mark.parametrize("mix", MIXES)
def test_as_was_recorded(mix: str) -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 10, "llama.attention.head_count": 8}
    chosen = types(mix, metadata, ["output.weight"])

    def bits(part: str) -> str:
        return "".join(chosen.of(f"blk.{i}.{part}.weight", (8, 512)).name[1] for i in range(10))

    assert (bits("attn_v"), bits("ffn_down")) == RECORDED[mix]
    assert {bits("attn_q"), bits("attn_output"), bits("ffn_up")} == {mix[1] * 10}
    others = {"output.weight": "Q6_K", "blk.0.attn_norm.weight": "F32", "position_embd.weight": "F32"}
    for name, kind in {**others, "token_embd.weight": MIXES[mix], "blk.0.ffn_gate_inp.weight": "F32"}.items():
        assert chosen.of(name, (64,) if "norm" in name else (64, 512)).name == kind


def test_one_type_for_all() -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 2}
    for kind, odd in (("Q8_0", "F16"), ("BF16", "BF16"), ("F32", "F32")):
        chosen = types(kind, metadata, [])
        assert chosen.of("token_embd.weight", (96, 64)).name == kind
        assert chosen.of("token_embd.weight", (96, 33)).name == odd
        assert chosen.of("blk.1.attn_q.bias", (64,)).name == "F32"


def test_search_takes_rows_in_any_dtype() -> None:
    """bf16 and fp16 weights are packed as the fp32 numbers they are."""
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    kind = TYPES[IDS["Q4_K"]]
    ours, wide = (np.concatenate(list(packed(y, kind))) for y in (x, x.float()))
    assert np.array_equal(ours, wide)
