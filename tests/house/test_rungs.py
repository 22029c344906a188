"""Neighbours on the ladder differ in exactly one declared field; it begins as a bigram and ends as LLaMA."""

import dataclasses
from itertools import pairwise

import pytest

from fathom.experiments.rungs import difference, rungs
from fathom.experiments.take_aways import TAKE_AWAYS, take_aways
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


def test_every_rung_adds_to_the_residual_stream() -> None:
    assert all(rung.config.residual for rung in LADDER)


@pytest.mark.parametrize("rung", take_aways(LADDER), ids=lambda rung: rung.key)
def test_a_take_away_lacks_one_idea(rung: object) -> None:
    """One field, or what every Attention calls; one head has its own keys and values, so there two fields change."""
    whole = next(each for each in LADDER if each.key == rung.whole)  # type: ignore[attr-defined]
    changed = set(difference(whole.config, rung.config))  # type: ignore[attr-defined]
    if rung.key == "llama-heads":  # type: ignore[attr-defined]
        assert changed == {"n_head", "n_kv_head"}
    else:
        assert len(changed) == (0 if rung.attend else 1)  # type: ignore[attr-defined]


def words(a: ModelConfig, b: ModelConfig) -> set[str]:
    """The choices, sizes aside, in which two configs differ."""
    return {f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)} - SIZES


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.key)
def test_what_a_rung_points_to_is_there(rung: object) -> None:
    path, name = rung.idea.source.split(":")  # type: ignore[attr-defined]
    classes = [node.name for node in tree(ROOT / "src" / path).body if hasattr(node, "name")]
    assert name.split(".")[-1] in classes + [f.name for f in functions(ROOT / "src" / path)]


def test_every_idea_has_its_page() -> None:
    pages = {rung.page for rung in LADDER} | {idea.page for idea in TAKE_AWAYS}
    assert all((ROOT / "docs" / page).is_file() for page in pages)
