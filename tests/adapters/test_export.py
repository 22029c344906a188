"""Runs of an adapter are exported, verified and described with their base; an adapter alone is what llama.cpp loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.adapters import peft
from fathom.adapters.export import export
from fathom.adapters.info import info
from fathom.adapters.load import load
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.fields import plain
from fathom.formats.config_file import write_config
from fathom.formats.export import write_model
from fathom.formats.load import load as load_model
from fathom.verification.verify import verify
from tests.adapters.models import CONFIGS, adapted, base_folder
from tests.architectures import ids_for, model_of

OPTIONS = LoraOptions(rank=2, targets=("attn.*", "mlp.*", "embed"), ranks=(("attn.k", 3), ("mlp.up", 1)))


def run_in(folder: Path, base: Path, options: LoraOptions = OPTIONS) -> Path:
    """A run as `fathom finetune` leaves it, as far as it is read again."""
    model, _ = load_model(base, "fp32", "cpu")
    peft.save(adapted(model, options), folder / "adapter", base=base)
    values = {"base": {"path": str(base)}, "finetune": {"method": "lora"}, "model": plain(model.config)}
    write_config(folder / "config.yaml", values)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_run_is_exported_with_its_base(tmp_path: Path, format: str) -> None:
    base, _ = base_folder(tmp_path / "base", "llama")
    run = run_in(tmp_path / "run", base, LoraOptions(rank=2))
    model, _ = load(run, "fp32", "cpu")
    assert export(run, tmp_path / "out", format).equal
    written, ids = load_model(tmp_path / "out", "fp32", "cpu")[0], ids_for(model.config)
    assert torch.allclose(written(ids), model(ids), atol=1e-5)


def test_a_run_is_verified_and_described_with_its_base(tmp_path: Path) -> None:
    base, _ = base_folder(tmp_path / "base", "llama")
    run = run_in(tmp_path / "run", base, LoraOptions(rank=2))
    certificate = verify(run, ["naive", "cache", "transformers"])
    assert certificate.passed and "with its adapter" in certificate.format
    known = info(run)
    assert "with an adapter of rank 2" in known.format and known.parameters == info(base).parameters
    assert known.about["base"] == str(base) and known.about["adapter"]["r"] == 2
    assert fathom.info(base) == info(base)


def test_only_gguf_holds_an_adapter_alone(tmp_path: Path) -> None:
    base, _ = base_folder(tmp_path / "base", "llama")
    run = run_in(tmp_path / "run", base, LoraOptions(rank=2))
    with pytest.raises(FathomError, match="is an adapter, which is written as gguf in f32; for base and adapter"):
        export(run / "adapter", tmp_path / "out", "hf")
    dora = run_in(tmp_path / "dora", base, LoraOptions(rank=2, dora=True))
    with pytest.raises(FathomError, match=r"DoRA .* which a GGUF adapter cannot hold; merge it first"):
        export(dora / "adapter", tmp_path / "out", "gguf")


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_adds_our_adapter(tmp_path: Path, name: str) -> None:
    """Equal logits, with other ranks in some layers, fused q, k and v, and rows in llama.cpp's order."""
    library: Any = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    config = CONFIGS[name].__class__(**{**vars(CONFIGS[name]), "vocab_size": 256, "d_model": 32, "d_ff": 64})
    config = config.__class__(**{**vars(config), "n_head": 4, "head_dim": 8, "context_length": 64})
    base = write_model(model_of(config, std=0.2), None, "hf", tmp_path / "base").path
    options = OPTIONS if name == "llama" else LoraOptions(rank=2, targets=("attn.q", "attn.v", "mlp.*"))
    run = run_in(tmp_path / "run", base, options)
    export(base, tmp_path / "base.gguf", "gguf")
    export(run / "adapter", tmp_path / "adapter.gguf", "gguf")
    model, _ = load(run, "fp32", "cpu")
    plain_model, _ = load_model(base, "fp32", "cpu")
    files = {"model_path": str(tmp_path / "base.gguf"), "lora_path": str(tmp_path / "adapter.gguf")}
    theirs = library.Llama(**files, logits_all=True, n_ctx=64, verbose=False, type_k=0, type_v=0)  # fp32 in its cache
    ids = torch.randint(256, (1, 32))
    theirs.eval(ids[0].tolist())
    logits = torch.tensor(theirs.scores[:32])
    assert (plain_model(ids)[0] - logits).abs().max() > 0.05
    assert (model(ids)[0] - logits).abs().max() < 1e-3
