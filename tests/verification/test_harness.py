"""A model asked through lm-eval answers as in lm-eval's own backend for Hugging Face: log-likelihoods, whole texts, and
what it writes."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fathom
from fathom.errors import FathomError
from tests.extras import extra

extra("lm_eval", "eval")
from fathom.verification.harness import HarnessModel  # noqa: E402
from tests.verification import harness_models  # noqa: E402

MAKERS = {"stories260K": harness_models.stories, "qwen3": harness_models.qwen}
STORY = harness_models.STORY
PAIRS = [
    *[(text, choice) for text, choices, _ in harness_models.QUESTIONS for choice in choices],
    ("Tim", "my"),  # one word in two
    ("Lily and", "y"),  # joined by the tokenizer, perhaps with what comes before
    ("a", " b c d e f g"),
    ("  ", "two spaces"),
    ("x\n\n", "\n\ny"),
    ("<|im_start|>user\nhi<|im_end|>\n", "ok"),  # special tokens spelled
    ("Né à", " Paris 😀"),
    (STORY * 100, " the end"),
]


@pytest.fixture(scope="module", params=MAKERS)
def both(request: Any, shared_data: Path, tmp_path_factory: Any) -> tuple[Any, HarnessModel]:
    """lm-eval's model and ours, of the same files, in fp32."""
    from lm_eval.models.huggingface import HFLM

    folder = MAKERS[request.param](shared_data, tmp_path_factory.mktemp("model") / request.param)
    theirs = HFLM(str(folder), device="cpu", dtype="float32", batch_size=3)
    model, tokenizer = fathom.load(folder, dtype="fp32", device="cpu", for_inference=True)
    assert tokenizer is not None
    return theirs, HarnessModel(model, tokenizer, batch_size=4)


def asked(*requests: tuple[Any, ...]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=request, task_name="t") for request in requests]


def close(ours: Sequence[float], theirs: Sequence[float]) -> None:
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert math.isclose(a, b, abs_tol=1e-5, rel_tol=1e-6), (number, a, b)


def test_loglikelihoods_are_those_of_the_other_backend(both: tuple[Any, HarnessModel]) -> None:
    theirs, ours = both
    pairs, joined, alone = [], [], []
    for context, continuation in PAIRS:  # theirs fails where the tokenizer leaves nothing to read or to score
        before, after = theirs._encode_pair(context, continuation) if context else ([0], [0])
        (pairs if before and after else joined if before else alone).append((context, continuation))
    expected, found = theirs.loglikelihood(asked(*pairs)), ours.loglikelihood(asked(*pairs))
    close([a for a, _ in found], [a for a, _ in expected])
    assert [a for _, a in found] == [a for _, a in expected]
    assert len(pairs) > 20 and len({round(a, 3) for a, _ in found}) > len(pairs) - 3
    assert ours.loglikelihood(asked(*alone)) == ours.loglikelihood(asked(*[("", a + b) for a, b in alone]))
    for pair in joined:
        with pytest.raises(FathomError, match=r"adds no token to .*target_delimiter"):
            ours.loglikelihood(asked(pair))


def test_texts_are_those_of_the_other_backend(both: tuple[Any, HarnessModel]) -> None:
    theirs, ours = both
    texts = [(STORY,), ("a",), (STORY * 30,), ("Né à Paris",)]
    close(ours.loglikelihood_rolling(asked(*texts)), theirs.loglikelihood_rolling(asked(*texts)))


def test_answers_are_those_of_the_other_backend(both: tuple[Any, HarnessModel]) -> None:
    theirs, ours = both
    until = [{"until": ["\n"], "max_gen_toks": 24}, {"until": [". ", "the"], "max_gen_toks": 30, "do_sample": False}]
    until += [{"max_gen_toks": 12}, {"until": " ", "max_gen_toks": 9}]
    texts = ["Once upon a time", "Lily", "<|im_start|>user\nhi", STORY * 40, "Tom and"]
    requests = [(text, settings) for settings in until for text in texts]
    expected, found = theirs.generate_until(asked(*requests)), ours.generate_until(asked(*requests))
    assert found == expected
    assert len(set(found)) > len(found) // 3


def test_tokens_are_those_of_the_other_backend(both: tuple[Any, HarnessModel]) -> None:
    theirs, ours = both
    bos = theirs.tokenizer.decode([theirs.prefix_token_id])
    for text in ("", " a", f"{bos}a", f"{bos} a", "a<|im_end|>b", "Né à\n\n 😀", *(text for text, _ in PAIRS)):
        for special in (None, True, False):
            assert ours.tok_encode(text, special) == theirs.tok_encode(text, special), (text, special)
    assert ours.prefix_token_id == theirs.prefix_token_id and ours.max_length == theirs.max_length
