"""The model as native code reads it: the structures of native/step.h, filled from the modules.

One call reads some tokens over a KVCache and gives what `Transformer.hidden` gives. Only pointers are handed over; the
tensors stay the model's and the cache's.
"""

import torch
from torch import Tensor, nn

from fathom.backend.linear import FLOATS, PanelLinear
from fathom.errors import FathomError, OutsideVocabulary
from fathom.model.attention import Attention
from fathom.model.cache import KVCache
from fathom.model.mlp import GeluMLP, Relu2MLP, SwigluMLP
from fathom.model.norm import LayerNorm, RMSNorm
from fathom.model.position import LearnedPosition, NoPosition, Rope
from fathom.model.transformer import Block, Transformer
from fathom.native.build import library
from fathom.native.interface import OK, UNSUPPORTED, Layer, Linear, MlpKind, Model, Norm, NormKind, Pass, PositionKind
from fathom.native.panels import Panels, address

AT_ONCE = 128  # tokens that go through the model in one call, which nobody can interrupt
IDS = (torch.int64, torch.int32)  # what nn.Embedding takes
# The parts that step.cpp computes, by exact type: a subclass may compute something else.
NORMS = {nn.Identity: NormKind.NONE, LayerNorm: NormKind.LAYER, RMSNorm: NormKind.RMS}
MLPS = {
    type(None): MlpKind.NONE,
    GeluMLP: MlpKind.GELU,
    Relu2MLP: MlpKind.RELU2,
    SwigluMLP: MlpKind.SWIGLU,
}
POSITIONS = {NoPosition: PositionKind.NONE, LearnedPosition: PositionKind.LEARNED, Rope: PositionKind.ROPE}


class Step:
    """`hidden` of one model whose linear layers lie in panels. Holds what the native side points to."""

    def __init__(self, model: Transformer) -> None:
        self.kept: list[Tensor | Panels] = []
        self.dtype, self.width = model.embed.weight.dtype, model.config.d_model
        self.layers = (Layer * len(model.blocks))(*map(self.layer, model.blocks))
        config, position = model.config, model.position
        sizes = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.head_dim, config.d_ff)
        mlp = MLPS[type(model.blocks[0].mlp)] if len(model.blocks) else MlpKind.NONE
        kinds = (mlp, POSITIONS[type(position)], config.residual, self.dtype == torch.bfloat16)
        table = position.table.weight if isinstance(position, LearnedPosition) else None
        rows = (config.vocab_size, 0 if table is None else len(table))
        frequency, scale = (
            (self.keep(position.frequency), position.scale) if isinstance(position, Rope) else (None, 1.0)
        )
        tables = (self.hold(model.embed.weight), None if table is None else self.hold(table), frequency)
        self.model = Model(*sizes, *kinds, *rows, *tables, scale, self.norm(model.final_norm), self.layers)

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
        cache.require_room(t)
        try:
            pieces = [self.call(piece, cache) for piece in ids.split(max(1, AT_ONCE // b), 1)]
        except BaseException:
            cache.rewind(end - t)
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
            address(padding),
            cache.store.data_ptr(),
            hidden.data_ptr(),
        )
        counts = (b, t, cache.length, cache.capacity, cache.store.dtype == torch.bfloat16)
        lib = library("step")
        assert lib is not None, "a step is made where native code runs"
        wrong = lib.step(self.model, Pass(*counts, *places), torch.get_num_threads())
        if wrong == UNSUPPORTED:
            raise FathomError("native code does not support a part of this model; set FATHOM_NATIVE=off")
        if wrong != OK:
            token, place, last = ids.flatten()[wrong], positions.flatten()[wrong], self.model.vocab - 1
            raise OutsideVocabulary(
                f"found token {token} at position {place}; expected 0 to {last}; give ids of this model"
            )
        cache.advance(t)
        return hidden.to(self.dtype)

    def layer(self, block: Block) -> Layer:
        attn = block.attn
        mlp = [getattr(block.mlp, name, None) for name in ("gate", "up", "down")]
        return Layer(*map(self.norm, norms(block)), *map(self.linear, (attn.q, attn.k, attn.v, attn.out, *mlp)))

    def norm(self, part: nn.Module) -> Norm:
        kind = NORMS[type(part)]
        if not isinstance(part, LayerNorm | RMSNorm):
            return Norm(kind)
        bias = part.bias if isinstance(part, LayerNorm) else None
        return Norm(kind, self.keep(part.weight), None if bias is None else self.keep(bias), part.eps)

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


def norms(block: Block) -> list[nn.Module]:
    mlp_norm = nn.Identity() if block.mlp is None else block.mlp_norm
    return [block.attn_norm, mlp_norm, block.attn.q_norm, block.attn.k_norm]


def makes_steps(model: Transformer) -> bool:
    """Whether native code computes every part: all linear layers of the blocks are in panels, and all other parts have
    the exact types that step.cpp implements."""
    position, blocks = model.position, list(model.blocks)
    tables = [model.embed, *([position.table] if isinstance(position, LearnedPosition) else [])]
    attention = [part for block in blocks for part in (block.attn.q, block.attn.k, block.attn.v, block.attn.out)]
    others = [part for block in blocks if block.mlp is not None for part in block.mlp.children()]
    linears = all(isinstance(part, PanelLinear) for part in attention + others)
    every_norm = [model.final_norm, *(norm for block in blocks for norm in norms(block))]
    mlps = {type(block.mlp) for block in blocks}
    exact = type(position) in POSITIONS and all(type(norm) in NORMS for norm in every_norm)
    exact = exact and len(mlps) <= 1 and mlps <= MLPS.keys()
    exact = exact and all(type(block) is Block and type(block.attn) is Attention for block in blocks)
    return linears and exact and all(readable(part, model.embed.weight.dtype) for part in tables)


def readable(table: nn.Module, dtype: torch.dtype) -> bool:
    """Whether native code can look a vector up in this table."""
    return type(table) is nn.Embedding and table.weight.dtype == dtype and table.weight.is_contiguous()
