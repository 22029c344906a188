"""Pipelines as published models have them, against the `tokenizers` library; tokens added beside a vocabulary."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fathom.errors import FathomError
from fathom.tokenizer.load import load, read_folder
from fathom.tokenizer.template import split_at_special
from fathom.tokenizer.tokenizer_json import from_library_json
from tests.tokenizer.folders import ANY, TEXT, put, small

BITS = [
    "the",
    " and",
    "  ",
    " ",
    "\n",
    "\t",
    "'s",
    "12",
    "3,4",
    "²",
    "▁",
    "é",
    "e\u0301",
    "ﬁ",
    "東京",
    "🙂",
    "\U000e0041",
]
BITS += ["<", "_", "don't", "A", "\r\n", "…", "¿", "٣", "\xa0", "<end>"]
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def trained(words: Any, normalizer: Any = None, decoder: Any = None, alphabet: bool = True) -> tokenizers.Tokenizer:
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer, hf.decoder = words, decoder or decoders.ByteLevel()
    if normalizer:
        hf.normalizer = normalizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet else []
    options: Any = {"special_tokens": ["<end>"], "initial_alphabet": letters, "show_progress": False}
    hf.train_from_iterator([TEXT + " the 12 34 " + "and ﬁ é" * 9], trainers.BpeTrainer(vocab_size=400, **options))
    return hf


def unigram() -> tokenizers.Tokenizer:
    hf = tokenizers.Tokenizer(models.Unigram())
    hf.normalizer, hf.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    hf.decoder = decoders.Metaspace()
    options: Any = {"unk_token": "<unk>", "special_tokens": ["<unk>", "<end>"], "show_progress": False}
    hf.train_from_iterator([TEXT], trainers.UnigramTrainer(vocab_size=100, **options))
    return hf


def sequence(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


def gemma() -> tokenizers.Tokenizer:
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return trained(split, normalizers.Replace(" ", "▁"), steps, alphabet=False)


PIPELINES = {
    "smollm": lambda: trained(sequence(pre_tokenizers.Digits(True), LEVEL)),
    "lacks bytes": lambda: trained(LEVEL, alphabet=False),
    "falcon": lambda: trained(sequence(pre_tokenizers.Punctuation("contiguous"), LEVEL, pre_tokenizers.Digits(False))),
    "nfkc": lambda: trained(LEVEL, normalizers.NFKC()),
    "gemma": gemma,
    "unigram": unigram,
}


def texts(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(BITS, k=chance.randint(0, 20))) for _ in range(count)]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_gives_what_the_library_gives(name: str) -> None:
    hf = PIPELINES[name]()
    ours, theirs = from_library_json(json.loads(hf.to_str())), hf
    again = from_library_json(json.loads(hf.to_str())).to_json()
    theirs.encode_special_tokens = True
    for text in texts(1, 1500):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), text
    assert ours.to_json() == again


END, MORE = {"content": "<end>", "special": True, "rstrip": True}, {"content": "<tool>", "special": False}


def test_tokens_added_beside_a_vocabulary(tmp_path: Path, shared_data: Path) -> None:
    merges = {"merges__txt": "#version: 0.2\n", "vocab__json": dict.fromkeys([], 0)}
    letters = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges["vocab__json"] = letters
    config = {"added_tokens_decoder": {"256": END, "258": MORE}, "eos_token": "<end>", "pad_token": "<end>"}
    for files in ({"tokenizer__json": small()}, merges):
        start = 300 if "tokenizer__json" in files else 256
        added = {str(int(id) - 256 + start): token for id, token in config["added_tokens_decoder"].items()}  # type: ignore
        folder = put(tmp_path / str(start), **files, tokenizer_config__json=config | {"added_tokens_decoder": added})
        ours = read_folder(folder, ANY)
        assert ours is not None and ours.vocab_size == start + 3
        assert ours.eos == start and ours.encode("a<tool>")[1:] == [start + 2] and start not in ours.encode("<end>")
        assert ours.special.flags == {"<end>": ["rstrip"]} and ours.special.settings["pad_token"] == "<end>"


def test_tokens_added_beside_a_sentencepiece_model(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((shared_data / "llama2_tokenizer.model").read_bytes())
    put(tmp_path, added_tokens__json={"<end>": 32000, "<tool>": 32002}, tokenizer_config__json={"eos_token": "<end>"})
    ours = read_folder(tmp_path, 32003)
    assert ours is not None and (ours.eos, ours.special.names["<end>"], ours.vocab_size) == (32000, 32000, 32003)
    assert 32000 not in ours.encode("<end>") and 32002 in ours.encode("a <tool>b")
    assert ours.decode(ours.encode("a <tool>b")).replace(" ", "") == "a<tool>b"


def test_a_token_beyond_the_models_ids_is_harmless(tmp_path: Path) -> None:
    values = small()
    values["added_tokens"].append({**values["added_tokens"][0], "id": 300, "content": "<pad>"})
    put(tmp_path, tokenizer__json=values)
    assert read_folder(tmp_path, 300) is not None
    with pytest.raises(FathomError, match="the model has 299 ids"):
        read_folder(tmp_path, 299)
    assert load(tmp_path).vocab_size == 301


def test_flags_of_special_tokens() -> None:
    flags = {"<a>": ["lstrip", "rstrip"], "<w>": ["single_word"]}
    assert list(split_at_special("x  <a>\n y", ["<a>"], flags)) == [(0, 1, ""), (1, 8, "<a>"), (8, 9, "")]
    assert list(split_at_special("x<w> <w>", ["<w>"], flags)) == [(0, 5, ""), (5, 8, "<w>")]
