"""Ministral 3 (Mistral AI 2025): a LLaMA stretched by YaRN. Beyond the original context, queries grow with their
position; texts are held to that context here, where they do not. Written as a LLaMA."""

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


hf = mistral.FAMILY.columns["hf"]
FAMILY = replace(
    llama.FAMILY,
    name="ministral3",
    title="Ministral 3",
    columns={"hf": replace(hf, ids=("ministral3",), keys={**hf.keys, "head_dim": key("head_dim")}, read=read_hf)},
    classes=("Ministral3Config", "Ministral3ForCausalLM"),
    written_as="llama",
)
