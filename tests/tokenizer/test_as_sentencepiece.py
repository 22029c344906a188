"""LLaMA 2's tokenizer told as merges, and told as scores again: the same ids as the `tokenizers` library gives."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError
from fathom.tokenizer.bpe import ByteFallbackTokenizer
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.llama2c import to_tokenizer_bin
from fathom.tokenizer.load import load, to_model_file
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, as_sentencepiece, read_sentencepiece
from fathom.tokenizer.tokenizer_json import from_library_json, to_library_json

MARKS = [*"   ▁▁\n\t\r\0\xa0\u3000", *"theca.s<>0xA12", *"é東😀\u0301", "    ", "</s>", "Hello", " world"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(MARKS), max_size=60).map("".join)
Pair = tuple[ByteFallbackTokenizer, Tokenizer]


def values_of(shared_data: Path) -> dict[str, Any]:
    return to_library_json(read_sentencepiece(shared_data / "llama2_tokenizer.model", 32_000))


def as_bpe(values: dict[str, Any]) -> ByteFallbackTokenizer:
    tokenizer = from_library_json(values)
    assert isinstance(tokenizer, ByteFallbackTokenizer)
    return tokenizer


@pytest.fixture(scope="module", params=["one merge a token", "every merge, by id", "every merge, by score"])
def llama(request: pytest.FixtureRequest, shared_data: Path) -> Pair:
    """As a `tokenizer.json` has it: with the merges that are used, or as transformers writes them down, with all."""
    values = values_of(shared_data)
    if request.param != "one merge a token":
        reference = pytest.importorskip("transformers.tokenization_utils_base", reason="needs the extra `peers`")
        pieces = read_sentencepiece(shared_data / "llama2_tokenizer.model", 32_000).pieces
        scores = dict(zip(pieces.texts, pieces.scores)) if request.param.endswith("score") else None
        merges = reference.generate_merges(values["model"]["vocab"], scores, {"<s>", "</s>", "<unk>"})
        values["model"]["merges"] = [list(merge) for merge in merges]
    tokenizer = as_bpe(values)
    return tokenizer, as_sentencepiece(tokenizer)


@given(text=TEXTS)
@settings(max_examples=500)
def test_the_same_ids(llama: Pair, text: str) -> None:
    bpe, pieces = llama
    assert isinstance(pieces, SentencePieceTokenizer)
    assert pieces.encode(text) == bpe.hf.encode(text, add_special_tokens=False).ids


def test_the_same_ids_of_runs_of_spaces(llama: Pair) -> None:
    bpe, pieces = llama
    for count in range(1, 70):
        for text in (" " * count, "a" + " " * count + "the", "\n" + " " * count + "x  y"):
            assert pieces.encode(text) == bpe.hf.encode(text, add_special_tokens=False).ids


def test_the_same_special_tokens_and_texts(llama: Pair) -> None:
    bpe, pieces = llama
    assert (pieces.special, pieces.vocab_size) == (bpe.special, bpe.vocab_size)
    ids = [id for id in range(3, 32_000) if id not in bpe.special.names.values()]
    assert pieces.decode_bytes(ids) == bpe.decode_bytes(ids)


def test_it_goes_where_only_pieces_can(shared_data: Path, tmp_path: Path) -> None:
    bpe = as_bpe(values_of(shared_data))
    again = from_gguf(to_gguf(bpe, 32_000))
    assert again is not None
    text = "  Hello   world\n    <s> 東京 ½"
    assert again.encode(text) == bpe.encode(text)
    assert (again.bos, again.eos) == (bpe.bos, bpe.eos)
    for name, data in (("model", to_model_file(bpe)), ("bin", to_tokenizer_bin(bpe))):
        (tmp_path / name).write_bytes(data)
        assert load(tmp_path / name).encode(text) == bpe.encode(text)


def test_other_tokenizers_stay_what_they_are() -> None:
    tokenizer = ByteTokenizer()
    assert as_sentencepiece(tokenizer) is tokenizer


def torn(values: dict[str, Any]) -> None:
    """Two merges make `▁the`, and another's stands between them."""
    merges = values["model"]["merges"]
    merges.insert(0, ["▁t", "he"])


def missing(values: dict[str, Any]) -> None:
    values["model"]["merges"].remove(next(merge for merge in values["model"]["merges"] if "".join(merge) == "▁the"))


def metaspace(values: dict[str, Any]) -> None:
    values["normalizer"] = None
    values["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    "fault, problem",
    [
        (torn, "one score for each token cannot express"),
        (missing, "one score for each token cannot express"),
        (metaspace, "SentencePiece cannot express how spaces are handled"),
    ],
)
def test_what_has_no_equal_is_one_line(fault: Any, problem: str, shared_data: Path) -> None:
    values = values_of(shared_data)
    values["model"]["merges"] = [list(merge) for merge in values["model"]["merges"]]
    fault(values)
    with pytest.raises(FathomError, match=problem):
        as_sentencepiece(as_bpe(values))
