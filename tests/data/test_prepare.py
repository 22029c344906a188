"""A corpus becomes two files that hold the tokens of the whole text, split once, within bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fathom.data import corpus as corpus_module
from fathom.data.corpus import Corpus, resolve
from fathom.data.token_file import encode_corpus, open_tokens, text_size, tokenize
from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.characters import CharacterTokenizer
from fathom.tokenizer.load import load, make
from fathom.tokenizer.protocol import Tokenizer

TEXT = "Und wären's zwölf — so wär’s ein Wort,\n  sprach sie; then they'd go!\n\n" * 40


@pytest.fixture(params=["char", "byte", "bpe:400"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return make(request.param, [TEXT])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(Corpus, "chunks", lambda self, max_chars=5: _chunks(self, 5))
    monkeypatch.setattr(Corpus, "documents", lambda self, max_chars=5: _documents(self, 5))
    return resolve(str(tmp_path / "text.txt"))


_chunks, _documents = Corpus.chunks, Corpus.documents  # the tests read five bytes at a time


def test_the_files_hold_the_ids_of_the_whole_text(tokenizer: Tokenizer, corpus: Corpus, tmp_path: Path) -> None:
    made = tokenize(corpus, tokenizer, tmp_path / "data")
    train, val = (open_tokens(path, tokenizer.vocab_size) for path in (made.train, made.val))
    ids = tokenizer.encode(TEXT)
    assert np.concatenate([train, val]).tolist() == ids
    assert (made.n_train, made.n_val) == (len(train), len(val)) == (int(0.9 * len(ids)), len(ids) - int(0.9 * len(ids)))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["train.npy", "val.npy"]


@pytest.mark.parametrize(("fraction", "n_val"), [(0, 0), (0.5, 50), (0.25, 25), (0.999, 100)])
def test_the_split_is_where_it_was_asked(fraction: float, n_val: int, tmp_path: Path) -> None:
    (tmp_path / "hundred.txt").write_text("ab" * 50)
    made = tokenize(resolve(str(tmp_path / "hundred.txt")), make("byte", []), tmp_path / "data", fraction)
    assert (made.n_train, made.n_val) == (100 - n_val, n_val)
    assert len(open_tokens(made.val, 256)) == n_val


@pytest.mark.parametrize("fraction", [-0.1, 1, 5])
def test_a_split_that_is_none_is_refused(fraction: float, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="val_fraction"):
        tokenize(resolve("python-docs"), make("byte", []), tmp_path, fraction)


def test_between_documents_stands_the_end_token_or_a_newline(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [" Und ", "zwölf\n", "\n so"]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    arrays = encode_corpus(resolve(str(tmp_path / "d.jsonl")), tokenizer, lambda done, total: None)
    ids = np.concatenate(list(arrays)).tolist()
    if tokenizer.eos is None:
        assert ids == tokenizer.encode("\n".join(documents))
    else:
        first, second, third = map(tokenizer.encode, documents)
        assert ids == [*first, tokenizer.eos, *second, tokenizer.eos, *third]


def test_progress_only_grows_and_ends_at_the_total(tokenizer: Tokenizer, corpus: Corpus, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tokenize(corpus, tokenizer, tmp_path / "data", progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {len(TEXT.encode())}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == len(TEXT.encode())
    assert len(seen) > 100


def test_a_failure_leaves_no_file(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(OutsideVocabulary, match="U\\+0055 LATIN CAPITAL LETTER U"):
        tokenize(corpus, CharacterTokenizer("abc"), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_text_size_counts_what_the_tokens_spell(tokenizer: Tokenizer) -> None:
    assert text_size(tokenizer.encode_array(TEXT), tokenizer) == (len(TEXT), len(TEXT.encode()))


def test_text_size_counts_the_end_of_a_document_as_its_newline() -> None:
    tokenizer = BPETokenizer.train([TEXT], 300)
    assert tokenizer.eos is not None
    ids = np.array([*tokenizer.encode("ä"), tokenizer.eos, *tokenizer.encode("b")], np.uint16)
    assert text_size(ids, tokenizer) == (3, 4)


def test_text_size_counts_spaces_that_stand_before_words(shared_data: Path) -> None:
    """LLaMA 2's tokenizer puts one before the text, which its first token spells."""
    tokenizer = load(shared_data / "llama2_tokenizer.model")
    assert text_size(tokenizer.encode_array(TEXT), tokenizer) == (len(TEXT) + 1, len(TEXT.encode()) + 1)


PEAK = """
import sys
from pathlib import Path
from fathom.data.corpus import resolve
from fathom.data.token_file import tokenize
from fathom.tokenizer.load import make
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
make(sys.argv[2], ["warm up "]).encode_array("warm up")
before = status("VmRSS")
corpus = resolve(sys.argv[1])
made = tokenize(corpus, make(sys.argv[2], corpus.chunks()), Path(sys.argv[3]))
print(made.n_train + made.n_val, (status("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("spec", "megabytes", "limit"), [("char", 30, 25), ("byte", 30, 15), ("bpe:400", 10, 110)])
def test_memory_does_not_grow_with_the_text(spec: str, megabytes: int, limit: int, tmp_path: Path) -> None:
    """In MiB; holding the text once as characters, or encoding all of it at once, costs more."""
    with (tmp_path / "text.txt").open("w") as file:
        for _ in range(megabytes):
            file.write(TEXT * (1_000_000 // len(TEXT.encode())))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "text.txt"), spec, str(tmp_path / "data")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    count, grown = map(float, result.stdout.split())
    assert count > 1_000_000
    assert grown < limit, f"{grown:.0f} MiB"


def test_chunk_size_is_small_beside_the_limit() -> None:
    assert corpus_module.READ_CHUNK <= 1 << 20
