"""Mistral without its sliding window (Jiang et al. 2023; 7B since v0.2): a LLaMA under another name.

A window that a text of full length reaches beyond makes another function, and is refused.
"""

from dataclasses import replace

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.values import Values, key

DEFAULT = 4096  # of transformers, where a config.json does not say; null is none


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    window, context = values.entries.get("sliding_window", DEFAULT), fields["context_length"]
    if window is not None and values.count("sliding_window", DEFAULT) < context:
        raise values.error(f"sliding_window is {window}; expected null or at least {context}, the context length")
    return llama.read_hf(values, fields, tensors)


hf = llama.FAMILY.columns["hf"]
allowed = {name: values for name, values in hf.allowed.items() if name != "sliding_window"}
keys = {**hf.keys, "n_kv_head": key("num_key_value_heads")}  # required: transformers' default is 8, LLaMA's is n_head
FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    title="Mistral",
    columns={"hf": replace(hf, ids=("mistral",), keys=keys, allowed=allowed, read=read_hf)},
    classes=("MistralConfig", "MistralForCausalLM"),
    written_as="llama",
)
