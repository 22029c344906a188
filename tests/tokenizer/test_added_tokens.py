"""Tokens that a folder adds to its vocabulary: beside each kind of file, beyond the model's ids, with their flags."""

from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from fathom.errors import FathomError
from fathom.tokenizer.added_tokens import entry, with_pieces
from fathom.tokenizer.load import load, read_folder
from fathom.tokenizer.pieces import CONTROL, NORMAL, UNKNOWN, Pieces
from fathom.tokenizer.template import split_at_special
from tests.tokenizer.folders import ANY, put, small

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
    assert read_folder(tmp_path, 300) is not None and read_folder(tmp_path, 280) is not None
    with pytest.raises(FathomError, match="the model has 250 ids"):
        read_folder(tmp_path, 250)
    assert load(tmp_path).vocab_size == 301


def test_flags_of_special_tokens() -> None:
    flags = {"<a>": ["lstrip", "rstrip"], "<w>": ["single_word"]}
    assert list(split_at_special("x  <a>\n y", ["<a>"], flags)) == [(0, 1, ""), (1, 8, "<a>"), (8, 9, "")]
    assert list(split_at_special("x<w> <w>", ["<w>"], flags)) == [(0, 5, ""), (5, 8, "<w>")]


def test_an_added_token_takes_a_reserved_piece_and_no_other() -> None:
    """InternLM2 calls its reserved pieces by names; one of a piece that texts become would be silently wrong."""
    pieces = Pieces(("<unk>", "a", "[UNUSED_TOKEN_1]"), (0.0,) * 3, (UNKNOWN, NORMAL, NORMAL), True, False)
    named = with_pieces(pieces, [entry(2, {"content": "<|plugin|>", "special": True}, "x")])
    assert named.texts[2] == "<|plugin|>" and named.types[2] == CONTROL
    with pytest.raises(FathomError, match="'<tool>' has id 1, which is 'a'; expected a free id"):
        with_pieces(pieces, [entry(1, "<tool>", "x")])
