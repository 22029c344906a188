"""From records to examples: their tokens, the role of each token, and which are learned.

Of a conversation all that the assistant has to write is learned: from where the template leaves it to answer, to the
token, or the text, that ends the answer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fathom.data.corpus import Corpus
from fathom.data.dialogues import Dialogue
from fathom.data.records import Completion, Document, Record
from fathom.data.token_file import Tokens, encode_corpus, end_of_document
from fathom.errors import FathomError
from fathom.tokenizer.message import CALLED, FRAME, SPOKEN, Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import TOOLS, WITHIN, Extras, Rendered, render, template_for, template_origin
from fathom.tokenizer.turns import closing
from fathom.tokenizer.typed import uniform

TEXT, USER, ASSISTANT = "text", "user", "assistant"
UNLEARNED = f"{ASSISTANT}/-"  # the label of an answer that is not learned
LEARNED = (f"{ASSISTANT}/1", f"{ASSISTANT}/2")  # of those that are, in turns, so that the border of two is seen


@dataclass(frozen=True)
class Example:
    """What a model is shown. A token that is `trained` is one to be predicted from those before it."""

    ids: tuple[int, ...]
    roles: tuple[str, ...]  # of each token: text, user, assistant, ..., or FRAME for what belongs to no message
    trained: tuple[bool, ...]
    unused: tuple[str, ...] = ()  # fields that the template does not read


def to_example(record: Record, tokenizer: Tokenizer, train_all: bool = False) -> Example:
    """The tokens of a record; `train_all`: what asks is learned too.

    FathomError: the vocabulary cannot spell it, or the template refuses it or leaves out what is learned.
    """
    prefix, end = tokenizer.prefix, end_of_document(tokenizer)
    match record:
        case Document(text):
            return _concatenated((prefix, FRAME, True), (tokenizer.encode(text), TEXT, True), (end, FRAME, True))
        case Completion(prompt, completion):
            question, answer = tokenizer.encode(prompt), tokenizer.encode(completion)
            return _concatenated(
                (prefix, FRAME, train_all), (question, USER, train_all), (answer, ASSISTANT, True), (end, FRAME, True)
            )
        case Dialogue():
            return dialogue_example(record, tokenizer, train_all)


def question_ids(text: str, tokenizer: Tokenizer, chat: bool) -> list[int]:
    """The tokens of a question as those of the data begin: in the chat template, or as a prompt."""
    text = uniform(text)
    if chat:
        return render(tokenizer, [Message(USER, text)], reply=True).ids
    return tokenizer.prefix + tokenizer.encode(text)


def _concatenated(*parts: tuple[list[int], str, bool]) -> Example:
    """Parts of (ids, role, trained), one after another."""
    ids, roles, trained = zip(*((id, role, learned) for part, role, learned in parts for id in part))
    return Example(ids, roles, trained)


def dialogue_example(dialogue: Dialogue, tokenizer: Tokenizer, train_all: bool = False) -> Example:
    """A conversation in which the assistant's answers are trained, or with `train_all` all but those of weight 0."""
    turns = Turns(dialogue, tokenizer)
    labels = [role.partition(WITHIN)[0] for role in turns.whole.roles]
    trained, place, ended = [train_all and label != UNLEARNED for label in labels], 0, ""
    while place < len(labels):
        label = turns.starts.get(place, labels[place])
        named = label == ended and turns.whole.roles[place].endswith(f"{WITHIN}{CALLED}")  # a result names its call
        end = turns.answer_end(labels, place, label) if label in LEARNED and not named else place
        if end > place:
            trained[place:end] = [True] * (end - place)
            ended = label
        place = max(end, place + 1)
    turns.check(labels)
    roles = tuple(role.rpartition(WITHIN)[2].partition("/")[0] for role in turns.whole.roles)
    return Example(tuple(turns.whole.ids), roles, tuple(trained), turns.unused())


class Turns:
    """A conversation as a template writes it. `starts`: where the assistant is left to answer, as when asked."""

    def __init__(self, dialogue: Dialogue, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.dialogue, self.messages = tokenizer, dialogue, list(dialogue.messages)
        self.extras = Extras(None if dialogue.tools is None else list(dialogue.tools), arguments=dialogue.arguments)
        self.labels = labels_of(dialogue)
        self.whole = self.rendered()
        last, end = self.whole.roles[-1:], tokenizer.eos
        if end is not None and self.labels[-1] in LEARNED and last and last[0].partition(WITHIN)[0] == self.labels[-1]:
            self.whole = replace(self.whole, ids=[*self.whole.ids, end], roles=[*self.whole.roles, FRAME])  # GLM-4
        self.special = frozenset(tokenizer.special.names.values())
        self.end_ids = tokenizer.special.end_ids | closing(tokenizer).ids
        self.starts: dict[int, str] = {}  # none where a template renders the past differently
        for place, label in enumerate(self.labels):
            if place and label in LEARNED and (start := self.start_after(self.render(place, reply=True).ids)):
                self.starts[start] = label

    def render(self, count: int, reply: bool) -> Rendered:
        messages, labels = self.messages[:count], self.labels[:count]
        return render(self.tokenizer, messages, reply, extras=self.extras, labels=labels)

    def rendered(self) -> Rendered:
        """The whole. A template that cannot read null as content gets empty text for it."""
        try:
            return self.render(len(self.messages), reply=False)
        except FathomError as problem:
            if all(message.content is not None for message in self.messages):
                raise
            self.messages = [m if m.content is not None else replace(m, content="") for m in self.messages]
            try:
                return self.render(len(self.messages), reply=False)
            except FathomError:
                raise problem from None

    def start_after(self, asked: Sequence[int]) -> int | None:
        """The token of the whole with which an answer begins, after what is asked; None: the whole begins otherwise.

        Where both part the tokens are compared by what they spell: the last of a question may join the answer's first.
        """
        ids = self.whole.ids
        place = next((at for at, pair in enumerate(zip(asked, ids)) if pair[0] != pair[1]), min(len(asked), len(ids)))
        rest, spelled = b"".join(self.tokenizer.token_bytes(asked)[place:]), self.tokenizer.token_bytes(ids)[place:]
        if self.special & {*asked[place:]} or not b"".join(spelled).startswith(rest):
            return None
        while place < len(ids) and len(spelled[0]) <= len(rest):
            rest, place = rest[len(spelled.pop(0)) :], place + 1
        return place

    def answer_end(self, labels: Sequence[str], start: int, label: str) -> int:
        """One past the last token of the answer that begins at `start`: the token that ends it, if there is one."""
        ids = self.whole.ids
        stop = next((place for place in range(start, len(ids)) if labels[place] not in (label, FRAME)), len(ids))
        said = [place for place in range(start, stop) if labels[place] == label]
        first = said[0] + 1 if said else start
        ended = next((place for place in range(first, stop) if ids[place] in self.end_ids), None)
        if ended is not None:
            return ended + 1
        if not said or not self.end_ids:
            return stop if said else start
        end = said[-1] + 1
        end += self.count_closing(ids[end:stop])
        return end + (end < stop and ids[end] in self.special)  # GLM: what begins the next turn

    def count_closing(self, ids: Sequence[int]) -> int:
        """How many of the tokens after an answer spell the text that ends it, where no token does."""
        text = b""
        for count, spelled in enumerate(self.tokenizer.token_bytes(ids), 1):
            text += spelled
            if any(end in text for end in closing(self.tokenizer).texts):  # a number of a call may come before it
                return count
        return 0

    @property
    def origin(self) -> str:
        return f"the chat template ({template_origin(template_for(self.tokenizer))})"

    def check(self, labels: Sequence[str]) -> None:
        """FathomError where the template leaves out what was said: the answers, calls of tools, a role."""
        spoken = [m for m, label in zip(self.messages, self.labels) if label in LEARNED and m.text.strip()]
        if spoken and not set(labels) & set(LEARNED):
            raise FathomError(f"{self.origin} writes nothing of the assistant's messages")
        for place, message in enumerate(self.messages, 1):
            if message.role != ASSISTANT and message.text.strip() and message.role not in labels:
                raise FathomError(f"message {place}: {self.origin} writes nothing of the role {message.role!r}")
        calls = [id for id, role in zip(self.whole.ids, self.whole.roles) if role.endswith(f"{WITHIN}{CALLED}")]
        written = self.tokenizer.decode(calls)
        for place, message in enumerate(self.messages, 1):
            for call in message.fields.get("tool_calls", ()):
                name = call.get("function", call)["name"]
                if name not in written and (id := call.get("id")) and id in written:  # Kimi's template
                    raise FathomError(
                        f"message {place}: 'tool_calls' calls {name!r}, of which {self.origin} writes the 'id' alone,"
                        f" {id!r}; give ids that name it, such as functions.{name}:0"
                    )
                if name not in written:
                    raise FathomError(
                        f"message {place}: 'tool_calls' calls {name!r}, which {self.origin} does not write; give a"
                        " model whose template writes calls of tools, or write them in 'content'"
                    )
                written = written.replace(name, "", 1)

    def unused(self) -> tuple[str, ...]:
        """The fields that the template does not name, tools it does not write, and what it leaves out of answers."""
        words = template_words(template_for(self.tokenizer))
        names = {*self.dialogue.arguments, *(name for message in self.messages for name in message.fields)}
        unused = {str(name) for name in names if name not in words}
        if self.dialogue.tools is not None and TOOLS not in self.whole.roles:
            unused.add("tools")
        for message, label in zip(self.messages, self.labels):
            reasoning = {name: text for name, text in message.fields.items() if SPOKEN.get(name) == "reasoning"}
            unused |= {name for name, text in reasoning.items() if str(text).strip() not in self.whole.text}
            if label in LEARNED and message.text.strip() not in self.whole.text:
                unused.add("content, in part")
        return tuple(sorted(unused))


def labels_of(dialogue: Dialogue) -> list[str]:
    """What stands for the role of each message: whether it is learned, where it is the assistant's."""
    labels, n_learned = list[str](), 0
    for place, message in enumerate(dialogue.messages):
        if message.role != ASSISTANT:
            labels.append(message.role)
        elif place in dialogue.unlearned or place < dialogue.n_prompt:
            labels.append(UNLEARNED if place in dialogue.unlearned else f"{ASSISTANT}/0")
        else:
            labels.append(LEARNED[n_learned % 2])
            n_learned += 1
    return labels


@lru_cache(maxsize=8)
def template_words(template: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", template))


def corpus_examples(corpus: Corpus, tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    """A corpus as pre-training reads it: its documents one after another, cut into windows of `length` tokens."""
    ids: list[int] = []
    for more in encode_corpus(corpus, tokenizer):
        ids += more.tolist()
        while len(ids) >= length:
            yield _window(ids[:length], tokenizer)
            ids = ids[length:]
    if ids:
        yield _window(ids, tokenizer)


def token_examples(tokens: Tokens, tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    """Prepared tokens in windows of `length`."""
    return (_window(tokens[start : start + length].tolist(), tokenizer) for start in range(0, len(tokens), length))


def _window(ids: list[int], tokenizer: Tokenizer) -> Example:
    roles = tuple(FRAME if id == tokenizer.eos else TEXT for id in ids)
    return Example(tuple(ids), roles, (True,) * len(ids))
