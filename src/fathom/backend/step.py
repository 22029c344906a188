"""One native call for all blocks of a model: the structures of native/step.h, filled from its modules.

A call reads some tokens over a KVCache and returns what `Transformer.hidden` does. Only pointers are passed; the
tensors stay the model's and the cache's.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor, nn

from fathom.backend.linear import FLOATS, PanelLinear, copy_into
from fathom.backend.training import FusedGeluMLP, FusedRMSNorm, FusedSwigluMLP, RecomputedBlock, attend_bf16
from fathom.errors import FathomError, OutsideVocabulary
from fathom.families.plain import computes_as
from fathom.model.attention import Attention, attend_fused
from fathom.model.cache import KVCache
from fathom.model.mlp import GeluMLP, Relu2MLP, SwigluMLP
from fathom.model.norm import LayerNorm, RMSNorm
from fathom.model.position import LearnedPosition, NoPosition, Rope
from fathom.model.swap import kind_of, what_is
from fathom.model.transformer import Add, Block, Replace, Transformer
from fathom.native.build import library
from fathom.native.interface import OK, UNSUPPORTED, Layer, Linear, MlpKind, Model, Norm, NormKind, Pass, PositionKind
from fathom.native.kernels import attention
from fathom.native.panels import Panels, address

AT_ONCE = 128  # tokens that go through the model in one call, which nobody can interrupt
IDS = (torch.int64, torch.int32)  # what nn.Embedding takes
# What step.cpp computes, by exact class: another one may compute something else, even if it descends from one of these.
NORMS = {
    nn.Identity: NormKind.NONE,
    LayerNorm: NormKind.LAYER,
    RMSNorm: NormKind.RMS,
    FusedRMSNorm: NormKind.RMS,
}
MLPS = {
    GeluMLP: MlpKind.GELU,
    FusedGeluMLP: MlpKind.GELU,
    Relu2MLP: MlpKind.RELU2,
    SwigluMLP: MlpKind.SWIGLU,
    FusedSwigluMLP: MlpKind.SWIGLU,
}
POSITIONS = {NoPosition: PositionKind.NONE, LearnedPosition: PositionKind.LEARNED, Rope: PositionKind.ROPE}
RESIDUAL = {Add: True, Replace: False}
ROLES: dict[str, Collection[type[nn.Module]]] = {
    "embed": {nn.Embedding},
    "position": POSITIONS,
    "position.table": {nn.Embedding},
    "dropout": {nn.Dropout},
    "final_norm": NORMS,
    "blocks": {nn.ModuleList},
    "block": {Block, RecomputedBlock},
    "block.attn": {Attention},
    "block.mlp": MLPS,
    "block.join": RESIDUAL,
    "block.join.dropout": {nn.Dropout},
    **dict.fromkeys(("block.attn_norm", "block.mlp_norm", "block.attn.q_norm", "block.attn.k_norm"), NORMS),
    **{f"block.{name}_after": {nn.Identity} for name in ("attn", "mlp")},
    **{f"block.attn.{name}": {PanelLinear} for name in ("q", "k", "v", "out")},
    **{f"block.mlp.{name}": {PanelLinear} for name in ("gate", "up", "down")},
}


@computes_as(attend_fused)
def attend_natively(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, cap: float | None = None
) -> Tensor:
    """`attend_fused` for inference, natively where all earlier positions are visible; shapes as there."""
    z = attention(q, k, v) if visible is None and dropout == 0 and cap is None else None
    return attend_fused(q, k, v, visible, dropout, cap=cap) if z is None else z


PLAIN_ATTENTION = (attend_fused, attend_bf16, attend_natively)  # one function, computed in three ways


class NativeStep:
    """`hidden` of a model whose linear layers lie in panels. Keeps alive what the native structures point to."""

    cache, status = KVCache, ""

    def __init__(self, model: Transformer) -> None:
        """FathomError, in one line, where a part of the model is none that native code computes."""
        require_native(model)
        self.kept: list[Tensor | Panels] = []
        self.copies: list[tuple[Tensor, Tensor]] = []  # (numbers of the model, the same in fp32)
        self.dtype, self.width = model.embed.weight.dtype, model.config.d_model
        self.layers = (Layer * len(model.blocks))(*map(self.layer, model.blocks))
        config, position = model.config, model.position
        sizes = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.head_dim, config.d_ff)
        mlp, residual = next(map(kinds_of_block, model.blocks), (MlpKind.NONE, False))
        kinds = (mlp, POSITIONS[type(position)], residual, self.dtype == torch.bfloat16)
        table = position.table.weight if isinstance(position, LearnedPosition) else None
        rows = (config.vocab_size, 0 if table is None else len(table))
        frequency, scale = (
            (self.hold_fp32(position.frequency), position.scale) if isinstance(position, Rope) else (None, 1.0)
        )
        tables = (self.hold(model.embed.weight), None if table is None else self.hold(table), frequency)
        self.model = Model(*sizes, *kinds, *rows, *tables, scale, self.norm(model.final_norm), self.layers)
        self.versions = [source._version for source, _ in self.copies]

    def takes(self, ids: Tensor, cache: KVCache) -> bool:
        """Whether native code reads these; errors about all others are the plain model's."""
        sizes, store = self.model, cache.store
        shape = (sizes.n_layer, 2, len(ids), sizes.g, cache.capacity, sizes.c)
        fit = ids.ndim == 2 and ids.numel() > 0 and ids.dtype in IDS and store.shape == shape and store.dtype in FLOATS
        return fit and ids.is_cpu and store.is_cpu and store.is_contiguous()

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """ids (b, t) -> (b, t, d), and the cache advanced by t. Only for what it `takes`.

        ContextOverflow where the cache is full, OutsideVocabulary where an id is no token: then nothing is advanced.
        """
        self.refresh()
        (b, t), start = ids.shape, cache.length
        cache.require_room(t)
        try:
            pieces = [self.call(piece, cache) for piece in ids.split(max(1, AT_ONCE // b), 1)]
        except BaseException:
            cache.rewind(start)
            raise
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def call(self, ids: Tensor, cache: KVCache) -> Tensor:
        """The same in one native call."""
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
        if lib is None:
            raise FathomError("native code was switched off after this model was prepared; load the model again")
        result = lib.step(self.model, Pass(*counts, *places), torch.get_num_threads())
        if result == UNSUPPORTED:
            raise FathomError("native code does not support a part of this model; set FATHOM_NATIVE=off")
        if result != OK:
            token, place, last = ids.flatten()[result], positions.flatten()[result], self.model.vocab - 1
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
        return Norm(kind, self.hold_fp32(part.weight), None if bias is None else self.hold_fp32(bias), part.eps)

    def hold_fp32(self, x: Tensor) -> int:
        """The address of these few numbers in fp32: a copy, where they are in another format."""
        copy = x.detach().float().contiguous()
        self.follow(x, copy)
        return self.hold(copy)

    def follow(self, source: Tensor, copy: Tensor) -> None:
        """Let `refresh` update this copy, where it is one. Tensors made in inference mode count no changes."""
        if copy.data_ptr() != source.data_ptr() and not source.is_inference():
            self.copies.append((source, copy))

    def refresh(self) -> None:
        """Update the copies of numbers that were changed in place."""
        now = [source._version for source, _ in self.copies]
        if now != self.versions:
            for source, copy in self.copies:
                copy_into(copy, source)
            self.versions = now

    def hold(self, x: Tensor) -> int:
        """The address of this tensor, which is valid as long as this step exists."""
        self.kept.append(x)
        return x.data_ptr()

    def linear(self, part: nn.Module | None) -> Linear:
        """The structure of a layer in panels; an empty one for None."""
        if not isinstance(part, PanelLinear):
            return Linear()
        part.refresh()
        if part.bias is not None and part.panels.bias is not None:
            self.follow(part.bias, part.panels.bias)
        self.kept.append(part.panels)
        return part.panels.struct()


def norms(block: Block) -> list[nn.Module]:
    mlp_norm = nn.Identity() if block.mlp is None else block.mlp_norm
    return [block.attn_norm, mlp_norm, block.attn.q_norm, block.attn.k_norm]


def kinds_of_block(block: Block) -> tuple[MlpKind, bool]:
    """The MLP that native code runs, and whether the block adds to the residual stream: one for all blocks."""
    return MlpKind.NONE if block.mlp is None else MLPS[type(block.mlp)], RESIDUAL[type(block.join)]


def require_native(model: Transformer) -> None:
    """FathomError where native code does not compute a part: it is of another class, or its weights lie elsewhere."""
    dtype, config = model.embed.weight.dtype, model.config
    values = {"layers": config.layers.pattern, "rope.rotated": config.rope.rotated}
    values |= {f"scale.{name}": getattr(config.scale, name) for name in ("attn", "attn_cap")}
    values["rope.scaling"] = config.rope.scaling.kind if config.rope.scaling else None
    for name, value in values.items():
        if value not in (None, "g", "linear", "llama3", "yarn"):
            raise FathomError(f"{name} is {value}")
    for name, part in model.named_modules():
        if not name or name.startswith("unembed"):  # these run in Python
            continue
        if kind_of(part) not in ROLES.get(re.sub(r"^blocks\.\d+", "block", name), ()):
            raise FathomError(what_is(name, part))
        if isinstance(part, nn.Embedding) and not (part.weight.dtype == dtype and part.weight.is_contiguous()):
            raise FathomError(f"{name} has its numbers in another order or format")
    for layer, block in enumerate(model.blocks):
        if block.attn.attend not in PLAIN_ATTENTION:
            raise FathomError(f"blocks.{layer}.attn calls another function than attend")
        if kinds_of_block(block) != kinds_of_block(model.blocks[0]):
            raise FathomError(f"blocks.{layer} is not like blocks.0")
