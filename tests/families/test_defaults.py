"""What transformers takes for a key that config.json leaves out: every family's own."""

from copy import deepcopy

import pytest

from fathom.errors import FathomError
from fathom.families.registry import from_hf
from tests.families.test_variants import EVERY
from tests.formats.hf import LLAMA

ALIKE = {  # patterns of windows that two layers have in common
    ("Gemma 3", "layer_types"),
    ("OLMo 3", "layer_types"),
    ("Command-R7B", "layer_types"),
}


@pytest.mark.parametrize("kind", ["llama", "cohere", "ernie4_5", "helium", "smollm3", "qwen2", "phi3"])
def test_a_theta_that_is_missing(kind: str) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    change = LLAMA | {"model_type": kind, "head_dim": 4, "pad_token_id": None}
    family, config = from_hf(change, "config.json")
    theirs = getattr(library, family.classes[0]).from_dict(change)
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith("GLM-4")])  # its versions differ
def test_a_key_that_is_missing(name: str) -> None:
    """A file without it is the model that transformers makes of that file, or it is refused."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    family, _ = from_hf(EVERY[name], "config.json")
    kind = getattr(library, family.classes[0])
    for left_out in EVERY[name].keys() - {"model_type"}:
        values = {key: value for key, value in EVERY[name].items() if key != left_out}
        try:
            _, ours = from_hf(values, "config.json")
        except FathomError:
            continue
        try:
            full = kind.from_dict(deepcopy(values)).to_dict() | {"model_type": EVERY[name].get("model_type", "llama")}
        except (TypeError, ValueError):
            continue  # transformers refuses it itself
        if (name, left_out) not in ALIKE:
            assert from_hf(full, "config.json")[1].resolved() == ours.resolved(), left_out
