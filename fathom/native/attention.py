"""Attention of a prompt over keys and values as they lie in a cache, natively: attention.cpp as a function of tensors.

Heads of keys and values are never repeated for the query heads that share them, and no pattern is ever whole.
"""

import ctypes

import torch
from torch import Tensor

from fathom.native.build import library

FLOATS = (torch.float32, torch.bfloat16)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """softmax(q k^T / sqrt(c)) v: q (b, h, t, c), k and v (b, g, s, c) -> (b, h, t, c), the last query at the last key.

    None where native code does not cover it: other devices and formats, gradients.
    """
    same = q.dtype == k.dtype == v.dtype and q.dtype in FLOATS and q.is_cpu and k.is_cpu and v.is_cpu
    if not same or q.requires_grad or (lib := library("attention")) is None:
        return None
    if not (heads_follow(k) and heads_follow(v) and k.stride(1) == v.stride(1)):
        k, v = k.contiguous(), v.contiguous()
    (b, h, t, c), (_, g, s, _) = q.shape, k.shape
    q, z = q.contiguous(), q.new_empty(b, t, h, c)
    sizes = (ctypes.c_int64 * 7)(b, h, g, t, s, c, k.stride(1))
    places = (ctypes.c_void_p(x.data_ptr()) for x in (q, k, v, z))
    lib.attention(*places, q.dtype == torch.bfloat16, sizes, torch.get_num_threads())
    return z.transpose(1, 2)


def heads_follow(x: Tensor) -> bool:  # (b, g, s, c)
    """Whether rows of heads lie one after another, all as far apart, as in a cache that is not full."""
    far = x.stride(1)
    return x.stride(3) == 1 and x.stride(2) == x.shape[3] and (len(x) == 1 or x.stride(0) == x.shape[1] * far)
