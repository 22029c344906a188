"""Ministral 3 (Mistral AI 2025): a LLaMA stretched by YaRN. Beyond the original context, queries grow with their
position; texts are held to that context here, where they do not. Written as a LLaMA."""

import math
from dataclasses import replace

from fathom.families import llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.rope import read_hf_rope
from fathom.families.values import Values, key

GROWTH = "llama_4_scaling_beta"  # of queries, by the logarithm of how many original contexts lie before them
OWN = (GROWTH, "max_position_embeddings")  # fields of the rotation that no other family has


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    context, nested = fields["context_length"], values.entries.get("rope_parameters")
    if not isinstance(nested, dict):
        raise values.error("rope_parameters is missing; expected those of the model, since transformers would guess")
    part = Values(nested, f"{values.where}: rope_parameters")
    if GROWTH not in part:
        raise part.error(f"{GROWTH} is missing; expected a number")
    if part.get(GROWTH, float):
        context = min(context, part.count("original_max_position_embeddings"))
    rest = {name: value for name, value in nested.items() if name not in OWN}
    rope = read_hf_rope(replace(values, entries={**values.entries, "rope_parameters": rest}), fields["context_length"])
    return {"bias": (), "context_length": context, "layers": mistral.read_window(values, fields, None), **rope}


LOG = "rope.scaling.yarn_log_multiplier"  # YaRN's mscale_all_dim, beside an mscale of 1


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """The same: held to the original context where queries grow, and YaRN's temperature is a quotient."""
    read = llama.read_gguf(values, fields, tensors)
    scaling, context = read["rope_scaling"], fields["context_length"]
    if values.entries.get(values.prefix + LOG) and scaling is not None and scaling.kind == "yarn":
        bend = 0.1 * math.log(scaling.factor)
        quotient = (bend + 1) / (bend * values.number(LOG) + 1)
        given = 1.0 if scaling.attention_factor is None else scaling.attention_factor / (bend + 1)
        scaling = replace(scaling, attention_factor=quotient * given)
    if values.get("attention.temperature_scale", float, 0.0):
        context = min(context, values.count("rope.scaling.original_context_length"))
    return {**read, "rope_scaling": scaling, "context_length": context}


hf = mistral.FAMILY.columns["hf"]
FAMILY = replace(
    llama.FAMILY,
    name="ministral3",
    title="Ministral 3",
    columns={
        "hf": replace(
            hf,
            ids=("ministral3",),
            keys={**hf.keys, "head_dim": key("head_dim"), "norm_eps": key("rms_norm_eps=1e-5")},
            read=read_hf,
        ),
        "gguf": replace(llama.FAMILY.columns["gguf"], ids=("mistral3",), read=read_gguf, honoured=(LOG,)),
    },
    classes=("Ministral3Config", "Ministral3ForCausalLM"),
    written_as="llama",
)
