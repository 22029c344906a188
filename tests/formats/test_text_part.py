"""Folders of models for pictures and texts, written by transformers: the text part gives the same logits."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.text_part import text_part
from tests.families.test_variants import IDS, YARN, logits

TEXT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
PICTURES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4}}
QWEN = {"depth": 1, "hidden_size": 16, "out_hidden_size": 24, "num_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("Gemma3", TEXT | {"head_dim": 8, "sliding_window": 12},
               PICTURES | {"model_type": "siglip_vision_model"}),
    "mistral3": ("Mistral3", TEXT | {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
                 PICTURES | {"model_type": "pixtral", "head_dim": 8}),
    "ministral 3": ("Mistral3", TEXT | {"model_type": "ministral3", "head_dim": 8, "rope_parameters": YARN |
                    {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1}},
                    PICTURES | {"model_type": "pixtral", "head_dim": 8}),
    "llava": ("Llava", TEXT | {"model_type": "llama"}, PICTURES | {"model_type": "clip_vision_model"}),
    "qwen2_vl": ("Qwen2VL", TEXT | MROPE, {"depth": 1, "embed_dim": 16, "hidden_size": 24, "num_heads": 2}),
    "qwen2_5_vl": ("Qwen2_5_VL", TEXT | MROPE, QWEN),
    "qwen3_vl": ("Qwen3VL", TEXT | {"head_dim": 8}, QWEN | {"deepstack_visual_indexes": [0]}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_text_part_of_a_folder(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    start, text, pictures = MODELS[name]
    config = getattr(library, start + "Config")(text_config=text, vision_config=pictures)
    theirs = getattr(library, start + "ForConditionalGeneration")(config).eval()
    for tensor in theirs.parameters():
        tensor.normal_(std=0.3)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    ours, _ = fathom.load(tmp_path / "theirs", device="cpu")
    assert (logits(ours) - expected).abs().max() <= 2e-5
    assert "the text part of a " in open_model(tmp_path / "theirs").format

    assert write_model(ours, None, "hf", tmp_path / "hf").equal
    assert torch.equal(logits(fathom.load(tmp_path / "hf", device="cpu")[0]), logits(ours))


def test_a_published_config_without_defaults() -> None:
    """Gemma 3 4B leaves out heads and vocabulary; the first Qwen2-VL has no text_config."""
    part = text_part({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}})
    assert (part["num_attention_heads"], part["head_dim"], part["vocab_size"]) == (8, 256, 262208)
    scaling = {"type": "mrope", "mrope_section": [16, 24, 24]}
    part = text_part({"model_type": "qwen2_vl", "hidden_size": 8, "rope_scaling": scaling, "vision_config": {}})
    assert part["model_type"] == "qwen2" and part["rope_scaling"] == {"type": "default"}
    assert (other := {"model_type": "paligemma", "text_config": {"model_type": "gemma"}}) is text_part(other)
