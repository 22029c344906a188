"""What Hugging Face's files say beside a vocabulary: what begins and ends a text, and the chat template."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.tokenizer import load
from fathom.tokenizer.bpe import byte_letters
from fathom.tokenizer.load import read_folder
from tests.tokenizer.folders import ANY, added, auto, put, small, template

END = "<|endoftext|>"
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize(
    ("processor", "config"),
    [
        (None, {}),
        (template(END, 0), {}),
        (template(END, 0, 1), {}),  # GLM-4 begins with two
        (template(END, 0), {"add_bos_token": False, "bos_token": END}),  # the file of the vocabulary wins
        (None, {"add_bos_token": True, "bos_token": END}),
        ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, {}),
        ({"type": "Sequence", "processors": [template(END, 0)]}, {}),
    ],
)
def test_bos_goes_before_a_text_where_transformers_puts_it(processor: Any, config: Any, tmp_path: Path) -> None:
    put(tmp_path, tokenizer__json=small(post_processor=processor), tokenizer_config__json=FAST | config)
    ours = read_folder(tmp_path, ANY)
    assert ours is not None
    assert ours.prefix == auto(tmp_path)("").input_ids


@pytest.mark.parametrize(("flag", "prefix"), [(True, [300]), (False, []), (None, [])])
def test_bos_of_files_without_a_tokenizer_json(flag: bool | None, prefix: list[int], tmp_path: Path) -> None:
    tokens = [*byte_letters(), *(f"x{n}" for n in range(44)), "<start>", END]
    config = {"add_bos_token": flag, "bos_token": added("<start>"), "tokenizer_class": "GPT2Tokenizer"}
    vocabulary = {token.replace("x", "Ġ") if token[1:].isdigit() else token: id for id, token in enumerate(tokens)}
    put(tmp_path, vocab__json=vocabulary, merges__txt="#version: 0.2\n", tokenizer_config__json=config)
    ours = read_folder(tmp_path, ANY)
    assert ours is not None
    assert (ours.bos, ours.prefix) == (300, prefix)
    assert prefix == auto(tmp_path)("").input_ids
    assert ours.eos == 301
    assert not {300, 301} & {*ours.encode("<start><|endoftext|>")}


def test_a_sentencepiece_model_alone(shared_data: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared_data / "llama2_tokenizer.model", tmp_path / "tokenizer.model")
    ours = read_folder(tmp_path, 32000)
    assert ours is not None
    assert (ours.kind, ours.bos, ours.eos) == ("sentencepiece", 1, 2)
    put(tmp_path, tokenizer_config__json={"add_bos_token": False, "bos_token": "<s>"})
    again = read_folder(tmp_path, 32000, [2, 7])
    assert again is not None
    assert (again.bos, again.prefix, again.special.end_ids) == (1, [], {2, 7})


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({}, 0),  # a name that published tokenizers use
        ({"tokenizer_config__json": {"eos_token": None}}, 0),
        ({"tokenizer_config__json": {"eos_token": "<x>"}}, 300),
        ({"tokenizer_config__json": {"eos_token": {"content": "<x>"}}}, 300),
        ({"special_tokens_map__json": {"eos_token": {"content": "<x>", "lstrip": False}}}, 300),
        ({"special_tokens_map__json": {"eos_token": "<x>"}, "tokenizer_config__json": {"eos_token": END}}, 0),
        ({"tokenizer_config__json": {"eos_token": "<nowhere>"}}, 0),
    ],
)
def test_the_end_of_a_text(files: dict[str, Any], eos: int, tmp_path: Path) -> None:
    values = small()
    values["added_tokens"].append({**values["added_tokens"][0], "id": 300, "content": "<x>"})
    ours = read_folder(put(tmp_path, tokenizer__json=values, **files), 301, [5, eos])
    assert ours is not None
    assert (ours.eos, ours.special.names) == (eos, {END: 0, "<x>": 300})
    assert ours.special.end_ids == {5, eos}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config__json": {"chat_template": "{{ a }}"}}, "{{ a }}"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [{"name": "tool", "template": "b"}, {"name": "default", "template": "c"}]
                }
            },
            "c",
        ),
        ({"tokenizer_config__json": {"chat_template": [{"name": "tool", "template": "b"}]}}, None),
        ({"tokenizer_config__json": {"chat_template": "a"}, "chat_template__jinja": "d\n"}, "d\n"),
    ],
)
def test_the_chat_template(files: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    ours = read_folder(put(tmp_path, tokenizer__json=small(), **files), 300)
    assert ours is not None
    assert ours.special.template == expected


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    put(tmp_path, config__json={}, tokenizer_config__json={"eos_token": "</s>"})
    assert read_folder(tmp_path, ANY) is None
    with pytest.raises(FathomError, match="holds no tokenizer"):
        load.load(tmp_path)
