"""Several templates of one model, and templates that fine-tuning gives one: as transformers reads and writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.tokenizer.add import with_tokens
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.load import load, read_folder, to_folder
from fathom.tokenizer.message import Message, read_message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import CHATML, Extras, render, template_for
from fathom.tokenizer.turns import find_template, with_template
from tests.tokenizer.shapes import CALL, FILES, RESULT, TALKS, TOOLS
from tests.tokenizer.templates import bpe

NAMED = {
    "default": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "tool_use": "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "rag": "{{ documents | tojson }}",
}
HELLO = [{"role": "user", "content": "Hello"}]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def several(folder: Path) -> Path:
    """A folder as published ones are: a list in tokenizer_config.json."""
    files = to_folder(bpe(NAMED["default"]))
    del files["chat_template.jinja"]
    listed = [{"name": name, "template": template} for name, template in NAMED.items()]
    config = json.loads(files["tokenizer_config.json"]) | {"chat_template": listed}
    return write(folder, files | {"tokenizer_config.json": json.dumps(config).encode()})


def ids_of(tokenizer: Tokenizer, tools: list[Any] | None) -> list[int]:
    return render(tokenizer, [Message("user", "Hello")], False, extras=Extras(tools)).ids


@pytest.mark.parametrize("tools", [None, [], TOOLS])
def test_tool_use_is_the_template_where_there_are_tools(tmp_path: Path, tools: list[Any] | None) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    first, written = several(tmp_path / "first"), tmp_path / "written"
    tokenizer = load(first)
    write(written, to_folder(tokenizer))
    reference = transformers.AutoTokenizer.from_pretrained(first)
    reference.save_pretrained(tmp_path / "theirs")
    for folder in (first, written, tmp_path / "theirs"):
        again = transformers.AutoTokenizer.from_pretrained(folder)
        expected = again.apply_chat_template(HELLO, tools=tools, return_dict=False)
        assert again.chat_template == NAMED
        assert ids_of(load(folder), tools) == expected == ids_of(tokenizer, tools)
    assert json.loads((written / "tokenizer_config.json").read_text())["chat_template"][1]["name"] == "tool_use"


def test_gguf_files_keep_named_templates(tmp_path: Path) -> None:
    tokenizer = load(several(tmp_path))
    metadata = to_gguf(tokenizer, tokenizer.vocab_size)
    assert metadata["tokenizer.chat_templates"] == ["tool_use", "rag"]
    again = from_gguf(metadata)
    assert again is not None and again.special.settings["chat_template"] == NAMED


def test_the_name_of_a_template_leads_out_of_no_folder(tmp_path: Path) -> None:
    folder = several(tmp_path)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values["chat_template"].append({"name": "../up", "template": "x"})
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    assert not [name for name in to_folder(load(folder)) if ".." in name]


def test_chatml_is_qwen_2_5s_without_its_own_system_prompt() -> None:
    calling = {"role": "assistant", "content": "So.", "tool_calls": [CALL]}
    dicts = [{"role": "system", "content": "Be brief."}, *HELLO, calling, RESULT, RESULT, *TALKS["several turns"]]
    messages, ours, end = [read_message(each, "it") for each in dicts], bpe(CHATML), "<|im_end|>"
    for tools in (None, TOOLS):
        for reply in (True, False):
            qwen = render(bpe(FILES["qwen25"]), messages, reply, extras=Extras(tools)).text
            text = render(ours, messages, reply, extras=Extras(tools)).text
            assert text.partition(end)[2] == qwen.partition(end)[2]  # the words of the shape's first turn are ours
            assert text == qwen or tools
            assert all(json.dumps(tool, ensure_ascii=False) + "\n" in text for tool in tools or ())
    null = [read_message(calling | {"content": None}, "it")]
    assert render(ours, null, False).text.startswith("<|im_start|>assistant\n<tool_call>")


def test_a_template_brings_the_tokens_that_end_its_turns(shared_data: Path, tmp_path: Path) -> None:
    base = load(shared_data / "llama2_tokenizer.model")
    added = with_tokens(base, ["<|im_start|>", "<|im_end|>"])
    assert template_for(added) == CHATML
    for tokenizer in (with_template(added), with_template(added, "chatml")):
        assert tokenizer.special.end_ids == {2, added.special.names["<|im_end|>"]}
        assert (
            render(tokenizer, [Message("user", "x")], True).text
            == "<s><|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
        )
        again = read_folder(write(tmp_path / "again", to_folder(tokenizer)), added.vocab_size, tokenizer.special.ends)
        assert again is not None and again.special.end_ids == tokenizer.special.end_ids
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    mine = with_template(added, str(tmp_path / "mine.jinja"))
    assert mine.special.template == (tmp_path / "mine.jinja").read_text() and 32001 in mine.special.end_ids
    assert with_template(added, "llama2").special.end_ids == {2}


def test_a_template_whose_tokens_are_text_is_named(shared_data: Path) -> None:
    base = load(shared_data / "llama2_tokenizer.model")
    with pytest.warns(
        UserWarning, match=r"writes <\|im_end\|>,<\|im_start\|>, which .* as text; add tokens: --add-token"
    ):
        with_template(base, "chatml")
    with pytest.raises(FathomError, match=r"chat template 'chatmll': expected a file in Jinja, or one of chatml"):
        find_template("chatmll")
