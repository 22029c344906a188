"""Names, shapes and bytes from the config are those of the recorded tensors."""

import re
from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.inspect.look import look
from fathom.inspect.names import Size, check_budget, matches, n_bytes, names, select, shapes, to_bytes
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_name_is_seen_in_its_shape_and_its_bytes(config: ModelConfig) -> None:
    model, size = model_of(config), Size(batch=2, t=11, s=11)
    with torch.no_grad(), look(model, "**") as seen:
        model(ids_for(config))
    assert list(seen) == list(names(config))
    assert {name: tuple(x.shape) for name, x in seen.items()} == shapes(config, size)
    assert {name: x.numel() * 4 for name, x in seen.items()} == n_bytes(config, names(config), size, itemsize=4)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("blocks.*", "blocks.3", True),
        ("blocks.*", "blocks.3.attn", False),
        ("blocks.*.attn", "blocks.3.attn", True),
        ("blocks.**", "blocks.3.attn.z", True),
        ("**", "logits", True),
        ("blocks.1", "blocks.10", False),
        ("blocks.1*", "blocks.10", True),
        ("**.pattern", "blocks.0.attn.pattern", True),
        ("block.", "blocks", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_the_order_is_that_of_computation_and_names_are_unique() -> None:
    chosen = select(LLAMA, ["logits", "blocks.*.resid_post", "blocks.1", "embed"])
    assert chosen == ["embed", "blocks.0", "blocks.1", "blocks.2", "logits"]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("blocks.0.atn.pattern", "blocks.0.attn.pattern"),
        ("blocks.*.attn.patern", "blocks.*.attn.pattern"),
        ("blocks.9.attn", "blocks.0.attn"),
        ("blocks.0.mlp.gate", "blocks.0.mlp"),
        ("xyz", "embed"),
    ],
)
def test_an_unknown_name_comes_with_near_ones(pattern: str, hint: str) -> None:
    with pytest.raises(FathomError, match="matches nothing") as caught:
        select(GPT, [pattern])
    assert hint in str(caught.value)


def test_a_pattern_is_required() -> None:
    with pytest.raises(FathomError, match="no pattern"):
        select(GPT, [])


def test_the_budget_names_the_largest() -> None:
    size = Size(batch=1, t=100, s=1000)
    with pytest.raises(FathomError, match=r"more than max_bytes=1\.0 MiB \(largest: blocks\.0\.attn\.scores 2\.3 MiB"):
        check_budget(GPT, names(GPT), size, itemsize=4, max_bytes=2**20)
    total = sum(n_bytes(GPT, names(GPT), size, itemsize=4).values())
    check_budget(GPT, names(GPT), size, itemsize=4, max_bytes=total)
    with pytest.raises(FathomError):
        check_budget(GPT, names(GPT), size, itemsize=4, max_bytes=total - 1)


@pytest.mark.parametrize(
    ("text", "expected"), [("2GiB", 2**31), ("1.5 MB", 1_500_000), (7, 7), ("12", 12), ("3KiB", 3072), ("0B", 0)]
)
def test_bytes_as_text(text: str | int, expected: int) -> None:
    assert to_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "2 gigs", "-1", "1.2.3MB", "."])
def test_bytes_that_are_none(text: str) -> None:
    with pytest.raises(FathomError, match="max_bytes"):
        to_bytes(text)


def test_the_page_lists_every_name_with_its_shape() -> None:
    page = (ROOT / "docs" / "taps.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([\w ]+) \|", page, re.MULTILINE)
    known = {
        re.sub(r"\.\d+", ".L", name): " ".join(letters)
        for config in ARCHITECTURES.values()
        for name, letters in names(config).items()
    }
    assert dict(rows) == known
