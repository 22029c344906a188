"""SmolLM3 (Hugging Face 2025): a LLaMA in which every fourth layer does not rotate queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places, write_pattern
from fathom.families.sliding import shortest
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import Layers, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    n, every = fields["n_layer"], values.count("no_rope_layer_interval", 4)
    given = values.entries.get("no_rope_layers") or [int((layer + 1) % every != 0) for layer in range(n)]
    if not isinstance(given, list) or len(given) != n or set(given) - {0, 1}:
        raise values.error(f"no_rope_layers is {short(given)}; expected {n} of 1 (rotated) and 0")
    values.require({"layer_types": (None, ["full_attention"] * n)})
    pattern = shortest("".join("g" if rotated else "n" for rotated in given))
    return {"layers": Layers(pattern), **llama.read_hf(values, fields, tensors)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        **llama.write_hf(z),
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "no_rope_layers": [int(z.layers.kind(layer) == "g") for layer in range(z.n_layer)],
        "layer_types": ["full_attention"] * z.n_layer,
        "use_sliding_window": False,
        "pad_token_id": None,
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {"layers": Layers(shortest(("gggn" * fields["n_layer"])[: fields["n_layer"]]))}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    write_pattern("smollm3", z, "gggn")
    return {}


def holds(z: ResolvedConfig) -> bool:
    return "n" in z.layers.pattern and z.layers.window is None


hf = llama.FAMILY.columns["hf"]
ALLOWED = {name: values for name, values in hf.allowed.items() if name not in ("no_rope_layers", "sliding_window")}

FAMILY = replace(
    llama.FAMILY,
    name="smollm3",
    title="SmolLM3",
    free=("layers",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("smollm3",), read=read_hf, write=write_hf,
            allowed={**ALLOWED, "use_sliding_window": (None, False)},
            keys={
                **hf.keys, "n_kv_head": key("num_key_value_heads"), "rope_theta": key("rope_theta=2000000.0"),
                "tie_embeddings": key("tie_word_embeddings=true"),
            },
        ),
        "gguf": column("smollm3", places(hf.tensors, pairs=True), read_gguf, write_gguf),
    },
    classes=("SmolLM3Config", "SmolLM3ForCausalLM"),
)  # fmt: skip
