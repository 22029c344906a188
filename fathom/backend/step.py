"""The model as native code reads it: the structures of native/step.cpp, filled from the modules.

One call reads some tokens over a KVCache and gives what `Transformer.hidden` gives. Only pointers are handed over; the
tensors stay the model's and the cache's.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from fathom.backend.linear import FLOATS, PanelLinear
from fathom.errors import ContextOverflow, OutsideVocabulary
from fathom.model.cache import KVCache
from fathom.model.norm import LayerNorm, RMSNorm
from fathom.model.position import LearnedPosition, Rope
from fathom.model.transformer import Block, Transformer
from fathom.native.build import library
from fathom.native.panels import Linear, Panels, pointer


def structure(name: str, fields: dict[str, Any]) -> Any:
    """A C structure of these fields, in their order."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


LONG, DOUBLE, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
Norm = structure("Norm", {"kind": LONG, "weight": POINTER, "bias": POINTER, "eps": DOUBLE})
NORMS, LINEARS = ("attn_norm", "mlp_norm", "q_norm", "k_norm"), ("q", "k", "v", "out", "gate", "up", "down")
Layer = structure("Layer", dict.fromkeys(NORMS, Norm) | dict.fromkeys(LINEARS, Linear))
SIZES = ("n_layer", "d", "h", "g", "c", "f", "mlp", "residual", "position", "bf16", "vocab", "context")
TABLES = ("embed", "table", "frequency")
REST = {"rope_scale": DOUBLE, "final_norm": Norm, "layers": POINTER}
Model = structure("Model", dict.fromkeys(SIZES, LONG) | dict.fromkeys(TABLES, POINTER) | REST)
COUNTS, PLACES = ("b", "t", "length", "capacity", "cache_bf16"), ("ids", "positions", "padding", "store", "hidden")
Pass = structure("Pass", dict.fromkeys(COUNTS, LONG) | dict.fromkeys(PLACES, POINTER))
AT_ONCE = 128  # tokens that go through the model in one call, which nobody can interrupt
NO_NORM, LAYER, RMS = range(3)  # these and the next two as step.cpp counts them
MLPS = {"none": 0, "gelu": 1, "relu2": 2, "swiglu": 3}
IDS = (torch.int64, torch.int32)  # what nn.Embedding takes
POSITIONS = {"none": 0, "learned": 1, "rope": 2}


class Step:
    """`hidden` of one model whose linear layers lie in panels. Holds what the native side points to."""

    def __init__(self, model: Transformer) -> None:
        self.kept: list[Tensor | Panels] = []
        self.dtype, self.width = model.embed.weight.dtype, model.config.d_model
        self.layers = (Layer * len(model.blocks))(*map(self.layer, model.blocks))
        config, position = model.config, model.position
        sizes = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.head_dim, config.d_ff)
        kinds = (MLPS[config.mlp], config.residual, POSITIONS[config.position], self.dtype == torch.bfloat16)
        table = position.table.weight if isinstance(position, LearnedPosition) else None
        rows = (config.vocab_size, 0 if table is None else len(table))
        frequency, scale = (
            (self.keep(position.frequency), position.scale) if isinstance(position, Rope) else (None, 1.0)
        )
        tables = (self.hold(model.embed.weight), None if table is None else self.hold(table), frequency)
        last = (scale, self.norm(model.final_norm), ctypes.addressof(self.layers))
        self.model = Model(*sizes, *kinds, *rows, *tables, *last)

    def takes(self, ids: Tensor, cache: KVCache) -> bool:
        """Whether these are what the native side reads. What else they may be is for the plain model to say."""
        sizes, store = self.model, cache.store
        shape = (sizes.n_layer, 2, len(ids), sizes.g, cache.capacity, sizes.c)
        fit = ids.ndim == 2 and ids.numel() > 0 and ids.dtype in IDS and store.shape == shape and store.dtype in FLOATS
        return fit and ids.is_cpu and store.is_cpu and store.is_contiguous()

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """ids (b, t) -> (b, t, d), and the cache's clock moved by t.

        For what it `takes` alone. ContextOverflow where the cache is full; OutsideVocabulary.
        """
        (b, t), end = ids.shape, cache.length + ids.shape[1]
        if end > cache.capacity:
            raise ContextOverflow(
                f"the cache holds {cache.capacity} tokens and {end} are needed; make it longer or shorten the text"
            )
        try:
            pieces = [self.call(piece, cache) for piece in ids.split(max(1, AT_ONCE // b), 1)]
        except BaseException:
            cache.length = end - t
            raise
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def call(self, ids: Tensor, cache: KVCache) -> Tensor:
        """The same for tokens that go through the model at once."""
        b, t = ids.shape
        ids, positions = (x.long().contiguous() for x in (ids, cache.positions(t).expand(b, t)))
        padding = None if cache.padding is None else cache.padding.long().contiguous()
        hidden = torch.empty(b, t, self.width)
        places = (
            ids.data_ptr(),
            positions.data_ptr(),
            pointer(padding),
            cache.store.data_ptr(),
            hidden.data_ptr(),
        )
        counts = (b, t, cache.length, cache.capacity, cache.store.dtype == torch.bfloat16)
        lib = library("step")
        assert lib is not None, "a step is made where native code runs"
        wrong = lib.step(ctypes.byref(self.model), ctypes.byref(Pass(*counts, *places)), torch.get_num_threads())
        if wrong >= 0:
            token, place, last = ids.flatten()[wrong], positions.flatten()[wrong], self.model.vocab - 1
            raise OutsideVocabulary(
                f"found token {token} at position {place}; expected 0 to {last}; give ids of this model"
            )
        cache.length += t
        return hidden.to(self.dtype)

    def layer(self, block: Block) -> Any:
        attn, mlp = block.attn, block.mlp
        norms = (block.attn_norm, block.mlp_norm if mlp is not None else nn.Identity(), attn.q_norm, attn.k_norm)
        mlp_linears = [getattr(mlp, name, None) for name in LINEARS[4:]]
        return Layer(*map(self.norm, norms), *map(self.linear, (attn.q, attn.k, attn.v, attn.out, *mlp_linears)))

    def norm(self, part: nn.Module) -> Any:
        if isinstance(part, RMSNorm):
            return Norm(RMS, self.keep(part.weight), None, part.eps)
        if isinstance(part, LayerNorm):
            return Norm(LAYER, self.keep(part.weight), None if part.bias is None else self.keep(part.bias), part.eps)
        return Norm(NO_NORM, None, None, 0.0)

    def keep(self, x: Tensor) -> int:
        """Where these few numbers lie in fp32 from now on."""
        return self.hold(x.detach().float().contiguous())

    def hold(self, x: Tensor) -> int:
        """Where this tensor lies, which stays there for as long as the step lives."""
        self.kept.append(x)
        return x.data_ptr()

    def linear(self, part: nn.Module | None) -> Linear:
        """The structure of a layer in panels; an empty one where there is none."""
        if not isinstance(part, PanelLinear):
            return Linear()
        self.kept.append(part.panels)
        return part.panels.struct()


def makes_steps(model: Transformer) -> bool:
    """Whether native code knows every part: all linear layers of the blocks lie in panels, and none of the rest was
    exchanged for something else."""
    position = model.position
    tables = [model.embed, *([position.table] if isinstance(position, LearnedPosition) else [])]
    attention = [part for block in model.blocks for part in (block.attn.q, block.attn.k, block.attn.v, block.attn.out)]
    others = [part for block in model.blocks if block.mlp is not None for part in block.mlp.children()]
    linears = all(isinstance(part, PanelLinear) for part in attention + others)
    return linears and all(readable(part, model.embed.weight.dtype) for part in tables)


def readable(table: nn.Module, dtype: torch.dtype) -> bool:
    """Whether native code can look a vector up in this table."""
    return type(table) is nn.Embedding and table.weight.dtype == dtype and table.weight.is_contiguous()
