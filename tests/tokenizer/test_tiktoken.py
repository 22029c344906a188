"""LLaMA 3's file of ranks against the tiktoken library, with GPT-2's merges as the ranks."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError
from fathom.tokenizer import load
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.bpe_files import from_ranks, is_ranks, to_ranks
from fathom.tokenizer.load import to_folder
from fathom.tokenizer.tokenizer_json import from_json
from fathom.tokenizer.words import LLAMA3_PATTERN
from tests.mutants import survive

tiktoken = pytest.importorskip("tiktoken", reason="needs the extra `peers`")

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY = st.lists(
    st.sampled_from(
        [*" \n\t\r\xa0\u3000\u1680'sStdrelv.!,<>|_-", *"aeé1²٣東😀\u0301", "<|eot_id|>", "123456", "  ", "the"]
    ),
    max_size=60,
).map("".join)


def lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


@pytest.fixture(scope="module")
def gpt2_tokens(shared_data: Path) -> list[bytes]:
    gpt2 = load.load(shared_data / "gpt2_merges.txt")
    return [gpt2.decode_bytes([id]) for id in range(50256)]


@pytest.fixture(scope="module")
def path(gpt2_tokens: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama3") / "tokenizer.model"
    path.write_bytes(lines(gpt2_tokens))
    return path


@pytest.fixture(scope="module")
def ours(path: Path) -> BPETokenizer:
    tokenizer = load.read_model_file(path, 50256 + 256)
    assert isinstance(tokenizer, BPETokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def theirs(path: Path, gpt2_tokens: list[bytes]) -> Any:
    ranks = {token: rank for rank, token in enumerate(gpt2_tokens)}
    return tiktoken.Encoding("ranks", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})


@given(text=UNICODE | TRICKY)
@settings(max_examples=500)
def test_encodes_as_tiktoken_does(ours: BPETokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode_ordinary(text)
    assert ours.decode(ids) == text


@given(ids=st.lists(st.integers(0, 50255)))
def test_decodes_as_tiktoken_does(ours: BPETokenizer, theirs: Any, ids: list[int]) -> None:
    assert ours.decode_bytes(ids) == theirs.decode_bytes(ids)


def test_a_corpus_as_tiktoken_does(ours: BPETokenizer, theirs: Any, shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text()
    assert ours.encode_array(text).tolist() == theirs.encode_ordinary(text)


@given(words=st.lists(st.binary(min_size=2, max_size=5), unique=True, max_size=8), text=st.text("ab\x00é", max_size=30))
@settings(max_examples=100)
def test_tokens_that_no_merges_lead_to(words: list[bytes], text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A word that is a token becomes it, whatever leads there."""
    words = [*dict.fromkeys([*words, "éab".encode(), b"abba"])]
    tokens = [*(bytes([byte]) for byte in range(256)), *words]
    path = tmp_path_factory.mktemp("ranks") / "x"
    path.write_bytes(lines(tokens))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    theirs = tiktoken.Encoding("ranks", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ours = from_ranks(path, len(tokens))
    for word in (text, "éab", "abba"):
        assert ours.encode(word) == theirs.encode_ordinary(word)


def test_special_tokens_are_those_that_meta_publishes(ours: BPETokenizer) -> None:
    """Offsets as in LLaMA 3.1's 128,000 and more."""
    names = {name: id - 50256 for name, id in ours.special.names.items()}
    published = {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eom_id|>": 8,
        "<|eot_id|>": 9,
        "<|python_tag|>": 10,
        "<|reserved_special_token_247|>": 255,
    }
    assert {name: names[name] for name in published} == published
    assert sorted(names.values()) == list(range(256))
    assert (ours.bos, ours.eos, ours.special.end_ids) == (50256, 50257, {50257, 50264, 50265})
    assert max(ours.encode("<|begin_of_text|><|eot_id|> <|end_of_text|>")) < 50256


@pytest.mark.parametrize("count", [0, 1, 10, 256])
def test_the_model_says_how_many_are_special(count: int, path: Path) -> None:
    tokenizer = from_ranks(path, 50256 + count)
    assert (tokenizer.vocab_size, len(tokenizer.special.names)) == (50256 + count, count)


def test_a_model_with_fewer_ids_is_refused(path: Path) -> None:
    """A few tokens more than it has ids are harmless."""
    assert from_ranks(path, 50255).vocab_size == 50256
    with pytest.raises(FathomError, match="50256 tokens; the model has 40000 ids"):
        from_ranks(path, 40000)


def test_it_is_written_as_it_was_read(path: Path, ours: BPETokenizer, tmp_path: Path) -> None:
    assert load.to_model_file(ours) == path.read_bytes()
    for name, data in to_folder(ours).items():
        (tmp_path / name).write_bytes(data)
    assert to_ranks(load.load(tmp_path)) == path.read_bytes()  # through a tokenizer.json


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda data: load.make("byte", []), "byte tokenizer"),
        (lambda data: load.make("char", ["abc"]), "char tokenizer"),
        (lambda data: load.load(data / "gpt2_merges.txt"), "special tokens are ids"),
        (lambda data: load.make("bpe:300", ["some text " * 20]), "special tokens are ids"),
    ],
)
def test_what_a_file_of_ranks_cannot_say(make: Callable[[Path], Any], said: str, shared_data: Path) -> None:
    with pytest.raises(FathomError, match=said):
        load.to_model_file(make(shared_data))


def test_words_split_otherwise_are_refused(ours: BPETokenizer) -> None:
    values = ours.to_json()
    values["tokenizer"]["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    with pytest.raises(FathomError, match="LLaMA 3's pattern"):
        to_ranks(from_json(values))


def test_merges_in_another_order_are_refused(ours: BPETokenizer) -> None:
    values = ours.to_json()
    values["tokenizer"]["model"]["merges"].reverse()
    with pytest.raises(FathomError, match="order of the ids"):
        to_ranks(from_json(values))


def test_recognised_by_content(path: Path, shared_data: Path, tmp_path: Path) -> None:
    assert is_ranks(path.read_bytes())
    for name in ("gpt2_merges.txt", "llama2_tokenizer.model", "tinyshakespeare.txt", "instructions.json"):
        assert not is_ranks((shared_data / name).read_bytes())
    (tmp_path / "empty").touch()
    assert not is_ranks((tmp_path / "empty").read_bytes())


SMALL = [*(bytes([byte]) for byte in byte_letters().values()), b" a", b"bc", b" abc"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lines(SMALL) + b"YQ== 259\n", "line 260"),  # a token again
        (lines(SMALL) + b"YWE= 260\n", "line 260"),  # a rank left out
        (lines(SMALL) + b"YWE= 258\n", "line 260"),  # a rank again
        (lines(SMALL) + b"YWE 259\n", "line 260"),  # damaged base64
        (lines(SMALL) + b"YWE= -1\n", "line 260"),
        (lines(SMALL) + b"YWE= 99999999999999999999\n", "line 260"),
        (lines(SMALL) + b"YWE=\n", "line 260"),
        (lines(SMALL) + base64.b64encode(b"a" * 257) + b" 259\n", "1 to 256 bytes"),
        (lines(SMALL) + b"\n", "line 260"),
        (lines(SMALL[1:]), "no token for the byte 0x21"),
        (b"", "line|no token|expected"),
    ],
)
def test_damaged_files(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(FathomError, match=said) as error:
        from_ranks(path, 300)
    assert str(path) in str(error.value)


def damaged(folder: Path, count: int) -> None:
    def read(path: Path) -> None:
        tokenizer = load.read_model_file(path, 300)
        tokenizer.decode(tokenizer.encode("a bc, é"))

    path = folder / "tokenizer.model"
    path.write_bytes(lines(SMALL))
    survive(read, path, count)


def test_2_000_damaged_files(tmp_path: Path) -> None:
    damaged(tmp_path, 2_000)


@pytest.mark.slow
def test_10_000_damaged_files(tmp_path: Path) -> None:
    damaged(tmp_path, 10_000)
