"""A model without contents: its parts, names and shapes, with no memory behind them and nothing drawn at random.

What is read from a file is put into it. Seventy billion parameters take no time this way.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

DRAWN = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_}


class Undrawn(TorchFunctionMode):
    """Leaves weights as they are where they would be drawn at random."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWN:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: ModelConfig) -> Transformer:
    """`Transformer(config)` on the meta device."""
    with torch.device("meta"), Undrawn():
        return Transformer(config)


@lru_cache(maxsize=16)
def weight_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every tensor in the state dict; of two tied ones the first."""
    state = skeleton(config).state_dict()
    if config.tie_embeddings:
        del state["unembed.weight"]
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
