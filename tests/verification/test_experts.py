"""A mixture of experts on its whole way: trained, adapted, merged, exported, and verified against transformers."""

from pathlib import Path

import pytest

import fathom
from fathom.training.presets import Recipe
from tests.training.tuning import tuned


def test_a_mixture_of_experts_on_its_whole_way(tmp_path: Path) -> None:
    """Of a width at which the library's fast product of experts fails."""
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    (tmp_path / "text.txt").write_text("a text of some length, and other words. " * 80)
    model = {"d_model": 24, "n_layer": 2, "n_head": 2, "context_length": 32, "position": "rope", "norm": "rms"}
    options = {"data": str(tmp_path / "text.txt"), "tokenizer": "byte", "max_iters": 2, "batch_size": 2}
    sizes = {"d_ff": 21, "mlp": {"n": 4, "used": 2}}
    fathom.train(Recipe("", model | sizes, options | {"device": "cpu"}), tmp_path / "run")
    tuned(tmp_path, "adapted", model=tmp_path / "run")
    fathom.merge(tmp_path / "run", tmp_path / "adapted" / "adapter", tmp_path / "merged", device="cpu")
    fathom.export(tmp_path / "merged", tmp_path / "hf", "hf")
    for name in ("run", "merged", "hf"):
        assert fathom.verify(tmp_path / name, ["transformers", "cache"], device="cpu").passed
