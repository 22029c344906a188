"""A model on the meta device: its parts, names and shapes, without memory and without random numbers drawn.

Weights that are read from a file are assigned to it. Seventy billion parameters take no time this way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

RANDOM = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_}


class SkipInit(TorchFunctionMode):
    """Skips random initialisation: the tensors are left as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: ModelConfig) -> Transformer:
    """`Transformer(config)` on the meta device."""
    with torch.device("meta"), SkipInit():
        return Transformer(config)
