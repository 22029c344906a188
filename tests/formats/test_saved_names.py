"""Names of tensors that other tools change, and folders that hold a part of a model; against transformers' own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fathom.errors import FathomError
from fathom.formats.detect import open_model
from fathom.formats.load import load
from tests.formats.hf import GPT2, LLAMA, make

IDS = torch.arange(60)[None]
WRAPPED = {
    "compiled": "_orig_mod.{}",
    "compiled and parallel": "module._orig_mod.{}",
    "parallel and compiled": "_orig_mod.module.{}",
    "compiled inside": None,  # each block
}


@pytest.fixture(params=[LLAMA, GPT2], ids=["llama", "gpt2"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    model = make(request.param)
    model.save_pretrained(tmp_path)
    return model


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_names_of_wrapped_modules(theirs: Any, tmp_path: Path, wrapped: str) -> None:
    stored = load_file(tmp_path / "model.safetensors")
    pattern = WRAPPED[wrapped]
    renamed = {
        name.replace(".0.", ".0._orig_mod.") if pattern is None else pattern.format(name): x
        for name, x in stored.items()
    }
    assert renamed.keys() != stored.keys()
    save_file(renamed, tmp_path / "model.safetensors")
    assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5


def test_two_names_that_become_one(theirs: Any, tmp_path: Path) -> None:
    stored = load_file(tmp_path / "model.safetensors")
    name = next(iter(stored))
    save_file(stored | {f"_orig_mod.{name}": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FathomError, match=f"two tensors are '{name}' without _orig_mod"):
        open_model(tmp_path)


def test_a_base_model_without_a_head(theirs: Any, tmp_path: Path) -> None:
    """`LlamaModel` and `GPT2Model`: no prefix, no lm_head."""
    base = tmp_path / "base"
    getattr(theirs, theirs.base_model_prefix).save_pretrained(base)
    names = load_file(base / "model.safetensors")
    assert not any(name.startswith(("model.", "transformer.", "lm_head")) for name in names)
    if theirs.config.tie_word_embeddings:
        model, _ = load(base, device="cpu")
        assert (model(IDS) - theirs(IDS).logits).abs().max() <= 1e-5
        return
    with pytest.warns(UserWarning, match=r"base model: lm_head\.weight is missing, .* the embedding takes its place"):
        model, _ = load(base, device="cpu")
    hidden = theirs.model(IDS).last_hidden_state
    assert (model(IDS) - hidden @ theirs.model.embed_tokens.weight.T).abs().max() <= 1e-4


def test_a_head_beside_names_without_their_prefix(tmp_path: Path) -> None:
    theirs = make(LLAMA)
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("model."): x for name, x in stored.items()}, tmp_path / "model.safetensors")
    assert (load(tmp_path, device="cpu")[0](IDS) - theirs(IDS).logits).abs().max() <= 1e-5


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('it ran')")
    config = LLAMA | {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    says = r"model_type is 'own'.*the folder brings its own code \('modeling_own.OwnForCausalLM'\), which is never run"
    with pytest.raises(FathomError, match=says):
        open_model(tmp_path)


def test_known_models_open_beside_code_of_their_own(theirs: Any, tmp_path: Path) -> None:
    values = json.loads((tmp_path / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    open_model(tmp_path)


def cache(folder: Path, model: Path) -> Path:
    """As huggingface_hub keeps a repository: snapshots by commit, and the commit of each branch."""
    repository = folder / "models--org--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    return repository


def test_a_folder_of_the_hub_s_cache_is_its_main_snapshot(theirs: Any, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(tmp_path / name, tmp_path / "m" / name)
    repository = cache(tmp_path / "hub", tmp_path / "m")
    (repository / "snapshots" / ("a" * 40) / "config.json").write_text("{}")
    assert open_model(repository).path == repository / "snapshots" / ("b" * 40)
    (repository / "refs" / "main").write_text("../../../m")
    with pytest.raises(FathomError, match="is a folder of the hub's cache with 2 snapshots"):
        open_model(repository)
    shutil.rmtree(repository / "snapshots" / ("a" * 40))
    assert open_model(repository).path == repository / "snapshots" / ("b" * 40)
    shutil.rmtree(repository / "snapshots" / ("b" * 40))
    with pytest.raises(FathomError, match="with 0 snapshots"):
        open_model(repository)
