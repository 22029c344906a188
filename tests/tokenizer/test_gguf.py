"""The vocabulary in a GGUF file: there and back, and as llama.cpp understands it."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from fathom.errors import FathomError
from fathom.formats import gguf
from fathom.tokenizer import gguf as vocabulary
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.pieces import BYTE_PIECES, Pieces
from fathom.tokenizer.protocol import Special, Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, read_sentencepiece
from fathom.tokenizer.words import ALIASES, LLAMA3_PATTERN, PATTERNS

G = "tokenizer.ggml."
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\n\n and 12345 ½²٣ cats'll",
    "Über naïve café — 東京 😀\t<s>",
    "a.\r\n\r\n B",
]


def gpt2(shared_data: Path, special: Special | None = None) -> BPETokenizer:
    lines = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if not line.startswith("#version") and line]
    vocabulary = [*byte_letters(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    hf = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(vocabulary)}, merges))
    hf.pre_tokenizer, hf.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    hf.add_special_tokens(["<|endoftext|>"])
    return BPETokenizer(hf, special or Special(eos=50256, names={"<|endoftext|>": 50256}))


def like_llama_3(shared_data: Path) -> BPETokenizer:
    """GPT-2's merges behind LLaMA 3's words, with special tokens as LLaMA 3 has them."""
    values = json.loads(gpt2(shared_data).hf.to_str())
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}
    level = values["pre_tokenizer"] | {"use_regex": False}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    values["model"]["ignore_merges"] = True
    hf = tokenizers.Tokenizer.from_str(json.dumps(values))
    hf.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    names = {"<|endoftext|>": 50256, "<|begin_of_text|>": 50257, "<|eot_id|>": 50258}
    return BPETokenizer(hf, Special(50257, 50256, (50258,), names, template="{{ messages }}", prefix=(50257,)))


def llama(shared_data: Path) -> SentencePieceTokenizer:
    return read_sentencepiece(shared_data / "llama2_tokenizer.model", 32_000)


def squeezed(shared_data: Path) -> SentencePieceTokenizer:
    pieces = llama(shared_data).pieces
    return SentencePieceTokenizer(
        Pieces(pieces.texts, pieces.scores, pieces.types, False, True), Special(1, 2, (5, 7), {"<s>": 1, "</s>": 2})
    )


MADE = pytest.mark.parametrize("make", [gpt2, like_llama_3, llama, squeezed, lambda _: ByteTokenizer()])


@MADE
def test_there_and_back(make: Any, shared_data: Path) -> None:
    tokenizer = make(shared_data)
    values = to_gguf(tokenizer, tokenizer.vocab_size + 37)
    assert len(values[G + "tokens"]) == len(values[G + "token_type"]) == tokenizer.vocab_size + 37
    again = from_gguf(values)
    assert again is not None
    assert (type(again), again.vocab_size, again.special) == (type(tokenizer), tokenizer.vocab_size, tokenizer.special)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, 2000)
    assert again.decode_bytes(ids.tolist()) == tokenizer.decode_bytes(ids.tolist())


@MADE
def test_values_are_of_the_kinds_that_a_writer_knows(make: Any, shared_data: Path) -> None:
    tokenizer = make(shared_data)
    values = to_gguf(tokenizer, tokenizer.vocab_size)
    for key, value in values.items():
        kind = {"tokens": str, "merges": str, "scores": float, "token_type": int}.get(key.removeprefix(G))
        assert type(value) in (str, int, bool) if kind is None else all(type(item) is kind for item in value), key


def test_numbers_may_be_arrays(shared_data: Path) -> None:
    values = to_gguf(llama(shared_data), 32_000)
    values |= {
        G + "scores": np.array(values[G + "scores"], np.float32),
        G + "token_type": np.array(values[G + "token_type"], np.int32),
    }
    again = from_gguf(values)
    assert isinstance(again, SentencePieceTokenizer)
    assert replace(again.pieces, apart=False) == llama(shared_data).pieces


def small(**values: Any) -> dict[str, Any]:
    """The metadata of the smallest "llama" vocabulary there is, with other values; None: without it."""
    texts = ["<unk>", "<s>", "</s>", *BYTE_PIECES]
    found = {"model": "llama", "tokens": texts, "scores": [0.0] * 259, "token_type": [2, 3, 3, *[6] * 256]}
    found |= values
    return {G + key: value for key, value in found.items() if value is not None}


def small_bpe(**values: Any) -> dict[str, Any]:
    texts = [*vocabulary._letters(), "ab", "<|end|>"]
    found = {"model": "gpt2", "tokens": texts, "merges": ["a b"], "token_type": [1] * 257 + [3], "pre": "gpt-2"}
    found |= values
    return {G + key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "values, bos, eos, ends",
    [
        ({}, 1, 2, ()),
        ({"bos_token_id": 5, "eos_token_id": 6}, 5, 6, ()),
        ({"add_bos_token": False}, 1, 2, ()),
        ({"eot_token_id": 7, "eom_token_id": 8}, 1, 2, (7, 8)),
        ({"eot_token_id": 2}, 1, 2, ()),
    ],
)
def test_special_tokens_of_llama(values: dict[str, Any], bos: int, eos: int, ends: tuple[int, ...]) -> None:
    tokenizer = from_gguf(small(**values))
    assert tokenizer is not None
    prefix = (bos,) if values.get("add_bos_token", True) else ()
    assert tokenizer.special == Special(bos, eos, ends, {"<s>": 1, "</s>": 2}, prefix=prefix)


@pytest.mark.parametrize(
    "values, bos, eos, adds",
    [
        ({}, None, None, False),
        ({"bos_token_id": 257, "eos_token_id": 257}, 257, 257, False),
        ({"bos_token_id": 257, "add_bos_token": True}, 257, None, True),
        ({"bos_token_id": 257, "pre": "llama-bpe"}, 257, None, True),
        ({"bos_token_id": 257, "pre": "llama-bpe", "add_bos_token": False}, 257, None, False),
    ],
)
def test_special_tokens_of_gpt2(values: dict[str, Any], bos: int, eos: int, adds: bool) -> None:
    tokenizer = from_gguf(small_bpe(**values))
    assert tokenizer is not None
    assert tokenizer.special == Special(bos, eos, names={"<|end|>": 257}, prefix=(bos,) if adds else ())
    assert tokenizer.encode("ab<|end|>")[:2] == [256, 60]
    assert 257 not in tokenizer.encode("ab<|end|>")


@pytest.mark.parametrize("pre, ids", [("gpt-2", [256, 99]), ("llama-bpe", [258])])
def test_a_word_that_is_a_token_becomes_it_in_llama_3(pre: str, ids: list[int]) -> None:
    """Also where, as here, no merges make it."""
    more = {"tokens": [*small_bpe()[G + "tokens"], "abc"], "token_type": [1] * 257 + [3, 1]}
    tokenizer = from_gguf(small_bpe(pre=pre, **more))
    assert tokenizer is not None
    assert tokenizer.encode("abc") == ids


@pytest.mark.parametrize("type, size", [(5, 258), (1, 259)])
def test_only_unused_tokens_are_left_away(type: int, size: int) -> None:
    more = {"tokens": [*small_bpe()[G + "tokens"], "[PAD258]"], "token_type": [1] * 257 + [3, type]}
    tokenizer = from_gguf(small_bpe(**more))
    assert tokenizer is not None
    assert tokenizer.vocab_size == size


@pytest.mark.parametrize("values", [{}, {G + "model": "none"}, {G + "model": "no_vocab"}])
def test_no_vocabulary_is_none(values: dict[str, Any]) -> None:
    assert from_gguf(values) is None


@pytest.mark.parametrize(
    "values, problem",
    [
        ({G + "model": "bert"}, "model is 'bert'; supported are llama, gpt2"),
        ({G + "model": 3}, "model is 3; expected str"),
        (small(tokens=None), "tokens is None; expected a list of str"),
        (small(tokens=["a", b"\xff"]), "tokens is .*; expected a list of str"),
        (small(token_type=None), "token_type is None; expected a list of int"),
        (small(token_type=[1]), "tokens has 259 entries, token_type 1"),
        (small(scores=None), "scores is None; expected a list of float"),
        (small(scores=[0.0]), "259 pieces with 1 scores"),
        (small(scores=[float("nan")] * 259), "piece 0 has the score nan"),
        (small(token_type=[0] * 259), "piece 0 is of type 0"),
        (small(token_type=[1] * 259), "0 pieces are of the type 'unknown'"),
        (small(bos_token_id=259), "bos_token_id is 259; ids run from 0 to 258"),
        (small(eos_token_id="2"), "eos_token_id is '2'; expected int"),
        (small(add_space_prefix=1), "add_space_prefix is 1; expected bool"),
        (small(add_bos_token="yes"), "add_bos_token is 'yes'; expected bool"),
        ({**small(), "tokenizer.chat_template": 5}, "tokenizer.chat_template is 5; expected str"),
        (small_bpe(pre="tekke"), "pre is 'tekke'; supported are gpt-2, llama-bpe"),
        (small_bpe(merges=None), "merges is None; expected a list of str"),
        (small_bpe(merges=["a zz"]), "not a tokenizer of the tokenizers library"),
        (small_bpe(merges=["ab"]), "not a tokenizer of the tokenizers library"),
        (small_bpe(tokens=["a"] * 258), "tokens: 'a' is token 0 and again 257"),
        (small_bpe(tokens=["東"], token_type=[1], merges=[]), "token 0 is '東'; expected byte-level BPE"),
        (small_bpe(tokens=[], token_type=[], merges=[]), "."),
    ],
)
def test_damaged_values_are_one_line(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(FathomError, match=problem):
        from_gguf(values)


def split_otherwise(shared_data: Path) -> BPETokenizer:
    hf = gpt2(shared_data).hf
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return BPETokenizer(hf)


@pytest.mark.parametrize(
    "make, size, problem",
    [
        (lambda _: CharacterTokenizer("ab"), 2, "a char tokenizer; GGUF, .* only sentencepiece, bpe, byte"),
        (split_otherwise, 50257, "GGUF has no name for how this BPE splits words"),
        (llama, 31_999, "a tokenizer of 32000 tokens; the model has 31999"),
    ],
)
def test_what_cannot_be_written_is_one_line(make: Any, size: int, problem: str, shared_data: Path) -> None:
    with pytest.raises(FathomError, match=problem):
        to_gguf(make(shared_data), size)


def noise(count: int) -> list[str]:
    """Texts of what tokenizers treat differently, without NUL and ▁, and of any characters."""
    rng = np.random.default_rng(0)
    marks = [
        *"   \n\t\r'sStdmrelv.!,_-+=$aé1²٣東😀\u0301ǅ½\xa0\u3000",
        "  ",
        "the",
        " and",
        "123",
        "</s>",
        "<|endoftext|>",
    ]
    texts = ["".join(rng.choice(marks, rng.integers(1, 60)).tolist()) for _ in range(count)]
    points = [n for n in [*range(1, 0x3000), *range(0x1F300, 0x1F700)] if n != 0x2581]
    return texts + ["".join(map(chr, rng.choice(points, 20).tolist())) for _ in range(count)]


def test_bytes_in_a_file_are_bytes_again(tmp_path: Path) -> None:
    """They have no merges, and a list without an entry must still be one of texts."""
    path = tmp_path / "vocabulary.gguf"
    gguf.write(path, {"general.architecture": "llama", **to_gguf(ByteTokenizer(), 300)}, {})
    assert isinstance(from_gguf(gguf.read_header(path).metadata), ByteTokenizer)
    list_of_texts, count = struct.pack("<II", 9, 8), struct.pack("<Q", 0)
    assert f"{G}merges".encode() + list_of_texts + count in path.read_bytes()


def write(path: Path, values: dict[str, Any]) -> None:
    """A GGUF file without tensors, by the gguf package."""
    reference = pytest.importorskip("gguf", reason="needs the extra `peers`")
    writer = reference.GGUFWriter(path, "llama")
    for name in ("context_length", "embedding_length", "feed_forward_length", "block_count", "attention.head_count"):
        writer.add_uint32(f"llama.{name}", 32)
    for key, value in values.items():
        kind = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        kind[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.mark.parametrize("pre", [*PATTERNS, *ALIASES, "llama"])
def test_llama_cpp_gives_the_same_ids(pre: str, tmp_path: Path, shared_data: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    tokenizer: Tokenizer = llama(shared_data) if pre == "llama" else gpt2(shared_data)
    values = to_gguf(tokenizer, tokenizer.vocab_size + 3)
    if pre != "llama":
        values[G + "pre"] = pre
        values |= {G + "bos_token_id": 5, G + "add_bos_token": True}
    write(tmp_path / "vocabulary.gguf", values)
    theirs = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    ours = from_gguf(values)
    assert ours is not None
    for text in [*TEXTS, *noise(300)]:
        if pre in ("tekken", "gpt-4o", "llama4") and any(c.isalpha() and not c.isascii() for c in text):
            continue  # llama.cpp tells upper from lower case in ASCII alone there, the authors' patterns in Unicode
        expected = ours.prefix + ours.encode(text)
        assert expected == theirs.tokenize(text.encode(), add_bos=True, special=False), repr(text)
