"""Rows are told in order and as early as can be."""

from fathom.generation.generate import BETWEEN, show, stream
from fathom.tokenizer.characters import ByteTokenizer
from tests.generation.models import random_model

GIVEN = {"max_new_tokens": 20, "seed": 2}


def test_one_row_is_told_token_by_token_after_its_prompt() -> None:
    told: list[str] = []
    (found,) = show(stream(random_model("llama"), ByteTokenizer(), "Once", **GIVEN), told.append)
    assert told[0] == "Once" and "".join(told) == "Once" + found.text and len(told) > 10


def test_rows_are_told_one_after_the_other() -> None:
    told: list[str] = []
    found = show(stream(random_model("llama"), ByteTokenizer(), ["a", "bc"], num_samples=2, **GIVEN), told.append)
    assert "".join(told) == BETWEEN.join(c.prompt + c.text for c in found)


def test_without_echo_the_continuations_alone() -> None:
    told: list[str] = []
    found = show(stream(random_model("llama"), ByteTokenizer(), ["a", "bc"], **GIVEN), told.append, echo=False)
    assert "".join(told) == BETWEEN.join(c.text for c in found)


def test_a_row_waits_only_for_those_before_it() -> None:
    """The first row stops early; from then on the second is told as it is written."""
    model, tokenizer = random_model("llama"), ByteTokenizer()
    first = stream(model, tokenizer, ["a", "bc"], **GIVEN).collect()[0].text
    told: list[str] = []
    show(stream(model, tokenizer, ["a", "bc"], stop=first[3:6], **GIVEN), told.append)
    assert len(told) > 12
