"""Hugging Face's folders that are damaged, or say what is not done here: one line, or a tokenizer that works."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.tokenizer import bpe, load
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.load import read_folder
from tests.mutants import survive
from tests.tokenizer.folders import ANY, FLAGS, put, template


def tiny() -> dict[str, Any]:
    """The smallest vocabulary with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc", "▁a", "bc"]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    model |= {"vocab": {token: id for id, token in enumerate(tokens)}, "merges": [["▁", "a"], ["b", "c"]]}
    added = [{"id": id, "content": tokens[id], "special": True, **FLAGS} for id in range(3)]
    steps = {"type": "Sequence", "normalizers": [bpe.PREPEND, bpe.REPLACE]}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = {"type": "Sequence", "decoders": [bpe.TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    parts = {"normalizer": steps, "pre_tokenizer": None, "post_processor": template("<s>", 1), "decoder": decoder}
    return {"version": "1.0", "added_tokens": added, **parts, "model": model}


def change(values: Any, path: str, new: Any) -> Any:
    """The values with one of them replaced; `path` names the keys that lead to it."""
    values = json.loads(json.dumps(values))
    *way, last = path.split("/")
    place = values
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = new
    return values


DEEP: Any = {"type": "Sequence", "normalizers": []}
for _ in range(90):
    DEEP = {"type": "Sequence", "normalizers": [DEEP]}


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        ("model/type", "Unigram", "tokenizers library|known"),
        ("model/vocab", [], "tokenizers library|known"),
        ("model/vocab/a", -1, "tokenizers library"),
        ("model/vocab/a", 1.5, "tokenizers library"),
        ("model/vocab/a", 1 << 31, "gaps"),
        ("model/vocab/a", 1 << 70, "tokenizers library"),
        ("model/vocab/a", 4, "share"),
        ("model/merges/0", ["a"], "tokenizers library"),
        ("model/merges/0", ["a", "x"], "tokenizers library"),
        ("model/merges", {"a": 1}, "'merges'"),
        ("model/dropout", 0.5, "dropout"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "tokenizers library"),
        ("normalizer", DEEP, "nested deeper than 50"),
        ("normalizer", "NFC", "expected an object"),
        ("normalizer/normalizers", 3, "expected a list"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}}, "tokenizers library"),
        ("post_processor", template("<s>", 1 << 31), "ids run from"),
        ("post_processor/single/0", {"SpecialToken": {"id": "<x>", "type_id": 0}}, "tokenizers library"),
        ("added_tokens/1/id", 7, "added token '<s>'"),
        ("added_tokens/1/content", "<x>", "added token '<x>'"),
        ("added_tokens/1/content", 7, "'added_tokens'"),
        ("added_tokens", 7, "'added_tokens'"),
        ("added_tokens/1", {"id": 259, "content": "▁", "special": True, **FLAGS}, "special token"),
        ("decoder", {"type": "CTT"}, "decoder is 'CTT'"),
    ],
)
def test_what_a_file_may_not_say(path: str, new: Any, said: str, tmp_path: Path) -> None:
    file = put(tmp_path, tokenizer__json=change(tiny(), path, new)) / "tokenizer.json"
    with pytest.raises(FathomError, match=said) as error:
        load.load(file)
    assert str(file) in str(error.value)


def test_the_tiny_vocabulary_is_one(tmp_path: Path) -> None:
    ours = load.load(put(tmp_path, tokenizer__json=tiny()))
    assert (ours.bos, ours.encode("abc a")) == (1, [263, 264, 263])
    assert ours.decode_bytes(ours.encode("\0 é")) == "\0 é".encode()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected an object"),
        ('{"eos_token": 3}', "eos_token is '3'"),
        ('{"eos_token": {"text": "a"}}', "eos_token"),
        ('{"chat_template": 3}', "chat_template is '3'"),
        ('{"chat_template": [{"name": "default", "template": 3}]}', "chat_template"),
    ],
)
def test_what_a_configuration_may_not_say(config: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=said):
        read_folder(put(tmp_path, tokenizer__json=tiny(), tokenizer_config__json=config), ANY)


def test_merges_never_make_a_special_token(tmp_path: Path) -> None:
    """transformers' own conversions may hold such merges: where `<s` and `>` are tokens."""
    values = tiny()
    values["model"]["vocab"] |= {"<": 265, "s": 266, ">": 267, "<s": 268}
    values["model"]["merges"] += [["<", "s"], ["<s", ">"]]
    ours = load.load(put(tmp_path, tokenizer__json=values))
    assert ours.encode("a<s>") == [263, 268, 267]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("Ġ t\nĠ t\n", "line 3|new one"),
        ("Ġ tt\n", "new one"),
        ("Ġ t t\nx y\n", "line 2"),
        ("Ġ t\n\udcff\n", "UTF-8"),
    ],
)
def test_damaged_merges(lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(f"#version: 0.2\n{lines}".encode("utf-8", "surrogateescape"))
    with pytest.raises(FathomError, match=said) as error:
        read_folder(tmp_path, ANY)
    assert str(path) in str(error.value)


def mutants(folder: Path, name: str, count: int) -> None:
    """Every mutant of one file of a folder: read, and used."""

    def read(path: Path) -> None:
        tokenizer = read_folder(folder, ANY)
        assert tokenizer is not None
        tokenizer.decode(tokenizer.encode("a bc, <s> é"))

    survive(read, folder / name, count)


FILES = ["byte_level", "byte_fallback", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"]


def damaged(what: str, count: int, folder: Path) -> None:
    byte_level = BPETokenizer.train(["a bc a bc"], 260).to_json()["tokenizer"]
    settings = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "add_bos_token": True}
    config = settings | {"chat_template": [{"name": "default", "template": "{{ messages }}"}]}
    put(folder, tokenizer_config__json=config, special_tokens_map__json=settings)
    if what in ("vocab.json", "merges.txt"):
        vocabulary = byte_letters() | {"Ġa": 256, "bc": 257, "<s>": 258, "</s>": 259}
        put(folder, vocab__json=vocabulary, merges__txt="#version: 0.2\nĠ a\nb c\n")
        return mutants(folder, what, count)
    values = byte_level if what == "byte_level" else tiny()
    name = "tokenizer.json" if what in ("byte_level", "byte_fallback") else what
    return mutants(put(folder, tokenizer__json=values), name, count)


@pytest.mark.parametrize("what", FILES)
def test_2_000_damaged_files_of_each_kind(what: str, tmp_path: Path) -> None:
    damaged(what, 2_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("what", FILES)
def test_10_000_damaged_files_of_each_kind(what: str, tmp_path: Path) -> None:
    damaged(what, 10_000, tmp_path)
