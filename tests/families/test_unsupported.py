"""Models of other families are refused by their own names, or with the nearest family and what differs from it."""

from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.families.registry import from_hf
from tests.formats.hf import LLAMA


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "deepseek_v3"}, "'deepseek_v3'.*MLA"),
        ({"model_type": "qwen3_next"}, "DeltaNet"),
        ({"model_type": "qwen3_5_text"}, "DeltaNet"),
        ({"model_type": "lfm2"}, "short convolutions"),
        ({"model_type": "jamba"}, "Mamba"),
        ({"model_type": "falcon_h1"}, "Mamba"),
        ({"model_type": "llama4_text"}, "chunked attention"),
        ({"model_type": "bitnet"}, "BitNet"),
        ({"model_type": "gpt_oss"}, "sinks"),
        ({"model_type": "bert"}, "both sides"),
        (
            {"model_type": "qwen9", "gate_temperature": 2.0},
            "nearest family is Qwen.* has no gate_temperature$",
        ),
        ({"model_type": "quux", "n_moons": 2}, "nearest family is .*whose config has no n_moons$"),
    ],
)
def test_the_reason_is_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says) as refused:
        from_hf(LLAMA | change, "config.json")
    assert "\n" not in str(refused.value)


def test_without_any_known_key_the_families_are_listed() -> None:
    with pytest.raises(FathomError, match="supported are arcee, "):
        from_hf({"model_type": "quux"}, "config.json")
