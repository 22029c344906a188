"""Families in GGUF: written and read again they are the same model, and llama.cpp computes its logits and tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.families.registry import families, from_gguf, from_hf, to_gguf
from fathom.formats import gguf
from fathom.formats.convert import read_ours
from fathom.formats.gguf_model import open_gguf, write_gguf
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import model_of
from tests.families.test_variants import GPT2, LLAMA, MODERN, OLDER
from tests.formats.test_gguf_model import llama_cpp_logits

FOUR = {"num_hidden_layers": 5, "layer_types": ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"]}
TWO = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
SQUARE = {"head_dim": None}  # d_model / n_head
CHANGED: dict[str, dict[str, Any]] = {  # to what llama.cpp's architectures have
    "Phi-3, longrope": {"max_position_embeddings": 512, "original_max_position_embeddings": 256},
    "SmolLM3": {"no_rope_layers": [1, 1, 1, 0, 1], "num_hidden_layers": 5},
    "Gemma": {},
    "Gemma 2": {"query_pre_attn_scalar": 8},
    "Gemma 3": {"query_pre_attn_scalar": 8, **TWO},
    "Granite": {},
    "OLMo": {},
    "OLMo 2": {},
    "OLMo 3": FOUR,
    "GLM-4": {"head_dim": 4},
    "GLM-4 0414": {},
    "StarCoder2": {"sliding_window": None},
    "StableLM": {},
    "Nemotron": {},
    "Command-R": {},
    "Command-R7B": {**FOUR, **SQUARE},
    "Phi": {},
    "Pythia": {},
    "GPT-NeoX, in order": {},
    "EXAONE 4": {**SQUARE, "sliding_window": None, "layer_types": None},
    "MPT": {},
}
GELU = ("Gemma", "Gemma 2", "Gemma 3", "StarCoder2", "Phi", "Pythia", "GPT-NeoX, in order", "MPT")  # ggml: fp16 table
EVERY = {name: LLAMA | x for name, x in MODERN.items()} | {name: GPT2 | x for name, x in OLDER.items()}


def config_of(name: str) -> ModelConfig:
    return from_hf(EVERY[name] | CHANGED.get(name, {}), "config.json")[1]


def written(path: Path, name: str) -> Transformer:
    torch.manual_seed(5)
    model = model_of(config_of(name), std=0.15)
    write_gguf(path, model.config, model.state_dict(), None)
    return model


@torch.no_grad()
def logits(model: Transformer, ids: Tensor) -> Tensor:
    out: Tensor = model(ids)[0]
    return out


@pytest.mark.parametrize("name", CHANGED)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """To the bit; norms of 1 + weight to rounding."""
    model = written(tmp_path / "x.gguf", name)
    opened = open_gguf(tmp_path / "x.gguf")
    assert opened.config.resolved() == model.config.resolved()
    ours, shifted = model.state_dict(), model.config.norm.endswith("_1p")
    for part, tensor in read_ours(opened):
        assert torch.allclose(tensor, ours[part], rtol=0, atol=2e-7 if shifted and "_" in part else 0), part


@pytest.mark.parametrize("name", CHANGED)
def test_llama_cpp_computes_the_same(tmp_path: Path, name: str) -> None:
    """Logits of 48 positions, beyond every window; what differs in GELU is ggml's table of fp16."""
    model = written(tmp_path / "x.gguf", name)
    ids = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))
    ours, theirs = logits(model, ids), llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())
    assert (ours - theirs).abs().max() <= (5e-3 if name in GELU else 1e-5) * ours.std().clamp(min=1)


@pytest.mark.parametrize("name", ["Gemma 3", "Phi-3, longrope", "Command-R7B", "Pythia"])
def test_llama_cpp_continues_with_the_same_tokens(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model, ids = written(tmp_path / "x.gguf", name), [3, 1, 4, 1, 5]
    runner = library.Llama(str(tmp_path / "x.gguf"), n_ctx=128, n_threads=1, verbose=False, type_k=0, type_v=0)
    theirs = list(ids)
    runner.eval(ids)
    for _ in range(64):
        theirs.append(int(runner.scores[runner.n_tokens - 1].argmax()) if runner._logits_all else greedy(runner))
        runner.eval(theirs[-1:])
    for _ in range(64):
        ids.append(int(logits(model, torch.tensor([ids]))[-1].argmax()))
    assert ids == theirs


def greedy(runner: Any) -> int:
    return int(runner.sample(temp=0.0, top_k=1, repeat_penalty=1.0))


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("Gemma 2", {"tie_word_embeddings": False}, "tie_embeddings=False, and llama.cpp's gemma2 has True alone"),
        ("Gemma 2", {"query_pre_attn_scalar": 12}, "scale.attn=.* llama.cpp's gemma2 has .* in this size"),
        ("Gemma 2", {"attn_logit_softcapping": None}, "attn_cap=None.* models with both caps"),
        ("SmolLM3", {"no_rope_layers": [1, 0, 1, 0, 1]}, "layers=gn, and llama.cpp's smollm3 has gggn alone"),
        ("StarCoder2", {"sliding_window": 12}, "layers=.*starcoder2"),
        ("Command-R", {"tie_word_embeddings": False}, "llama.cpp's command-r has True alone"),
        ("Mistral, a window", {}, "no format 'gguf' of mistral models"),
    ],
)
def test_what_llama_cpp_cannot_be_told_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    config = from_hf(EVERY[name] | CHANGED.get(name, {}) | change, "config.json")[1]
    with pytest.raises(FathomError, match=says):
        to_gguf(config)


@pytest.mark.parametrize("name", ["ernie4_5", "seed_oss"])
def test_families_written_as_llama_are_read_under_their_own_names(tmp_path: Path, name: str) -> None:
    """The same tensors in another order of channels or under another name."""
    column = families()[name].columns["gguf"]
    written(tmp_path / "x.gguf", "Granite")
    metadata = gguf.read_header(tmp_path / "x.gguf").metadata
    renamed = {key.replace("granite.", f"{name}."): value for key, value in metadata.items() if "scal" not in key}
    family, config = from_gguf(renamed | {"general.architecture": name}, {}, "x.gguf")
    assert family.name == name and config.position == "rope" and column.ids == (name,)
    assert {cell.pairs for part, cell in column.tensors.items() if part.endswith("attn.q")} == {name == "ernie4_5"}
