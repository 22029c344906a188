"""An index is a promise: what it lists is there, where it says, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.formats.huggingface import open_weights
from fathom.formats.safetensors_file import write_tensors

ONE, TWO, INDEX = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tensors(tmp_path / ONE, {"a": torch.ones(2), "b": torch.zeros(3)})
    write_tensors(tmp_path / TWO, {"c": torch.ones(4)})
    return listed(tmp_path, {})


def listed(folder: Path, change: dict[str, Any]) -> Path:
    weight_map = {"a": ONE, "b": ONE, "c": TWO} | change
    (folder / INDEX).write_text(json.dumps({"weight_map": {k: v for k, v in weight_map.items() if v != "-"}}))
    return folder


def test_all_tensors_of_all_files(folder: Path) -> None:
    tensors, files = open_weights(folder)
    assert {name: stored.shape for name, stored in tensors.items()} == {"a": (2,), "b": (3,), "c": (4,)}
    assert [file.name for file in files] == [ONE, TWO]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"d": TWO}, r"does not fit model-00002-of-00002\.safetensors: 'd' is not in it"),
        ({"b": "-"}, r"does not fit model-00001-of-00002\.safetensors: 'b' is in it, but not listed"),
        ({"b": TWO}, "'b' is in it, but not listed|'b' is not in it"),
        ({"d": "model-00003-of-00003.safetensors"}, "1 of 3 files are absent, the first is 'model-00003-of-00003"),
        ({"a": "../model.safetensors"}, r"'a' is in '\.\./model\.safetensors'; expected a file of this folder"),
        ({"a": "..\\model.safetensors"}, "expected a file of this folder"),
        ({"a": "/etc/passwd"}, "expected a file of this folder"),
        ({"a": "sub/model.safetensors"}, "expected a file of this folder"),
        ({"a": ".."}, "expected a file of this folder"),
        ({"a": ""}, "expected a file of this folder"),
        ({"a": "x\0y"}, "expected a file of this folder"),
        ({"a": "x" * 5000}, "expected a file of this folder"),
        ({"a": 1}, "expected a file of this folder"),
        ({"a": None}, "expected a file of this folder"),
    ],
)
def test_an_index_that_breaks_its_promise(folder: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says) as caught:
        open_weights(listed(folder, change))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [None, [], {}, "x", 3])
def test_an_index_without_a_map(folder: Path, value: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": value}))
    with pytest.raises(FathomError, match="weight_map is"):
        open_weights(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 200_000, '{"weight_map": NaN}', " " * (3 << 20)])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(FathomError, match=INDEX):
        open_weights(folder)


def test_one_file_and_an_index_may_be_two_models(folder: Path) -> None:
    write_tensors(folder / "model.safetensors", {"a": torch.ones(2)})
    with pytest.raises(FathomError, match="may be two models; remove one"):
        open_weights(folder)


def test_an_index_of_one_file_is_no_second_model(tmp_path: Path) -> None:
    """mlx-lm writes an index beside every model that fits into one file."""
    write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(2), "b": torch.zeros(3)})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys("ab", "model.safetensors")}))
    tensors, files = open_weights(tmp_path)
    assert list(tensors) == ["a", "b"] and [file.name for file in files] == ["model.safetensors"]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys("abc", "model.safetensors")}))
    with pytest.raises(FathomError, match="'c' is not in it"):
        open_weights(tmp_path)


def test_an_index_of_pickled_shards(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    tensors, _ = open_weights(tmp_path)
    assert torch.equal(tensors["b"].read(), torch.ones(3))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=r"no weights, and no index; expected model\.safetensors"):
        open_weights(tmp_path)
