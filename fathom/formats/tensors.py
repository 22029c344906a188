"""A file of named tensors: safetensors, written so that every failure is one line and no reader is shut out.

Bits in, bits out, for every dtype. Does not know what the tensors are.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fathom.errors import FathomError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """`tensors` as safetensors. For a `path` that must never be half-written, write inside `atomic_write`."""
    try:
        path.touch()
        mode = path.stat().st_mode  # safetensors puts a new file there that its owner alone may read
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
        path.chmod(mode)
    except (SafetensorError, OSError) as error:
        raise FathomError(f"{path} cannot be written: {error}") from error
