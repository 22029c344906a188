"""Exactly what the assistant has to write is learned: what generation would have to produce after the prompt."""

from pathlib import Path

import pytest

from fathom.data.corpus import resolve
from fathom.data.dialogues import Dialogue
from fathom.data.examples import Example, corpus_examples, to_example
from fathom.data.records import Completion, Document, RecordFile
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.load import load
from fathom.tokenizer.message import Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import LLAMA2, LLAMA3, render
from tests.tokenizer.templates import PUBLISHED, bpe, conversation

BYTES = ByteTokenizer()


def learned(example: Example, tokenizer: Tokenizer) -> list[str]:
    """The stretches that are learned."""
    stretches, before = [""], False
    for id, trained in zip(example.ids, example.trained):
        if trained:
            stretches += [""] * (not before)
            stretches[-1] += tokenizer.decode([id])
        before = trained
    return stretches[1:]


TALK = (Message("user", "Hello"), Message("assistant", "world"), Message("user", "x"), Message("assistant", "1,234"))
EXPECTED = {
    "llama 2": [" world </s>", " 1,234 </s>"],
    "llama 3": ["world<|eot_id|>", "1,234<|eot_id|>"],
    "chatml": ["world<|im_end|>", "1,234<|im_end|>"],
    "zephyr": ["world</s>", "1,234</s>"],
    "thinking": ["world<|im_end|>", "1,234<|im_end|>"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_answers_and_what_ends_them_are_learned(name: str) -> None:
    tokenizer = bpe(PUBLISHED[name])
    assert learned(to_example(Dialogue(TALK), tokenizer), tokenizer) == EXPECTED[name]


@pytest.mark.parametrize("name", ["llama 2", "llama 3", "chatml"])
def test_what_is_learned_is_what_follows_the_prompt_of_a_chat(name: str) -> None:
    """For each answer: the prompt's ids stand before it, and after it the token at which a chat stops.

    Where an answer's first character joins the prompt's last line end, no prompt can be found again.
    """
    tokenizer, compared = bpe(PUBLISHED[name]), 0
    for seed in range(100):
        messages = conversation(seed)
        example = to_example(Dialogue(tuple(messages)), tokenizer)
        ids, expected = list(example.ids), [False] * len(example.ids)
        assert ids == render(tokenizer, messages, reply=False).ids
        turns = [place for place, message in enumerate(messages) if message.role == "assistant"]
        prompts = [render(tokenizer, messages[:turn], reply=True).ids for turn in turns]
        if any(ids[: len(prompt)] != prompt for prompt in prompts):
            continue
        for start in map(len, prompts):
            end = next(place for place in range(start, len(ids)) if ids[place] in tokenizer.special.end_ids)
            expected[start : end + 1] = [True] * (end + 1 - start)
        assert list(example.trained) == expected, (name, seed)
        compared += bool(prompts)
    assert compared >= 5


def test_an_answer_that_is_told_anew_later_is_still_learned() -> None:
    """A template that leaves out earlier reasoning: the prompt was another, the answer is where its words are."""
    tokenizer = bpe("{{ messages|length }}:{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    assert learned(to_example(Dialogue(TALK), tokenizer), tokenizer) == ["world<|im_end|>", "1,234<|im_end|>"]


ASKING = "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"


def test_a_token_that_begins_another_turn_is_not_learned() -> None:
    tokenizer = bpe("{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}\n{% endfor %}" + ASKING)
    assert learned(to_example(Dialogue(TALK), tokenizer), tokenizer) == ["world", "1,234"]


def test_what_a_template_does_not_write_for_the_assistant_is_learned_too() -> None:
    tokenizer = bpe("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}")
    whole = "<|im_start|>assistant: world<|im_end|>"
    assert learned(to_example(Dialogue(TALK[:2]), tokenizer), tokenizer) == [whole]


def test_without_special_tokens_what_begins_the_other_turn_ends_the_answer() -> None:
    assert learned(to_example(Dialogue(TALK), BYTES), BYTES) == [" world\nUser: ", " 1,234\n"]


def test_llama_2s_own_tokenizer(shared_data: Path) -> None:
    tokenizer = load(shared_data / "llama2_tokenizer.model")
    for answer in ("world", "日本"):  # one joins the space before it, one does not
        example = to_example(Dialogue((Message("user", "x"), Message("assistant", answer))), tokenizer)
        asked = render(tokenizer, [Message("user", "x")], reply=True).ids
        assert list(example.trained) == [False] * len(asked) + [True] * (len(example.ids) - len(asked))
        assert example.ids[-1] == tokenizer.eos


def test_a_text_is_learned_whole_and_a_completion_without_its_prompt() -> None:
    tokenizer = bpe(LLAMA2)
    bos, eos = tokenizer.bos, tokenizer.eos
    assert bos is not None and eos is not None
    text = to_example(Document("Hello world"), tokenizer)
    assert text.ids == (bos, *tokenizer.encode("Hello world"), eos) and all(text.trained)
    half = to_example(Completion("Hello", " world"), tokenizer)
    assert half.ids == (bos, *tokenizer.encode("Hello"), *tokenizer.encode(" world"), eos)
    assert learned(half, tokenizer) == [" world</s>"]
    assert set(half.roles) == {"frame", "user", "assistant"}


def test_without_eos_a_newline_ends_a_text_where_there_is_one() -> None:
    assert to_example(Document("ab"), BYTES).ids == (*b"ab\n",)
    assert to_example(Document("ab"), CharacterTokenizer("ab")).ids == (0, 1)
    assert to_example(Completion("", "ab"), BYTES).trained == (True,) * 3


def test_real_instructions_all_have_something_to_learn(shared_data: Path) -> None:
    tokenizer = bpe(LLAMA3)
    examples = [to_example(record, tokenizer) for record in RecordFile(shared_data / "instructions.json")]
    assert len(examples) == 1_100
    assert all(any(example.trained) and not example.trained[0] for example in examples)
    assert all(len(example.ids) == len(example.roles) == len(example.trained) for example in examples)


def test_windows_are_those_of_pre_training(tmp_path: Path) -> None:
    (tmp_path / "it.jsonl").write_text('{"text": "abcd"}\n{"text": "ef"}\n')
    tokenizer = bpe(None)
    assert tokenizer.eos is not None
    expected = [*tokenizer.encode("abcd"), tokenizer.eos, *tokenizer.encode("ef")]
    found = list(corpus_examples(resolve(str(tmp_path / "it.jsonl")), tokenizer, 3))
    assert [id for example in found for id in example.ids] == expected
    assert [len(example.ids) for example in found][:-1] == [3] * (len(found) - 1)
