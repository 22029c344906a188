"""Merges from ranks: GPT-2's own come back, and the library joins as the rule does on any vocabulary."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from fathom.tokenizer.bpe_files import merges_of, read_merges


def test_the_merges_of_gpt2_follow_from_its_vocabulary(shared_data: Path) -> None:
    merges = read_merges(shared_data / "gpt2_merges.txt")
    letters = sorted({letter for pair in merges for token in pair for letter in token})
    ranks = {token: float(rank) for rank, token in enumerate([*letters, *map("".join, merges)])}
    assert len(merges) == 50_000
    assert merges_of(ranks) == merges


def rule(text: str, ranks: dict[str, float]) -> list[str]:
    """Of the pairs side by side join the one that ranks first, the leftmost of equals, until none is a token."""
    tokens = list(text)
    while True:
        pairs = [
            (ranks["".join(pair)], at) for at in range(len(tokens) - 1) if "".join(pair := tokens[at : at + 2]) in ranks
        ]
        if not pairs:
            return tokens
        _, at = min(pairs)
        tokens[at : at + 2] = ["".join(tokens[at : at + 2])]


@given(st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=25), st.text("ab", max_size=40))
@settings(max_examples=1000)
def test_the_library_joins_by_these_merges_as_the_rule_does(words: list[str], text: str) -> None:
    """Any vocabulary, also such as no training gives: words that nothing leads to, many ways into one."""
    ranks = {token: float(rank) for rank, token in enumerate(["a", "b", *words])}
    hf = tokenizers.Tokenizer(models.BPE({token: int(rank) for token, rank in ranks.items()}, merges_of(ranks)))
    assert hf.encode(text).tokens == rule(text, ranks)


@given(st.sets(st.integers(2, 20)), st.integers(0, 60))
def test_equal_ranks_of_runs_of_one_letter(lengths: set[int], count: int) -> None:
    """LLaMA 2's runs of spaces all have the same score; SentencePiece joins the leftmost."""
    ranks = {"a": 0.0, **{"a" * length: 1.0 for length in lengths}}
    hf = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(ranks)}, merges_of(ranks)))
    assert hf.encode("a" * count).tokens == rule("a" * count, ranks)


@pytest.mark.parametrize("token", ["a" * 256, "ab" * 128])
def test_a_long_token_takes_no_time(token: str) -> None:
    parts = {token[:at]: float(at) for at in range(1, len(token) + 1)} | {"b": 0.5}
    assert len(merges_of(parts)) == len(token) - 1
