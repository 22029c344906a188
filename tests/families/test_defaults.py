"""What transformers takes for a theta that config.json leaves out: every family's own."""

import pytest

from fathom.families.registry import from_hf
from tests.formats.hf import LLAMA


@pytest.mark.parametrize("kind", ["llama", "cohere", "ernie4_5", "helium", "smollm3", "qwen2", "phi3"])
def test_a_theta_that_is_missing(kind: str) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    change = LLAMA | {"model_type": kind, "head_dim": 4, "pad_token_id": None}
    family, config = from_hf(change, "config.json")
    theirs = getattr(library, family.classes[0]).from_dict(change)
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]
