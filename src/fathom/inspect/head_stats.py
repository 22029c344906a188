"""What each head does, in numbers and as small pictures: where it looks, how sharply, and how much it writes.

Previous-token and induction heads: Olsson et al. 2022. Attention to the first token as a sink: Xiao et al. 2023.
Patterns weighted by what their values add to the stream: Kobayashi et al. 2020, eq. 5. Pure functions of recordings.
"""

import torch
from torch import Tensor

from fathom.inspect.derived import Tensors
from fathom.model.attention import Attention
from fathom.model.transformer import Transformer

SIZE = 32  # rows and columns of a thumbnail, at most
VIEWS = ("pattern", "without the first key", "weighted", "weighted, without the first key")


def sink(pattern: Tensor) -> Tensor:
    """The share of attention that goes to the first token: (h,) of a pattern (h, t, t), the mean over all queries but
    the first, which sees nothing else."""
    return pattern[:, 1:, 0].mean(-1)


def previous_token(pattern: Tensor) -> Tensor:
    """The share of attention that goes to the token just before: (h,) of a pattern (h, t, t), the mean over queries."""
    return pattern.diagonal(-1, dim1=-2, dim2=-1).mean(-1)


def follows_a_copy(ids: Tensor) -> Tensor:
    """(t, t) of ids (t,): true where a key comes right after an earlier copy of the query's own token."""
    after = torch.zeros(len(ids), len(ids), dtype=torch.bool, device=ids.device)
    after[:, 1:] = ids[:, None] == ids[None, :-1]
    return after.tril(-1)


def induction(pattern: Tensor, ids: Tensor) -> Tensor:
    """The share of attention that goes to what followed the same token before: (h,) of a pattern (h, t, t), the mean
    over queries whose token ids (t,) has before them. NaN where no token has."""
    after = follows_a_copy(ids)
    return (pattern * after).sum(-1)[:, after.any(-1)].mean(-1)


def entropy(pattern: Tensor) -> Tensor:
    """How spread attention is, in nats: (h,) of a pattern (h, t, t), the mean over queries. 0: one key each."""
    return -(pattern * pattern.clamp(min=torch.finfo(pattern.dtype).tiny).log()).sum(-1).mean(-1)


def heads_of_out(attn: Attention) -> Tensor:
    """W_out by head, (d, h, c)."""
    return attn.out.weight.unflatten(1, (-1, attn.head_dim))


@torch.no_grad()
def value_norms(attn: Attention, v: Tensor) -> Tensor:
    """‖v_j W_out,h‖ (h, s): the size of what key j would add to the stream through head h alone; v (s, g, c)."""
    out = heads_of_out(attn).to(v.dtype)
    own = v.repeat_interleave(out.shape[1] // v.shape[1], dim=1)  # (s, h, c)
    return torch.stack([(own[:, head] @ out[:, head].mT).norm(dim=-1) for head in range(out.shape[1])])


def out_norms(attn: Attention, z: Tensor) -> Tensor:
    """‖z_h W_out,h‖ (h,): the size of what each head adds to the stream, the mean over tokens of z (t, h, c)."""
    out = heads_of_out(attn).to(z.dtype)
    return torch.stack([(z[:, head] @ out[:, head].mT).norm(dim=-1).mean() for head in range(out.shape[1])])


def statistics(attn: Attention, pattern: Tensor, z: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """All statistics of one layer, (h,) each; pattern (h, t, t), z (t, h, c), ids (t,)."""
    return {
        "sink": sink(pattern),
        "previous": previous_token(pattern),
        "induction": induction(pattern, ids),
        "entropy": entropy(pattern),
        "out_norm": out_norms(attn, z),
    }


@torch.no_grad()
def of_layer(model: Transformer, seen: Tensors, ids: Tensor, layer: int) -> dict[str, Tensor]:
    """`statistics` of a layer of a recording of ids (1, t)."""
    path = f"blocks.{layer}.attn"
    return statistics(model.blocks[layer].attn, seen[f"{path}.pattern"][0], seen[f"{path}.z"][0], ids[0])


def thumbnail(pattern: Tensor, size: int = SIZE) -> Tensor:
    """A pattern (..., t, s) in at most `size` rows and columns: the mean over the queries of a row, the sum over the
    keys of a column. Its rows sum to what those of the pattern do."""
    queries, keys = (shares(n, min(n, size), pattern) for n in pattern.shape[-2:])
    return (queries / queries.sum(-1, keepdim=True)) @ pattern @ keys.mT


def shares(n: int, parts: int, like: Tensor) -> Tensor:
    """(parts, n), 1 where one of n places belongs to a part; parts are as alike as can be."""
    part = torch.arange(n, device=like.device) * parts // n
    return (part == torch.arange(parts, device=like.device)[:, None]).to(like.dtype)


def thumbnails(attn: Attention, pattern: Tensor, v: Tensor) -> Tensor:
    """Thumbnails of a layer in each of VIEWS: (4, h, n, n) of its pattern (h, t, t) and v (t, g, c)."""
    weighted = pattern * value_norms(attn, v)[:, None]
    views = [x for one in (pattern, weighted) for x in (one, one.index_fill(-1, first(one), 0.0))]
    return thumbnail(torch.stack(views))


def first(pattern: Tensor) -> Tensor:
    return torch.zeros(1, dtype=torch.long, device=pattern.device)


def largest(thumbs: Tensor) -> Tensor:
    """(4,): what the brightest colour stands for in each view of thumbnails (4, l, h, n, n): 1 for the pattern itself,
    the largest number of the others."""
    most = thumbs.flatten(1).amax(-1).clamp(min=torch.finfo(thumbs.dtype).tiny)
    return torch.cat((most.new_ones(1), most[1:]))


def bytes_of(thumbs: Tensor) -> Tensor:
    """Thumbnails (4, l, h, n, n) as bytes: 255 sqrt(x / largest), so that small numbers keep their differences."""
    return (255 * (thumbs / largest(thumbs)[:, None, None, None, None]).clamp(0, 1).sqrt()).round().to(torch.uint8)


@torch.no_grad()
def all_thumbnails(model: Transformer, seen: Tensors) -> Tensor:
    """The thumbnails of all heads of a recording, (4, l, h, n, n)."""
    paths = [f"blocks.{layer}.attn" for layer in range(len(model.blocks))]
    return torch.stack(
        [
            thumbnails(block.attn, seen[f"{path}.pattern"][0], seen[f"{path}.v"][0])
            for block, path in zip(model.blocks, paths)
        ],
        dim=1,
    )


def said_twice(vocab_size: int, length: int, generator: torch.Generator, prefix: tuple[int, ...] = ()) -> Tensor:
    """Ids (1, n): the prefix, then random tokens, then the same again, of about `length` together: a text in which only
    copying helps."""
    half = torch.randint(vocab_size, (1, max(1, (length - len(prefix)) // 2)), generator=generator)
    return torch.cat((torch.tensor([prefix], dtype=torch.long), half, half), dim=1)
