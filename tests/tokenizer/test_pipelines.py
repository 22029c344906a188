"""Every pipeline that published models have, and real tokenizers, against the `tokenizers` library on hostile texts."""

import json
from functools import cache
from pathlib import Path

import pytest
import tokenizers

from fathom.generation.text import TextDecoder
from fathom.tokenizer.load import read_folder
from fathom.tokenizer.protocol import Tokenizer, safe_chunks, slices
from fathom.tokenizer.tokenizer_json import from_json, from_library_json
from tests.tokenizer.folders import ANY
from tests.tokenizer.hostile import hostile
from tests.tokenizer.pipelines import PIPELINES

REAL = ("gemma3", "llama3_1", "qwen3")
SIZES = pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])


@cache
def built(name: str) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    values = PIPELINES[name]()
    return from_library_json(values), reference(json.dumps(values))


def reference(values: str) -> tokenizers.Tokenizer:
    """The library's own; text that spells a special token stays text."""
    hf = tokenizers.Tokenizer.from_str(values)
    hf.no_truncation()
    hf.no_padding()
    hf.encode_special_tokens = True
    return hf


def same(ours: Tokenizer, theirs: tokenizers.Tokenizer, count: int) -> None:
    """The same ids, the same text of them, whole and token by token."""
    assert ours.prefix == theirs.encode("").ids[: len(ours.prefix)]
    added = [token.content for token in theirs.get_added_tokens_decoder().values()]
    for text in hostile(count, [*added[:40], *added[-40:]]):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, text
        decoded = theirs.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids) == decoded, text
        decoder = TextDecoder(ours, [])
        assert "".join([*map(decoder.push, ids), decoder.flush()]) == decoded, text
        assert b"".join(ours.token_bytes(ids)) == ours.decode_bytes(ids), text


@pytest.mark.parametrize("name", PIPELINES)
@SIZES
def test_a_pipeline_gives_what_the_library_gives(name: str, count: int) -> None:
    same(*built(name), count)


@pytest.mark.parametrize("name", REAL)
@SIZES
def test_a_real_tokenizer_gives_what_the_library_gives(name: str, count: int, shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / name
    ours = read_folder(folder, ANY)
    assert ours is not None
    assert (ours.cut("some words") == 4) == (name != "gemma3"), "a corpus is encoded in chunks, where words are known"
    same(ours, reference((folder / "tokenizer.json").read_text(encoding="utf-8")), count)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_goes_through_a_run(name: str) -> None:
    ours, _ = built(name)
    again = from_json(json.loads(json.dumps(ours.to_json())))
    assert (again.to_json(), type(again)) == (ours.to_json(), type(ours))
    assert [again.encode(text) for text in hostile(20)] == [ours.encode(text) for text in hostile(20)]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_long_text_in_pieces_equals_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end only where whatever follows changes no token."""
    monkeypatch.setattr("fathom.tokenizer.bpe.CHUNK", 23)
    ours, theirs = built(name)
    added = [token.content for token in theirs.get_added_tokens_decoder().values()]
    for text in [" the".join(hostile(12, added, seed)) for seed in range(40)]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, text
        streamed = [id for part in safe_chunks(slices(text, 31), ours.cut) for id in ours.encode(part)]
        assert streamed == ids, text


@pytest.mark.parametrize("name", ["gpt-2", "llama 3, lacks bytes", "nfkc", "smollm 2", "tekken", "glm 4", "deepseek 3"])
def test_a_long_text_is_cut(name: str) -> None:
    """Where words are known to end, so that a corpus is encoded by all cores in bounded memory."""
    ours, _ = built(name)
    assert ours.cut("some words and, (more)  of  them") == len("some words and, (more)  of ") - 1


SPELLED = {
    "unigram",
    "unigram, added",
    "unigram, nfkc",
    "unigram, bytes",
    "t5",
    "wordpiece",
    "llama 2, no bytes",
}  # by the model itself
WITH_BYTES = {"gemma", "gemma, added", "llama 2", "llama 2, added", "llama 2, no space first", "llama 2, metaspace"}


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in SPELLED])
def test_text_that_spells_a_special_token_stays_text(name: str) -> None:
    ours, _ = built(name)
    assert ours.special.names
    special = {*ours.special.names.values()}
    assert not special & {id for text in ours.special.names for id in ours.encode(f"a {text}b")}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_class_that_knows_a_pipeline_best(name: str) -> None:
    library = SPELLED | {"metaspace, always"}
    expected = "byte_fallback" if name in WITH_BYTES else "library" if name in library else "bpe"
    assert built(name)[0].kind == expected
