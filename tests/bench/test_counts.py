"""Bytes and FLOPs of a work, against counts by hand."""

from dataclasses import replace

import pytest
import torch

from fathom.anatomy.cost import flops
from fathom.bench.bench import finetune_flops, prefill_flops, step_bytes, weight_bytes
from fathom.bench.shapes import random_model
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model

LLAMA = ModelConfig(vocab_size=96, context_length=64, d_model=64, n_layer=3, n_head=4, n_kv_head=2, d_ff=160,
                    position="rope", norm="rms", mlp="swiglu")  # fmt: skip
GPT = ModelConfig(vocab_size=96, context_length=64, d_model=64, n_layer=2, n_head=4, position="learned", norm="layer",
                  mlp="gelu", bias=True, tie_embeddings=True)  # fmt: skip
PER_BLOCK = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160  # q, k and v, out, gate up down
NORMS = 7 * 64  # two a block and the last


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_floats_are_counted_once_and_embeddings_not(dtype: torch.dtype, size: int) -> None:
    assert weight_bytes(random_model(LLAMA, dtype)) == size * (3 * PER_BLOCK + NORMS + 96 * 64)


@pytest.mark.parametrize("scheme, bits", [("int8", 8.5), ("int4", 4.5)])
def test_packed_matrices_weigh_their_codes_and_scales(scheme: str, bits: float) -> None:
    model = random_model(LLAMA, torch.bfloat16)
    quantize_model(model, scheme)
    assert weight_bytes(model) == 3 * PER_BLOCK * bits / 8 + 2 * (NORMS + 96 * 64)


def test_a_tied_unembedding_is_read_and_positions_are_not() -> None:
    block = 12 * 64 * 64 + 4 * 64 + 4 * 64 + 64  # matrices; biases of attention and of the MLP
    norms = 2 * 64 * 5
    assert weight_bytes(Transformer(GPT)) == 4 * (2 * block + norms + 96 * 64)


def test_biases_of_packed_layers_are_read_too() -> None:
    model = Transformer(GPT)
    quantize_model(model, "int8")
    block = 12 * 64 * 64 * 8.5 / 8 + 4 * (9 * 64)
    assert weight_bytes(model) == 2 * block + 4 * (2 * 64 * 5 + 96 * 64)


def test_a_step_reads_weights_once_and_the_cache_of_each_row() -> None:
    model = random_model(LLAMA, torch.bfloat16)
    one = 3 * 2 * 2 * 16 * 2  # layers, k and v, heads, channels, bytes
    assert step_bytes(model, 5, 10.5) == weight_bytes(model) + 5 * 10.5 * one


def test_a_prompt_counts_its_tokens_and_one_unembedding() -> None:
    tokens, rows = 10, 2
    matrices = 2 * tokens * rows * 3 * PER_BLOCK
    unembed = 2 * rows * 64 * 96
    pairs = 4 * 4 + 4 * 8 + 2 * 10  # of chunks of 4: queries with all keys up to the chunk's end
    assert prefill_flops(LLAMA, tokens, rows, 4) == matrices + unembed + 3 * 2 * 2 * rows * pairs * 64


def test_an_adapter_learns_and_what_is_frozen_does_not() -> None:
    count = flops(LLAMA, 8, 2)
    pairs = count["attn.scores"] + count["attn.z"]
    products = sum(count.values()) - pairs
    adapter = 3 * 2 * 16 * 3 * (4 * 64 + 4 * 64) + 3 * 2 * 16 * 3 * (4 * 64 + 4 * 32)  # q and k of rank 4, 3 blocks
    assert finetune_flops(LLAMA, 8, 2, 4, ("attn.q", "attn.k")) == 2 * products + 3 * pairs + adapter


def test_without_targets_only_the_base_is_left() -> None:
    deeper = replace(LLAMA, n_layer=6)
    assert finetune_flops(deeper, 8, 2, 4, ()) > finetune_flops(LLAMA, 8, 2, 4, ())
