"""One native call for all blocks of a model: the structures of native/step.h, filled from its modules.

A call reads some tokens over a KVCache or a PagedCache and returns what `Transformer.hidden` does. Only pointers are
passed; the tensors stay the model's and the cache's.
"""

import re
from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import kind_of, what_is
from fathom.backend.adapted import ADAPTED, Adapters, panels_of, require_plain
from fathom.backend.linear import PanelLinear, copy_into
from fathom.backend.memory import Cache, fits, memories, paging
from fathom.backend.pages import PagedCache
from fathom.backend.training import (
    FusedGeluMLP,
    FusedRMSNorm,
    FusedSwigluMLP,
    RecomputedBlock,
    RecomputedParallel,
    attend_bf16,
)
from fathom.errors import FathomError, OutsideVocabulary
from fathom.families.plain import computes_as
from fathom.model.attention import Attention, Soft, attend_fused
from fathom.model.cache import KVCache
from fathom.model.ends import ScaledEmbedding
from fathom.model.mlp import ExactGeluMLP, GegluMLP, GeluMLP, Relu2MLP, ReluMLP, SwigluMLP
from fathom.model.norm import HeadsLayerNorm, LayerNorm, LayerNorm1P, RMSNorm, RMSNorm1P, WholeRMSNorm
from fathom.model.position import Alibi, LearnedPosition, NoPosition, Rope
from fathom.model.transformer import Add, Block, Parallel, Replace, Transformer
from fathom.native.build import library
from fathom.native.interface import (
    OK,
    UNROTATED,
    UNSUPPORTED,
    Layer,
    Linear,
    MlpKind,
    Model,
    Norm,
    NormKind,
    Pass,
    Rotation,
)
from fathom.native.kernels import attention
from fathom.native.panels import PACKED, Panels, address

AT_ONCE = 128  # tokens that go through the model in one call, which nobody can interrupt
IDS = (torch.int64, torch.int32)  # what nn.Embedding takes
# What step.cpp computes, by exact class: another one may compute something else, even if it descends from one of these.
NORMS: dict[type[nn.Module], NormKind] = {
    nn.Identity: NormKind.NONE,
    **dict.fromkeys((LayerNorm, LayerNorm1P), NormKind.LAYER),
    **dict.fromkeys((RMSNorm, FusedRMSNorm, RMSNorm1P), NormKind.RMS),
}
QK_NORMS = NORMS | {WholeRMSNorm: NormKind.RMS, HeadsLayerNorm: NormKind.HEADS}
MLPS = {
    GeluMLP: MlpKind.GELU,
    FusedGeluMLP: MlpKind.GELU,
    ExactGeluMLP: MlpKind.GELU_EXACT,
    ReluMLP: MlpKind.RELU,
    Relu2MLP: MlpKind.RELU2,
    SwigluMLP: MlpKind.SWIGLU,
    FusedSwigluMLP: MlpKind.SWIGLU,
    GegluMLP: MlpKind.GEGLU,
}
ROLES: dict[str, Collection[type[nn.Module]]] = {
    "embed": {nn.Embedding, ScaledEmbedding},
    "position": {NoPosition, LearnedPosition, Rope, Alibi},
    "position.table": {nn.Embedding},
    "dropout": {nn.Dropout},
    "embed_norm": NORMS,
    "final_norm": NORMS,
    "blocks": {nn.ModuleList},
    "block": {Block, Parallel, RecomputedBlock, RecomputedParallel},
    "block.attn": {Attention},
    "block.mlp": MLPS,
    "block.join": {Add, Replace},
    "block.join.dropout": {nn.Dropout},
    **{f"block.{name}": NORMS for name in ("attn_norm", "mlp_norm", "attn_after", "mlp_after")},
    **{f"block.attn.{name}": QK_NORMS for name in ("q_norm", "k_norm")},
    **{f"block.attn.{name}": {PanelLinear} for name in ("q", "k", "v", "out")},
    **{f"block.mlp.{name}": {PanelLinear} for name in ("gate", "up", "down")},
}


@computes_as(attend_fused)
def attend_natively(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, soft: Soft | None = None
) -> Tensor:
    """`attend_fused` for inference, natively where all earlier positions are visible; shapes as there."""
    z = attention(q, k, v) if visible is None and dropout == 0 and soft is None else None
    return attend_fused(q, k, v, visible, dropout, soft=soft) if z is None else z


PLAIN_ATTENTION = (attend_fused, attend_bf16, attend_natively)  # one function, computed in three ways


class NativeStep:
    """`hidden` of a model whose linear layers lie in panels. Keeps alive what the native structures point to."""

    cache, status = KVCache, ""

    def __init__(self, model: Transformer) -> None:
        """FathomError, in one line, where a part of the model is none that native code computes."""
        require_native(model)
        self.kept: list[Tensor | Panels] = []
        self.copies: list[tuple[Tensor, Tensor, int]] = []  # (numbers of the model, these in fp32, plus 0 or 1)
        self.dtype, self.width, self.position = model.embed.weight.dtype, model.config.d_model, model.position
        config, position = model.config, model.position
        named = [part for name, part in model.named_modules() if name.startswith("blocks.") and type(part) in ADAPTED]
        self.adapters = Adapters(named)
        self.windows = [config.layers.window if block.kind == "l" else None for block in model.blocks]
        self.layers = (Layer * len(model.blocks))(*map(self.layer, model.blocks, self.windows))
        rotated = position.rotated if isinstance(position, Rope) else 0
        sizes = (config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.head_dim, config.d_ff, rotated)
        mlp, kind, residual_scale, parallel, attn_scale, cap = kinds_of_block(model.blocks[0]) if model.blocks else NONE
        rotated_first = config.qk_norm == "rotated"
        kinds = (mlp, kind is not Replace, parallel, rotated_first, self.dtype == torch.bfloat16)
        table = position.table.weight if isinstance(position, LearnedPosition) else None
        rows = (config.vocab_size, 0 if table is None else len(table), len(self.adapters.names))
        slopes = self.hold_fp32(position.slopes) if isinstance(position, Alibi) else None
        tables = (self.hold(model.embed.weight), None if table is None else self.hold(table), slopes)
        embed_scale = model.embed.scale if isinstance(model.embed, ScaledEmbedding) else 1.0
        scales = (embed_scale, residual_scale, attn_scale * config.head_dim**-0.5, cap)
        norms = (self.norm(model.embed_norm), self.norm(model.final_norm))
        self.model = Model(*sizes, *kinds, *rows, *tables, *scales, *norms, self.layers)
        self.near, self.far, self.stretched = self.rotations(position)
        self.versions = [source._version for source, *_ in self.copies]

    def rotations(self, position: nn.Module) -> tuple[Rotation, Rotation, Rotation]:
        """Of layers with a window where they have their own, of the others, and of these once the text is longer than
        the original context of longrope."""
        if not isinstance(position, Rope):
            return Rotation(), Rotation(), Rotation()
        far = Rotation(self.hold_fp32(position.frequency), position.scale)
        if position.other is None:
            return far, far, far
        other = self.hold_fp32(position.other)
        return Rotation(other, 1.0), far, Rotation(other, position.scale)

    def takes(self, ids: Tensor, cache: Cache) -> bool:
        """Whether native code reads these; errors about all others are the plain model's."""
        if ids.ndim != 2 or ids.numel() == 0 or ids.dtype not in IDS or not ids.is_cpu:
            return False
        return fits(cache, len(ids), self.model, self.windows)

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """ids (b, t) -> (b, t, d), and the cache advanced by t. Only for what it `takes`.

        ContextOverflow where the cache is full, OutsideVocabulary where an id is no token: then nothing is advanced.
        """
        self.refresh()
        (b, t), start = ids.shape, cache.length
        cache.require_room(t)
        original, end = getattr(self.position, "original", None), max(start + t, cache.horizon)
        far = self.stretched if original is not None and end > original else self.far
        try:
            pieces = [self.call(piece, cache, far) for piece in ids.split(max(1, AT_ONCE // b), 1)]
        except BaseException:
            with suppress(FathomError):  # where a window has dropped what came before, the pieces read stay read
                cache.advance(start - cache.length) if isinstance(cache, PagedCache) else cache.rewind(start)
            raise
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def call(self, ids: Tensor, cache: Cache, far: Rotation) -> Tensor:
        """The same in one native call. far: the rotation of layers without a window."""
        b, t = ids.shape
        keys = cache.pages.keys if isinstance(cache, PagedCache) else cache.store
        if isinstance(cache, KVCache):
            cache.make_room(t)
        ids, positions = (x.long().contiguous() for x in (ids, cache.positions(t).expand(b, t)))
        hidden = torch.empty(b, t, self.width)
        tokens = (b, t, cache.length, keys.dtype == torch.bfloat16)
        places = (ids.data_ptr(), positions.data_ptr(), *paging(cache), memories(cache))
        rotations = (Rotation * 2)(far, self.near)
        weights = self.adapters.weights(b)
        lib = library("step")
        if lib is None:
            raise FathomError("native code was switched off after this model was prepared; load the model again")
        one = Pass(*tokens, *places, rotations, address(weights), hidden.data_ptr())
        result = lib.step(self.model, one, torch.get_num_threads())
        if result == UNSUPPORTED:
            raise FathomError("native code does not support a part of this model; set FATHOM_NATIVE=off")
        if result != OK:
            token, place, last = ids.flatten()[result], positions.flatten()[result], self.model.vocab - 1
            raise OutsideVocabulary(
                f"found token {token} at position {place}; expected 0 to {last}; give ids of this model"
            )
        cache.advance(t)
        return hidden.to(self.dtype)

    def layer(self, block: Block, window: int | None) -> Layer:
        attn, none = block.attn, nn.Identity()
        mlp_norm = attn_norm = block.attn_norm
        if not one_norm(block):
            mlp_norm = getattr(block, "mlp_norm", none)
        norms = (attn_norm, mlp_norm, attn.q_norm, attn.k_norm, block.attn_after, getattr(block, "mlp_after", none))
        mlp = [getattr(block.mlp, name, None) for name in ("gate", "up", "down")]
        linears = (attn.q, attn.k, attn.v, attn.out, *mlp)
        rotation = UNROTATED
        if isinstance(self.position, Rope) and block.kind != "n":
            rotation = int(block.kind == "l" and self.position.config.rope.local_theta is not None)
        return Layer(*map(self.norm, norms), *map(self.linear, linears), rotation, window or 0)

    def norm(self, part: nn.Module) -> Norm:
        kind = QK_NORMS[type(part)]
        if not isinstance(part, LayerNorm | RMSNorm):
            return Norm(kind)
        weight = None if part.weight is None else self.hold_fp32(part.weight, plus=int(part.plus))
        bias = None if part.bias is None else self.hold_fp32(part.bias)
        return Norm(kind, part.width, weight, bias, part.eps)

    def hold_fp32(self, x: Tensor, plus: int = 0) -> int:
        """The address of these few numbers in fp32, plus 0 or 1: a copy, where they are not stored so."""
        copy = x.detach().float().contiguous()
        copy = copy + plus if plus else copy
        self.follow(x, copy, plus)
        return self.hold(copy)

    def hold_low_rank(self, a: Tensor, b: Tensor, scale: float) -> tuple[int, int]:
        """The addresses of a (rank, in) and of b as (rank, out), in fp32."""
        transposed = b.detach().float().T.clone(memory_format=torch.contiguous_format)
        self.follow(b, transposed.T)
        return self.hold_fp32(a), self.hold(transposed)

    def follow(self, source: Tensor, copy: Tensor, plus: int = 0) -> None:
        """Let `refresh` update this copy, where it is one. Tensors made in inference mode count no changes."""
        if copy.data_ptr() != source.data_ptr() and not source.is_inference():
            self.copies.append((source, copy, plus))

    def refresh(self) -> None:
        """Update the copies of numbers that were changed in place."""
        now = [source._version for source, *_ in self.copies]
        if now != self.versions:
            for source, copy, plus in self.copies:
                copy_into(copy, source.float() + plus if plus else source)
            self.versions = now

    def hold(self, x: Tensor) -> int:
        """The address of this tensor, which is valid as long as this step exists."""
        self.kept.append(x)
        return x.data_ptr()

    def linear(self, part: nn.Module | None) -> Linear:
        """The structure of a layer in panels; an empty one for None."""
        if type(part) in ADAPTED:
            found = self.linear(panels_of(part))
            found.adapters = self.adapters.structures(part, self.hold_low_rank)  # type: ignore[arg-type]
            return found
        if not isinstance(part, PanelLinear):
            return Linear()
        part.refresh()
        if part.bias is not None and part.panels.bias is not None:
            self.follow(part.bias, part.panels.bias)
        self.kept.append(part.panels)
        return part.panels.struct()


NONE = (MlpKind.NONE, Add, 1.0, False, 1.0, 0.0)  # of a model without blocks


def kinds_of_block(block: Block) -> tuple[MlpKind, type[Add], float, bool, float, float]:
    """What is the same in all blocks of a model: the MLP, how and by what constant its layers write to the stream,
    whether attention and MLP read the same, and the sharpness and cap of attention (0: none)."""
    mlp = MlpKind.NONE if block.mlp is None else MLPS[type(block.mlp)]
    join, parallel = type(block.join), isinstance(block, Parallel)
    return mlp, join, block.join.scale, parallel, block.attn.sharpness, block.attn.cap or 0.0


def one_norm(block: Block) -> bool:
    """Whether attention and MLP read the stream through the same norm."""
    return isinstance(block, Parallel) and block.one_norm


def require_native(model: Transformer) -> None:
    """FathomError where native code does not compute a part: it is of another class, or its weights lie elsewhere."""
    dtype = model.embed.weight.dtype
    inside: tuple[str, ...] = ("unembed",)  # which runs in Python, and what `require_plain` has seen
    for name, part in model.named_modules():
        if not name or name.startswith(inside):
            continue
        if type(part) in ADAPTED and ROLES.get(re.sub(r"^blocks\.\d+", "block", name)) == {PanelLinear}:
            require_plain(name, part)
            inside = (*inside, f"{name}.")
            continue
        if kind_of(part) not in ROLES.get(re.sub(r"^blocks\.\d+", "block", name), ()):
            raise FathomError(what_is(name, part))
        if isinstance(part, nn.Embedding) and not (part.weight.dtype == dtype and part.weight.is_contiguous()):
            raise FathomError(f"{name} has its numbers in another order or format")
    for layer, block in enumerate(model.blocks):
        if block.attn.attend not in PLAIN_ATTENTION:
            raise FathomError(f"blocks.{layer}.attn calls another function than attend")
        if block.attn.sinks is not None:
            raise FathomError(f"blocks.{layer}.attn has sinks in its softmax")
        if kinds_of_block(block) != kinds_of_block(model.blocks[0]):
            raise FathomError(f"blocks.{layer} is not like blocks.0")
        if isinstance(block, Parallel) and (after := second_norm(block)):
            raise FathomError(what_is(f"blocks.{layer}.{after}", getattr(block, after)))
        for names in (("attn.q", "attn.k", "attn.v"), ("mlp.gate", "mlp.up")):
            require_one_kind(block, layer, names)


def second_norm(block: Parallel) -> str | None:
    """The norm that a parallel block has and native code would leave out: of what is normed, or of what is written."""
    names = [
        "attn_after",
        *(["mlp_after"] if block.mlp else []),
        *(["mlp_norm"] if block.mlp and block.one_norm else []),
    ]
    return next((name for name in names if type(getattr(block, name)) is not nn.Identity), None)


def require_one_kind(block: Block, layer: int, names: Collection[str]) -> None:
    """FathomError where layers that read the same vectors have weights of several kinds: x is packed once, for one kind
    of floats or for all kinds of whole numbers."""
    layers = {name: panels_of(part) for name, part in block.named_modules() if name in names}
    kinds = {name: part.panels.kind for name, part in layers.items() if isinstance(part, PanelLinear)}
    if len({"packed" if kind in PACKED else kind for kind in kinds.values()}) > 1:
        raise FathomError(f"blocks.{layer} has {', '.join(f'{name} in {kind}' for name, kind in kinds.items())}")
