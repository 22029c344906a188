"""llama2.c's tokenizer.bin against its own algorithms in plain Python, on the tokenizer of real weights."""

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.llama2c import is_tokenizer_bin, read_tokenizer_bin, to_tokenizer_bin
from fathom.tokenizer.pieces import BYTE_PIECES, Pieces
from fathom.tokenizer.protocol import Special, Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, read_sentencepiece
from tests.mutants import survive

Entries = list[tuple[float, bytes]]
# without NUL, which ends a text in C, and ▁, which SentencePiece takes for a space and run.c for three bytes
MARKS = [
    *"   \n\t\r\x1c\x85\xa0\u2003\u3000\u200b\ufeff",
    *"Once upon a time, th€re1<s>0xA",
    *"é東😀\u0301ǅ\ufffd",
    "</s>",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")) | st.lists(
    st.sampled_from(MARKS), max_size=60
).map("".join)


def entries(path: Path) -> Entries:
    """The file as its description has it, without a check."""
    data, at, found = path.read_bytes(), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        found.append((score, data[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def encode(text: str, vocabulary: Entries) -> list[int]:
    """run.c's `encode`: a space first, characters or their bytes, then the best-scored pair of neighbours, over and
    over."""
    place = {token: id for id, (_, token) in reversed(list(enumerate(vocabulary)))}
    ids = [place[b" "]] if text else []
    for character in text:
        spelled = character.encode()
        ids += [place[spelled]] if spelled in place else [byte + 3 for byte in spelled]
    while True:
        pairs = [vocabulary[left][1] + vocabulary[right][1] for left, right in itertools.pairwise(ids)]
        known = [(vocabulary[place[pair]][0], -at, place[pair]) for at, pair in enumerate(pairs) if pair in place]
        if not known:
            return ids
        _, at, id = max(known)
        ids[-at : -at + 2] = [id]


def decode(ids: list[int], vocabulary: Entries) -> bytes:
    """run.c's `decode` of one token after another, the first being <s>."""
    said = b""
    for before, id in itertools.pairwise(ids):
        token = vocabulary[id][1]
        token = token[1:] if before == 1 and token.startswith(b" ") else token
        said += bytes([int(token[3:5], 16)]) if len(token) == 6 and token.startswith(b"<0x") else token
    return said


@pytest.fixture(scope="module")
def path(shared_data: Path) -> Path:
    return shared_data / "stories260K" / "tok512.bin"


@pytest.fixture(scope="module")
def real(path: Path) -> tuple[SentencePieceTokenizer, Entries]:
    return read_tokenizer_bin(path, 512), entries(path)


@given(text=TEXTS)
@settings(max_examples=500)
def test_encode_equals_run_c(real: tuple[SentencePieceTokenizer, Entries], text: str) -> None:
    assert real[0].encode(text) == encode(text, real[1])


@given(ids=st.lists(st.integers(3, 511)))
def test_decode_equals_run_c(real: tuple[SentencePieceTokenizer, Entries], ids: list[int]) -> None:
    assert real[0].decode_bytes([1, *ids]) == decode([1, *ids], real[1])


def test_the_known_story_begins(real: tuple[SentencePieceTokenizer, Entries]) -> None:
    tokenizer, _ = real
    assert tokenizer.special == Special(1, 2, names={"<s>": 1, "</s>": 2}, prefix=(1,))
    assert tokenizer.encode("Once upon a time") == [403, 407, 261, 378]
    assert tokenizer.decode([1, 403, 407, 261, 378]) == "Once upon a time"


def test_written_again_it_is_the_same(path: Path, real: tuple[SentencePieceTokenizer, Entries]) -> None:
    assert to_tokenizer_bin(real[0]) == path.read_bytes()


def test_llama_2_there_and_back(shared_data: Path, tmp_path: Path) -> None:
    tokenizer, path = read_sentencepiece(shared_data / "llama2_tokenizer.model", 32_000), tmp_path / "tokenizer.bin"
    path.write_bytes(to_tokenizer_bin(tokenizer))
    again = read_tokenizer_bin(path, 32_000)
    assert (again.pieces, again.special) == (tokenizer.pieces, tokenizer.special)


def test_padded_for_a_model_with_more_ids(real: tuple[SentencePieceTokenizer, Entries], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(to_tokenizer_bin(real[0], 520))
    assert is_tokenizer_bin(path, 520)
    text = "Once upon a [PAD515] time"
    assert read_tokenizer_bin(path, 520).encode(text) == real[0].encode(text)


def test_known_by_its_content(path: Path, tmp_path: Path, shared_data: Path) -> None:
    assert is_tokenizer_bin(path, 512)
    assert not is_tokenizer_bin(path, 513)
    assert not is_tokenizer_bin(tmp_path / "none", 512)
    for name in ("stories260K/stories260K.bin", "llama2_tokenizer.model", "README.md"):
        assert not is_tokenizer_bin(shared_data / name, 512)
    for fault in (b"", path.read_bytes()[:4], path.read_bytes()[:-1], path.read_bytes() + b"\0"):
        (tmp_path / "file").write_bytes(fault)
        assert not is_tokenizer_bin(tmp_path / "file", 512)


def test_a_tokenizer_larger_than_its_model_is_refused(path: Path) -> None:
    with pytest.raises(FathomError, match=r"tok512.bin: a tokenizer of 512 tokens; the model has 400"):
        read_tokenizer_bin(path, 400)
    assert read_tokenizer_bin(path, 600).vocab_size == read_tokenizer_bin(path, 511).vocab_size == 512


def written(*tokens: bytes, longest: int = 99) -> bytes:
    return struct.pack("<I", longest) + b"".join(struct.pack("<fi", 0.0, len(token)) + token for token in tokens)


FIRST = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(piece.encode() for piece in BYTE_PIECES)]


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"", "offset 12: no token of 1 to 0 bytes"),
        (written(), "offset 12: no token of 1 to 99 bytes"),
        (written(b"<unk>", longest=4), "offset 12: no token of 1 to 4 bytes"),
        (written(*FIRST, b""), r"offset \d+: no token"),
        (written(*FIRST)[:-1], r"offset \d+: no token"),
        (written(*FIRST) + b"abc", r"offset \d+: no token"),
        (struct.pack("<Ifi", 9, 0.0, -1), "offset 12: no token"),
        (struct.pack("<Ifi", 0xFFFFFFFF, 0.0, 0x7FFFFFFF), "offset 12: no token"),
        (written(b"<unk>", b"<s>"), "token 1 is '<s>'; expected "),
        (written(*FIRST[:200]), "token 200 is 'missing'; expected '<0xC5>'"),
        (written(*FIRST, b"\xff"), r"the token at offset \d+ is b'\\xff'; expected UTF-8"),
        (written(*FIRST, b"a", b"a"), "pieces 259 and 260 are both 'a'"),
        (written(*FIRST, b"a b", "a▁b".encode()), "pieces 259 and 260 are both 'a▁b'"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(data)
    with pytest.raises(FathomError, match=f"tokenizer.bin: {problem}"):
        read_tokenizer_bin(path, 512)


def shuffled() -> SentencePieceTokenizer:
    texts = ("<s>", "<unk>", "</s>", *BYTE_PIECES)
    return SentencePieceTokenizer(Pieces(texts, (0.0,) * 259, (3, 2, 3, *[6] * 256)), Special(0, 2))


@pytest.mark.parametrize(
    "tokenizer, problem", [(ByteTokenizer(), r"a tokenizer \(byte\)"), (shuffled(), "with other first tokens")]
)
def test_other_tokenizers_cannot_be_written(tokenizer: Tokenizer, problem: str) -> None:
    with pytest.raises(FathomError, match=problem):
        to_tokenizer_bin(tokenizer)


def read_and_use(path: Path) -> None:
    is_tokenizer_bin(path, 300)
    tokenizer = read_tokenizer_bin(path, 300)
    tokenizer.decode(tokenizer.encode("the  cat sat\0 é東😀 <s>" * 3))


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutants(tmp_path: Path, count: int) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(written(*FIRST, b" ", b"t", b"h", b"e", b" t", b"he", b" the", longest=6))
    survive(read_and_use, path, count)
