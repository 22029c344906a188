"""A tokenizer is one JSON file; anything else is one line."""

import base64
import json
import random
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.tokenizer.load import load, make, save
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.tokenizer_json import from_json

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
        ("{", "is not JSON"),
        ("\xff", "not a tokenizer file"),
        ("[" * 100_000, "not a tokenizer file"),
        ("[]", "not a tokenizer file"),
        ("{}", "holds no tokenizer"),
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


@pytest.fixture(scope="module")
def everything(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer of each form, all under names that say nothing."""
    folder = tmp_path_factory.mktemp("everything")
    gpt2 = load(shared_data / "gpt2_merges.txt")
    tokens = [base64.b64encode(gpt2.decode_bytes([id])) for id in range(300)]
    hf = json.dumps(make("bpe:300", [TEXT]).to_json()["tokenizer"])
    contents = {
        "sentencepiece": (shared_data / "llama2_tokenizer.model").read_bytes(),
        "tiktoken": b"".join(token + b" %d\n" % rank for rank, token in enumerate(tokens)),
        "merges": (shared_data / "gpt2_merges.txt").read_bytes(),
        "merges without a first line": (shared_data / "gpt2_merges.txt").read_bytes().split(b"\n", 1)[1],
        "llama2.c": (shared_data / "stories260K" / "tok512.bin").read_bytes(),
        "tokenizer.json": hf.encode(),
        "ours": json.dumps(make("bpe:300", [TEXT]).to_json(), indent=1).encode(),
        "a byte order mark": b"\xef\xbb\xbf" + json.dumps({"kind": "byte"}).encode(),
    }
    for number, data in enumerate(contents.values()):
        (folder / f"file{number}").write_bytes(data)
    return {name: folder / f"file{number}" for number, name in enumerate(contents)}


@pytest.mark.parametrize(
    ("form", "kind", "size", "bos", "eos"),
    [
        ("sentencepiece", "sentencepiece", 32000, 1, 2),
        ("tiktoken", "bpe", 556, 300, 301),
        ("merges", "bpe", 50257, None, 50256),
        ("merges without a first line", "bpe", 50257, None, 50256),
        ("llama2.c", "sentencepiece", 512, 1, 2),
        ("tokenizer.json", "bpe", 300, None, 0),
        ("ours", "bpe", 300, None, 0),
        ("a byte order mark", "byte", 256, None, None),
    ],
)
def test_every_form_is_recognised_by_content(
    form: str, kind: str, size: int, bos: int | None, eos: int | None, everything: dict[str, Path]
) -> None:
    tokenizer = load(everything[form])
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.bos, tokenizer.eos) == (kind, size, bos, eos)
    assert tokenizer.decode(tokenizer.encode("Once upon a time")) == "Once upon a time"
    assert make(str(everything[form]), []).to_json() == tokenizer.to_json()


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "gpt2_attention.safetensors", "stories260K/stories260K.bin"])
def test_what_is_no_tokenizer(name: str, shared_data: Path) -> None:
    with pytest.raises(FathomError) as error:
        load(shared_data / name)
    assert str(shared_data / name) in str(error.value)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="cannot be read"):
        load(tmp_path / "missing.json")
    with pytest.raises(FathomError, match="holds no tokenizer"):
        load(tmp_path)
