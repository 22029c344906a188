"""Seed-OSS (ByteDance 2025): the function of Qwen2, with each of its biases declared. Written as a LLaMA or Qwen2."""

from dataclasses import replace

from fathom.families import llama
from fathom.families.family import Fields, Tensors, no_keys
from fathom.families.gguf_columns import column, nothing, places
from fathom.families.rope import read_hf_rope
from fathom.families.values import Values, key


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    declared = (values.get(name, bool, default) for name, default in BIASES.items())
    return {"bias": llama.biases(*declared), **read_hf_rope(values, fields["context_length"])}


BIASES = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}  # and their defaults
hf = llama.FAMILY.columns["hf"]
KEYS = {**hf.keys, "n_kv_head": key("num_key_value_heads"), "head_dim": key("head_dim")}  # required: other defaults
NORM = {"blocks.N.mlp_norm": "blk.N.post_attention_norm"}
FAMILY = replace(
    llama.FAMILY,
    name="seed_oss",
    title="Seed-OSS",
    columns={
        "hf": replace(hf, ids=("seed_oss",), keys=KEYS, read=read_hf),
        "gguf": column("seed_oss", places(hf.tensors, cells=NORM), nothing, no_keys),
    },
    classes=("SeedOssConfig", "SeedOssForCausalLM"),
    written_as="llama",
)
