"""A family is one file: Mistral's, against transformers and in every format, and one that is put into the package."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
import fathom.families
from fathom.errors import FathomError
from fathom.families.registry import families, from_hf, ids, of
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.model.config import Layers, ModelConfig, Rotary
from fathom.model.presets import GPT2, LLAMA2_7B, LLAMA2_70B
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
        assert write_model(ours, None, format, out).equal
        assert torch.equal(logits(fathom.load(out, device="cpu")[0]), logits(ours))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    "change, says",
    [
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
    assert from_hf(short | {"max_position_embeddings": 8192}, "config.json")[1].layers == Layers("l", 4096)


FILE = """
from dataclasses import replace

from fathom.families import llama

hf = llama.FAMILY.columns["hf"]
columns = {"hf": replace(hf, ids=("alpaca",), keys={**hf.keys, "d_model": llama.key("width")})}
FAMILY = replace(llama.FAMILY, name="alpaca", title="Alpaca", columns=columns, written_as="llama")
"""


@contextmanager
def added(path: Path, source: str) -> Iterator[None]:
    """The package with one more file."""
    path.write_text(source)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fathom.families, "__path__", [*fathom.families.__path__, str(path.parent)])
            families.cache_clear()
            yield
    finally:
        families.cache_clear()


def test_a_file_in_the_package_is_a_family(tmp_path: Path) -> None:
    values = {"width" if name == "hidden_size" else name: value for name, value in hf.LLAMA.items()}
    supported = sorted([*ids("hf"), "alpaca"])
    with added(tmp_path / "alpaca.py", FILE):
        family, config = from_hf(values | {"model_type": "alpaca"}, "config.json")
        assert family.title == "Alpaca" and config == from_hf(hf.LLAMA, "config.json")[1]
        assert of(config) is families()["llama"]
        with pytest.raises(FathomError, match=f"supported are {', '.join(supported)}$"):
            from_hf({"model_type": "vicuna"}, "config.json")
    assert "alpaca" not in families()


def writers(config: ModelConfig) -> set[str]:
    """The families in whose files a model may be written: of those that fit, all with the most choices."""
    try:
        z = config.resolved()
    except FathomError:  # values that contradict each other, such as biases of experts
        return set()
    fitting = [family for family in families().values() if family.fits(z)]
    most = max((len(family.choices) for family in fitting), default=0)
    return {family.written_as or family.name for family in fitting if len(family.choices) == most}


OPPOSITE: dict[type, set[Any]] = {
    bool: {True, False},
    tuple: {()},
    int: {None},
}  # beside the values that families choose


def test_no_two_families_write_the_same_model() -> None:
    """Over combinations of the values that some family chooses, in the sizes of known models."""
    chosen: dict[str, set[Any]] = {}
    for family in families().values():
        for name, value in family.choices.items():
            chosen.setdefault(name, OPPOSITE.get(type(value), set()).copy()).add(value)
    chosen |= {"layers": {Layers("g"), Layers("l", 9), Layers("lg", 9), Layers("gn"), Layers("ln", 9)}}
    chosen |= {"rope": {Rotary(), Rotary(rotated=8), Rotary(local_theta=9.0)}}
    for name, preset in product(chosen, (GPT2, LLAMA2_7B)):
        chosen[name].add(getattr(preset, name))
    written = set()
    drawn = random.Random(0)
    own = [[family.choices.get(name, getattr(LLAMA2_7B, name)) for name in chosen] for family in families().values()]
    for values in own + [[drawn.choice(sorted(each, key=repr)) for each in chosen.values()] for _ in range(1500)]:
        for preset in (GPT2, LLAMA2_7B, LLAMA2_70B):
            names = writers(config := replace(preset, **dict(zip(chosen, values, strict=True))))
            assert len(names) <= 1, config
            assert not names or {of(config).name} == names
            written |= names
    assert len(written) > 8


def test_files_of_another_family_are_written_in_its_own() -> None:
    assert all(f.written_as is None or families()[f.written_as].written_as is None for f in families().values())
