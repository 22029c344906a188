"""ggml's own functions, out of the library that llama-cpp-python brings."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fathom.formats.ggml_blocks import IDS, NumberType

FILE_TYPES = {"Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "MXFP4_MOE": 38}
SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)  # must live on


def llama_cpp() -> Any:
    return pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")


def ggml() -> ctypes.CDLL:
    folder = Path(llama_cpp().__file__).parent / "lib"
    found = [path for path in folder.glob("*ggml-base*") if path.suffix in (".so", ".dylib", ".dll")]
    return ctypes.CDLL(str(found[0]))


def blocks(kind: NumberType, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """x in blocks of this type, by the reference quantiser."""
    x, out = np.ascontiguousarray(x).reshape(-1), np.zeros(x.size // kind.size * kind.nbytes, np.uint8)
    quantize = getattr(ggml(), f"quantize_row_{kind.name.lower().replace('_k', '_K')}_ref")
    quantize(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
    return out


def numbers(kind: NumberType, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The numbers in blocks of this type."""
    data, out = np.ascontiguousarray(data).reshape(-1), np.empty(data.size // kind.nbytes * kind.size, np.float32)
    dequantize = getattr(ggml(), f"dequantize_row_{kind.name.lower().replace('_k', '_K')}")
    dequantize(data.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
    return out


def sizes(kind: NumberType) -> tuple[int, int]:
    """Numbers and bytes of a block."""
    library = ggml()
    library.ggml_type_size.restype, library.ggml_blck_size.restype = ctypes.c_size_t, ctypes.c_int64
    return library.ggml_blck_size(IDS[kind.name]), library.ggml_type_size(IDS[kind.name])


def quantised(source: Path, target: Path, mix: str) -> None:
    """`target`: the GGUF file `source` as llama-quantize packs it."""
    library = llama_cpp()
    library.llama_log_set(SILENT, None)
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[mix], 1
    failed = library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    assert not failed
