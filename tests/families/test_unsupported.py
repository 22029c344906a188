"""Models of other families are refused by their own names, or with the nearest family and what differs from it."""

import re
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.families.registry import families, from_gguf, from_hf
from fathom.families.unsupported import OTHER_ARCHITECTURES, REASONS
from tests.formats.hf import LLAMA

TENSORS = [place.name for place in families()["llama"].columns["gguf"].tensors.values()]


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


@pytest.mark.parametrize(
    "name, says",
    [
        ("deepseek2", "'deepseek2'; its attention is MLA"),
        ("qwen35moe", "DeltaNet"),
        ("mamba", "Mamba"),
        ("nemotron_h", "Mamba"),
        ("lfm2", "short convolutions"),
        ("llama4", "chunked attention"),
        ("bitnet", "BitNet"),
        ("rwkv7", "recurrence"),
        ("t5encoder", "encoder"),
        ("nomic-bert", "both sides"),
        ("gemma3n", "embeddings of their own"),
        ("baichuan", "that is supported is llama; this one has the same tensors, but may compute something else$"),
        ("orion", "that is supported is llama; this one has more blk.N.attn_sinks$"),
    ],
)
def test_the_reason_for_an_architecture_is_one_line(name: str, says: str) -> None:
    tensors: dict[str, Any] = {f"{part.replace('.N.', '.0.')}.weight": None for part in TENSORS}
    if name == "orion":
        tensors["blk.0.attn_sinks.weight"] = None
    with pytest.raises(FathomError, match=says) as refused:
        from_gguf({"general.architecture": name}, tensors, "x.gguf")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 240


def test_no_architecture_that_is_supported_has_a_reason() -> None:
    known = {id for family in families().values() if "gguf" in family.columns for id in family.columns["gguf"].ids}
    assert not [id for id in known for x in {**REASONS, **OTHER_ARCHITECTURES} if re.fullmatch(x, id)]


def test_without_any_known_key_the_families_are_listed() -> None:
    with pytest.raises(FathomError, match="supported are apertus, arcee, "):
        from_hf({"model_type": "quux"}, "config.json")
