"""Neighbours on the ladder differ in exactly one declared field; it begins as a bigram and ends as LLaMA."""

import dataclasses
from itertools import pairwise

import pytest

from fathom.experiments.rungs import rungs
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from tests.house.source import ROOT, functions, tree

LADDER = rungs(65)
SIZES = {"vocab_size", "context_length", "d_model", "n_layer", "n_head", "n_kv_head", "d_ff"}


@pytest.mark.parametrize("below, above", list(pairwise(LADDER)), ids=[rung.key for rung in LADDER[1:]])
def test_neighbours_differ_in_one_field(below: object, above: object) -> None:
    old, new = (dataclasses.asdict(rung.config) for rung in (below, above))  # type: ignore[attr-defined]
    assert len([name for name in old if old[name] != new[name]]) == 1


def test_the_ladder_leads_from_a_bigram_over_gpt_to_llama() -> None:
    configs = {rung.key: rung.config for rung in LADDER}
    assert LADDER[0].config.n_layer == 0
    assert not words(configs["depth"], GPT2) - {"bias", "tie_embeddings"}
    assert not words(LADDER[-1].config, LLAMA2_7B)


def words(a: ModelConfig, b: ModelConfig) -> set[str]:
    """The choices, sizes aside, in which two configs differ."""
    return {f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)} - SIZES


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.key)
def test_what_a_rung_points_to_is_there(rung: object) -> None:
    idea = rung.idea  # type: ignore[attr-defined]
    path, name = idea.source.split(":")
    classes = [node.name for node in tree(ROOT / "src" / path).body if hasattr(node, "name")]
    assert name.split(".")[-1] in classes + [f.name for f in functions(ROOT / "src" / path)]
    assert not idea.page or (ROOT / "docs" / idea.page).is_file()
