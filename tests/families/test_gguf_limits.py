"""What is written as GGUF, llama.cpp opens and computes: each family with one field changed at a time, or refused."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.families.registry import from_hf, of, to_gguf
from fathom.formats.gguf_model import open_gguf, write_gguf
from fathom.formats.load import read
from fathom.model.config import BIASES, Layers, ModelConfig, RopeScaling
from tests.architectures import model_of
from tests.families.test_gguf_columns import TOKENS, config_of, ggml_gelu, logits
from tests.families.test_variants import EVERY
from tests.formats.test_gguf_model import llama_cpp_logits

SCALINGS = (
    RopeScaling(kind="linear", factor=4.0),
    RopeScaling(kind="llama3", factor=8.0, original_context_length=16),
    RopeScaling(kind="yarn", factor=4.0, original_context_length=16),
    RopeScaling(kind="yarn", factor=4.0, original_context_length=16, attention_factor=1.5),
)
VALUES: dict[str, tuple[Any, ...]] = {
    "head_dim": (4, 8, 12),
    "n_kv_head": (1, 2, 6),
    "tie_embeddings": (True, False),
    "bias": tuple(parts for n in range(4) for parts in combinations(BIASES, n)),
    "mlp": ("gelu", "gelu_exact", "relu", "relu2", "swiglu", "geglu"),
    "layers": (Layers("g"), Layers("l", 12), Layers("lg", 12), Layers("lllg", 12), Layers("gggn")),
    "residual": ("on", "post", "sandwich", "parallel", "parallel_norms"),
    "qk_norm": ("off", "on", "whole"),
    "norm_eps": (1e-3,),
    "d_ff": (52,),
}
SCALES: dict[str, tuple[float, ...]] = {"logit_cap": (5.0,), "attn": (0.2,), "residual": (0.3,), "logits": (0.3,)}
ROPES: dict[str, tuple[Any, ...]] = {"rotated": (None, 2, 4), "theta": (777.0,), "scaling": SCALINGS}


def variants(config: ModelConfig) -> Iterator[ModelConfig]:
    yield from (replace(config, **{name: value}) for name, values in VALUES.items() for value in values)
    for name, values in SCALES.items():
        yield from (replace(config, scale=replace(config.scale, **{name: value})) for value in values)
    for name, values in ROPES.items():
        yield from (replace(config, rope=replace(config.rope, **{name: value})) for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENS)
def test_llama_cpp_runs_whatever_is_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "gelu", ggml_gelu)
    ids, written = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2)), 0
    for config in variants(config_of(name)):
        try:
            of(config)
            model = model_of(config, std=0.15)
            write_gguf(tmp_path / "x.gguf", config, model.state_dict(), None)
        except FathomError:  # no model of any family, or none of llama.cpp's
            continue
        written += 1
        ours, theirs = logits(model, ids), llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())
        assert (ours - theirs).abs().max() <= 1e-3 * ours.std().clamp(min=1), config
        again = read(open_gguf(tmp_path / "x.gguf"))
        assert torch.allclose(logits(again, ids), ours, rtol=1e-5, atol=1e-5), config
    assert written > 3


def test_another_architecture_is_taken_where_its_own_cannot_run() -> None:
    """Seed-OSS has wide heads and biases on q, k and v alone; llama.cpp's qwen2 has no wide heads, its llama has."""
    config = from_hf(EVERY["Seed-OSS"], "config.json")[1]
    assert of(config).name == "qwen2" and config.resolved().head_dim * config.n_head != config.d_model
    assert to_gguf(config)["general.architecture"] == "llama"
    assert to_gguf(replace(config, head_dim=None))["general.architecture"] == "qwen2"


def test_what_llama_cpp_computes_otherwise_is_said(tmp_path: Path) -> None:
    exact = "llama.cpp computes GELU by its tanh form"
    for name, says in (("Pythia", exact), ("MPT", exact), ("Gemma", ""), ("Phi", "")):
        model = model_of(config_of(name))
        write_gguf(tmp_path / "x.gguf", model.config, model.state_dict(), None)
        note = open_gguf(tmp_path / "x.gguf").metadata.get("note", "")
        assert note.startswith(says) and bool(note) == bool(says)
