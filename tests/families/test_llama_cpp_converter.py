"""Files of llama.cpp's own converter open, and give the logits of the models that it converted.

The converter comes with llama.cpp's source, also in the source distribution of llama-cpp-python (vendor/llama.cpp):
FATHOM_LLAMA_CPP names that folder.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.families.registry import from_hf
from fathom.formats.gguf_model import open_gguf
from fathom.formats.load import read
from fathom.model.position import frequencies
from tests.families.test_gguf_columns import CHANGED
from tests.families.test_variants import EVERY
from tests.formats.hf import LLAMA3, VARIANTS, make
from tests.formats.test_gguf_model import llama_cpp_logits

SOURCE = os.environ.get("FATHOM_LLAMA_CPP", "")
needs_source = pytest.mark.skipif(not SOURCE, reason="FATHOM_LLAMA_CPP names no folder with llama.cpp's source")
MODELS = {
    "Qwen2", "Qwen2, tied, YaRN", "Qwen3", "LLaMA, biases of attention", "Arcee", "Mistral", "Phi-3", "ERNIE 4.5",
    "Seed-OSS", "StarCoder", "Phi-3, longrope", "Phi-3, a window", "SmolLM3", "Gemma", "Gemma 2", "Granite", "OLMo",
    "OLMo 2", "OLMo 3", "GLM-4", "GLM-4 0414", "StableLM", "Nemotron", "Command-R", "Command-R7B", "Phi", "Pythia",
    "GPT-NeoX, in order", "Falcon", "Falcon 2", "Falcon 40B", "Ministral 3", "EXAONE 4",
    "StableLM 2 12B", "Command-R+",
}  # fmt: skip
SAID: dict[str, dict[str, Any]] = {  # what the converter reads though the library leaves it out, or takes for granted
    "Phi": {"intermediate_size": 96, "num_key_value_heads": 6},
    "Falcon": {"num_kv_heads": 1},
    "Falcon 40B": {"bias": False},
    "Phi-3, a window": {"original_max_position_embeddings": 256},
    "Phi-3": {"original_max_position_embeddings": 256},
    "GLM-4": {"rms_norm_eps": 1e-5},
    "Ministral 3": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0,
                                        "mscale_all_dim": 1.0, "original_max_position_embeddings": 64,
                                        "llama_4_scaling_beta": 0.1}},
    "EXAONE 4": {"head_dim": 4, "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "OLMo 3": {"num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    "Command-R7B": {"head_dim": 4, "rotary_pct": 1.0, "num_hidden_layers": 4,
                    "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
}  # fmt: skip
OTHERWISE = {"Phi-3, a window", "EXAONE 4"}  # windows that llama.cpp passes over, of which the file and we say so
EXACT = {"Pythia", "GPT-NeoX, in order", "Falcon", "Falcon 2", "Falcon 40B", "StarCoder", "Gemma", "Gemma 2", "Phi"}


def convert(folder: Path, out: Path) -> None:
    """As convert_hf_to_gguf.py does, without a tokenizer."""
    if SOURCE not in sys.path:
        sys.path[:0] = [f"{SOURCE}/gguf-py", SOURCE]
    conversion, gguf = pytest.importorskip("conversion"), pytest.importorskip("gguf")
    logging.disable(logging.INFO)
    entries = json.loads((folder / "config.json").read_text())

    def without_vocab(self: Any) -> None:
        self._set_vocab_none()
        self.gguf_writer.add_vocab_size(entries["vocab_size"])

    architecture = conversion.get_model_architecture(entries, conversion.ModelType.TEXT)
    model = conversion.get_model_class(architecture)
    model.set_vocab = without_vocab
    with torch.inference_mode():
        model(folder, gguf.LlamaFileType.ALL_F32, out, hparams=entries).write()


@needs_source
@pytest.mark.parametrize("name", sorted(MODELS))
def test_logits_of_converted_models(tmp_path: Path, name: str) -> None:
    entries = EVERY[name] | CHANGED.get(name, {}) | SAID.get(name, {})
    model = make(entries)
    model.save_pretrained(tmp_path / "hf")  # type: ignore[operator]
    written = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps(entries | written | SAID.get(name, {})))
    convert(tmp_path / "hf", tmp_path / "x.gguf")
    opened = open_gguf(tmp_path / "x.gguf")
    ids = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, theirs = read(opened)(ids)[0], model(ids).logits[0]
    size = theirs.std().clamp(min=1)
    assert (ours - theirs).abs().max() <= 2e-5 * size
    assert ("note" in opened.metadata) == (name in OTHERWISE or opened.config.mlp == "gelu_exact")
    same = (ours - llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())).abs().max() <= (
        1e-2 if name in EXACT else 2e-4
    ) * size
    assert same == (name not in OTHERWISE)


@needs_source
@pytest.mark.parametrize("original", [64, 128, 4096])
def test_the_original_context_of_llama_3_1_is_found(tmp_path: Path, original: int) -> None:
    """The converter writes what follows from it alone."""
    rope = LLAMA3 | {"original_max_position_embeddings": original}
    entries = VARIANTS["llama3"] | {"hidden_size": 96, "rope_scaling": rope, "max_position_embeddings": 65536}
    make(entries).save_pretrained(tmp_path / "hf")  # type: ignore[operator]
    convert(tmp_path / "hf", tmp_path / "x.gguf")
    config = from_hf(entries, "config.json")[1]
    found = open_gguf(tmp_path / "x.gguf").config
    assert torch.allclose(frequencies(found.resolved()), frequencies(config.resolved()), rtol=1e-5)
    if original < 4096:  # there no frequency lies between the bands
        assert found.rope == config.rope
