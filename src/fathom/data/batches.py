"""Batches, and which windows of the tokens make up which step: a pure function of seed and step.

Every epoch shifts the grid of windows by a new phase and visits each window once, in a new order. To resume is to ask
for the next step; two models with the same seed see the same data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fathom.data.order import LARGE, ROUNDS, Order, Shuffle, deal
from fathom.data.token_file import Tokens
from fathom.errors import FathomError
from fathom.model.cache import NoCache, Packed

IGNORED = -100  # a target that is not trained on


@dataclass(frozen=True)
class Batch:
    """What a model reads and, for each token, what should follow it. Rows may be longer than what they hold."""

    ids: Tensor  # (b, t)
    targets: Tensor  # (b, t), IGNORED where nothing is learned
    documents: Tensor | None = None  # (b, t) which text of its row a token is of; -1: padding; None: one text a row
    name: str = ""  # where its rows come from, for errors

    @property
    def n_tokens(self) -> int:
        """Tokens that are read, without padding."""
        return self.ids.numel() if self.documents is None else int((self.documents >= 0).sum())

    @property
    def shared(self) -> bool:
        """Whether some row holds several texts. Where each holds one, nothing sees the padding after it."""
        return self.documents is not None and bool((self.documents > 0).any())

    def past(self) -> NoCache | None:
        """What keeps the texts of a row apart; None where each row is one text."""
        return Packed(self.documents) if self.shared and self.documents is not None else None

    def to(self, device: torch.device) -> "Batch":
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(self.ids.to(device), self.targets.to(device), documents, self.name)

    def split(self, size: int) -> "list[Batch]":
        """Batches of `size` rows, each as wide as its longest row."""
        return [self._rows(slice(start, start + size)) for start in range(0, len(self.ids), size)]

    def _rows(self, rows: slice) -> "Batch":
        if self.documents is None:
            return Batch(self.ids[rows], self.targets[rows], None, self.name)
        width = int((self.documents[rows] >= 0).sum(-1).max())
        return Batch(self.ids[rows, :width], self.targets[rows, :width], self.documents[rows, :width], self.name)


def as_batch(batch: Tensor | Batch) -> Batch:
    """A batch as it is; of windows (b, t + 1) the first t tokens are read, and each is followed by the next."""
    return batch if isinstance(batch, Batch) else Batch(batch[:, :-1], batch[:, 1:])


class EpochOrder:
    """The order in which n items are visited: each once in an epoch, in the order that `order_of(epoch)` returns."""

    def __init__(self, n: int, order_of: Callable[[int], Order]) -> None:
        self.n, self.order_of = n, order_of
        self._orders: dict[int, Order] = {}

    def visits(self, first: int, count: int) -> list[int]:
        """The items of `count` visits, from number `first` on."""
        return [int(self._order(visit // self.n)[visit % self.n]) for visit in range(first, first + count)]

    def _order(self, epoch: int) -> Order:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self.order_of(epoch)
        return self._orders[epoch]


class Batches:
    """Windows of context_length + 1 tokens: inputs and, one further, targets."""

    def __init__(self, tokens: Tokens, context_length: int, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise FathomError(f"batch_size is {batch_size}; it must be at least 1")
        check_length(tokens, context_length, "the training text")
        self.tokens, self.context_length, self.batch_size, self.seed = tokens, context_length, batch_size, seed
        self.n_windows = max(1, len(tokens) // context_length - 1)  # as many as fit at every phase
        self.n_phases = len(tokens) - self.n_windows * context_length  # places where the first window may start
        self._starts = EpochOrder(self.n_windows, self._starts_of)

    def epoch(self, step: int) -> int:
        """The epoch in which the step's first window lies."""
        return step * self.batch_size // self.n_windows

    def at(self, step: int) -> Tensor:
        """(b, t + 1) the windows of a step; a batch at the end of an epoch is filled from the next."""
        return self.visits(step * self.batch_size, self.batch_size)

    def visits(self, first: int, count: int) -> Tensor:
        """(count, t + 1) the windows of `count` visits, from number `first` on."""
        return windows(self.tokens, self._starts.visits(first, count), self.context_length)

    def _starts_of(self, epoch: int) -> Order:
        """(n_windows,) where the epoch's windows start, in the order of their visits."""
        random = np.random.default_rng([self.seed, epoch])
        phase = int(random.integers(self.n_phases))
        if self.n_windows > LARGE:
            return Shuffle(self.n_windows, random.integers(1 << 62, size=ROUNDS).tolist(), phase, self.context_length)
        return phase + random.permutation(self.n_windows) * self.context_length


class MixedBatches:
    """Windows of several texts, of each its share, as evenly as they can be dealt: a text that is short comes round
    more often. Each text is visited as `Batches` alone would."""

    def __init__(self, texts: Sequence[tuple[Tokens, float]], context_length: int, batch_size: int, seed: int) -> None:
        self.texts = [Batches(tokens, context_length, batch_size, seed) for tokens, _ in texts]
        self.shares, self.batch_size = [share for _, share in texts], batch_size

    def at(self, step: int) -> Tensor:
        """(b, t + 1) the windows of a step."""
        dealt = deal(self.shares, step * self.batch_size, self.batch_size)
        return torch.cat([self.texts[text].visits(visit, 1) for text, visit in dealt])


def text_batches(
    texts: Sequence[tuple[Tokens, float]], context_length: int, batch_size: int, seed: int
) -> Batches | MixedBatches:
    """The batches of one text, or of several with their shares."""
    if len(texts) == 1:
        return Batches(texts[0][0], context_length, batch_size, seed)
    return MixedBatches(texts, context_length, batch_size, seed)


def eval_windows(
    tokens: Tokens, context_length: int, count: int | None = None, batch_size: int = 32
) -> Iterator[Tensor]:
    """(b, t + 1) chunks of the same windows every time: all, side by side, or `count` spread evenly over the text."""
    check_length(tokens, context_length, "the validation text")
    n_windows = (len(tokens) - 1) // context_length
    chosen = np.arange(n_windows)
    if count is not None and count < n_windows:
        chosen = np.arange(count) * n_windows // count
    for i in range(0, len(chosen), batch_size):
        yield windows(tokens, (chosen[i : i + batch_size] * context_length).tolist(), context_length)


def windows(tokens: Tokens, starts: Sequence[int], context_length: int) -> Tensor:
    """(b, t + 1) the windows that start at these places."""
    rows = [tokens[start : start + context_length + 1] for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def check_length(tokens: Tokens, context_length: int, what: str) -> None:
    """FathomError where the tokens do not fill one window; `what` names them."""
    if context_length < 1:
        raise FathomError(f"context_length is {context_length}; it must be at least 1")
    if len(tokens) < context_length + 1:
        raise FathomError(
            f"{what} has {len(tokens)} tokens; a context of {context_length} needs at least {context_length + 1}; use"
            " a longer text or a smaller --context-length"
        )
