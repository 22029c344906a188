"""Every identity holds for every architecture, and each goes red under the fault that it is there to catch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.anatomy import cost
from fathom.generation.sampling import min_p, top_k, top_p
from fathom.inspect import hooks, identities
from fathom.inspect.derived import routing
from fathom.inspect.edit import Edit, replace
from fathom.inspect.identities import (
    RECORDED,
    TOLERANCES,
    Residuals,
    broken,
    cache_equals_recompute,
    cost_equals_count,
    grouped_equals_repeated,
    looking_changes_nothing,
    rotation_is_relative,
    sampler_renormalises,
    zeroing_a_head,
)
from fathom.inspect.look import look
from fathom.model import attention
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.cache import KVCache, NoCache
from fathom.model.config import ModelConfig
from fathom.model.mlp import ExpertsMLP
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
    assert not broken("looking_changes_nothing", looking_changes_nothing(model, ids))
    assert not broken("cache_equals_recompute", cache_equals_recompute(model, ids, new=8))
    assert not broken("grouped_equals_repeated", grouped_equals_repeated(model, ids))
    assert not broken("cost_equals_count", cost_equals_count(model, ids))
    q, k = torch.randn(2, 2, 6, 9, model.config.head_dim)
    assert not broken("rotation_is_relative", rotation_is_relative(model.position, q, k, shift=5))


@with_layers
def test_zeroing_a_head(name: str) -> None:
    config = ARCHITECTURES[name]
    for layer, head in ((0, 0), (1, 3), (2, 5)):
        assert not broken("zeroing_a_head", zeroing_a_head(model_of(config, std=0.2), ids_for(config), layer, head))


def test_not_a_number_is_broken() -> None:
    assert broken("grouped_equals_repeated", {"grouped = repeated to all heads": float("nan")})


def only(identity: str, residuals: Residuals, *parts: int) -> None:
    """These parts of the identity are off, and no others."""
    names = list(TOLERANCES[identity])
    assert broken(identity, residuals) == [names[part] for part in parts], residuals


def test_pattern_is_causal_mask_dropped(monkeypatch: Patch) -> None:
    monkeypatch.setattr(attention, "causal", lambda t, s, device: torch.ones(t, s, dtype=torch.bool))
    only("pattern_is_causal", recorded("pattern_is_causal", GPT), 1)


def test_pattern_is_causal_softmax_over_the_wrong_axis(monkeypatch: Patch) -> None:
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, dim: softmax(x, -2))
    only("pattern_is_causal", recorded("pattern_is_causal", GPT), 0)


def test_heads_sum_heads_not_permuted(monkeypatch: Patch) -> None:
    """z (b, h, t, c) flattened as if it were (b, t, h, c)."""

    def forward(self: Attention, x: Tensor, rotate: Any, visible: Tensor | None, cache: NoCache) -> Tensor:
        q, k, v = (self.heads(linear(x)) for linear in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, visible, 0.0).reshape(*x.shape[:2], -1))

    monkeypatch.setattr(Attention, "forward", forward)
    only("heads_sum_to_attention", recorded("heads_sum_to_attention", GPT), 0)


def test_heads_sum_columns_of_a_head_strided(monkeypatch: Patch) -> None:
    def strided(attn: Attention, z: Tensor, head: int) -> Tensor:
        return z[..., head, :] @ attn.out.weight[:, head :: z.shape[-2]].mT

    monkeypatch.setattr(identities, "head_result", strided)
    only("heads_sum_to_attention", recorded("heads_sum_to_attention", LLAMA), 1)


def test_stream_is_a_sum_mlp_reads_the_stream_before_attention(monkeypatch: Patch) -> None:
    def forward(self: Block, x: Tensor, *rest: Any) -> Tensor:
        assert self.mlp is not None
        return self.join(self.join(x, self.attn(self.attn_norm(x), *rest)), self.mlp(self.mlp_norm(x)))

    monkeypatch.setattr(Block, "forward", forward)
    only("stream_is_a_sum", recorded("stream_is_a_sum", LLAMA), 2)


def test_stream_is_a_sum_an_update_said_twice(monkeypatch: Patch) -> None:
    monkeypatch.setattr("fathom.model.transformer.Add.forward", lambda self, stream, update: stream + 2 * update)
    only("stream_is_a_sum", recorded("stream_is_a_sum", LLAMA), 0, 1)


@pytest.mark.parametrize("name", ["experts", "experts, shared", "experts, sigmoid"])
def test_mixture_an_expert_gets_the_tokens_of_another(monkeypatch: Patch, name: str) -> None:
    mixed = ExpertsMLP.mixed
    monkeypatch.setattr(
        ExpertsMLP, "mixed", lambda self, x, w, chosen: mixed(self, x, w, (chosen + 1) % self.choices.n)
    )
    only("mixture_is_a_sum", recorded("mixture_is_a_sum", ARCHITECTURES[name]), 0)


def test_mixture_one_expert_too_few_is_counted(monkeypatch: Patch) -> None:
    def without_last(mlp: ExpertsMLP, scores: Tensor) -> dict[str, Tensor]:
        found = routing(mlp, scores)
        return {"weights": found["weights"].index_fill(-1, torch.tensor([4]), 0.0), "tokens": found["tokens"]}

    monkeypatch.setattr("fathom.inspect.look.routing", without_last)
    only("mixture_is_a_sum", recorded("mixture_is_a_sum", ARCHITECTURES["experts"]), 0, 1, 2)


def test_lens_normed_twice(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Transformer, "forward", lambda self, ids: self.unembed(self.final_norm(self.hidden(ids))))
    only("lens_of_last_stream", recorded("lens_of_last_stream", LLAMA), 0)


@pytest.mark.parametrize("forgotten", ["blocks.1.attn.bias", "blocks.2.mlp.bias", "final_norm.bias", "position"])
def test_contributions_bias_forgotten(monkeypatch: Patch, forgotten: str) -> None:
    contributions = identities.contributions

    def without(*args: Any) -> dict[str, Tensor]:
        return {name: part for name, part in contributions(*args).items() if name != forgotten}

    monkeypatch.setattr(identities, "contributions", without)
    only("contributions_sum_to_logit", recorded("contributions_sum_to_logit", GPT), 0)


def test_looking_explicit_path_while_only_reading(monkeypatch: Patch) -> None:
    def explicit(self: hooks.Hooks, path: str) -> None:
        self._replace(self.model.get_submodule(path), "attend", attend)

    monkeypatch.setattr(hooks.Hooks, "_hook_attend", explicit)
    model, ids = model_of(LLAMA, std=0.2), ids_for(LLAMA)
    only("looking_changes_nothing", looking_changes_nothing(model, ids), 0)
    monkeypatch.undo()
    only("looking_changes_nothing", looking_changes_nothing(model, ids))


def test_zeroing_slicing_what_attn_wrote(monkeypatch: Patch) -> None:
    def sliced(name: str, head: int) -> Edit:
        own = torch.arange(GPT.d_model) // 4 == head
        return replace(name.removesuffix(".z"), lambda x: x.masked_fill(own, 0.0))

    monkeypatch.setattr(identities, "zero", sliced)
    only("zeroing_a_head", zeroing_a_head(model_of(GPT, std=0.2), ids_for(GPT), layer=1, head=3), 0)


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


def test_rotation_half_split_on_interleaved_angles(monkeypatch: Patch) -> None:
    q, k = torch.randn(2, 6, 9, 4), torch.randn(2, 6, 9, 4)
    rope = model_of(LLAMA).position
    monkeypatch.setattr(Rope, "rotation", rotation_with(halves, lambda angle: torch.cat((angle, angle), dim=-1)))
    only("rotation_is_relative", rotation_is_relative(rope, q, k, 5))
    monkeypatch.setattr(Rope, "rotation", rotation_with(halves, lambda angle: angle.repeat_interleave(2, dim=-1)))
    only("rotation_is_relative", rotation_is_relative(rope, q, k, 5), 0, 1)


def test_rotation_positions_from_one(monkeypatch: Patch) -> None:
    rotation = Rope.rotation
    monkeypatch.setattr(Rope, "rotation", lambda self, positions: rotation(self, positions + 1))
    only(
        "rotation_is_relative",
        rotation_is_relative(model_of(LLAMA).position, torch.randn(2, 6, 9, 4), torch.randn(2, 6, 9, 4), 5),
        2,
    )


@pytest.mark.parametrize("name", ["gpt", "llama", "yarn"])
def test_cache_position_offset_in_the_cache(monkeypatch: Patch, name: str) -> None:
    positions = KVCache.positions
    monkeypatch.setattr(KVCache, "positions", lambda self, t: positions(self, t) + (1 if self.length else 0))
    config = ARCHITECTURES[name]
    assert "cached logits = uncached" in broken(
        "cache_equals_recompute", cache_equals_recompute(model_of(config), ids_for(config), new=8)
    )


def test_cache_a_cache_for_all_query_heads(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cost, "cache_bytes", lambda config, *sizes: 4 * 2 * 3 * config.n_head * 4 * 2 * 19)
    only("cache_equals_recompute", cache_equals_recompute(model_of(LLAMA), ids_for(LLAMA), new=8), 2)


def test_grouped_queries_tile(monkeypatch: Patch) -> None:
    def tiled(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
        k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
        return attend_fused(q, k, v, visible, dropout)

    model = model_of(LLAMA, std=0.2)
    for block in model.blocks:
        block.attn.attend = tiled
    only("grouped_equals_repeated", grouped_equals_repeated(model, ids_for(LLAMA)), 0)


def test_cost_embedding_counted_as_flops(monkeypatch: Patch) -> None:
    flops = cost.flops

    def counted(config: ModelConfig, t: int, batch: int) -> dict[str, int]:
        return flops(config, t, batch) | {"embed": 2 * batch * t * config.d_model * config.vocab_size}

    monkeypatch.setattr(cost, "flops", counted)
    only("cost_equals_count", cost_equals_count(model_of(GPT), ids_for(GPT)), 1)


def test_cost_tie_counted_twice(monkeypatch: Patch) -> None:
    count = cost.n_parameters
    monkeypatch.setattr(cost, "n_parameters", lambda config: count(config) + config.vocab_size * config.d_model)
    only("cost_equals_count", cost_equals_count(model_of(GPT), ids_for(GPT)), 0)


@pytest.mark.parametrize("sampler", [lambda x: top_k(x, 50), lambda x: top_p(x, 0.9), lambda x: min_p(x, 0.1)])
def test_sampler_a_sampler_renormalises_its_own_set(sampler: Callable[[Tensor], Tensor]) -> None:
    logits = 3 * torch.randn(4, 200)
    shown, drawn = logits.softmax(-1), sampler(logits).softmax(-1)
    assert (drawn == 0).any()
    only("sampler_renormalises", sampler_renormalises(logits, shown, drawn))
    only("sampler_renormalises", sampler_renormalises(logits, shown, shown))


def test_sampler_softmax_over_the_top_50() -> None:
    logits = 3 * torch.randn(4, 200)
    drawn = top_k(logits, 50).softmax(-1)
    only("sampler_renormalises", sampler_renormalises(logits, drawn, drawn), 0)


def test_sampler_a_set_that_is_not_renormalised() -> None:
    logits = 3 * torch.randn(4, 200)
    shown = logits.softmax(-1)
    only("sampler_renormalises", sampler_renormalises(logits, shown, shown * (shown > 0.01)), 1)
