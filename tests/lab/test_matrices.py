"""Which matrices a path holds, and the error where two files are not versions of one model."""

import shutil
from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.formats.load import load
from fathom.formats.safetensors_file import read_tensors, write_tensors
from fathom.lab.matrices import open_matrices, require_same
from fathom.tokenizer.characters import CharacterTokenizer
from tests.lab.conftest import LETTERS, small, written


def test_every_format_gives_the_same_matrices(base: Path, tmp_path: Path) -> None:
    """Read one by one and converted: q and k of Meta's layout, all names ours."""
    model = load(base)[0]
    write_model(model, None, "meta", tmp_path / "meta")
    write_model(model, None, "hf", tmp_path / "hf")
    expected = {name: w for name, w in model.named_parameters() if w.ndim == 2}
    for path in (base, tmp_path / "hf", tmp_path / "meta"):
        matrices = open_matrices(path)
        assert list(matrices.stored) == list(expected)
        for name, w in expected.items():
            assert matrices.stored[name].shape == tuple(w.shape) and torch.equal(matrices.read(name), w), name


def test_gpt2_keeps_three_in_one_and_transposed(tmp_path: Path) -> None:
    from tests.generation.models import random_model

    model = random_model("gpt", 40, 16)
    write_model(model, None, "hf", tmp_path / "hf")
    matrices = open_matrices(tmp_path / "hf")
    assert {name for name, w in model.named_parameters() if w.ndim == 2} == set(matrices.stored)
    for name in matrices.stored:
        assert torch.equal(matrices.read(name), model.get_parameter(name)), name


def test_a_plain_file_of_matrices(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4), "a": torch.randn(4, 4).half(), "v": torch.randn(5), "n": torch.ones(2, 2).int()}
    write_tensors(tmp_path / "some.safetensors", tensors)
    matrices = open_matrices(tmp_path / "some.safetensors")
    assert list(matrices.stored) == ["a", "b"] and matrices.opened is None and matrices.read("a").dtype == torch.float32


def test_only_some(base: Path) -> None:
    matrices = open_matrices(base)
    assert set(matrices.only(("attn.q",)).stored) == {"blocks.0.attn.q.weight", "blocks.1.attn.q.weight"}
    assert set(matrices.only(("blocks.1.mlp.*",)).stored) == {
        f"blocks.1.mlp.{n}.weight" for n in ("gate", "up", "down")
    }
    with pytest.raises(FathomError, match=r"no matrix 'attn\.z'"):
        matrices.only(("attn.z",))


def other(base: Path, folder: Path, change: str) -> Path:
    """A copy of the model that is not a version of it any more."""
    if change == "another vocabulary":
        return written(folder, small(), LETTERS.replace("z", "Z"))
    shutil.copytree(base, folder)
    tensors = dict(read_tensors(folder / "model.safetensors"))
    if change == "not a number":
        tensors["blocks.1.attn.v.weight"][0, 0] = torch.nan
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def test_another_vocabulary_is_named(base: Path, tmp_path: Path) -> None:
    there = other(base, tmp_path / "other", "another vocabulary")
    with pytest.raises(FathomError, match=r"token \d+ is b'.*' in .*base and b'.*' in .*other"):
        require_same(open_matrices(base), open_matrices(there))
    assert isinstance(load(there)[1], CharacterTokenizer)


def test_what_is_no_number_is_named(base: Path, tmp_path: Path) -> None:
    there = open_matrices(other(base, tmp_path / "other", "not a number"))
    with pytest.raises(FathomError, match=r"other.*'blocks.1.attn.v.weight': 1 of [\d,]+ numbers are not finite"):
        there.read("blocks.1.attn.v.weight")


def test_other_shapes_and_names_are_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one.safetensors", {"x": torch.ones(3, 4), "y": torch.ones(2, 2)})
    write_tensors(tmp_path / "two.safetensors", {"x": torch.ones(4, 3), "z": torch.ones(2, 2)})
    one, two = (open_matrices(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    with pytest.raises(
        FathomError, match=r"'y' is in .*one.* alone; 'z' is in .*two.* alone; 'x' is \(3, 4\) in .*4, 3"
    ):
        require_same(one, two)


def test_a_file_without_matrices(tmp_path: Path) -> None:
    write_tensors(tmp_path / "vectors.safetensors", {"x": torch.ones(3), "empty": torch.ones(0, 4)})
    with pytest.raises(FathomError, match="no matrix: none of its tensors"):
        open_matrices(tmp_path / "vectors.safetensors")
