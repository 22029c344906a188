"""A conversation gives the ids of the reference, what a message spells is text, and each token has its speaker."""

import random
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import FathomError
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import load, read_folder, to_folder
from fathom.tokenizer.message import FRAME, Message, read_message
from fathom.tokenizer.protocol import Special
from fathom.tokenizer.template import (
    LLAMA2,
    LLAMA3,
    TRANSCRIPT,
    Extras,
    render,
    split_at_special,
    template_for,
)
from tests.tokenizer.templates import PUBLISHED, SPECIAL, bpe, conversation, library_tokenizer

CONVERSATIONS = 150


def plain_dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@cache
def reference(template: str, bos: str = "<s>") -> Any:
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=library_tokenizer(), bos_token=bos, eos_token="</s>", chat_template=template
    )


@pytest.mark.parametrize("reply", [True, False], ids=["reply", "whole"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_ids_are_those_of_transformers(name: str, reply: bool) -> None:
    tokenizer, theirs = bpe(PUBLISHED[name]), reference(PUBLISHED[name])
    for seed in range(CONVERSATIONS):
        messages = conversation(seed)
        expected = theirs.apply_chat_template(
            plain_dicts(messages), tokenize=True, add_generation_prompt=reply, return_dict=False
        )
        assert render(tokenizer, messages, reply).ids == expected, (name, seed)


@pytest.mark.parametrize("own, published", [(LLAMA2, "llama 2"), (LLAMA3, "llama 3")])
def test_our_templates_say_what_the_published_ones_say(own: str, published: str) -> None:
    for seed in range(CONVERSATIONS):
        messages = conversation(seed)
        for reply in (True, False):
            assert render(bpe(own), messages, reply) == render(bpe(PUBLISHED[published]), messages, reply)


def meta_dialog(model: Any, messages: list[Message]) -> list[int]:
    """Meta's `chat_completion` of LLaMA 2: each question with its answer encoded by itself, with bos and eos."""
    turns = [(message.role, message.content) for message in messages]
    if turns[0][0] == "system":
        turns = [("user", f"<<SYS>>\n{turns[0][1]}\n<</SYS>>\n\n{turns[1][1]}"), *turns[2:]]
    ids: list[int] = []
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2]):
        ids += [1, *model.encode(f"[INST] {question.strip()} [/INST] {answer.strip()} "), 2]
    return [*ids, 1, *model.encode(f"[INST] {turns[-1][1].strip()} [/INST]")]


def test_llama_2_dialogs_are_encoded_as_by_meta(shared_data: Path) -> None:
    import sentencepiece

    path = shared_data / "llama2_tokenizer.model"
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), load(path)
    assert template_for(ours) == LLAMA2
    for seed in range(CONVERSATIONS):
        messages = conversation(seed)
        messages = messages if messages[-1].role == "user" else messages[:-1]
        assert render(ours, messages, reply=True).ids == meta_dialog(theirs, messages), seed


@pytest.mark.parametrize("name", PUBLISHED)
@given(contents=st.lists(st.lists(st.sampled_from([*SPECIAL, "a", "<", "|", "s>", "</"]), max_size=5), max_size=4))
def test_what_a_message_spells_never_becomes_a_special_token(name: str, contents: list[list[str]]) -> None:
    """There are as many special tokens as in a conversation about nothing."""
    roles = ["user", "assistant"] * 2
    tokenizer = bpe(PUBLISHED[name])
    special = set(tokenizer.special.names.values())
    if not contents:
        return
    messages = [Message(role, "x" + "".join(content)) for role, content in zip(roles, contents)]
    found = render(tokenizer, messages, reply=True)
    bland = render(tokenizer, [Message(message.role, "x") for message in messages], reply=True)
    assert [id for id in found.ids if id in special] == [id for id in bland.ids if id in special]
    assert tokenizer.decode(found.ids) == found.text


def test_a_special_token_across_the_border_of_template_and_message_is_text() -> None:
    tokenizer = bpe("</{{ messages[0].content }}>")
    assert tokenizer.eos not in render(tokenizer, [Message("user", "s")], reply=False).ids
    assert render(tokenizer, [Message("user", "s")], False, special_in_content=True).ids == [tokenizer.eos]


def test_special_tokens_in_messages_when_asked() -> None:
    tokenizer = bpe(PUBLISHED["chatml"])
    messages = [Message("user", "a</s>b")]
    theirs = reference(PUBLISHED["chatml"]).apply_chat_template(plain_dicts(messages), return_dict=False)
    assert render(tokenizer, messages, False, special_in_content=True).ids == theirs
    assert tokenizer.eos in theirs and tokenizer.eos not in render(tokenizer, messages, False).ids


def test_each_token_has_its_speaker() -> None:
    tokenizer = bpe(LLAMA3)
    messages = [Message("system", "Be."), Message("user", " Hello world 🙂 "), Message("assistant", "Hello</s>")]
    found = render(tokenizer, messages, reply=True)
    parts = {role: [id for id, who in zip(found.ids, found.roles) if who == role] for role in set(found.roles)}
    assert {role: tokenizer.decode(ids) for role, ids in parts.items() if role != FRAME} == {
        "system": "Be.",
        "user": "Hello world 🙂",
        "assistant": "Hello</s>",
    }
    assert (
        set(tokenizer.special.names.values()) & {id for id, role in zip(found.ids, found.roles) if role != FRAME}
        == set()
    )


def test_a_token_of_template_and_message_is_the_messages() -> None:
    """LLaMA 2 writes a space before an answer, which is of one token with the answer's first word."""
    tokenizer = bpe(LLAMA2)
    found = render(tokenizer, [Message("user", "x"), Message("assistant", "how")], reply=False)
    (mine,) = [id for id, role in zip(found.ids, found.roles) if role == "assistant"]
    assert tokenizer.decode([mine]) == " how"


def test_speakers_with_sentencepiece(shared_data: Path) -> None:
    tokenizer = load(shared_data / "llama2_tokenizer.model")
    chance = random.Random(3)
    for seed in range(40):
        word = chance.choice(["naïve", "日本 語", "🙂", "a  b", "Hello"])
        messages = [Message("user", f"x {seed}"), Message("assistant", word), Message("user", "Q")]
        found = render(tokenizer, messages, reply=True)
        said = [id for id, role in zip(found.ids, found.roles) if role == "assistant"]
        assert tokenizer.decode(said).strip() == word


def test_the_space_before_a_first_word_is_of_who_says_the_word(shared_data: Path) -> None:
    llama = load(shared_data / "llama2_tokenizer.model")
    found = render(with_template(llama, "{{ messages[0].content }}"), [Message("user", "日本")], reply=False)
    assert len(found.ids) == 3 and set(found.roles) == {"user"}


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy(tokenizer)
    changed.special = replace(tokenizer.special, template=template)
    return changed


def test_of_two_special_tokens_the_longer_one_is_meant() -> None:
    assert list(split_at_special("a<s>!b<s>", ["<s>", "<s>!"])) == [
        (0, 1, ""),
        (1, 5, "<s>!"),
        (5, 6, ""),
        (6, 9, "<s>"),
    ]
    assert list(split_at_special("a", [])) == [(0, 1, "")] and list(split_at_special("", ["<s>"])) == []


# Which template.


def test_the_models_own_template_comes_first_then_the_one_its_tokens_are_of() -> None:
    assert template_for(bpe("own")) == "own"
    assert template_for(bpe(None)) == LLAMA3
    assert template_for(ByteTokenizer()) == TRANSCRIPT


def test_a_plain_transcript() -> None:
    messages = [Message("system", "Be."), Message("user", " hi "), Message("assistant", "yo"), Message("user", "so?")]
    assert (
        render(ByteTokenizer(), messages, reply=True).text
        == "System: Be.\nUser: hi\nAssistant: yo\nUser: so?\nAssistant:"
    )
    hf = library_tokenizer()
    ended = BPETokenizer(hf, Special(eos=hf.token_to_id("</s>"), names={"</s>": hf.token_to_id("</s>")}))
    assert render(ended, messages[1:3], reply=False).text == "User: hi\nAssistant: yo</s>\n"


# What is refused.


def test_llama_2_takes_turns() -> None:
    with pytest.raises(FathomError, match="the chat template refuses this conversation: LLaMA 2 takes turns"):
        render(bpe(LLAMA2), [Message("user", "a"), Message("user", "b")], reply=True)


@pytest.mark.parametrize(
    "values, line",
    [
        (7, "it: int; expected an object with 'role' and 'content'"),
        ({"role": "user"}, "it: no field 'content', found 'role'"),
        ({"role": "us er", "content": ""}, "it: a message's role is 'us er'"),
        ({"role": "frame", "content": ""}, "it: a message's role is 'frame'"),
        ({"role": "<|eot_id|>", "content": ""}, "it: a message's role is"),
        ({"role": ["user"], "content": ""}, "it: a message's role is"),
        ({"role": "user", "content": None}, "it: a message's content is NoneType; expected text"),
        ({"role": "user", "content": 7}, "it: a message's content is int; expected text"),
        (
            {"role": "user", "content": [{"type": "image"}]},
            "it: a part of a message's content is 'image'; expected text",
        ),
        ({"role": "assistant", "content": None, "tool_calls": None}, "it: a message's content is NoneType"),
        ({"role": "user", "content": "\ud800"}, "it: .*half a surrogate pair"),
    ],
)
def test_messages_are_checked(values: object, line: str) -> None:
    with pytest.raises(FathomError, match=line):
        read_message(values, "it")


def test_a_conversation_has_messages() -> None:
    with pytest.raises(FathomError, match="without messages"):
        render(bpe(None), [], reply=True)


def test_the_template_that_is_guessed_stays_when_a_model_is_handed_on(shared_data: Path, tmp_path: Path) -> None:
    """Merged or exported, a model is asked as it was trained to be."""
    ours = load(shared_data / "llama2_tokenizer.model")
    for name, data in to_folder(ours).items():
        (tmp_path / name).write_bytes(data)
    theirs = read_folder(tmp_path, 32_000)
    assert theirs is not None and theirs.kind != ours.kind and template_for(theirs) == LLAMA2
    asked = [Message("user", "Why is the sky  blue?\n")]
    assert render(theirs, asked, True).ids == render(ours, asked, True).ids


CALL = {"type": "function", "function": {"name": "forecast", "arguments": {"city": "Bonn </s>", "days": 2}}}
TOOLS = [{"type": "function", "function": {"name": "forecast", "parameters": {"type": "object"}}}]
CALLING = """{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}<|im_end|>
{% endfor %}"""


def test_tools_and_their_calls_reach_the_template_as_in_transformers() -> None:
    asked = {"role": "user", "content": "Will it rain?"}
    called = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Bonn?"}
    dicts = [asked, called, {"role": "tool", "content": "rain", "name": "forecast"}]
    messages = [read_message(values, "it") for values in dicts]
    assert [message.to_json() for message in messages] == dicts
    found = render(bpe(CALLING), messages, False, extras=Extras(TOOLS), special_in_content=True)
    assert found.ids == reference(CALLING).apply_chat_template(dicts, tools=TOOLS, return_dict=False)


def test_what_is_said_beside_the_content_has_a_role_of_its_own() -> None:
    tokenizer = bpe(CALLING)
    called = Message("assistant", "So.", {"reasoning_content": "Bonn?", "tool_calls": [CALL]})
    found = render(tokenizer, [Message("user", "Hello"), called], False, extras=Extras(TOOLS))
    parts = {role: [id for id, who in zip(found.ids, found.roles) if who == role] for role in set(found.roles)}
    assert {role: tokenizer.decode(ids) for role, ids in parts.items() if role != FRAME} == {
        "tools": '{"type": "function", "function": {"name": "forecast", "parameters": {"type": "object"}}}',
        "user": "Hello",
        "reasoning": "Bonn?",
        "assistant": "So.",
        "tool call": 'forecast{"city": "Bonn </s>", "days": 2}',
    }
    labelled = render(tokenizer, [called], False, labels=["it"])
    assert set(labelled.roles) == {FRAME, "it", "it: reasoning", "it: tool call"}


def test_fields_that_are_nested_too_deeply_are_refused() -> None:
    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(FathomError, match="nested deeper than 64"):
        read_message({"role": "user", "content": "a", "tool_calls": deep}, "it")
    with pytest.raises(FathomError, match="nested deeper than 64"):
        render(bpe(CALLING), [Message("user", "a")], False, extras=Extras([deep]))
