"""Keys and values of the tokens seen so far, so that each new token costs one step and not a whole pass.

One clock, `length`, which `advance` moves once per pass. Rows of different length are padded on the left; which rows
are padded, the positions of their tokens and the keys that they may see are decided here and nowhere else.
"""

import torch
from torch import Tensor

from fathom.errors import ContextOverflow, FathomError
from fathom.model.config import ModelConfig


class NoCache:
    """The past of a pass that starts at the first token and keeps nothing."""

    length = 0  # tokens read so far

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def positions(self, t: int) -> Tensor:  # (t,)
        return torch.arange(t, device=self.device)

    def visible(self, t: int) -> Tensor | None:
        return None

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

    def visible(self, t: int) -> Tensor:
        """(b, 1, t, t): a query sees itself and what comes before it in its own text."""
        return (self.documents[:, None, :, None] == self.documents[:, None, None, :]).tril()


class KVCache(NoCache):
    """The past of `batch` sequences of up to `length` tokens. The caller makes it, owns it and passes it in.

    padding: (b,) how many tokens at the left of each row are padding, which is never seen; None: no row is padded.
    Bytes: 2 * n_layer * n_kv_head * head_dim * length * batch * itemsize.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        length: int,
        padding: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(torch.device(device))
        config = config.resolved()
        shape = (config.n_layer, 2, batch, config.n_kv_head, length, config.head_dim)
        self.store = torch.zeros(shape, dtype=dtype, device=device)
        self.padding = padding if padding is None else padding.to(device).view(batch, 1)  # (b, 1)
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
        return self.store.nbytes

    def positions(self, t: int) -> Tensor:
        """Those of the next t tokens: (t,), or (b, t) where rows are padded, counted from the first real token."""
        clock = torch.arange(self.length, self.length + t, device=self.device)
        return clock if self.padding is None else (clock - self.padding).clamp(min=0)

    def visible(self, t: int) -> Tensor | None:
        """(b, 1, t, s) where rows are padded: a query sees itself and the real tokens before it. None: plain causal."""
        if self.padding is None:
            return None
        key = torch.arange(self.length + t, device=self.device)
        query = key[self.length :, None]
        real = key >= self.padding[:, None]  # (b, 1, s)
        return (((key < query) & real) | (key == query))[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (b, g, t, c) of the next t tokens; returns those of all tokens so far (b, g, s, c)."""
        self.require_room(k.shape[2])
        end = self.length + k.shape[2]
        self.store[layer, 0, :, :, self.length : end] = k.detach()  # the past is for inference: no gradient goes there
        self.store[layer, 1, :, :, self.length : end] = v.detach()
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def require_room(self, t: int) -> None:
        """ContextOverflow where t more tokens do not fit."""
        if t > self.room:
            end = self.length + t
            raise ContextOverflow(
                f"the cache holds {self.capacity} tokens and {end} are needed; make it longer or shorten the text"
            )

    def advance(self, t: int) -> None:
        self._length += t

    def select(self, rows: Tensor) -> None:
        """Keep these rows in this order: a row several times (samples of one prompt) or not at all (it has ended)."""
        rows = rows.to(self.device)
        self.store = self.store[:, :, rows]
        self.padding = self.padding if self.padding is None else self.padding[rows]

    def rewind(self, length: int) -> None:
        """Discard all but the first `length` tokens; the next ones overwrite what is discarded."""
        if not 0 <= length <= self.length:
            raise FathomError(f"the cache has read {self.length} tokens and cannot go back to {length}")
        self._length = length
