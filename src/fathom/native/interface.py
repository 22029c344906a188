"""The C interface of the native kernels: enumerations, structures and the signature of every function, as in C++.

A tensor is passed as its address only after its dtype, device and layout are checked: a wrong argument raises
ctypes.ArgumentError instead of reading the wrong memory.
"""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_double, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16)  # the formats of activations
OK, UNSUPPORTED = -1, -2  # what `step` returns, other than the index of a token
UNROTATED, ROTATIONS = -1, 2


class WeightKind(IntEnum):
    FP32, BF16, INT8, INT4, Q4_K, Q5_K, Q6_K = range(7)


class NormKind(IntEnum):
    NONE, LAYER, RMS, HEADS = range(4)  # heads: LayerNorm of each head, with weights of its own


class MlpKind(IntEnum):
    NONE, GELU, GELU_EXACT, RELU, RELU2, SWIGLU, GEGLU = range(7)


class Adapter(Structure):
    """A change of low rank to a layer."""

    _fields_ = [("rank", c_int64), ("a", c_void_p), ("b", c_void_p), ("scale", c_double)]


class Linear(Structure):
    """A matrix (out, in) in panels."""

    _fields_ = [
        ("kind", c_int64),
        ("out", c_int64),
        ("in", c_int64),
        ("lines", c_void_p),
        ("scales", c_void_p),
        ("steps", c_void_p),
        ("bias", c_void_p),
        ("adapters", POINTER(Adapter)),
    ]


class Norm(Structure):
    _fields_ = [
        ("kind", c_int64),
        ("width", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("eps", c_double),
    ]


class Layer(Structure):
    """One block."""

    _fields_ = [
        *((name, Norm) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm", "attn_after", "mlp_after")),
        *((name, Linear) for name in ("q", "k", "v", "out", "gate", "up", "down")),
        *((name, c_int64) for name in ("rotation", "window")),
    ]


class Model(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("n_layer", "d", "h", "g", "c", "f", "rotated")),
        *(
            (name, c_int64)
            for name in ("mlp", "residual", "parallel", "rotated_first", "bf16", "vocab", "context", "adapters")
        ),
        *((name, c_void_p) for name in ("embed", "table", "slopes")),
        *((name, c_double) for name in ("embed_scale", "residual_scale", "attn_scale", "attn_cap")),
        ("embed_norm", Norm),
        ("final_norm", Norm),
        ("layers", POINTER(Layer)),
    ]


class Memory(Structure):
    """Keys and values of a layer."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("capacity", c_int64), ("begin", c_int64)]


class Rotation(Structure):
    _fields_ = [("frequency", c_void_p), ("scale", c_double)]


class Pass(Structure):
    """The tokens of one call and the cache they extend."""

    _fields_ = [
        *((name, c_int64) for name in ("b", "t", "length", "cache_bf16")),
        *((name, c_void_p) for name in ("ids", "positions")),
        *((name, c_int64) for name in ("pages", "longest")),
        *((name, c_void_p) for name in ("tables", "lengths")),
        ("memories", POINTER(Memory)),
        ("rotations", Rotation * ROTATIONS),
        ("weights", c_void_p),
        ("hidden", c_void_p),
    ]


@dataclass(frozen=True)
class Pointer:
    """An argument type for ctypes: a CPU tensor of one of these dtypes, passed as its address."""

    dtypes: tuple[torch.dtype, ...]
    contiguous: bool = True
    optional: bool = False  # None is passed as a null pointer

    def from_param(self, x: object) -> c_void_p:
        if x is None and self.optional:
            return c_void_p(None)
        if not isinstance(x, Tensor):
            raise TypeError(f"found {type(x).__name__}; expected a tensor")
        if x.dtype not in self.dtypes or not x.is_cpu or (self.contiguous and not x.is_contiguous()):
            expected = " or ".join(map(str, self.dtypes))
            layout = "contiguous" if x.is_contiguous() else "strided"
            raise TypeError(f"found a {layout} tensor of {x.dtype} on {x.device}; expected {expected}, CPU, contiguous")
        return c_void_p(x.data_ptr())


FP32, BF16, UINT8 = (Pointer((dtype,)) for dtype in (torch.float32, torch.bfloat16, torch.uint8))
OPTIONAL_FP32, OPTIONAL_UINT8 = (Pointer((dtype,), optional=True) for dtype in (torch.float32, torch.uint8))
FLOAT, STRIDED_FLOAT = Pointer(FLOATS), Pointer(FLOATS, contiguous=False)
STRIDED_UINT8 = Pointer((torch.uint8,), contiguous=False)
THREADS = c_int
FUNCTIONS: dict[str, dict[str, tuple[Any, ...]]] = {  # file -> function -> result, arguments
    "panels": {
        "linear": (c_bool, POINTER(Linear), FLOAT, c_bool, c_int64, FLOAT, c_bool, THREADS),
        "transpose": (None, STRIDED_UINT8, c_int64 * 7, UINT8, THREADS),
    },
    "attention": {
        "attention": (None, FLOAT, STRIDED_FLOAT, STRIDED_FLOAT, FLOAT, c_bool, c_int64 * 7, THREADS),
    },
    "nf4": {
        "unpack_nf4": (None, UINT8, FP32, OPTIONAL_FP32, OPTIONAL_UINT8, OPTIONAL_FP32, OPTIONAL_FP32, OPTIONAL_FP32,
                       c_int64, FLOAT, c_bool, THREADS),
    },
    "fused": {
        "gelu_forward": (None, BF16, BF16, c_int64, THREADS),
        "gelu_backward": (None, BF16, BF16, BF16, c_int64, THREADS),
        "swiglu_forward": (None, BF16, BF16, BF16, c_int64, THREADS),
        "swiglu_backward": (None, BF16, BF16, BF16, BF16, BF16, c_int64, THREADS),
        "rms_norm_forward": (None, BF16, BF16, c_float, BF16, c_int64, c_int64, THREADS),
        "rms_norm_backward": (None, BF16, BF16, BF16, c_float, BF16, c_int64, c_int64, THREADS),
        "exponentials": (None, BF16, FP32, FP32, c_int64, c_int64, THREADS),
    },
    "step": {"step": (c_int64, POINTER(Model), POINTER(Pass), THREADS)},
}  # fmt: skip


def declare(lib: ctypes.CDLL, name: str) -> ctypes.CDLL:
    """The library of `name`.cpp with the types of its functions set, which ctypes then checks in every call."""
    for function, (result, *arguments) in FUNCTIONS[name].items():
        native = getattr(lib, function)
        native.restype, native.argtypes = result, arguments
    return lib
