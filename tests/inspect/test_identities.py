"""Every identity holds for every architecture, and each goes red under the fault that it is there to catch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.generate.sampling import min_p, top_k, top_p
from fathom.inspect import identities, wire
from fathom.inspect.edit import Edit, replace
from fathom.inspect.identities import RECORDED, TOLERANCES, Residuals, broken, c6, c7, c8, c9, c10, c14, c15
from fathom.inspect.look import look
from fathom.model import attention, cost
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.cache import KVCache, NoCache
from fathom.model.config import ModelConfig
from fathom.model.position import Rope
from fathom.model.transformer import Block, Transformer
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
with_layers = pytest.mark.parametrize("name", [name for name, config in ARCHITECTURES.items() if config.n_layer])
Patch = pytest.MonkeyPatch


@torch.no_grad()
def recorded(identity: str, config: ModelConfig) -> Residuals:
    """The identity's residuals in a model whose stream has about the size that a trained one has."""
    model = model_of(config, std=0.2)
    with look(model, "**") as seen:
        model(ids_for(config))
    return RECORDED[identity](model, seen)


@every_architecture
@pytest.mark.parametrize("identity", RECORDED)
def test_recorded_identities_hold(identity: str, config: ModelConfig) -> None:
    residuals = recorded(identity, config)
    assert set(residuals) == set(TOLERANCES[identity])
    assert not broken(identity, residuals), residuals


@every_architecture
def test_running_identities_hold(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.2), ids_for(config)
    assert not broken("C6", c6(model, ids))
    assert not broken("C9", c9(model, ids, new=8))
    assert not broken("C10", c10(model, ids))
    assert not broken("C14", c14(model, ids))
    q, k = torch.randn(2, 2, 6, 9, model.config.head_dim)
    assert not broken("C8", c8(model.position, q, k, shift=5))


@with_layers
def test_zeroing_a_head(name: str) -> None:
    config = ARCHITECTURES[name]
    for layer, head in ((0, 0), (1, 3), (2, 5)):
        assert not broken("C7", c7(model_of(config, std=0.2), ids_for(config), layer, head))


def test_not_a_number_is_broken() -> None:
    assert broken("C10", {"grouped = repeated to all heads": float("nan")})


def only(identity: str, residuals: Residuals, *parts: int) -> None:
    """These parts of the identity are off, and no others."""
    names = list(TOLERANCES[identity])
    assert broken(identity, residuals) == [names[part] for part in parts], residuals


# C1


def test_c1_mask_dropped(monkeypatch: Patch) -> None:
    monkeypatch.setattr(attention, "causal", lambda t, s, device: torch.ones(t, s, dtype=torch.bool))
    only("C1", recorded("C1", GPT), 1)


def test_c1_softmax_over_the_wrong_axis(monkeypatch: Patch) -> None:
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: softmax(x, -2))
    only("C1", recorded("C1", GPT), 0)


# C2


def test_c2_heads_not_permuted(monkeypatch: Patch) -> None:
    """z (b, h, t, c) flattened as if it were (b, t, h, c)."""

    def forward(self: Attention, x: Tensor, rotate: Any, visible: Tensor | None, cache: NoCache) -> Tensor:
        q, k, v = (self.heads(linear(x)) for linear in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, visible, 0.0).reshape(*x.shape[:2], -1))

    monkeypatch.setattr(Attention, "forward", forward)
    only("C2", recorded("C2", GPT), 0)


def test_c2_columns_of_a_head_strided(monkeypatch: Patch) -> None:
    def strided(attn: Attention, z: Tensor, head: int) -> Tensor:
        return z[..., head, :] @ attn.out.weight[:, head :: z.shape[-2]].mT

    monkeypatch.setattr(identities, "head_result", strided)
    only("C2", recorded("C2", LLAMA), 1)


# C3


def test_c3_mlp_reads_the_stream_before_attention(monkeypatch: Patch) -> None:
    def forward(self: Block, x: Tensor, *rest: Any) -> Tensor:
        assert self.mlp is not None
        return self.join(self.join(x, self.attn(self.attn_norm(x), *rest)), self.mlp(self.mlp_norm(x)))

    monkeypatch.setattr(Block, "forward", forward)
    only("C3", recorded("C3", LLAMA), 2)


def test_c3_an_update_said_twice(monkeypatch: Patch) -> None:
    monkeypatch.setattr("fathom.model.transformer.Add.forward", lambda self, stream, update: stream + 2 * update)
    only("C3", recorded("C3", LLAMA), 0, 1)


# C4, C5


def test_c4_normed_twice(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Transformer, "forward", lambda self, ids: self.unembed(self.final_norm(self.hidden(ids))))
    only("C4", recorded("C4", LLAMA), 0)


@pytest.mark.parametrize("forgotten", ["blocks.1.attn.bias", "blocks.2.mlp.bias", "final_norm.bias", "position"])
def test_c5_bias_forgotten(monkeypatch: Patch, forgotten: str) -> None:
    contributions = identities.contributions

    def without(*args: Any) -> dict[str, Tensor]:
        return {name: part for name, part in contributions(*args).items() if name != forgotten}

    monkeypatch.setattr(identities, "contributions", without)
    only("C5", recorded("C5", GPT), 0)


# C6, C7


def test_c6_explicit_path_while_only_reading(monkeypatch: Patch) -> None:
    def explicit(self: wire.Wire, path: str) -> None:
        self._replace(self.model.get_submodule(path), "attend", attend)

    monkeypatch.setattr(wire.Wire, "_watch_attend", explicit)
    model, ids = model_of(LLAMA, std=0.2), ids_for(LLAMA)
    only("C6", c6(model, ids), 0)
    monkeypatch.undo()
    only("C6", c6(model, ids))


def test_c7_slicing_what_attn_wrote(monkeypatch: Patch) -> None:
    def sliced(name: str, head: int) -> Edit:
        own = torch.arange(GPT.d_model) // 4 == head
        return replace(name.removesuffix(".z"), lambda x: x.masked_fill(own, 0.0))

    monkeypatch.setattr(identities, "zero", sliced)
    only("C7", c7(model_of(GPT, std=0.2), ids_for(GPT), layer=1, head=3), 0)


# C8


def rotation_with(pairs: Callable[[Tensor], tuple[Tensor, Tensor]], angles: Callable[[Tensor], Tensor]) -> Any:
    def rotation(self: Rope, positions: Tensor) -> Callable[[Tensor], Tensor]:
        angle = angles(positions[:, None].float() * self.frequency)  # (t, c)

        def rotate(x: Tensor) -> Tensor:
            first, second = pairs(x)
            return x * angle.cos() + torch.cat((-second, first), dim=-1) * angle.sin()

        return rotate

    return rotation


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=-1)
    return first, second


def test_c8_half_split_on_interleaved_angles(monkeypatch: Patch) -> None:
    q, k = torch.randn(2, 6, 9, 4), torch.randn(2, 6, 9, 4)
    rope = model_of(LLAMA).position
    monkeypatch.setattr(Rope, "rotation", rotation_with(halves, lambda angle: torch.cat((angle, angle), dim=-1)))
    only("C8", c8(rope, q, k, 5))
    monkeypatch.setattr(Rope, "rotation", rotation_with(halves, lambda angle: angle.repeat_interleave(2, dim=-1)))
    only("C8", c8(rope, q, k, 5), 0, 1)


def test_c8_positions_from_one(monkeypatch: Patch) -> None:
    rotation = Rope.rotation
    monkeypatch.setattr(Rope, "rotation", lambda self, positions: rotation(self, positions + 1))
    only("C8", c8(model_of(LLAMA).position, torch.randn(2, 6, 9, 4), torch.randn(2, 6, 9, 4), 5), 2)


# C9, C10


@pytest.mark.parametrize("name", ["gpt", "llama", "yarn"])
def test_c9_position_offset_in_the_cache(monkeypatch: Patch, name: str) -> None:
    positions = KVCache.positions
    monkeypatch.setattr(KVCache, "positions", lambda self, t: positions(self, t) + (1 if self.length else 0))
    config = ARCHITECTURES[name]
    assert "cached logits = uncached" in broken("C9", c9(model_of(config), ids_for(config), new=8))


def test_c9_a_cache_for_all_query_heads(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cost, "cache_bytes", lambda config, *sizes: 4 * 2 * 3 * config.n_head * 4 * 2 * 19)
    only("C9", c9(model_of(LLAMA), ids_for(LLAMA), new=8), 2)


def test_c10_tile(monkeypatch: Patch) -> None:
    def tiled(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
        k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
        return attend_fused(q, k, v, visible, dropout)

    model = model_of(LLAMA, std=0.2)
    for block in model.blocks:
        block.attn.attend = tiled
    only("C10", c10(model, ids_for(LLAMA)), 0)


# C14, C15


def test_c14_embedding_counted_as_flops(monkeypatch: Patch) -> None:
    flops = cost.flops

    def counted(config: ModelConfig, t: int, batch: int) -> dict[str, int]:
        return flops(config, t, batch) | {"embed": 2 * batch * t * config.d_model * config.vocab_size}

    monkeypatch.setattr(cost, "flops", counted)
    only("C14", c14(model_of(GPT), ids_for(GPT)), 1)


def test_c14_tie_counted_twice(monkeypatch: Patch) -> None:
    count = cost.n_parameters
    monkeypatch.setattr(cost, "n_parameters", lambda config: count(config) + config.vocab_size * config.d_model)
    only("C14", c14(model_of(GPT), ids_for(GPT)), 0)


@pytest.mark.parametrize("sampler", [lambda x: top_k(x, 50), lambda x: top_p(x, 0.9), lambda x: min_p(x, 0.1)])
def test_c15_a_sampler_renormalises_its_own_set(sampler: Callable[[Tensor], Tensor]) -> None:
    logits = 3 * torch.randn(4, 200)
    shown, drawn = logits.softmax(-1), sampler(logits).softmax(-1)
    assert (drawn == 0).any()
    only("C15", c15(logits, shown, drawn))
    only("C15", c15(logits, shown, shown))


def test_c15_softmax_over_the_top_50() -> None:
    logits = 3 * torch.randn(4, 200)
    drawn = top_k(logits, 50).softmax(-1)
    only("C15", c15(logits, drawn, drawn), 0)


def test_c15_a_set_that_is_not_renormalised() -> None:
    logits = 3 * torch.randn(4, 200)
    shown = logits.softmax(-1)
    only("C15", c15(logits, shown, shown * (shown > 0.01)), 1)
