"""The best adapter of a fine-tune: it is the change where the rank suffices, and says what it lost where not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.adapters import peft
from fathom.errors import FathomError
from fathom.formats.load import load
from fathom.lab.extract import extract
from tests.lab.conftest import small, written


def test_a_change_of_rank_two_fits_into_two(base: Path, tuned: Path, tmp_path: Path) -> None:
    """Loaded on the base, the adapter gives the tuned model's matrices; the norm, which it cannot hold, is named."""
    done = extract(base, tuned, 2, tmp_path / "adapter", ("all-linear",))
    model, after = load(base, dtype="fp32")[0], load(tuned, dtype="fp32")[0]
    peft.load(model, tmp_path / "adapter", base=base)
    for part in done.parts:
        if part.rank:
            there = model.get_submodule(part.name.removesuffix(".weight")).weight
            assert torch.allclose(there, after.get_parameter(part.name), atol=1e-5) and part.error < 2e-3
    assert [(part.name, part.error) for part in done.parts if not part.rank] == [("final_norm.weight", 1.0)]
    with torch.no_grad():
        model.final_norm.weight.copy_(after.final_norm.weight)
        ids = torch.arange(20)[None]
        assert torch.allclose(model(ids), after(ids), atol=1e-3)


def test_the_error_is_that_of_the_adapter_that_was_written(base: Path, tuned: Path, tmp_path: Path) -> None:
    done = extract(base, tuned, 1, tmp_path / "adapter", ("all-linear",))
    model, before, after = (load(path, dtype="fp32")[0] for path in (base, base, tuned))
    peft.load(model, tmp_path / "adapter")
    lost = whole = 0.0
    for network in (model, before, after):
        network.requires_grad_(False)
    for part in done.parts:
        delta = after.get_parameter(part.name) - before.get_parameter(part.name)
        if part.rank:
            left = after.get_parameter(part.name) - model.get_submodule(part.name.removesuffix(".weight")).weight
            assert part.error == pytest.approx(float(left.norm() / delta.norm()), rel=1e-3) and 0.05 < part.error < 0.9
            exact = np.linalg.svd(delta.detach().double().numpy(), compute_uv=False)
            assert part.error == pytest.approx(float(exact[1] / np.linalg.norm(exact)), rel=1e-3)  # Eckart & Young
        else:
            left = delta
        assert part.relative == pytest.approx(float(delta.norm() / before.get_parameter(part.name).norm()), rel=1e-4)
        lost, whole = lost + float(left.norm()) ** 2, whole + float(delta.norm()) ** 2
    assert done.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)


def test_a_table_is_adapted_as_it_is_read(base: Path, tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.embed.weight += torch.randn(len(model.embed.weight), 1) @ torch.randn(1, 32)
    extract(base, written(tmp_path / "tuned", model), 1, tmp_path / "adapter", ("embed",))
    there = load(base, dtype="fp32")[0]
    peft.load(there, tmp_path / "adapter")
    ids = torch.arange(20)[None]
    assert torch.allclose(there.embed(ids), model.embed(ids), atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 1 and config["target_modules"] == ["embed_tokens"]


@pytest.mark.parametrize(
    ("rank", "layers", "words"),
    [
        (17, ("all-linear",), "rank 17 is larger than 'blocks.0.attn.k.weight', which is 16 x 32; give at most 16"),
        (0, ("all-linear",), "rank is 0"),
        (2, ("attn.z",), "'attn.z' fits no layer"),
        (2, ("embed",), "nothing to extract"),
    ],
)
def test_what_cannot_be_extracted(
    base: Path, tuned: Path, tmp_path: Path, rank: int, layers: tuple[str, ...], words: str
) -> None:
    with pytest.raises(FathomError, match=words):
        extract(base, tuned, rank, tmp_path / "adapter", layers)
    assert not (tmp_path / "adapter").exists()


def test_a_folder_with_other_things_stays_as_it_is(base: Path, tuned: Path, tmp_path: Path) -> None:
    extract(base, tuned, 1, tmp_path / "adapter", ("all-linear",))
    extract(base, tuned, 2, tmp_path / "adapter", ("all-linear",))  # an adapter is replaced
    before = sorted(tuned.iterdir())
    with pytest.raises(FathomError, match="which is not part of an adapter; give the name of a new folder"):
        extract(base, tuned, 1, tuned, ("all-linear",))
    assert sorted(tuned.iterdir()) == before


def test_models_that_differ_in_shape(base: Path, tmp_path: Path) -> None:
    from tests.generation.models import random_model

    wide = written(tmp_path / "wide", random_model("llama", 30, 32, d_model=40))
    with pytest.raises(
        FathomError, match=r"not two versions of one model: 'embed.weight' is \(30, 32\) in .*\(30, 40\)"
    ):
        extract(base, wide, 2, tmp_path / "adapter", ("all-linear",))
