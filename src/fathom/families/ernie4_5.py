"""ERNIE 4.5, the dense ones (Baidu 2025): a LLaMA whose files rotate channels 2i and 2i + 1 as a pair.

Written as a LLaMA.
"""

from dataclasses import replace

from fathom.families import llama
from fathom.families.family import Fields, Tensors, no_keys
from fathom.families.gguf_columns import column, nothing, places
from fathom.families.rope import read_hf_rope
from fathom.families.values import Values, key


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("use_bias", bool, False)
    return {"bias": llama.biases(bias, bias, bias), **read_hf_rope(values, fields["context_length"])}


hf = llama.FAMILY.columns["hf"]
PAIRED = ("blocks.N.attn.q", "blocks.N.attn.k")
TENSORS = {**hf.tensors, **{part: replace(hf.tensors[part], pairs=True) for part in PAIRED}}
KEYS = {
    **hf.keys,
    "n_kv_head": key("num_key_value_heads"),  # required: its default is 2, LLaMA's is n_head
    "head_dim": key("head_dim"),
    "norm_eps": key("rms_norm_eps=1e-5"),
    "rope_theta": key("rope_theta=500000.0"),
    "tie_embeddings": key("tie_word_embeddings=true"),
}
FAMILY = replace(
    llama.FAMILY,
    name="ernie4_5",
    title="ERNIE 4.5",
    columns={
        "hf": replace(hf, ids=("ernie4_5",), tensors=TENSORS, keys=KEYS, read=read_hf),
        "gguf": column("ernie4_5", places(hf.tensors, pairs=True), nothing, no_keys),
    },
    classes=("Ernie4_5Config", "Ernie4_5ForCausalLM"),
    written_as="llama",
)
