"""Keys and values of the tokens seen so far, so that each new token costs one step and not a whole pass.

One clock, `length`, which `advance` moves once per pass: all rows are equally long. (Rows of any length lie in pages,
fathom/backend/pages.py.) Layers with a window keep their last keys alone.
"""

import torch
from torch import Tensor

from fathom.errors import ContextOverflow, FathomError
from fathom.model.config import REWIND, ModelConfig


class NoCache:
    """The past of a pass that starts at the first token and keeps nothing."""

    length = 0  # tokens read so far
    horizon = 0  # tokens of the text that is being read, where it comes in pieces

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def positions(self, t: int) -> Tensor:  # (t,)
        return torch.arange(t, device=self.device)

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        """(t, s) or (b, 1, t, s), true where a query may look: of s = keys(t, window) positions, the last `window` up
        to its own. None: at all up to its own."""
        return None if window is None or t <= window else band(torch.arange(t, device=self.device), t, window)

    def keys(self, t: int, window: int | None = None) -> int:
        """How many keys `append` gives to t new tokens, in a layer with this window."""
        return t

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def advance(self, t: int) -> None:
        """Count t more tokens as read: once per pass, when all layers have appended theirs."""


class Packed(NoCache):
    """Rows that hold several texts one after another, none of which sees the others.

    documents: (b, t) the text of its row that each token belongs to, ascending from 0; -1: padding at the end of a row.
    """

    def __init__(self, documents: Tensor) -> None:
        super().__init__(documents.device)
        self.documents = documents

    def positions(self, t: int) -> Tensor:
        """(b, t) counted from the first token of each text."""
        places, previous = torch.arange(t, device=self.device), self.documents.roll(1, -1)
        begins = (self.documents != previous) & (places > 0)
        return places - (places * begins).cummax(-1).values

    def visible(self, t: int, window: int | None = None) -> Tensor:
        """(b, 1, t, t): a query sees itself and what comes before it in its own text."""
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        return same & band(torch.arange(t, device=self.device), t, window)


def band(places: Tensor, t: int, window: int | None) -> Tensor:
    """(t, s), true where one of the last t of these places (s,) may look: up to itself, at the last `window` places."""
    query = places[-t:, None]
    seen = places <= query
    return seen if window is None else seen & (places > query - window)


class KVCache(NoCache):
    """The past of `batch` sequences of up to `length` tokens. The caller makes it, owns it and passes it in.

    Bytes: those of `fathom.anatomy.cost.cache_bytes`.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(torch.device(device))
        config = config.resolved()
        kept = [config.layers.kept(layer, length) for layer in range(config.n_layer)]
        self.window, self.span = config.layers.window, min(kept, default=length)
        self.windows = [config.layers.window_of(layer) for layer in range(config.n_layer)]
        self.near_rows = {layer: row for row, layer in enumerate(x for x, n in enumerate(kept) if n < length)}
        self.rows = {layer: row for row, layer in enumerate(x for x, n in enumerate(kept) if n >= length)}
        sizes = (2, batch, config.n_kv_head)
        self.store = torch.zeros(len(self.rows), *sizes, length, config.head_dim, dtype=dtype, device=device)
        self.near = torch.zeros(len(self.near_rows), *sizes, self.span, config.head_dim, dtype=dtype, device=device)
        self.begin = 0  # position of the first token in `near`
        self.capacity, self._length = length, 0

    @property
    def length(self) -> int:  # type: ignore[override]  # read-only: `advance` and `rewind` change it
        return self._length

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self.capacity - self._length

    @property
    def nbytes(self) -> int:
        return self.store.nbytes + self.near.nbytes

    def positions(self, t: int) -> Tensor:
        return torch.arange(self.length, self.length + t, device=self.device)

    def first(self, window: int | None) -> int:
        """The first position that the next token sees."""
        return 0 if window is None else max(0, self.length - window + 1)

    def keys(self, t: int, window: int | None = None) -> int:
        return self.length - self.first(window) + t

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        s = self.keys(t, window)
        if window is None or s <= window:
            return None
        return band(torch.arange(self.length + t - s, self.length + t, device=self.device), t, window)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (b, g, t, c) of the next t tokens; returns those of all that they may see (b, g, s, c)."""
        self.require_room(k.shape[2])
        k, v = k.detach(), v.detach()  # the past is for inference: no gradient goes there
        if layer in self.near_rows:
            return self._append_near(self.near[self.near_rows[layer]], k, v)
        end, first, store = self.length + k.shape[2], self.first(self.windows[layer]), self.store[self.rows[layer]]
        store[0, :, :, self.length : end] = k
        store[1, :, :, self.length : end] = v
        return store[0, :, :, first:end], store[1, :, :, first:end]

    def _append_near(self, store: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a layer that keeps its last `span` tokens. Where they would be more, the older ones leave."""
        new, past, end = torch.stack((k, v)), self.length - self.begin, self.length + k.shape[2] - self.begin
        if end <= self.span:
            store[..., past:end, :] = new
            whole = store[..., :end, :]
        else:
            whole = torch.cat((store[..., :past, :], new.to(store.dtype)), dim=3)
            kept = whole[..., self._begin_at(self.begin + end) - self.begin :, :]
            store[..., : kept.shape[3], :] = kept
        first = self.first(self.window) - self.begin
        return whole[0, :, :, first:], whole[1, :, :, first:]

    def _begin_at(self, end: int) -> int:
        """Where `near` begins once `end` tokens are read."""
        return self.begin if end - self.begin <= self.span else max(0, end - (self.window or 0) + 1 - REWIND)

    def make_room(self, t: int) -> None:
        """Let the next t <= SPARE tokens fit where layers with a window keep theirs: older ones leave. For what writes
        there itself; `append` needs no such call."""
        if self.near_rows and self.length + t - self.begin > self.span:
            begin = max(0, self.length - (self.window or 0) + 1 - REWIND)
            kept = self.near[..., begin - self.begin : self.length - self.begin, :].clone()
            self.near[..., : kept.shape[4], :] = kept
            self.begin = begin

    def require_room(self, t: int) -> None:
        """ContextOverflow where t more tokens do not fit."""
        if t > self.room:
            end = self.length + t
            raise ContextOverflow(
                f"the cache holds {self.capacity} tokens and {end} are needed; make it longer or shorten the text"
            )

    def advance(self, t: int) -> None:
        self._length, self.begin = self._length + t, self._begin_at(self._length + t)

    def can_rewind(self, length: int) -> bool:
        """Whether layers with a window still hold what the next token would see; they do REWIND tokens back."""
        return length == 0 or self.begin <= max(0, length - (self.window or 0) + 1)

    def rewind(self, length: int) -> None:
        """Discard all but the first `length` tokens; the next ones overwrite what is discarded."""
        if not 0 <= length <= self.length:
            raise FathomError(f"the cache has read {self.length} tokens and cannot go back to {length}")
        if not self.can_rewind(length):
            raise FathomError(f"the cache has dropped what token {length} would see in its window; read the text again")
        self._length, self.begin = length, self.begin if length else 0
