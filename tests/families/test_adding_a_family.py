"""A family is one file: Mistral's, against transformers and in every format, and one that is put into the package."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
import fathom.families
from fathom.errors import FathomError
from fathom.families.registry import families, from_hf, of
from fathom.formats.detect import open_model
from fathom.formats.export import export
from fathom.model.presets import LLAMA2_7B
from fathom.model.transformer import Transformer
from tests.formats import hf

MISTRAL = hf.LLAMA | {"model_type": "mistral", "head_dim": 8, "sliding_window": None, "rope_theta": 1e6}
IDS = torch.randint(61, (1, 256), generator=torch.Generator().manual_seed(1))


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


def test_mistral_gives_the_logits_of_transformers_and_goes_into_every_format(tmp_path: Path) -> None:
    theirs = hf.make(MISTRAL)
    theirs.save_pretrained(tmp_path / "mistral")  # type: ignore[operator]
    opened = open_model(tmp_path / "mistral")
    assert opened.family is families()["mistral"] and of(opened.config) is families()["llama"]
    ours, _ = fathom.load(tmp_path / "mistral", device="cpu")
    with torch.no_grad():
        assert (logits(ours) - theirs(IDS).logits).abs().max() <= 1e-5
    for format, out in (("hf", tmp_path / "hf"), ("gguf", tmp_path / "m.gguf")):
        assert export(ours, None, format, out).equal
        assert torch.equal(logits(fathom.load(out, device="cpu")[0]), logits(ours))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    "change, says",
    [
        ({"sliding_window": 255}, "sliding_window is 255; expected null or at least 256, the context length"),
        ({"sliding_window": 0}, "sliding_window is 0; it must be at least 1"),
        ({"sliding_window": "wide"}, "sliding_window is 'wide'; expected a whole number"),
        ({"num_key_value_heads": None}, "num_key_value_heads is missing"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_another_function_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says):
        from_hf(MISTRAL | change, "config.json")


def test_a_window_that_is_not_said_is_that_of_transformers() -> None:
    short = {name: value for name, value in MISTRAL.items() if name != "sliding_window"}
    assert from_hf(short, "config.json")[1] == from_hf(MISTRAL | {"sliding_window": 256}, "config.json")[1]
    with pytest.raises(FathomError, match="sliding_window is 4096; expected null or at least 8192"):
        from_hf(short | {"max_position_embeddings": 8192}, "config.json")


FILE = """
from dataclasses import replace

from fathom.families import llama

hf = llama.FAMILY.columns["hf"]
columns = {"hf": replace(hf, ids=("alpaca",), keys={**hf.keys, "d_model": llama.key("width")})}
FAMILY = replace(llama.FAMILY, name="alpaca", title="Alpaca", columns=columns, written_as="llama")
"""


def test_a_file_in_the_package_is_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alpaca.py").write_text(FILE)
    values = {"width" if name == "hidden_size" else name: value for name, value in hf.LLAMA.items()}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(fathom.families, "__path__", [*fathom.families.__path__, str(tmp_path)])
            families.cache_clear()
            family, config = from_hf(values | {"model_type": "alpaca"}, "config.json")
            assert family.title == "Alpaca" and config == from_hf(hf.LLAMA, "config.json")[1]
            with pytest.raises(FathomError, match="supported are alpaca, gpt2, llama, mistral"):
                from_hf({"model_type": "vicuna"}, "config.json")
    finally:
        families.cache_clear()
    assert "alpaca" not in families()


def test_only_one_family_holds_a_model() -> None:
    """Those that are written as another have no files of their own."""
    z = LLAMA2_7B.resolved()
    assert [f.name for f in families().values() if f.fits(z) and f.written_as is None] == ["llama"]
    assert all(f.written_as is None or families()[f.written_as].written_as is None for f in families().values())
