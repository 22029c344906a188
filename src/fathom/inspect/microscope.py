"""One layer's attention step by step, as it is or with something left out on purpose.

The model itself runs, with another function in the place of that layer's attention; what it computes is recorded, so
that what a step is good for shows in everything after it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.anatomy.swap import swap
from fathom.inspect.look import look
from fathom.model.attention import Note, Soft, attend, causal, unnoted
from fathom.model.transformer import Transformer

Rotate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Change:
    """What one layer's attention does otherwise. split: the same function step by step, not in one kernel."""

    no_root: bool = False  # scores are not divided by sqrt(c)
    no_mask: bool = False  # every query sees every key
    rotate_v: bool = False  # values are rotated as keys are
    split: bool = False

    @property
    def wrong(self) -> bool:
        """Whether it computes something else."""
        return self != replace(Change(), split=self.split)


def attend_otherwise(change: Change, rotate: Rotate, note: Note = unnoted) -> Callable[..., Tensor]:
    """`fathom.model.attention.attend`, but for the change. rotate: of keys at their positions."""

    def attention(
        q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, soft: Soft | None = None
    ) -> Tensor:
        visible = causal(q.shape[2], k.shape[2], q.device) if visible is None else visible
        if change.no_mask:
            visible = all_visible(visible)
        if change.no_root:
            q = q * q.shape[-1] ** 0.5
        return attend(q, k, rotate(v) if change.rotate_v else v, visible, dropout, note, soft=soft)

    return attention


def all_visible(visible: Tensor) -> Tensor:
    """A mask as `attend` takes it that hides nothing; what ALiBi adds for earlier keys stays."""
    return torch.ones_like(visible) if visible.dtype == torch.bool else visible.masked_fill(visible.isinf(), 0.0)


@torch.no_grad()
def one_layer(model: Transformer, ids: Tensor, layer: int, change: Change, *more: str) -> dict[str, Tensor]:
    """Everything recorded of this layer's attention in a pass of ids (b, t) with the change, and the `more` names."""
    path, seen = f"blocks.{layer}", dict[str, Tensor]()

    def note(name: str, x: Tensor) -> Tensor:
        seen[f"{path}.attn.{name}"] = x
        return x

    wanted = [name for name in around(model, layer) if name.rpartition(".")[2] not in ("scores", "pattern")]
    t, block = ids.shape[1], model.blocks[layer]
    rotate = model.position.rotation(torch.arange(t, device=ids.device), block.kind, t)
    function = attend_otherwise(change, rotate, note)
    with swap(model, attend=function, names=[f"{path}.attn"]), look(model, *wanted, *more) as recorded:
        model(ids)
        return {**recorded, **seen}


def around(model: Transformer, layer: int) -> list[str]:
    """The names of a layer's attention, of what it reads, and of the stream after it."""
    path, config = f"blocks.{layer}", model.config
    rotated = ["q_rot", "k_rot"] * rotates(model)
    names = [f"{path}.resid_pre", f"{path}.attn_norm", f"{path}.attn"]
    names += [f"{path}.attn.{part}" for part in ["q", "k", "v", *rotated, "scores", "pattern", "z"]]
    names += [f"{path}.attn_after"] * (config.residual in ("post", "sandwich"))
    return [*names, after(model, layer)]


def after(model: Transformer, layer: int) -> str:
    """The name of the stream after a layer's attention."""
    return f"blocks.{layer}" if model.blocks[layer].mlp is None else f"blocks.{layer}.resid_mid"


def rotates(model: Transformer) -> bool:
    """Whether queries and keys are rotated, normed or scaled before they are compared."""
    config = model.config
    scaled = bool(config.scale.attn) or config.scale.attn_by_layer
    return config.position == "rope" or config.qk_norm != "off" or scaled


@torch.no_grad()
def head_weights(model: Transformer, layer: int, head: int) -> dict[str, Tensor]:
    """The matrices of one head, (c, d) each: rows of those that make q, k and v, and the columns of `out`."""
    attn, config = model.blocks[layer].attn, model.config
    group = head * config.n_kv_head // config.n_head
    rows = {"q": head, "k": group, "v": group}
    made = {name: getattr(attn, name).weight.unflatten(0, (-1, attn.head_dim))[at] for name, at in rows.items()}
    return made | {"out": attn.out.weight.unflatten(1, (-1, attn.head_dim))[:, head].mT}


@torch.no_grad()
def head_biases(model: Transformer, layer: int, head: int) -> dict[str, Tensor]:
    """The biases of one head's q, k and v, (c,) each, of those that the model has."""
    attn, config = model.blocks[layer].attn, model.config
    group = head * config.n_kv_head // config.n_head
    rows = {"q": head, "k": group, "v": group}
    biases = {name: getattr(attn, name).bias for name in rows}
    return {n: b.unflatten(0, (-1, attn.head_dim))[rows[n]] for n, b in biases.items() if b is not None}
