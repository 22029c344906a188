"""The model as native code reads it: the structures of native/step.cpp, filled from the modules.

One call reads few tokens over a KVCache and gives what `Transformer.hidden` gives. Only pointers are handed over; the
tensors stay the model's and the cache's.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import ContextOverflow
from fathom.fast.linear import PanelLinear
from fathom.model.cache import KVCache
from fathom.model.norm import LayerNorm, RMSNorm
from fathom.model.position import LearnedPosition, Rope
from fathom.model.transformer import Block, Transformer
from fathom.native.build import library
from fathom.native.panels import Linear, pointer


def structure(name: str, fields: dict[str, Any]) -> Any:
    """A C structure of these fields, in their order."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


LONG, DOUBLE, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
Norm = structure("Norm", {"kind": LONG, "weight": POINTER, "bias": POINTER, "eps": DOUBLE})
NORMS, LINEARS = ("attn_norm", "mlp_norm", "q_norm", "k_norm"), ("q", "k", "v", "out", "gate", "up", "down")
Layer = structure("Layer", dict.fromkeys(NORMS, Norm) | dict.fromkeys(LINEARS, Linear))
SIZES = ("n_layer", "d", "h", "g", "c", "f", "mlp", "residual", "position", "bf16")
TABLES = ("embed", "table", "frequency")
REST = {"rope_scale": DOUBLE, "final_norm": Norm, "layers": POINTER}
Model = structure("Model", dict.fromkeys(SIZES, LONG) | dict.fromkeys(TABLES, POINTER) | REST)
COUNTS, PLACES = ("b", "t", "length", "capacity", "cache_bf16"), ("ids", "positions", "padding", "store", "hidden")
Pass = structure("Pass", dict.fromkeys(COUNTS, LONG) | dict.fromkeys(PLACES, POINTER))
NO_NORM, LAYER, RMS = range(3)  # these and the next two as step.cpp counts them
MLPS = {"none": 0, "gelu": 1, "relu2": 2, "swiglu": 3}
POSITIONS = {"none": 0, "learned": 1, "rope": 2}


class Step:
    """`hidden` of one model whose linear layers lie in panels, for few tokens. Holds what the native side points to."""

    def __init__(self, model: Transformer) -> None:
        self.kept: list[Tensor] = []
        self.dtype, self.width = model.embed.weight.dtype, model.config.d_model
        self.layers = (Layer * len(model.blocks))(*map(self.layer, model.blocks))
        config, position = model.config, model.position
        sizes = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.head_dim, config.d_ff)
        kinds = (MLPS[config.mlp], config.residual, POSITIONS[config.position], self.dtype == torch.bfloat16)
        table = position.table.weight.data_ptr() if isinstance(position, LearnedPosition) else None
        frequency, scale = (
            (self.keep(position.frequency), position.scale) if isinstance(position, Rope) else (None, 1.0)
        )
        tables = (model.embed.weight.data_ptr(), table, frequency)
        self.model = Model(*sizes, *kinds, *tables, scale, self.norm(model.final_norm), ctypes.addressof(self.layers))

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """ids (b, t) -> (b, t, d), and the cache's clock moved by t. ContextOverflow where the cache is full."""
        (b, t), end = ids.shape, cache.length + ids.shape[1]
        if end > cache.capacity:
            raise ContextOverflow(
                f"the cache holds {cache.capacity} tokens and {end} are needed; make it longer or shorten the text"
            )
        ids, positions = ids.contiguous(), cache.positions(t).expand(b, t).contiguous()
        hidden = torch.empty(b, t, self.width)
        places = (
            ids.data_ptr(),
            positions.data_ptr(),
            pointer(cache.padding),
            cache.store.data_ptr(),
            hidden.data_ptr(),
        )
        counts = (b, t, cache.length, cache.capacity, cache.store.dtype == torch.bfloat16)
        lib = library("step")
        assert lib is not None, "a step is made where native code runs"
        lib.step(ctypes.byref(self.model), ctypes.byref(Pass(*counts, *places)), torch.get_num_threads())
        cache.length = end
        return hidden.to(self.dtype)

    def layer(self, block: Block) -> Any:
        attn, mlp = block.attn, block.mlp
        norms = (block.attn_norm, block.mlp_norm if mlp is not None else nn.Identity(), attn.q_norm, attn.k_norm)
        mlp_linears = [getattr(mlp, name, None) for name in LINEARS[4:]]
        return Layer(*map(self.norm, norms), *map(linear, (attn.q, attn.k, attn.v, attn.out, *mlp_linears)))

    def norm(self, part: nn.Module) -> Any:
        if isinstance(part, RMSNorm):
            return Norm(RMS, self.keep(part.weight), None, part.eps)
        if isinstance(part, LayerNorm):
            return Norm(LAYER, self.keep(part.weight), None if part.bias is None else self.keep(part.bias), part.eps)
        return Norm(NO_NORM, None, None, 0.0)

    def keep(self, x: Tensor) -> int:
        """Where these few numbers lie in fp32 from now on."""
        self.kept.append(x.detach().float().contiguous())
        return self.kept[-1].data_ptr()


def linear(part: nn.Module | None) -> Linear:
    """The structure of a layer in panels; an empty one where there is none."""
    return part.panels.struct() if isinstance(part, PanelLinear) else Linear()


def makes_steps(model: Transformer) -> bool:
    """Whether native code knows every part of the blocks: all of their linear layers lie in panels."""
    attention = [
        linear for block in model.blocks for linear in (block.attn.q, block.attn.k, block.attn.v, block.attn.out)
    ]
    others = [part for block in model.blocks if block.mlp is not None for part in block.mlp.children()]
    return all(isinstance(part, PanelLinear) for part in attention + others)
