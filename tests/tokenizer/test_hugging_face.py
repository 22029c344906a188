"""Hugging Face's folders against transformers: the same ids and the same bos, read from it and written for it."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer import bpe, load
from fathom.tokenizer.bpe import byte_letters
from fathom.tokenizer.load import read_folder, to_folder
from fathom.tokenizer.protocol import Special, Tokenizer
from tests.tokenizer.folders import TEXT, added, auto, put, small, template

transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY = st.lists(
    st.sampled_from(
        [*" \n\t\r\xa0\u3000▁'sStdrelv.!,<>|_-/", *"aeé1²東😀\u0301", "<s>", "</s>", "<0x41>", "  ", "the"]
    ),
    max_size=60,
).map("".join)
SPLIT = {"split_special_tokens": True}  # special tokens in a user's text are text


@pytest.fixture(scope="module")
def llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaMA 2's tokenizer as transformers converts it: a Metaspace puts the first space there."""
    folder = tmp_path_factory.mktemp("llama")
    shutil.copyfile(shared_data / "llama2_tokenizer.model", folder / "tokenizer.model")
    transformers.LlamaTokenizerFast.from_pretrained(folder).save_pretrained(folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def published(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as the published LLaMA 2 has it: normalisers put the space there, a template puts <s> there."""
    values = json.loads((llama / "tokenizer.json").read_text())
    steps = [bpe.PREPEND, bpe.REPLACE]
    values |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    values["post_processor"] = template("<s>", 1)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": added("</s>")}
    return put(tmp_path_factory.mktemp("published"), tokenizer__json=values, tokenizer_config__json=config)


@pytest.fixture(scope="module", params=["converted", "published"])
def style(request: pytest.FixtureRequest, llama: Path, published: Path) -> Path:
    return llama if request.param == "converted" else published


@pytest.fixture(scope="module")
def both(style: Path) -> tuple[Tokenizer, Any]:
    ours = read_folder(style, 32000)
    assert ours is not None
    return ours, auto(style, **SPLIT)


@given(text=UNICODE | TRICKY)
@settings(max_examples=300)
def test_llama_2_encodes_as_transformers_does(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    assert ours.prefix + ours.encode(text) == reference(text).input_ids
    assert ours.encode_array(text).tolist() == ours.encode(text)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200)
def test_llama_2_decodes_as_transformers_does(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    ids = ours.encode(text)
    assert ours.decode(ids) == reference.decode(ids, clean_up_tokenization_spaces=False)
    assert ours.decode_bytes(ids).decode() == ours.decode(ids)


def test_llama_2_knows_its_special_tokens(style: Path, both: tuple[Tokenizer, Any]) -> None:
    ours, reference = both
    start = reference("").input_ids
    assert start == ([1] if "published" in style.name else [])
    assert replace(ours.special, settings={}) == Special(
        1, 2, names={"<unk>": 0, "<s>": 1, "</s>": 2}, prefix=tuple(start)
    )
    assert not {0, 1, 2} & {*ours.encode("<s></s><unk> <s>")}


def test_llama_2_goes_through_a_run(both: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, _ = both
    load.save(ours, tmp_path / "tokenizer.json")
    again = load.load(tmp_path)
    assert again.to_json() == ours.to_json()
    assert (again.kind, again.special, again.encode(TEXT)) == (ours.kind, ours.special, ours.encode(TEXT))


def test_a_long_text_in_pieces_equals_the_whole(both: tuple[Tokenizer, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, reference = both
    monkeypatch.setattr("fathom.tokenizer.bpe.CHUNK", 53)
    text = " ▁ a" + TEXT + "  ▁ ▁▁ x" + " " * 200 + TEXT.replace(" ", "\n ▁  ")
    assert ours.encode(text) == reference(text, add_special_tokens=False).input_ids


@given(text=TRICKY)
@settings(max_examples=200)
def test_a_cut_tears_no_token(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = both
    for cut in {ours.cut(text[:end]) for end in range(len(text) + 1)}:
        assert ours.encode(text[:cut]) + ours.encode(text[cut:]) == reference(text, add_special_tokens=False).input_ids


def test_where_it_is_cut(llama: Path, published: Path) -> None:
    ends = [load.load(folder).cut("some words") for folder in (llama, published)]
    assert ends == [4, 0]  # a normaliser would put a space before the second part


@pytest.fixture(scope="module")
def gpt2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's files as published, the vocabulary written out."""
    merges = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8")
    pairs = [line.split(" ") for line in merges.split("\n") if line and not line.startswith("#version")]
    tokens = [*byte_letters(), *map("".join, pairs), "<|endoftext|>"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    return put(tmp_path_factory.mktemp("gpt2"), merges__txt=merges, vocab__json=vocabulary, config__json=GPT2_CONFIG)


GPT2_CONFIG = {"model_type": "gpt2"}


def test_gpt2_from_merges_alone_is_gpt2(gpt2: Path, tmp_path: Path) -> None:
    shutil.copyfile(gpt2 / "merges.txt", tmp_path / "merges.txt")
    whole, alone = read_folder(gpt2, 50257), read_folder(tmp_path, 50257)
    assert whole is not None and alone is not None
    assert whole.to_json()["tokenizer"]["model"] == alone.to_json()["tokenizer"]["model"] | {
        "vocab": whole.to_json()["tokenizer"]["model"]["vocab"]
    }
    assert whole.special == alone.special == Special(eos=50256, names={"<|endoftext|>": 50256})
    assert [whole.decode_bytes([id]) for id in range(50257)] == [alone.decode_bytes([id]) for id in range(50257)]
    assert load.load(tmp_path / "merges.txt").encode(TEXT) == whole.encode(TEXT)


@pytest.fixture(scope="module")
def gpt2_both(gpt2: Path) -> tuple[Tokenizer, Any]:
    ours = read_folder(gpt2, 50257)
    assert ours is not None
    return ours, auto(gpt2, **SPLIT)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200)
def test_gpt2_encodes_as_transformers_does(gpt2_both: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = gpt2_both
    assert ours.encode(text) == reference(text).input_ids
    assert ours.decode(ours.encode(text)) == text


def test_more_tokens_than_the_model_has(gpt2: Path, published: Path, shared_data: Path, tmp_path: Path) -> None:
    """A few tokens beyond the model's rows open, and only using them is an error; many are of another model."""
    tokenizer = read_folder(gpt2, 50256)
    assert tokenizer is not None and tokenizer.vocab_size == 50257
    assert read_folder(published, 31999) is not None
    with pytest.raises(FathomError, match="32000 tokens; the model has 20000"):
        read_folder(published, 20000)
    with pytest.raises(FathomError, match="ids run from 0 to 299"):
        read_folder(put(tmp_path, tokenizer__json=small()), 300, [300])


def kinds() -> Iterator[tuple[str, Callable[[Path, Path], Tokenizer]]]:
    chars = "".join(sorted({*TEXT, *"<>|/▁\r\t\xa0éa1"}))
    yield "gpt2", lambda gpt2, published: load.load(gpt2)
    yield "byte_fallback", lambda gpt2, published: load.load(published)
    yield "metaspace", lambda gpt2, published: load.load(published.parent / "llama0" / "converted")
    yield "byte", lambda gpt2, published: load.make("byte", [])
    yield "character", lambda gpt2, published: load.make("char", [chars])
    yield "bpe", lambda gpt2, published: load.make("bpe:300", [TEXT])


@pytest.fixture(scope="module", params=[name for name, _ in kinds()])
def handed_on(
    request: pytest.FixtureRequest, gpt2: Path, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any, Tokenizer]:
    return hand_on(dict(kinds())[request.param](gpt2, published), tmp_path_factory.mktemp("handed_on"))


def hand_on(ours: Tokenizer, folder: Path) -> tuple[Tokenizer, Any, Tokenizer]:
    """A tokenizer, what transformers makes of its files, and what we read in them."""
    for name, data in to_folder(ours).items():
        (folder / name).write_bytes(data)
    put(folder, config__json={"model_type": "llama", "vocab_size": ours.vocab_size})
    again = read_folder(folder, ours.vocab_size)
    assert again is not None
    return ours, auto(folder, **SPLIT), again


def same(handed_on: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    ours, reference, again = handed_on
    try:
        ids = ours.encode(text)
    except OutsideVocabulary:
        with pytest.raises(Exception, match="UNK"):
            reference(text)
        return
    assert again.encode(text) == ids
    assert reference(text).input_ids == ours.prefix + ids
    assert again.decode(ids) == ours.decode(ids)


@given(text=UNICODE | TRICKY)
@settings(max_examples=200)
def test_what_is_handed_on_is_the_same_tokenizer(handed_on: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    same(handed_on, text)


def test_special_tokens_are_handed_on(handed_on: tuple[Tokenizer, Any, Tokenizer]) -> None:
    ours, reference, again = handed_on
    assert replace(again.special, settings={}) == replace(ours.special, settings={})
    assert (reference.bos_token_id, reference.eos_token_id) == (ours.bos, ours.eos)
    assert len(reference) == again.vocab_size == ours.vocab_size


@pytest.fixture(scope="module")
def sentencepiece(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any, Tokenizer]:
    return hand_on(load.load(shared_data / "llama2_tokenizer.model"), tmp_path_factory.mktemp("sentencepiece"))


@given(text=UNICODE | TRICKY | st.text(" \n", max_size=80))
@settings(max_examples=500)
def test_sentencepiece_is_handed_on_as_merges(sentencepiece: tuple[Tokenizer, Any, Tokenizer], text: str) -> None:
    same(sentencepiece, text)


def test_sentencepiece_is_handed_on_as_it_was_too(
    sentencepiece: tuple[Tokenizer, Any, Tokenizer], shared_data: Path
) -> None:
    _, reference, again = sentencepiece
    same(sentencepiece, (shared_data / "tinyshakespeare.txt").read_text()[:100_000])
    assert (again.bos, again.eos, reference.bos_token_id, reference.eos_token_id) == (1, 2, 1, 2)
    assert not {0, 1, 2} & {*again.encode("<s></s><unk>")}


def test_the_template_is_handed_on(tmp_path: Path) -> None:
    chat = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    put(tmp_path, tokenizer__json=small(), chat_template__jinja=chat)
    first = read_folder(tmp_path, 300)
    assert first is not None
    (tmp_path / "again").mkdir()
    _, reference, again = hand_on(first, tmp_path / "again")
    assert again.special.template == reference.chat_template == chat
