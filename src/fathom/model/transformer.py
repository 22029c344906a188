"""The whole model: token ids in, logits of the next token out.

ids -> embed -> blocks -> final_norm -> unembed -> logits. GPT-2, LLaMA 2 and every rung of the ladder are values of
one ModelConfig; with n_layer = 0 this is the bigram model unembed(embed(ids)). All choices are made in __init__.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fathom.errors import ContextOverflow
from fathom.model.attention import Attention, Rotate, View
from fathom.model.cache import NoCache
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.ends import make_embed, make_unembed
from fathom.model.init import init_weights
from fathom.model.mlp import ExpertsMLP, GeluMLP, SwigluMLP, make_mlp
from fathom.model.norm import make_norm
from fathom.model.position import make_position


class Transformer(nn.Module):
    """Token ids (b, t) in, logits of the next token (b, t, V) out."""

    blocks: "Sequence[Block]"
    source: str | None = None  # the family of the files that it was read from

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config = config.resolved()
        self.embed = make_embed(config)
        self.embed_norm = make_norm(config) if config.scale.embed_norm else nn.Identity()
        self.position = make_position(config)
        self.dropout = nn.Dropout(config.dropout)
        block = Parallel if config.residual.startswith("parallel") else Block
        self.blocks = nn.ModuleList(block(config, layer) for layer in range(config.n_layer))  # type: ignore[assignment]
        self.final_norm = make_norm(config)
        self.unembed = make_unembed(config)
        if config.tie_embeddings:
            self.unembed.weight = self.embed.weight
        init_weights(self)

    def forward(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, V)
        return self.unembed(self.hidden(ids, cache))

    def hidden(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, d)
        """What `unembed` reads."""
        cache = NoCache(ids.device) if cache is None else cache
        end, positions = self.end(ids, cache), cache.positions(t := ids.shape[1])
        views = self.views(positions, cache, t, end)
        x = self.dropout(self.position.embed(self.embed_norm(self.embed(ids)), positions))  # (b, t, d)
        for block in self.blocks:
            x = block(x, *views[block.kind], cache)  # (b, t, d)
        cache.advance(t)
        return self.final_norm(x)

    def end(self, ids: Tensor, cache: NoCache) -> int:
        """The length of the text after this pass. ContextOverflow where it cannot become so long."""
        end = max(cache.length + ids.shape[1], cache.horizon)
        self.position.check_length(end)
        if not self.position.continues(cache.length and max(cache.length, cache.horizon), end):
            raise ContextOverflow(
                f"a text of {end} tokens is rotated otherwise than its first {cache.length}; read it whole"
            )
        return end

    def views(self, positions: Tensor, cache: NoCache, t: int, end: int) -> dict[str, View]:
        """Rotation and visible positions of each kind of layer: computed once, for all blocks of the kind."""
        result, layers = {}, self.config.layers
        for kind, window in {block.kind: layers.window_of(layer) for layer, block in enumerate(self.blocks)}.items():
            visible = self.position.mask(cache.visible(t, window), positions, cache.keys(t, window))
            result[kind] = self.position.rotation(positions, kind, end), visible
        return result


class Block(nn.Module):
    """Two questions to the residual stream: what do earlier tokens say (attn), and what follows from it (mlp)?"""

    mlp: GeluMLP | SwigluMLP | ExpertsMLP | None

    def __init__(self, config: ResolvedConfig, layer: int) -> None:
        super().__init__()
        self.kind, self.join = config.layers.kind(layer), make_join(config)
        before, after = config.residual != "post", config.residual in ("post", "sandwich")
        self.attn_norm, self.attn = make_norm(config) if before else nn.Identity(), Attention(config, layer)
        self.attn_after = make_norm(config) if after else nn.Identity()
        self.mlp = make_mlp(config.block(layer))
        if self.mlp is not None:
            self.mlp_norm = make_norm(config) if before and config.residual != "parallel" else nn.Identity()
            self.mlp_after = make_norm(config) if after else nn.Identity()

    def forward(self, x: Tensor, rotate: Rotate, visible: Tensor | None, cache: NoCache) -> Tensor:
        x = self.join(x, self.attn_after(self.attn(self.attn_norm(x), rotate, visible, cache)))  # (b, t, d)
        if self.mlp is not None:
            x = self.join(x, self.mlp_after(self.mlp(self.mlp_norm(x))))  # (b, t, d)
        return x


class Parallel(Block):
    """Attention and MLP read the same stream (GPT-J): through one norm, or each through its own (GPT-NeoX)."""

    def __init__(self, config: ResolvedConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.one_norm = config.residual == "parallel"

    def forward(self, x: Tensor, rotate: Rotate, visible: Tensor | None, cache: NoCache) -> Tensor:
        normed = self.attn_norm(x)  # (b, t, d)
        y = self.join(x, self.attn(normed, rotate, visible, cache))  # (b, t, d)
        return y if self.mlp is None else self.join(y, self.mlp(self.mlp_norm(normed if self.one_norm else x)))


class Add(nn.Module):
    """The residual stream: what a layer writes is added to it, perhaps times a constant (Granite)."""

    def __init__(self, dropout: float, scale: float = 1.0) -> None:
        super().__init__()
        self.dropout, self.scale = nn.Dropout(dropout), scale

    def forward(self, stream: Tensor, update: Tensor) -> Tensor:  # (b, t, d), (b, t, d) -> (b, t, d)
        return torch.add(stream, self.dropout(update), alpha=self.scale)


class Replace(Add):
    """No residual stream: what a layer writes replaces what was there."""

    def forward(self, stream: Tensor, update: Tensor) -> Tensor:  # (b, t, d), (b, t, d) -> (b, t, d)
        return self.dropout(update)


def make_join(config: ResolvedConfig) -> Add:
    """How what a layer writes enters the stream."""
    return Replace(config.dropout) if config.residual == "off" else Add(config.dropout, config.scale.residual)
