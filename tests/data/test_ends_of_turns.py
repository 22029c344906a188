"""Whatever the template: the mask covers each answer and what ends it, and nothing that another says."""

from functools import cache
from pathlib import Path

import pytest

from fathom.data.dialogues import Dialogue
from fathom.data.examples import to_example
from fathom.errors import FathomError
from fathom.tokenizer import template as built_in
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import read_folder
from fathom.tokenizer.message import Message, read_message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import render
from tests.tokenizer.shapes import CALL, ENDS, SHAPES, TALKS, tokenizer_of
from tests.tokenizer.templates import PUBLISHED, bpe

REAL = {"llama3_1": "<|eot_id|>", "qwen3": "<|im_end|>", "gemma3": "<end_of_turn>"}
TALK = (Message("user", "Hello"), Message("assistant", "One."), Message("user", "x"), Message("assistant", "Two."))
CALLING = (
    Message("user", "Hello"),
    Message("assistant", "One.", {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}),
    Message("tool", "7"),
    Message("assistant", "Two."),
)
NO_TOKEN = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"  # text alone ends a turn
NO_TOKEN += "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"


TEMPLATES = [*PUBLISHED.values(), built_in.LLAMA2, built_in.LLAMA3, built_in.TRANSCRIPT]
BEGINS_NEXT = {"glm4": ("<|user|>", "</s>"), "glm45": ("<|user|>", "</s>"), "gpt_oss": ("<|end|>", "<|return|>")}


@cache
def real(folder: Path) -> Tokenizer:
    try:
        tokenizer = read_folder(folder, 300_000)
    except FathomError as problem:
        pytest.skip(f"a tokenizer of another kind: {problem}")
    assert tokenizer is not None
    return tokenizer


def stretches(dialogue: Dialogue, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each stretch that is learned."""
    example, found, before = to_example(dialogue, tokenizer), list[list[int]](), False
    for id, trained in zip(example.ids, example.trained):
        if trained:
            found += [[]] * (not before)
            found[-1] = [*found[-1], id]
        before = trained
    return found


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda text: text[:25])
def test_each_answer_and_its_end_are_learned(template: str) -> None:
    tokenizer = bpe(template)
    first, second = stretches(Dialogue(TALK), tokenizer)
    for answer, said in ((first, "One."), (second, "Two.")):
        assert tokenizer.decode(answer[:-1]).strip().endswith(said) and answer[-1] in tokenizer.special.end_ids


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda text: text[:25])
def test_of_an_answer_of_weight_0_nothing_is_learned(template: str) -> None:
    tokenizer = bpe(template)
    (only,) = stretches(Dialogue(TALK, frozenset({1})), tokenizer)
    assert "One." not in tokenizer.decode(only) and only[-1] in tokenizer.special.end_ids
    (only,) = stretches(Dialogue(TALK, n_prompt=3), tokenizer)
    assert "One." not in tokenizer.decode(only)
    example = to_example(Dialogue(TALK, frozenset({1})), tokenizer, train_all=True)
    unlearned = tokenizer.decode([id for id, trained in zip(example.ids, example.trained) if not trained])
    assert unlearned.strip() == "One."


@pytest.mark.parametrize("known", [True, False], ids=["end known", "end from the template"])
@pytest.mark.parametrize("name", SHAPES)
def test_what_ends_a_turn_is_learned_in_every_shape(name: str, known: bool) -> None:
    """Also where the tokenizer does not name it as an end, as after tokens were added for a template."""
    tokenizer = tokenizer_of(SHAPES[name], ENDS.get(name) if known else None)
    ends = BEGINS_NEXT.get(name, (ENDS.get(name, "</s>"),) * 2)
    for answer, said, end in zip(stretches(Dialogue(TALK), tokenizer), ("One.", "Two."), ends, strict=True):
        assert tokenizer.decode(answer[:-1]).strip().endswith(said)
        assert tokenizer.decode(answer[-1:]) == end


WRITE_CALLS = ["command_r", "exaone4", "hermes", "llama31", "mistral_tekken", "mistral_v3", "qwen25", "qwen3"]
WRITE_CALLS += ["qwen3_coder", "glm45", "gpt_oss", "kimi_k2"]
AFTER_CALL = {"glm45": "<|observation|>", "gpt_oss": "<|call|>"}


@pytest.mark.parametrize("known", [True, False], ids=["end known", "end from the template"])
@pytest.mark.parametrize("name", WRITE_CALLS)
def test_a_call_is_learned_whole_with_what_ends_it(name: str, known: bool) -> None:
    tokenizer = tokenizer_of(SHAPES[name], ENDS.get(name) if known else None)
    talk = TALKS["call of a tool"]
    if name == "kimi_k2":  # it writes a call's id instead of its name
        calls = {"tool_calls": [CALL | {"id": "functions.forecast:0"}]}
        talk = [one | calls if "tool_calls" in one else one for one in talk]
    messages = [read_message(values, "it") for values in talk]
    asked = render(tokenizer, messages[:1], reply=True).text
    whole = render(tokenizer, messages, reply=False).text
    end = AFTER_CALL.get(name, ENDS.get(name, "</s>"))
    expected = whole[len(asked) : whole.index(end, len(asked)) + len(end)]
    call, answer = stretches(Dialogue(tuple(messages)), tokenizer)
    assert tokenizer.decode(call) == expected and "Köln" in expected
    assert "It rains." in tokenizer.decode(answer) and "rain" not in tokenizer.decode(answer).replace("It rains.", "")


def test_calls_of_which_a_template_writes_the_id_alone_name_themselves_in_it() -> None:
    messages = [read_message(values, "it") for values in TALKS["call of a tool"]]
    with pytest.raises(FathomError, match=r"'id' alone, 'abcdef123'; give ids .* functions\.forecast:0"):
        to_example(Dialogue(tuple(messages)), tokenizer_of(SHAPES["kimi_k2"]))


@pytest.mark.parametrize("name", REAL)
def test_real_templates(name: str, shared_data: Path) -> None:
    tokenizer = real(shared_data / "tokenizers" / name)
    first, second = stretches(Dialogue(TALK), tokenizer)
    assert tokenizer.decode(first) == f"One.{REAL[name]}"
    assert tokenizer.decode(second).endswith(f"Two.{REAL[name]}")


def test_a_call_of_a_tool_belongs_to_the_answer(shared_data: Path) -> None:
    tokenizer = real(shared_data / "tokenizers" / "qwen3")
    first, second = stretches(Dialogue(CALLING), tokenizer)
    text = tokenizer.decode(first)
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>' in text and "One." in text
    assert tokenizer.decode(second).endswith("Two.<|im_end|>")


def test_a_text_that_ends_a_turn_is_learned_where_no_token_does() -> None:
    tokenizer = bpe(NO_TOKEN)
    assert [tokenizer.decode(ids) for ids in stretches(Dialogue(TALK), tokenizer)] == ["One.<|end|>", "Two.<|end|>"]
    assert [ByteTokenizer().decode(ids) for ids in stretches(Dialogue(TALK), ByteTokenizer())][-1] == " Two.\n"


def test_reasoning_that_a_template_leaves_out_is_named(shared_data: Path) -> None:
    """Qwen3's template keeps the reasoning of the last question alone."""
    tokenizer = real(shared_data / "tokenizers" / "qwen3")
    thinking = Message("assistant", "One.", {"reasoning_content": "Hm."})
    written = Message("assistant", "<think>Hm.</think>One.")
    for first, unused in ((thinking, ("reasoning_content",)), (written, ("content, in part",))):
        assert to_example(Dialogue((TALK[0], first, *TALK[2:])), tokenizer).unused == unused
    assert to_example(Dialogue((TALK[0], thinking)), tokenizer).unused == ()
