"""One prompt through one model: its tokens, and whatever is recorded of the pass, kept so that it runs once.

What is recorded is what the running model computed (fathom.inspect.look); nothing here computes on its own.
"""

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.glass.subject import Subject
from fathom.inspect.identities import difference
from fathom.inspect.look import look
from fathom.inspect.names import Size, n_bytes, readable, select
from fathom.model.transformer import Transformer
from fathom.words import counted

MAX_BYTES = 1 << 30  # of one pass, all recordings together
LOOKING = threading.Lock()  # one recording at a time in a process


class Pass:
    """A prompt, run through a model once.

    ids: (1, t). `seen` records by name and keeps what it recorded; `logits` are those of the same pass.
    """

    def __init__(self, subject: Subject, ids: Tensor, seed: int = 0, beside: "Pass | None" = None) -> None:
        """beside: the pass of the same ids through the model that this one is compared with."""
        self.subject, self.ids, self.seed, self.beside = subject, ids, seed, beside
        self.kept: dict[str, Tensor] = {}
        self.notes: dict[str, Any] = {}  # what panels worked out and may need again, by a key of theirs
        self.answers: list[Tensor] = []  # logits of what was recorded: of the first pass, and one that differs from it

    @property
    def model(self) -> Transformer:
        return self.subject.model

    @property
    def t(self) -> int:
        """The number of tokens."""
        return self.ids.shape[1]

    def place(self, at: int) -> int:
        """The position `at` counts from the start, or from the end where it is negative. FathomError: there is none."""
        if not -self.t <= at < self.t:
            raise FathomError(f"there is no token {at}; the prompt has tokens 0 to {self.t - 1}")
        return at % self.t

    @property
    def key(self) -> str:
        """What names this pass: the model's name and hash, the ids and the seed."""
        text = f"{self.subject.name} {self.subject.hash()} {self.ids.tolist()} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def preamble(self) -> str:
        """Python that makes `model`, `tokenizer` and `ids` of this pass."""
        return f"import fathom\nimport torch\n\n{self.subject.loading}\nids = torch.tensor({self.ids.tolist()})"

    @property
    def logits(self) -> Tensor:
        """(t, V)"""
        return self.seen("logits")["logits"][0]

    @torch.no_grad()
    def seen(self, *patterns: str) -> Mapping[str, Tensor]:
        """The tensors of these names, recorded now or before. FathomError where they would not fit."""
        names = select(self.subject.config, patterns)
        if missing := [name for name in names if name not in self.kept]:
            self.check_room(missing)
            with LOOKING, look(self.model, *missing, max_bytes=MAX_BYTES) as seen:
                logits = self.model(self.ids)
                self.kept |= {name: seen[name] for name in missing}
            if not self.answers or (len(self.answers) == 1 and not torch.equal(self.answers[0], logits)):
                self.answers.append(logits)
        return {name: self.kept[name] for name in names}

    @torch.no_grad()
    def changed_by_looking(self) -> float:
        """How far logits of the recordings so far are from those when nobody looks; 0 only where no bit differs."""
        if "unseen" not in self.notes:
            self.notes["unseen"] = self.model(self.ids)
        without = self.notes["unseen"]
        return max((difference(logits, without) for logits in self.answers), default=0.0)

    def check_room(self, names: list[str]) -> None:
        """FathomError where recording these names as well would exceed the budget of a pass."""
        size = Size(1, self.t, self.t)
        needed = n_bytes(self.subject.config, names, size, self.model.embed.weight.dtype.itemsize)
        total = sum(needed.values())
        if total + sum(x.nbytes for x in self.kept.values()) > MAX_BYTES:
            self.kept.clear()  # what is asked for now matters more than what was
        if total > MAX_BYTES:
            largest = ", ".join(f"{name} {readable(count)}" for name, count in list(needed.items())[:3])
            raise FathomError(
                f"{counted(self.t, 'token')} need {readable(total)} to be shown ({largest}), more than "
                f"{readable(MAX_BYTES)}; choose a shorter text"
            )

    def tokens(self) -> list[dict[str, Any]]:
        """Each token with its id, its text, and whether it is a special one."""
        ids = self.ids[0].tolist()
        return [{"id": id, "text": text, "special": special} for id, (text, special) in zip(ids, self.texts(ids))]

    def texts(self, ids: list[int]) -> list[tuple[str, bool]]:
        """The text of each id and whether it is a special token; without a tokenizer, the ids themselves."""
        tokenizer = self.subject.tokenizer
        if tokenizer is None:
            return [(str(id), False) for id in ids]
        names = {id: name for name, id in tokenizer.special.names.items()}
        known = [id if id < tokenizer.vocab_size else None for id in ids]  # a matrix may have more rows than tokens
        pieces = iter(tokenizer.token_bytes([id for id in known if id is not None]))
        texts = [
            str(id) if one is None else next(pieces).decode("utf-8", "backslashreplace") for id, one in zip(ids, known)
        ]
        return [(names.get(id, text), id in names) for id, text in zip(ids, texts)]

    def text_of(self, id: int) -> str:
        """The text of a token by itself, as it continues other text."""
        return self.texts([self.ids[0, -1].item(), id] if self.t else [id])[-1][0]  # type: ignore[list-item]

    def side(self) -> dict[str, Any]:
        """What the page's frame shows of this pass, as JSON values."""
        logprobs = self.logits.float().log_softmax(-1)[:-1].gather(-1, self.ids[0, 1:, None])[:, 0]
        names = [
            f"blocks.{layer}.{part}"
            for layer, block in enumerate(self.model.blocks)
            for part in ("attn", "mlp")
            if part == "attn" or block.mlp is not None
        ]
        written = self.seen(*names) if names else {}
        norms = {name: x[0].float().norm(dim=-1).tolist() for name, x in written.items()}
        return {
            "model": self.subject.name,
            "card": self.subject.card(),
            "map": self.subject.map(),
            "tokens": self.tokens(),
            "logprobs": [None, *logprobs.tolist()],
            "written": norms,
        }


def first_pass(subject: Subject, prompt: str, seed: int = 0) -> Pass:
    """The pass of a text, after what the model's format puts before every text.

    FathomError: the text is empty, or longer than the model's context. Without a tokenizer the prompt is ids,
    separated by spaces or commas.
    """
    ids = ids_of(subject, prompt)
    if not ids:
        raise FathomError("the prompt is empty; expected some text to look at")
    if (longest := subject.config.resolved().context_length) < len(ids):
        raise FathomError(
            f"the prompt has {counted(len(ids), 'token')}, more than the {longest:,} of the model's context; shorten it"
        )
    return Pass(subject, torch.tensor([ids], device=subject.model.embed.weight.device), seed)


def ids_of(subject: Subject, prompt: str) -> list[int]:
    """The ids of a prompt, with the format's prefix."""
    if subject.tokenizer is not None:
        return [*subject.tokenizer.prefix, *subject.tokenizer.encode(prompt)]
    words = prompt.replace(",", " ").split()
    size = subject.config.vocab_size
    if bad := [word for word in words if not word.isdecimal() or int(word) >= size]:
        raise FathomError(f"{subject.name} has no tokenizer and {bad[0]!r} is no id below {size:,}; give ids: 5 17 3")
    return [int(word) for word in words]


def pair(a: Subject, b: Subject, prompt: str, seed: int = 0) -> tuple[Pass, Pass]:
    """The same prompt through two models. FathomError where they read it as different ids."""
    one, other = first_pass(a, prompt, seed), first_pass(b, prompt, seed)
    if one.ids.tolist() != other.ids.tolist():
        raise FathomError(
            f"{a.name} and {b.name} read this text as different tokens ({one.t} and {other.t}); beside each other only "
            "models with the same tokenizer can be shown"
        )
    one.beside, other.beside = other, one
    return one, other
