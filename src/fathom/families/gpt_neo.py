"""GPT-Neo (Black et al. 2021), of which TinyStories are models: a GPT-2 whose scores are not scaled, and whose
layers see a window, every other one."""

from typing import Any

from fathom.errors import FathomError
from fathom.families import gpt2
from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.sliding import shortest
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import Layers, ResolvedConfig, Scale

TENSORS = """
ours                 hf
embed                transformer.wte
position.table       transformer.wpe
blocks.N.attn_norm   transformer.h.N.ln_1
blocks.N.attn.q      transformer.h.N.attn.attention.q_proj
blocks.N.attn.k      transformer.h.N.attn.attention.k_proj
blocks.N.attn.v      transformer.h.N.attn.attention.v_proj
blocks.N.attn.out    transformer.h.N.attn.attention.out_proj
blocks.N.mlp_norm    transformer.h.N.ln_2
blocks.N.mlp.up      transformer.h.N.mlp.c_fc
blocks.N.mlp.down    transformer.h.N.mlp.c_proj
final_norm           transformer.ln_f
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_position_embeddings
d_model         hidden_size
n_layer         num_layers
n_head          num_heads
d_ff            intermediate_size?
norm_eps        layer_norm_epsilon=1e-5
tie_embeddings  tie_word_embeddings=true
"""
KINDS = {"global": "g", "local": "l"}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    given = values.entries.get("attention_layers")
    if given is None:  # the older form: [[kinds, times], ...]
        types: Any = values.entries.get("attention_types")
        try:
            given = [kind for kinds, times in types for kind in kinds * times]
        except TypeError:
            raise values.error(f"attention_types is {short(types)}; expected [[kinds, times], ...]") from None
    if not isinstance(given, list) or len(given) != fields["n_layer"] or not all(kind in KINDS for kind in given):
        raise values.error(f"attention_layers is {short(given)}; expected {fields['n_layer']} of {', '.join(KINDS)}")
    pattern = shortest("".join(KINDS[kind] for kind in given))
    window = values.count("window_size", 256) if "l" in pattern else None
    return {**gpt2.read_activation(values), "layers": Layers(pattern, window)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    if "n" in z.layers.pattern:
        raise FathomError(f"layers={z.layers.pattern}, and GPT-Neo has layers g and l")
    kinds = ["local" if z.layers.kind(layer) == "l" else "global" for layer in range(z.n_layer)]
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "activation_function": gpt2.write_hf(z)["activation_function"],
        "attention_types": [[[kind], 1] for kind in kinds],
        "attention_layers": kinds,
        "window_size": z.layers.window or 256,
    }


def holds(z: ResolvedConfig) -> bool:
    return gpt2.square(z)


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
FAMILY = Family(
    name="gpt_neo",
    title="GPT-Neo",
    choices={"position": "learned", "norm": "layer", "bias": ("out", "mlp", "norm"), "scale": Scale(attn=1.0)},
    free=("layers",),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("gpt_neo",), tensors=tensors["hf"], keys=keys["hf"], read=read_hf, write=write_hf,
            skipped=r"(.*\.)?attn\.attention\.(masked_)?bias",
        ),
    },
    classes=("GPTNeoConfig", "GPTNeoForCausalLM"),
)  # fmt: skip
