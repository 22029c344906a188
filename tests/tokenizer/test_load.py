"""A tokenizer is one JSON file; anything else is one line."""

import json
import random
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.tokenizer.load import from_json, load, make, save
from fathom.tokenizer.protocol import Tokenizer

TEXT = "To be, or not to be: that is the question — whether 'tis nobler in the mind to suffer 😀\n" * 20
SPECS = ["char", "byte", "bpe:300"]


@pytest.fixture(params=SPECS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return make(request.param, [TEXT])


def test_make_gives_what_the_word_says(tokenizer: Tokenizer) -> None:
    sizes = {"char": len(set(TEXT)), "byte": 256, "bpe": 300}
    assert tokenizer.vocab_size == sizes[tokenizer.kind]


def test_it_comes_back_from_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(tokenizer, tmp_path / "run" / "tokenizer.json")
    for path in (tmp_path / "run" / "tokenizer.json", tmp_path / "run"):
        again = load(path)
        assert again.to_json() == tokenizer.to_json()
        assert again.encode(TEXT) == tokenizer.encode(TEXT)
        assert (again.bos, again.eos, again.vocab_size) == (tokenizer.bos, tokenizer.eos, tokenizer.vocab_size)
    assert make(str(tmp_path / "run"), []).to_json() == tokenizer.to_json()


def test_json_is_plain(tokenizer: Tokenizer) -> None:
    assert json.loads(json.dumps(tokenizer.to_json())) == tokenizer.to_json()


def test_hugging_faces_own_file_loads_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = make("bpe:300", [TEXT])
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer.to_json()["tokenizer"]))
    assert load(path).encode(TEXT) == tokenizer.encode(TEXT)
    assert load(path).eos == tokenizer.eos is not None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("chr", "did you mean char"),
        ("byt", "did you mean byte"),
        ("bpe", "bpe:SIZE"),
        ("bpe:", "bpe:SIZE"),
        ("bpe:many", "bpe:SIZE"),
        ("bpe:-5", "bpe:SIZE"),
        ("bpe:12", "at least 257"),
        ("", "bpe:SIZE"),
        ("nowhere/tokenizer.json", "expected char, byte"),
    ],
)
def test_wrong_words(spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FathomError, match=said):
        make(spec, [TEXT])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a tokenizer file"),
        ("{", "not a tokenizer file"),
        ("\xff", "not a tokenizer file"),
        ("[" * 100_000, "not a tokenizer file"),
        ("[]", "list"),
        ("{}", "kind is None"),
        ('{"kind": "chars"}', "did you mean char"),
        ('{"kind": ["char"]}', "kind is"),
        ('{"kind": "char"}', "'characters' is NoneType"),
        ('{"kind": "char", "characters": ""}', "at least one"),
        ('{"kind": "char", "characters": "aa"}', "twice"),
        ('{"kind": "char", "characters": "\\ud800"}', "surrogate"),
        ('{"kind": "bpe"}', "tokenizers library"),
        ('{"kind": "bpe", "tokenizer": {}}', "tokenizers library"),
        ('{"kind": "bpe", "eos": "end", "tokenizer": {}}', "'eos'"),
        ('{"model": {}}', "tokenizers library"),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}', "gaps"),
    ],
)
def test_damaged_files_are_one_line_that_names_the_file(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(FathomError, match=said) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["tokenizer"]["model"]["vocab"].update({"zz": 1 << 31}), "gaps"),
        (lambda v: v["tokenizer"]["model"]["vocab"].update({"東": 300}), "byte-level"),
        (lambda v: v.update(eos=300), "300"),
        (lambda v: v.update(bos=-1), "-1"),
    ],
)
def test_impossible_vocabularies_are_refused(change: object, said: str) -> None:
    values = make("bpe:300", [TEXT]).to_json()
    change(values)  # type: ignore[operator]
    with pytest.raises(FathomError, match=said):
        from_json(values)


def test_mutated_files_load_or_are_one_line(tmp_path: Path) -> None:
    path, dice = tmp_path / "tokenizer.json", random.Random(0)
    save(make("bpe:260", [TEXT]), path)
    original = path.read_bytes()
    for _ in range(300):
        mutated = bytearray(original)
        for _ in range(dice.randint(1, 4)):
            mutated[dice.randrange(len(mutated))] = dice.choice(b'"{}[]:,0-9ae\\\xff')
        path.write_bytes(mutated[: dice.choice([len(mutated), dice.randrange(len(mutated))])])
        try:
            load(path).encode("To be")
        except FathomError as error:
            assert str(path) in str(error)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="cannot be read"):
        load(tmp_path / "missing.json")
    with pytest.raises(FathomError, match="holds no tokenizer"):
        load(tmp_path)
