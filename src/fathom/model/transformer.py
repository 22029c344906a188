"""The whole model: token ids in, logits of the next token out.

ids -> embed -> blocks -> final_norm -> unembed -> logits. GPT-2, LLaMA 2 and every rung of the ladder are values of
one ModelConfig; with n_layer = 0 this is the bigram model unembed(embed(ids)). All choices are made in __init__.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from fathom.model.attention import Attention, Rotate
from fathom.model.cache import NoCache
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.init import init_weights
from fathom.model.mlp import GeluMLP, SwigluMLP, make_mlp
from fathom.model.norm import make_norm
from fathom.model.position import make_position


class Transformer(nn.Module):
    """Token ids (b, t) in, logits of the next token (b, t, V) out."""

    blocks: "Sequence[Block]"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config = config.resolved()
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position = make_position(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))  # type: ignore[assignment]
        self.final_norm = make_norm(config)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.unembed.weight = self.embed.weight
        init_weights(self)

    def forward(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, V)
        return self.unembed(self.hidden(ids, cache))

    def hidden(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, d)
        """What `unembed` reads."""
        cache = NoCache(ids.device) if cache is None else cache
        t = ids.shape[1]
        self.position.check_length(cache.length + t)
        rotate = self.position.rotation(positions := cache.positions(t))  # angles once; every block turns by them
        visible = cache.visible(t)
        x = self.dropout(self.position.embed(self.embed(ids), positions))  # (b, t, d)
        for block in self.blocks:
            x = block(x, rotate, visible, cache)  # (b, t, d)
        cache.advance(t)
        return self.final_norm(x)


class Block(nn.Module):
    """Two questions to the residual stream: what do earlier tokens say (attn), and what follows from it (mlp)?"""

    mlp: GeluMLP | SwigluMLP | None

    def __init__(self, config: ResolvedConfig, layer: int) -> None:
        super().__init__()
        self.join = Add(config.dropout) if config.residual else Replace(config.dropout)
        self.attn_norm, self.attn = make_norm(config), Attention(config, layer)
        self.mlp = make_mlp(config)
        if self.mlp is not None:
            self.mlp_norm = make_norm(config)

    def forward(self, x: Tensor, rotate: Rotate, visible: Tensor | None, cache: NoCache) -> Tensor:
        x = self.join(x, self.attn(self.attn_norm(x), rotate, visible, cache))  # (b, t, d)
        if self.mlp is not None:
            x = self.join(x, self.mlp(self.mlp_norm(x)))  # (b, t, d)
        return x


class Add(nn.Module):
    """The residual stream: what a layer writes is added to it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor, update: Tensor) -> Tensor:  # (b, t, d), (b, t, d) -> (b, t, d)
        return stream + self.dropout(update)


class Replace(Add):
    """No residual stream: what a layer writes replaces what was there."""

    def forward(self, stream: Tensor, update: Tensor) -> Tensor:  # (b, t, d), (b, t, d) -> (b, t, d)
        return self.dropout(update)
