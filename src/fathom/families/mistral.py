"""Mistral (Jiang et al. 2023): a LLaMA whose layers see a window of the last positions, in 7B v0.1; later ones have
none and are written as a LLaMA. A window as long as the context is none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import Layers, ResolvedConfig

DEFAULT = 4096  # null is none


def read_window(values: Values, fields: Fields, default: int | None) -> Layers:
    """One window for all layers. `layer_types` that says otherwise is refused, since transformers does not read it."""
    window = values.entries.get("sliding_window", default)
    if window is None or values.count("sliding_window", default) >= fields["context_length"]:
        return Layers("g")
    one = Layers("l", values.count("sliding_window", default))
    if read_layers(values, fields["n_layer"], one) != one:
        kinds = short(values.entries["layer_types"])
        raise values.error(f"layer_types is {kinds}; expected sliding_attention: one window is for all layers")
    return one


def reader(default: int | None) -> Callable[[Values, Fields, Tensors], Fields]:
    """How a config with a `sliding_window` is read. default: of transformers, where the file does not say."""

    def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
        return {"layers": read_window(values, fields, default), **llama.read_hf(values, fields, tensors)}

    return read_hf


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {**llama.write_hf(z), **names, "sliding_window": write_layers(z)["sliding_window"]}


def holds(z: ResolvedConfig) -> bool:
    return z.layers.pattern == "l" and not z.bias


hf = llama.FAMILY.columns["hf"]
allowed = {name: values for name, values in hf.allowed.items() if name != "sliding_window"}
keys = {**hf.keys, "n_kv_head": key("num_key_value_heads")}  # required: transformers' default is 8, LLaMA's is n_head
FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    title="Mistral",
    free=("layers",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(hf, ids=("mistral",), keys=keys, allowed=allowed, read=reader(DEFAULT), write=write_hf),
    },
    classes=("MistralConfig", "MistralForCausalLM"),
)
