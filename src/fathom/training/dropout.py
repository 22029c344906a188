"""Dropout that does not depend on how a batch is divided: each row of each step has a key, from which its masks follow.

A global generator would give a row other masks in another process, in another micro-batch, or after a resume. Here a
number is dropped according to a hash of its place: the key of its row, the layer, and where in the row it stands.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import parts, swap
from fathom.families.plain import computes_as
from fathom.model.attention import Attention, Soft, attend
from fathom.model.transformer import Transformer


class Masks:
    """What all dropout of a model draws from."""

    keys: Tensor | None = None  # (b,) int32, of the rows of the pass; None: torch's generator decides


def use_row_masks(model: Transformer) -> Masks | None:
    """Let the dropout of a model follow the keys of its rows; None where it has no dropout."""
    dropouts = [name for name in parts(model, nn.Dropout) if model.get_submodule(name).p]
    attentions = [name for name in parts(model, Attention) if model.get_submodule(name).dropout]
    masks = Masks()
    for site, name in enumerate(dropouts):
        new = RowDropout(float(model.get_submodule(name).p), masks, site)  # type: ignore[arg-type]
        swap(model, dict.fromkeys([nn.Dropout], partial(instead, new)), names=[name])
    for site, name in enumerate(attentions, len(dropouts)):
        swap(model, attend=RowAttend(model.get_submodule(name).attend, masks, site), names=[name])
    return masks if dropouts or attentions else None


def instead(new: nn.Module, old: nn.Module) -> nn.Module:
    return new


@computes_as(nn.Dropout)
class RowDropout(nn.Dropout):
    """nn.Dropout of x (b, ...), whose masks follow from the keys of the rows."""

    def __init__(self, p: float, masks: Masks, site: int) -> None:
        """site: a number of its own in the model."""
        super().__init__(p)
        self.masks, self.site = masks, site

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.masks.keys is None or x.ndim < 3:  # the tokens of an expert are no rows
            return super().forward(x)
        return dropped(x, self.masks.keys, self.site, self.p)


class RowAttend:
    """The attention function of one layer: with dropout, the equation with masks on its pattern."""

    def __init__(self, plain: object, masks: Masks, site: int) -> None:
        self.plain, self.masks, self.site = plain, masks, site

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, soft: Soft | None = None
    ) -> Tensor:
        keys, softer = self.masks.keys, {} if soft is None else {"soft": soft}
        if not dropout or keys is None:
            return self.plain(q, k, v, visible, dropout, **softer)  # type: ignore[operator]

        def note(name: str, x: Tensor) -> Tensor:
            return dropped(x, keys, self.site, dropout) if name == "pattern" else x

        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), visible, 0.0, note, **softer).type_as(q)


def dropped(x: Tensor, keys: Tensor, site: int, p: float) -> Tensor:
    """x (b, ...) with each number 0 with probability p, and 1 / (1 - p) times as large otherwise."""
    rows = mixed(keys + wrapped(site * GOLDEN))  # (b,)
    places = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device)
    kept = mixed(places ^ rows[:, None]) >= wrapped(int(p * 2**32) - 2**31)  # (b, ...) flat
    return x * (kept.view(x.shape) * (1 / (1 - p))).type_as(x)


def row_keys(seed: int, step: int, rows: Sequence[int]) -> Tensor:
    """(b,) int32 the keys of these rows of a step's batch."""
    key = torch.tensor([0], dtype=torch.int32)
    for number in (seed, seed >> 32, step):
        key = mixed(key + wrapped(number * GOLDEN))
    return mixed(key ^ torch.tensor(rows, dtype=torch.int32) + 1)


GOLDEN = 0x9E3779B9  # an odd number near 2^32 times the golden ratio, that spreads what is counted


def wrapped(n: int) -> int:
    """n modulo 2^32, as a signed number of 32 bits."""
    return (n + 2**31) % 2**32 - 2**31


def mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits, one to one (Wellons 2018, nullprogram.com/blog/2018/07/31, lowbias32); shifts fill with 0."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D  # products wrap around
    x = (x ^ ((x >> 15) & 0x1FFFF)) * wrapped(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)
