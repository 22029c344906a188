"""A Fathom model as lm-eval (EleutherAI's harness) asks it: log-likelihoods of texts, and texts that it writes.

    >>> from lm_eval import simple_evaluate
    >>> simple_evaluate(HarnessModel(*fathom.load("runs/demo", for_inference=True)), tasks=["lambada_openai"])

Texts are encoded, cut and windowed as by lm-eval's own `HFLM`. This file needs the package; `tasks` imports it late.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from fathom.errors import FathomError, OutsideVocabulary
from fathom.generation.generate import first_id, stream
from fathom.model.transformer import Transformer
from fathom.tokenizer.message import Message
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import render, split_at_special
from fathom.verification.evaluate import AT_ONCE, hidden, log_probabilities
from fathom.words import counted

NEW_TOKENS = 256  # of an answer, where the task names no number
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
Scored = tuple[float, bool]  # ln p of a continuation, and whether each of its tokens is the likeliest
Following = Callable[[str, int, int], None]  # what is counted, how many are done, of how many


@dataclass(frozen=True)
class Question:
    """Continuations of one text: they share all tokens but their last, and so one pass."""

    ids: tuple[int, ...]  # read by the model
    asked: list[tuple[int, list[int]]]  # place of the request, and the tokens that end where `ids` do, one later


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the package has no types
    """One model and its tokenizer. batch_size: texts in one pass. follow: called as requests are answered."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, batch_size: int = 8, follow: Following = lambda *_: None
    ) -> None:
        super().__init__()
        self.model, self.vocabulary, self.batch_size, self.follow = model.eval(), tokenizer, batch_size, follow
        self._device = model.embed.weight.device
        self.max_length = model.config.context_length
        self.special = frozenset(tokenizer.special.names.values())

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id if self.vocabulary.eos is None else self.vocabulary.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: bos, else what `generate` begins an empty text with."""
        return first_id(self.vocabulary) if self.vocabulary.bos is None else self.vocabulary.bos

    @property
    def tokenizer_name(self) -> str:
        return self.vocabulary.kind

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text in which special tokens are spelled, as chat templates do. Before them the format's prefix,
        unless the text has one."""
        names = self.vocabulary.special.names
        bos = next((name for name, id in names.items() if id == self.prefix_token_id), None)
        wanted = not (bos and string.startswith(bos)) if add_special_tokens is None else add_special_tokens
        ids = self.vocabulary.prefix if wanted else []
        for start, stop, name in split_at_special(string, names, self.vocabulary.special.flags):
            encode = self.vocabulary.continued if start else self.vocabulary.encode
            ids += [names[name]] if name else encode(string[start:stop])
        return ids

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as its template writes it; without the prompt it ends with the last message, unfinished."""
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
        text = render(self.vocabulary, messages, add_generation_prompt).text
        if add_generation_prompt:
            return text
        last = messages[-1].text.strip()
        return text[: text.rindex(last) + len(last)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens of both; one that joins them belongs to the context, spaces at its end to what follows.
        FathomError: nothing is left to score."""
        before, after = super()._encode_pair(context, continuation)
        if not after:
            raise FathomError(
                f"the continuation {continuation!r:.60} adds no token to {context[-20:]!r}: the tokenizer joins them;"
                " the task needs a target_delimiter, such as a space"
            )
        return before or [self.prefix_token_id], after

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[Scored]:
        """ln p of each continuation after its context, the longest texts first, `batch_size` in a pass."""
        questions = self.questions(requests)
        answers: list[Scored] = [(0.0, True)] * len(requests)
        done = 0
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            for place, answer in self.score(batch):
                answers[place], text = answer, requests[place][0]
                if text is not None:  # a whole request, which lm-eval may keep
                    self.cache_hook.add_partial("loglikelihood", text, answer)
            done += sum(len(question.asked) for question in batch)
            self.follow("text", done, len(requests))
        return answers

    def questions(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[Question]:
        """The requests, one for all that are equal but for their last token, the longest first."""
        found: dict[tuple[int, ...], Question] = {}
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise FathomError(
                    f"a continuation has {counted(len(continuation), 'token')}; expected at most {self.max_length}, the"
                    " context of the model"
                )
            ids = tuple((context + continuation)[-self.max_length - 1 : -1])
            if (largest := max(*ids, *continuation)) >= self.model.config.vocab_size:
                raise OutsideVocabulary(
                    f"a text has token {largest}; the model's ids run to {self.model.config.vocab_size - 1}"
                )
            found.setdefault(ids, Question(ids, [])).asked.append((place, continuation))
        return sorted(found.values(), key=lambda question: (-len(question.ids), question.ids))

    @torch.no_grad()
    def score(self, batch: Sequence[Question]) -> list[tuple[int, Scored]]:
        """The place and the answer of every request of these questions."""
        longest = max(len(question.ids) for question in batch)
        padded = [[*question.ids, *[0] * (longest - len(question.ids))] for question in batch]  # no token looks right
        states = hidden(self.model, torch.tensor(padded, device=self.device))  # (b, t, d)
        read, rows, tokens, owners, places, end = list[Tensor](), list[int](), list[int](), list[int](), list[int](), 0
        for state, question in zip(states, batch):
            width = max(len(continuation) for _, continuation in question.asked)
            read.append(state[len(question.ids) - width : len(question.ids)])
            end += width
            for place, continuation in question.asked:
                rows += range(end - len(continuation), end)
                tokens += continuation
                owners += [len(places)] * len(continuation)
                places.append(place)
        sums, right = self.sums(torch.cat(read), rows, tokens, owners)
        return [(place, answer) for place, answer in zip(places, zip(sums.tolist(), right.tolist()))]

    def sums(
        self, x: Tensor, rows: Sequence[int], tokens: Sequence[int], owners: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """ln p of tokens, each after a row of x (n, d), added up by owner; and whether all of an owner's are likeliest.

        Few rows of logits are held at a time.
        """
        row, token, owner = (torch.tensor(numbers, device=x.device) for numbers in (rows, tokens, owners))
        log_p, likeliest = torch.empty(len(rows), dtype=torch.float64), torch.empty(len(rows), dtype=torch.bool)
        start = 0
        for piece in x.split(max(1, AT_ONCE // self.model.config.vocab_size)):
            all_log_p, here = (
                log_probabilities(self.model, piece),
                (row >= start) & (row < start + len(piece)),
            )  # (n, V)
            at, asked = row[here] - start, token[here]
            log_p[here.cpu()] = all_log_p[at, asked].double().cpu()
            likeliest[here.cpu()] = (all_log_p.argmax(-1)[at] == asked).cpu()
            start += len(piece)
        count, owner = max(owners) + 1, owner.cpu()
        sums = torch.zeros(count, dtype=torch.float64).index_add_(0, owner, log_p)
        return sums, torch.ones(count, dtype=torch.bool).index_fill_(0, owner[~likeliest], False)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts, each token once, in windows of the model's context that hardly overlap."""
        windows, owners = list[tuple[Any, list[int], list[int]]](), list[int]()
        for number, (text,) in enumerate(request.args for request in requests):
            cut = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            windows += [(None, *make_disjoint_window(window)) for window in cut]
            owners += [number] * (len(windows) - len(owners))
        sums = [0.0] * len(requests)
        for owner, (loglikelihood, _) in zip(owners, self._loglikelihood_tokens(windows)):
            sums[owner] += loglikelihood
        for request, total in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each text, up to the first of its stop strings."""
        groups: dict[str, list[tuple[int, list[int]]]] = {}
        for place, (text, settings) in enumerate(request.args for request in requests):
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append((place, self.tok_encode(text)))
        answers, done = [""] * len(requests), 0
        for group in groups.values():
            group.sort(key=lambda one: -len(one[1]))
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                _, settings = requests[batch[0][0]].args
                for (place, _), answer in zip(batch, self.write([ids for _, ids in batch], settings)):
                    answers[place] = answer
                    self.cache_hook.add_partial("generate_until", requests[place].args, answer)
                done += len(batch)
                self.follow("answer", done, len(requests))
        return answers

    def write(self, texts: Sequence[list[int]], settings: Mapping[str, Any]) -> list[str]:
        """The answers to texts that have the same settings."""
        given = normalize_gen_kwargs(dict(settings), NEW_TOKENS)
        until, most = handle_stop_sequences(given.pop("until"), eos=None), given.pop("max_gen_toks")
        if given.pop("do_sample") is False:
            given["temperature"] = 0.0
        if unknown := [f"{name}={value}" for name, value in given.items() if name not in SAMPLING]:
            raise FathomError(f"the task asks to generate with {unknown[0]}; supported are {', '.join(SAMPLING)}")
        if (room := self.max_length - most) < 1:
            raise FathomError(
                f"the task asks for {counted(most, 'new token')}; the model's context is {self.max_length}: set"
                " max_gen_toks in its generation_kwargs, or take a model with a longer one"
            )
        prompts = [ids[-room:] or [self.prefix_token_id] for ids in texts]
        writing = stream(self.model, self.vocabulary, prompts, max_new_tokens=most, **given)
        written: list[list[int]] = [[] for _ in prompts]
        for piece in writing:
            if piece.token in self.special:
                continue
            written[piece.row].append(piece.token)
            if until and any(stop in self.vocabulary.decode(written[piece.row]) for stop in until):
                writing.end(piece.row)
        return [postprocess_generated_text(self.vocabulary.decode(ids), until, None) for ids in written]
