"""Folders of models for pictures and texts: their part for texts, as a folder of that model alone would have it.

Only models whose text part reads a text as it would alone are known; those that see a prompt both ways are not.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from fathom.formats.quantized import TEXT

T = TypeVar("T")

LLAMA = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048}  # fmt: skip
GEMMA = {"model_type": "gemma3_text", "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
         "head_dim": 256, "max_position_embeddings": 131072, "hidden_activation": "gelu_pytorch_tanh",
         "query_pre_attn_scalar": 256}  # fmt: skip
KNOWN: dict[str, dict[str, Any]] = {  # model_type -> what its text_config leaves out, as transformers fills it in
    "gemma3": GEMMA,
    "llava": LLAMA,
    "mistral3": {},
    "qwen2_vl": {"model_type": "qwen2_vl_text"},
    "qwen2_5_vl": {"model_type": "qwen2_5_vl_text"},
    "qwen3_vl": {"model_type": "qwen3_vl_text"},
}
ALONE = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}  # what a text part is alone
SECTIONS = ("mrope_section", "mrope_interleaved")  # which channels turn by time, height and width: alike in a text
OTHERS = ("vision_tower.", "visual.", "multi_modal_projector.")  # what reads pictures
OWN = ("model.language_model.model.", "model.language_model.", "language_model.model.")


def text_part(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object of a config.json, or that of its part for texts where the model is for pictures too."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in KNOWN:
        return values
    inner = values.get(TEXT, values if "hidden_size" in values else {})  # Qwen2-VL was first published without it
    if not isinstance(inner, dict):
        return values
    given = {name: value for name, value in inner.items() if not (inner is values and name == "model_type")}
    part = {**KNOWN[kind], **given}
    if isinstance(values.get("tie_word_embeddings"), bool):
        part["tie_word_embeddings"] = values["tie_word_embeddings"]
    name = part.get("model_type")
    part["model_type"] = ALONE.get(name, name) if isinstance(name, str) else name
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(part.get(name), dict) and part["model_type"] in ALONE.values():
            part[name] = one_dimensional(part[name])
    return part


def one_dimensional(rope: Mapping[str, Any]) -> dict[str, Any]:
    """The rotation of a text, whose tokens have one position and not three."""
    kept = {name: value for name, value in rope.items() if name not in SECTIONS}
    return {name: "default" if value == "mrope" else value for name, value in kept.items()}


def text_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of the part for texts, under the names that they would have alone."""
    result = dict[str, T]()
    for name, tensor in tensors.items():
        if name.removeprefix("model.").startswith(OTHERS):
            continue
        prefix = next((prefix for prefix in OWN if name.startswith(prefix)), None)
        plain = name.removeprefix("language_model.") if prefix is None else "model." + name.removeprefix(prefix)
        result[plain.removeprefix("model.") if plain.startswith("model.lm_head") else plain] = tensor
    return result
