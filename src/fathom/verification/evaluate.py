"""How well a model predicts a text: loss, bits per character and per byte, top-1 accuracy.

Windows of context_length tokens begin `stride` apart, and each scores only the tokens that the one before has not, so
that no token counts twice (https://huggingface.co/docs/transformers/perplexity). Of records only the answers are
scored.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fathom.backend.inference import InferenceModel, cache_for
from fathom.data.batches import IGNORED, Batch
from fathom.data.corpus import Corpus, part_of, resolve
from fathom.data.encoding import TrainingExample, encode_file
from fathom.data.record_files import is_record_file, record_files
from fathom.data.records import RecordFile
from fathom.data.splits import TEST, VAL
from fathom.data.text import is_json_lines
from fathom.data.token_file import Tokens, encode_corpus, text_size
from fathom.errors import FathomError, OutsideVocabulary
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype

T = TypeVar("T")
AT_ONCE = 1 << 22  # logits of each model held at a time


@dataclass(frozen=True)
class EvalSet:
    """Windows (1, t) of tokens to predict, and a description of them."""

    description: str
    windows: Iterator[Batch]
    count: int
    stride: int | None  # None: records


@dataclass
class Score:
    """Sums of one model over all scored tokens so far; kl and same are against the first model."""

    loss: float = 0.0  # sum of -ln p(token), nats
    right: int = 0  # tokens whose likeliest prediction was right
    kl: float = 0.0  # sum of KL(first || this), nats
    same: int = 0  # tokens at which the first model's likeliest is the same

    def add(self, log_p: Tensor, targets: Tensor, first: Tensor) -> None:  # (n, V), (n,), (n, V)
        likeliest = log_p.argmax(-1)  # (n,)
        self.loss -= float(log_p.gather(1, targets[:, None]).sum())
        self.right += int((likeliest == targets).sum())
        self.kl += 0.0 if log_p is first else float((first.exp() * (first - log_p)).sum())
        self.same += int((likeliest == first.argmax(-1)).sum())


@dataclass(frozen=True)
class Evaluation:
    """One model's scores on the text: means over the scored tokens."""

    tokens: int
    characters: int
    bytes: int
    loss: float  # nats per token
    top1: float  # share of tokens whose likeliest prediction was right
    kl: float  # KL(first || this), nats per token
    agreement: float  # share of tokens at which the first model's likeliest is the same

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf  # e^710 overflows

    @property
    def bits_per_character(self) -> float:
        return self.loss * self.tokens / math.log(2) / max(self.characters, 1)

    @property
    def bits_per_byte(self) -> float:
        return self.loss * self.tokens / math.log(2) / max(self.bytes, 1)


def checked_stride(stride: int | None, context_length: int) -> int:
    """Tokens from one window to the next: half of the context where none were given."""
    if stride is not None and not 1 <= stride <= context_length:
        raise FathomError(f"stride is {stride}; expected 1 to {context_length}, the model's context length")
    return max(1, context_length // 2) if stride is None else stride


def eval_set(
    data: str, tokenizer: Tokenizer, context_length: int, stride: int | None = None, limit: int | None = None
) -> EvalSet:
    """The windows of a text, a named corpus or a file of records; `limit`: only this many, evenly spread.

    stride: default half of context_length. FathomError where there is nothing to predict.
    """
    if limit is not None and limit < 1:
        raise FathomError(f"windows is {limit}; expected at least 1")
    if not is_text(data):
        return of_records(data, tokenizer, context_length, stride, limit)
    stride = checked_stride(stride, context_length)
    text = scored_text(data)
    tokens = tokens_of(text, tokenizer)
    chosen = spread(windows(len(tokens), context_length, stride), limit)
    which = f"the {text.name.removeprefix(data).strip(' ()')} part of it" if text.name != data else "text"
    description = f"{which}, in windows of {context_length} tokens, {stride} apart"
    return EvalSet(description, (window(tokens, *place) for place in chosen), len(chosen), stride)


def is_text(data: str) -> bool:
    """Whether all of it is scored: so are JSON lines that hold nothing but texts."""
    path = Path(data)
    lines = is_json_lines(path) and path.is_file()
    return not is_record_file(data) or (lines and RecordFile(path).kind.fields == ("text",))


def scored_text(data: str) -> Corpus:
    """What is scored of a text: of a folder that has parts, the one for testing, else the one for validation."""
    return part_of(data, TEST) or part_of(data, VAL) or resolve(data)


def scored_records(data: str) -> list[Path]:
    """The files of records that are scored, chosen likewise."""
    return record_files(data, TEST) or record_files(data, VAL) or record_files(data)


def tokens_of(text: Corpus, tokenizer: Tokenizer) -> TokenArray:
    """The ids of a text, after bos where the format has one."""
    dtype = id_dtype(tokenizer.vocab_size)
    start = np.array(tokenizer.prefix, dtype)
    tokens = np.concatenate([start, *encode_corpus(text, tokenizer)])
    if len(tokens) < 2:
        raise FathomError(f"{text.name}: {len(tokens)} token; expected at least 2, one to read and one to predict")
    return tokens


def windows(n_tokens: int, context_length: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, first, end) of each window: it reads [begin, end) and scores the tokens after position `first`.

    Every token but the very first is scored once, and after the first window with more than context_length - stride
    tokens of context.
    """
    result, first = [], 0
    for begin in range(0, n_tokens - 1, stride):
        end = min(begin + context_length, n_tokens - 1)
        result.append((begin, first, end))
        if end == n_tokens - 1:
            break
        first = end
    return result


def window(tokens: Tokens, begin: int, first: int, end: int) -> Batch:
    part = torch.from_numpy(tokens[begin : end + 1].astype(np.int64))  # (t + 1,)
    targets = part[1:].clone()
    targets[: first - begin] = IGNORED
    return Batch(part[None, :-1], targets[None])


def of_records(data: str, tokenizer: Tokenizer, context_length: int, stride: int | None, limit: int | None) -> EvalSet:
    """A window for each record; its answer is scored."""
    if stride is not None:
        raise FathomError(f"{data} holds records, which have no stride; leave --stride out")
    paths = scored_records(data)
    file = encode_file(paths, tokenizer, context_length + 1, train_all=False)
    examples = spread(file.examples, limit)
    cut = f"; {file.n_truncated:,} cut after {context_length + 1} tokens, {file.n_dropped:,} left out"
    which = f", of {paths[0].name}" if Path(data).is_dir() else ""
    said = "".join(f"; {note}" for note in file.notes)
    description = f"{file.description}{which}; only the answers are scored{cut * bool(file.n_truncated)}{said}"
    return EvalSet(description, map(of_record, examples), len(examples), None)


def of_record(example: TrainingExample) -> Batch:
    ids, trained = (torch.from_numpy(x.astype(np.int64)) for x in (example.ids, example.trained))
    return Batch(ids[None, :-1], ids[1:].masked_fill(trained[1:] == 0, IGNORED)[None])


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


@torch.no_grad()
def evaluate(models: Sequence[Transformer], windows: Iterable[Batch], tokenizer: Tokenizer) -> list[Evaluation]:
    """How well each model predicts the targets, and how far it is from the first.

    One window at a time passes through all models, and few rows of logits are held. FathomError where a loss is NaN,
    OutsideVocabulary where a token has no row in the models.
    """
    scores, scored = [Score() for _ in models], [np.zeros(0, id_dtype(tokenizer.vocab_size))]
    for batch in windows:
        check_ids_of(batch, models[0].config.vocab_size)
        targets = batch.targets[batch.targets != IGNORED]  # (n,)
        scored.append(targets.numpy().astype(scored[0].dtype))
        score(models, scores, batch.to(models[0].embed.weight.device))
    tokens = np.concatenate(scored)
    characters, n_bytes = text_size(tokens, tokenizer)
    n = len(tokens)
    if bad := [s.loss for s in scores if not math.isfinite(s.loss)]:
        raise FathomError(f"the loss is {bad[0]}; the weights are damaged or --dtype is too narrow; try --dtype fp32")
    return [Evaluation(n, characters, n_bytes, s.loss / n, s.right / n, s.kl / n, s.same / n) for s in scores]


def check_ids_of(batch: Batch, vocab_size: int) -> None:
    """OutsideVocabulary: a token has no row in the model. A tokenizer may have a few more than its model."""
    largest = int(torch.cat((batch.ids, batch.targets)).max())
    if largest >= vocab_size:
        raise OutsideVocabulary(f"the text holds token {largest}; the model's ids run from 0 to {vocab_size - 1}")


def score(models: Sequence[Transformer], scores: Sequence[Score], batch: Batch) -> None:
    """Add one window to every model's sums."""
    scored = batch.targets[0] != IGNORED  # (t,)
    rows = max(1, AT_ONCE // models[0].config.vocab_size)
    states = [hidden(model.eval(), batch.ids)[0, scored].split(rows) for model in models]  # pieces (r, d)
    for targets, *pieces in zip(batch.targets[0, scored].split(rows), *states):
        first = log_probabilities(models[0], pieces[0])
        for model, x, total in zip(models, pieces, scores):
            log_p = first if x is pieces[0] else log_probabilities(model, x)
            total.add(log_p, targets, first)


def hidden(model: Transformer, ids: Tensor) -> Tensor:  # (b, t) -> (b, t, d)
    """The input of `unembed`. A model prepared for inference runs as it generates: over a cache."""
    if not isinstance(model, InferenceModel):
        return model.hidden(ids)
    return model.hidden(ids, cache_for(model, *ids.shape))


def log_probabilities(model: Transformer, x: Tensor) -> Tensor:  # (n, d) -> (n, V)
    exact = torch.float32 if x.device.type == "mps" else torch.float64  # where the device has fp64
    return model.unembed(x).to(exact).log_softmax(-1)
