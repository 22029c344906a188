"""Mistral without its sliding window (Jiang et al. 2023; 7B since v0.2): a LLaMA under another name.

A window that a text of full length reaches beyond makes another function, and is refused.
"""

from collections.abc import Callable
from dataclasses import replace

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.values import Values, key

DEFAULT = 4096  # null is none


def reader(default: int | None) -> Callable[[Values, Fields, Tensors], Fields]:
    """How a config with a `sliding_window` is read. default: of transformers, where the file does not say."""

    def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
        window, context = values.entries.get("sliding_window", default), fields["context_length"]
        if window is not None and values.count("sliding_window", default) < context:
            raise values.error(f"sliding_window is {window}; expected null or at least {context}, the context length")
        return llama.read_hf(values, fields, tensors)

    return read_hf


hf = llama.FAMILY.columns["hf"]
allowed = {name: values for name, values in hf.allowed.items() if name != "sliding_window"}
keys = {**hf.keys, "n_kv_head": key("num_key_value_heads")}  # required: transformers' default is 8, LLaMA's is n_head
FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    title="Mistral",
    columns={"hf": replace(hf, ids=("mistral",), keys=keys, allowed=allowed, read=reader(DEFAULT))},
    classes=("MistralConfig", "MistralForCausalLM"),
    written_as="llama",
)
