"""InternLM2 (Shanghai AI Laboratory 2024): a LLaMA with names of its own, whose q, k and v are one matrix: those
of heads that share a key lie one after another. The library knows it by its own code alone. Written as a LLaMA."""

from dataclasses import replace

from fathom.families import internlm3, llama
from fathom.families.family import Column, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.rope import read_hf_rope
from fathom.families.values import Values, key

TENSORS = """
ours                 hf
embed                model.tok_embeddings
blocks.N.attn_norm   model.layers.N.attention_norm
blocks.N.attn.q      model.layers.N.attention.wqkv[1/3g]
blocks.N.attn.k      model.layers.N.attention.wqkv[2/3g]
blocks.N.attn.v      model.layers.N.attention.wqkv[3/3g]
blocks.N.attn.out    model.layers.N.attention.wo
blocks.N.mlp_norm    model.layers.N.ffn_norm
blocks.N.mlp.gate    model.layers.N.feed_forward.w1
blocks.N.mlp.up      model.layers.N.feed_forward.w3
blocks.N.mlp.down    model.layers.N.feed_forward.w2
final_norm           model.norm
unembed              output
"""


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("bias", bool, True)  # of its own code
    rope = read_hf_rope(internlm3.without_dynamic(values), fields["context_length"])
    return {"bias": llama.biases(bias, bias, False), **rope}


hf = llama.FAMILY.columns["hf"]
KEYS = {name: cell for name, cell in hf.keys.items() if name != "head_dim"} | {"n_kv_head": key("num_key_value_heads?")}
FAMILY = replace(
    llama.FAMILY,
    name="internlm2",
    title="InternLM2",
    columns={
        "hf": Column(
            ids=("internlm2",), tensors=columns(TENSORS, place)["hf"], keys=KEYS, allowed=hf.allowed, read=read_hf,
            skipped=hf.skipped,
        ),
        "gguf": replace(llama.FAMILY.columns["gguf"], ids=("internlm2",)),
    },
    written_as="llama",
)  # fmt: skip
