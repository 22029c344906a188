"""InternLM3 (Shanghai AI Laboratory 2025): a LLaMA under another name. Its dynamic stretching begins beyond the context
length, to which texts are held here. Written as a LLaMA."""

from dataclasses import replace

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.rope import read_hf_rope
from fathom.families.values import Values, key


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias, qkv = (values.get(name, bool, False) for name in ("bias", "qkv_bias"))
    rope = read_hf_rope(without_dynamic(values), fields["context_length"])
    return {"bias": llama.biases(qkv, bias, bias), **rope}


def without_dynamic(values: Values) -> Values:
    """The values without a dynamic stretching of the rotation: within the context length it changes nothing."""
    entries = dict(values.entries)
    for name in ("rope_scaling", "rope_parameters"):
        part = entries.get(name)
        if isinstance(part, dict) and part.get("rope_type", part.get("type")) == "dynamic":
            entries[name] = {"rope_theta": part["rope_theta"]} if "rope_theta" in part else None
    return replace(values, entries=entries)


hf = llama.FAMILY.columns["hf"]
KEYS = {**hf.keys, "n_kv_head": key("num_key_value_heads"), "head_dim": key("head_dim?")}
FAMILY = replace(
    llama.FAMILY,
    name="internlm3",
    title="InternLM3",
    columns={"hf": replace(hf, ids=("internlm3",), keys=KEYS, read=read_hf)},
    classes=("InternLM3Config", "InternLM3ForCausalLM"),
    written_as="llama",
)
