"""A conversation is what was said; the model reads as much of it as fits, and is told which that is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.data.dialogues import Dialogue
from fathom.data.records import RecordFile
from fathom.errors import ContextOverflow, FathomError
from fathom.generation.chat import Conversation
from fathom.generation.generate import generate
from fathom.generation.options import GenerateOptions
from fathom.model.attention import attend
from fathom.model.config import Layers
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.message import Message
from fathom.tokenizer.template import LLAMA3, render
from tests.generation.models import random_model
from tests.tokenizer.templates import PUBLISHED, bpe

GREEDY = GenerateOptions(temperature=0, max_new_tokens=12)


def talk(
    context_length: int = 400, system: str | None = None, layers: Layers | None = None, **changes: Any
) -> Conversation:
    tokenizer = bpe(LLAMA3)
    parts = {} if layers is None else {"layers": layers}
    model = random_model("llama", tokenizer.vocab_size, context_length, **parts)
    return Conversation(model, tokenizer, GenerateOptions(**{"temperature": 0, "max_new_tokens": 12} | changes), system)


def texts(said: Conversation) -> list[str]:
    return [message.content for message in said.messages]


def test_answers_are_what_follows_the_rendered_conversation() -> None:
    said = talk(system="Be.")
    messages = [Message("system", "Be.")]
    for question in ("Hello", "world, how are you?", "x"):
        messages.append(Message("user", question))
        ids = render(said.tokenizer, messages, reply=True).ids
        (expected,) = generate(said.model, said.tokenizer, [ids], GREEDY)
        answer = said.say(question)
        assert "".join(piece.text for piece in answer) == expected.text == answer.text
        messages.append(Message("assistant", expected.text.strip()))
        assert said.messages == messages and answer.stats.prompt_tokens == len(ids)
    assert said.dropped == []


def tokens_read(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass reads from now on."""
    counts, forward = list[int](), model.embed.forward

    def counted(ids: Tensor) -> Tensor:
        counts.append(ids.numel())
        return forward(ids)

    monkeypatch.setattr(model.embed, "forward", counted)
    return counts


@pytest.mark.parametrize("layers", [None, Layers("lg", window=20)], ids=["whole", "windows"])
def test_a_turn_reads_only_what_is_new(layers: Layers | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first token that is not what was read at its place."""
    said = talk(layers=layers)
    counts, before, asked = tokens_read(said.model, monkeypatch), list[int](), 0
    for question in ("Hello", "world, how are you?", "x", "Hello world"):
        ids = said.prompt(Message("user", question))
        answer = said.say(question)
        pieces = list(answer)
        reused = next((n for n, (a, b) in enumerate(zip(before, ids)) if a != b), min(len(before), len(ids)))
        assert sum(counts) == len(ids) - reused + len(pieces) - 1 and answer.stats.reused_tokens == reused
        assert reused >= asked - 2  # the template may end otherwise where an answer follows
        asked = len(ids)
        before, counts[:] = [*ids, *(piece.token for piece in pieces[:-1])], []


def test_what_is_remembered_is_of_the_model_as_it_is() -> None:
    """Changed weights, a hook, an exchanged part, and an answer that nobody heard to its end."""
    said = talk(context_length=2000)

    def whole() -> bool:
        """Whether the next turn reads all of its tokens."""
        answer = said.say("Hello")
        list(answer)
        return answer.stats.reused_tokens == 0

    assert whole() and not whole() and not whole()
    with torch.no_grad():
        said.model.blocks[0].attn.q.weight *= 1.5
    assert whole() and not whole()
    handle = said.model.blocks[1].register_forward_hook(lambda module, given, x: x * 2)
    assert whole() and not whole()
    handle.remove()
    assert whole() and not whole()
    said.model.blocks[0].attn.attend = attend
    assert whole() and not whole()
    unheard = said.say("Hello")
    next(unheard)
    assert whole() and not whole()
    unheard.close()
    assert not whole()
    (expected,) = generate(said.model, said.tokenizer, [said.prompt(Message("user", "x"))], GREEDY)
    assert said.ask("x") == expected.text.strip()


def test_an_answer_ends_with_its_turn() -> None:
    said = talk(max_new_tokens=300)
    pieces = list(said.say("Hello"))
    assert pieces[-1].finish_reason in ("eos", "length")
    ends = said.tokenizer.special.end_ids
    assert all(piece.token not in ends for piece in pieces[:-1])


def test_an_answer_that_is_closed_is_kept_as_far_as_it_went() -> None:
    said = talk()
    answer = said.say("Hello")
    first = [next(answer), next(answer)]
    assert said.messages == []
    answer.close()
    assert texts(said) == ["Hello", "".join(piece.text for piece in first).strip()]


@pytest.mark.parametrize("context_length", [120, 127, 134])
def test_the_oldest_exchanges_are_dropped_and_named(context_length: int) -> None:
    said, dropped = talk(context_length, system="Be."), list[int]()
    for turn in range(8):
        answer = said.say(f"Hello {turn} world, how are you?")
        view = [
            Message("system", "Be."),
            *said.turns[said.left_out :],
            Message("user", f"Hello {turn} world, how are you?"),
        ]
        assert answer.stats.prompt_tokens == len(render(said.tokenizer, view, reply=True).ids) <= context_length - 12
        list(answer)
        dropped.append(len(said.dropped))
    assert dropped == sorted(dropped) and dropped[-1] >= 8 and all(count % 2 == 0 for count in dropped)
    assert said.dropped == said.turns[: dropped[-1]] and len(said.messages) == 17


def test_no_more_is_dropped_than_has_to_be() -> None:
    said = talk(context_length=120)
    for turn in range(8):
        list(said.say(f"Hello {turn} world, how are you?"))
        if said.left_out:
            one_more = said.turns[said.left_out - 2 : -1]
            assert len(render(said.tokenizer, one_more, reply=True).ids) + 12 > 120


def test_a_message_that_does_not_fit_is_refused_with_both_counts_and_not_said() -> None:
    said = talk(context_length=60)
    list(said.say("Hello"))
    with pytest.raises(ContextOverflow, match=r"the message is \d\d\d tokens and the context 60"):
        said.say("x " * 300)
    assert len(said.messages) == 2 and said.dropped == []
    assert list(said.say("Hello"))


def test_a_long_message_leaves_a_shorter_answer() -> None:
    said = talk(context_length=60, max_new_tokens=200)
    question = next("x " * n for n in range(100, 0, -1) if said_tokens(said, "x " * n) <= 58)
    pieces = list(said.say(question))
    assert pieces[-1].finish_reason in ("length", "eos") and len(pieces) <= 6


def said_tokens(said: Conversation, text: str) -> int:
    return len(render(said.tokenizer, [Message("user", text)], reply=True).ids)


def test_beyond_the_context_when_asked() -> None:
    said = talk(context_length=60, past_context="extend")
    for _ in range(4):
        list(said.say("Hello world, how are you?"))
    assert said.dropped == []


def test_a_plain_transcript_ends_where_the_user_would_speak() -> None:
    said = Conversation(random_model("llama"), ByteTokenizer(), GREEDY)
    assert said.options.stop == ("\nUser:",)


def test_reset_keeps_the_system_prompt() -> None:
    said = talk(system="Be.")
    list(said.say("Hello"))
    said.reset()
    assert said.messages == [Message("system", "Be.")]


def test_a_template_that_refuses_leaves_the_conversation_as_it_was() -> None:
    tokenizer = bpe("{{ raise_exception('no') if messages[-1].content == 'bad' else 'x' }}")
    said = Conversation(random_model("llama", tokenizer.vocab_size), tokenizer, GREEDY)
    with pytest.raises(FathomError, match="refuses this conversation: no"):
        said.say("bad")
    list(said.say("good"))
    assert texts(said)[0] == "good"


# Files.


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    said, other = talk(system="Sei. 日本"), talk()
    list(said.say("Hello"))
    said.save(tmp_path / "new" / "talk.json")
    other.load(tmp_path / "new" / "talk.json")
    assert other.messages == said.messages and other.system == "Sei. 日本"
    # one reads the whole talk, the other what is new in it: the plain model's sums differ in their last bits
    ours, theirs = list(said.say("so?")), list(other.say("so?"))
    assert [(one.token, one.text) for one in theirs] == [(one.token, one.text) for one in ours]
    assert [one.logprob for one in theirs] == pytest.approx([one.logprob for one in ours], abs=1e-5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["talk.json"]


@pytest.mark.parametrize(
    "content, line",
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON in UTF-8"),
        (b"[]", "no list 'messages'"),
        (b'{"messages": 7}', "no list 'messages'"),
        (b'{"messages": [7]}', "message 1: int; expected an object"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}', "message 2: no field 'content'"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_damaged_files_are_one_line_and_change_nothing(tmp_path: Path, content: bytes, line: str) -> None:
    said, path = talk(), tmp_path / "talk.json"
    list(said.say("Hello"))
    before = said.messages
    path.write_bytes(content)
    with pytest.raises(FathomError, match=f"talk.json.*{line}"):
        said.load(path)
    assert said.messages == before


def test_a_saved_conversation_is_a_record_to_learn_from(tmp_path: Path) -> None:
    tokenizer = bpe(PUBLISHED["chatml"])
    said = Conversation(random_model("llama", tokenizer.vocab_size), tokenizer, GREEDY)
    list(said.say("Hello"))
    said.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][0] == {"role": "user", "content": "Hello"}
    assert said.messages[1].content
    assert list(RecordFile(tmp_path / "talk.json")) == [Dialogue(tuple(said.messages))]
