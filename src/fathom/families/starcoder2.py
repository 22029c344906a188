"""StarCoder2 (Lozhkov et al. 2024): rotary positions and a window, with the LayerNorm, GELU and biases of GPT-2."""

from dataclasses import replace
from typing import Any

from fathom.families import gpt_neox, llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, column, places, require
from fathom.families.names import place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.sliding import write_layers
from fathom.families.values import Values, key
from fathom.model.config import BIASES, Layers, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("use_bias", bool, True)
    return {
        "mlp": values.choice("hidden_act", gpt_neox.ACTIVATIONS, "gelu_pytorch_tanh"),
        "bias": ("qkv", "out", "mlp", "norm") if bias else ("norm",),
        "layers": mistral.read_window(values, fields, None),
        **read_hf_rope(values, fields["context_length"]),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "hidden_act": next(name for name, mlp in list(gpt_neox.ACTIVATIONS.items())[::-1] if mlp == z.mlp),
        "use_bias": "qkv" in z.bias,
        "sliding_window": write_layers(z)["sliding_window"],
        **write_hf_rope(z),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("starcoder2", z, mlp="gelu", layers=Layers("g"), bias=BIASES[:4])
    return {}


def holds(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim and alike(z) and z.mlp in gpt_neox.ACTIVATIONS.values()
    known = z.bias in (("qkv", "out", "mlp", "norm"), ("norm",)) and (z.n_kv_head < z.n_head or z.bias == ("norm",))
    return square and (known or z.layers.pattern == "l") and z.layers.pattern in ("g", "l") and z.rope.rotated is None


hf = llama.FAMILY.columns["hf"]
NAMES = {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
TENSORS = {
    **{part: cell for part, cell in hf.tensors.items() if part != "blocks.N.mlp.gate" and "attn.q_" not in part},
    **{f"blocks.N.{part}": place(f"model.layers.N.{name}") for part, name in NAMES.items()},
}
KEYS = {name: cell for name, cell in hf.keys.items() if name != "head_dim"} | {
    "n_kv_head": key("num_key_value_heads"),
    "norm_eps": key("norm_epsilon=1e-5"),
    "tie_embeddings": key("tie_word_embeddings=true"),
}

FAMILY = replace(
    llama.FAMILY,
    name="starcoder2",
    title="StarCoder2",
    choices={"position": "rope", "norm": "layer"},
    free=("layers",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("starcoder2",), tensors=TENSORS, keys=KEYS, read=read_hf, write=write_hf,
            allowed={"mlp_type": (None, "default"), "norm_type": (None, "layer_norm")},
        ),
        "gguf": column("starcoder2", places(TENSORS), lambda *_: {"mlp": "gelu"}, write_gguf, eps=LAYER_EPS),
    },
    classes=("Starcoder2Config", "Starcoder2ForCausalLM"),
)  # fmt: skip
