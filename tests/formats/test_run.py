"""A run folder from a stranger: damaged in any file it ends in a model or one line."""

from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.fields import plain
from fathom.formats.config_file import write_config
from fathom.formats.load import load
from fathom.formats.run import open_run, write_weights
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.transformer import Transformer
from fathom.tokenizer.load import make, save
from tests.mutants import survive

CONFIG = ModelConfig(
    vocab_size=260,
    context_length=16,
    d_model=8,
    n_layer=1,
    n_head=2,
    position="rope",
    norm="rms",
    mlp="swiglu",
    rope=Rotary(scaling=RopeScaling(kind="yarn", factor=2.0)),
)
TEXT = "the cat sat on the mat and the dog sat on the cat " * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = make("bpe:260", [TEXT])
    write_config(tmp_path / "config.yaml", {"model": plain(CONFIG), "train": {"seed": 1}})
    write_weights(Transformer(CONFIG), tmp_path / "model.safetensors")
    save(tokenizer, tmp_path / "tokenizer.json")
    assert tokenizer.vocab_size == CONFIG.vocab_size
    return tmp_path


def use(folder: Path) -> None:
    model, tokenizer = load(folder, device="cpu")
    if tokenizer is not None:
        model(torch.tensor([tokenizer.encode("the cat")[:16]]))


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("count", [700, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutants(name: str, count: int, folder: Path) -> None:
    survive(lambda path: use(folder), folder / name, count)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {vocab_size: 10**9}", "expected a whole number"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\nmodel: {d_model: *a}", "d_model"),
        ("model: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("[" * 100_000, "config.yaml"),
        ("model: {vocab_size: 260, context_length: 1, d_model: 99999999999, n_layer: 1}", "not of one model"),
        ("model: {vocab_size: 260, context_length: 1, d_model: 8, n_layer: 999999999}", "not of one model"),
        ("model: [1, 2]", "expected fields with values"),
        ("model:", "expected fields with values"),
    ],
)
def test_nasty_configs(text: str, says: str, folder: Path) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(FathomError, match=says):
        use(folder)


def test_what_a_run_was_told_is_about_it(folder: Path) -> None:
    assert open_run(folder).metadata == {"train": {"seed": 1}}
