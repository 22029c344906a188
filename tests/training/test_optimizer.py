"""Every parameter goes to one optimizer, the right one; and one step moves all."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fathom.errors import FathomError
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.training.optimizer import assign, build_optimizers, clip, require_complete
from fathom.training.optimizers import NAMES
from fathom.training.options import TrainOptions

GPT = ModelConfig(
    vocab_size=11,
    context_length=8,
    d_model=12,
    n_layer=2,
    n_head=3,
    position="learned",
    norm="layer",
    mlp="gelu",
    bias=True,
    tie_embeddings=True,
)
LLAMA = replace(GPT, position="rope", norm="rms", mlp="swiglu", bias=False, tie_embeddings=False, qk_norm="on")
BIGRAM = ModelConfig(vocab_size=11, context_length=8, d_model=12, n_layer=0)
OPTIONS = TrainOptions(learning_rate=0.003, weight_decay=0.1, muon_learning_rate=0.05, muon_weight_decay=0.01)
OFF = torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT, LLAMA, BIGRAM])
def test_every_parameter_in_exactly_one_group(config: ModelConfig, optimizer: Any) -> None:
    model = Transformer(config)
    groups = assign(model, replace(OPTIONS, optimizer=optimizer))
    placed = [id(p) for group in groups for p in group.parameters.values()]
    assert sorted(placed) == sorted(id(p) for p in model.parameters())
    assert sum(group.count for group in groups) == sum(p.numel() for p in model.parameters())


def test_where_gpt_goes() -> None:
    groups = {group.role: set(group.parameters) for group in assign(Transformer(GPT), OPTIONS)}
    matrices = {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down"}
    assert groups["matrices"] == {f"blocks.{i}.{m}.weight" for i in range(2) for m in matrices}
    assert groups["embeddings"] == {"embed.weight", "position.table.weight"}
    assert {"blocks.0.attn.q.bias", "blocks.1.mlp_norm.weight", "final_norm.bias"} < groups["norms and biases"]


def test_rows_say_what_is_decayed_and_by_whom() -> None:
    groups = assign(Transformer(LLAMA), replace(OPTIONS, optimizer="muon"))
    assert [(g.role, g.optimizer, len(g.parameters), g.count, g.learning_rate, g.weight_decay) for g in groups] == [
        ("matrices", "muon", 14, 2 * (4 * 12 * 12 + 3 * 12 * 32), 0.05, 0.01),
        ("embeddings", "adamw", 2, 2 * 11 * 12, 0.003, 0.0),
        ("norms and biases", "adamw", 9, 5 * 12 + 4 * 4, 0.003, 0.0),
    ]
    plain = assign(Transformer(LLAMA), OPTIONS)[0]
    assert (plain.optimizer, plain.weight_decay) == ("adamw", 0.1)


def test_frozen_parameters_go_nowhere() -> None:
    model = Transformer(GPT)
    model.embed.requires_grad_(False)
    assert all("embed.weight" not in group.parameters for group in assign(model, OPTIONS))
    require_complete(model, assign(model, OPTIONS))


def test_a_parameter_left_out_or_given_twice_is_noticed() -> None:
    model = Transformer(GPT)
    groups = assign(model, OPTIONS)
    with pytest.raises(FathomError, match="is in 2 groups"):
        require_complete(model, [*groups, groups[-1]])
    with pytest.raises(FathomError, match="is in no group"):
        require_complete(model, groups[:-1])
    model.embed.requires_grad_(False)
    with pytest.raises(FathomError, match=r"embed\.weight is not trainable"):
        require_complete(model, groups)


def test_adamw_is_torchs_with_the_same_groups() -> None:
    model = Transformer(LLAMA)
    reference = Transformer(LLAMA)
    reference.load_state_dict(model.state_dict())
    inside = [p for p in reference.blocks.parameters() if p.ndim == 2]
    rest = [p for p in reference.parameters() if all(p is not q for q in inside)]
    theirs = torch.optim.AdamW(
        [{"params": inside, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], 0.003, (0.9, 0.99)
    )
    ours = build_optimizers(model, OPTIONS)
    for _ in range(3):
        ids = torch.randint(11, (2, 8))
        for network in (model, reference):
            network.zero_grad()
            network(ids).square().sum().backward()
        ours.step(OFF)
        theirs.step()
    for a, b in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(a, b)


def test_rates_follow_the_factor() -> None:
    optimizer = build_optimizers(Transformer(LLAMA), replace(OPTIONS, optimizer="muon"))
    for factor in (1.0, 0.5, 0.0, 1.0):
        optimizer.set_learning_rates(factor)
        rates = sorted(group["lr"] for group in optimizer.param_groups)
        assert rates == pytest.approx([0.003 * factor, 0.003 * factor, 0.05 * factor])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_moves_everything_and_zero_grad_forgets(kind: Any) -> None:
    model = Transformer(GPT)
    optimizer = build_optimizers(model, replace(OPTIONS, optimizer=kind))
    model(torch.randint(11, (4, 8))).square().sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.unscale(OFF)
    optimizer.step(OFF)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("limit", [0.5, 1e6, None])
def test_clip_is_torchs(limit: float | None) -> None:
    model = Transformer(GPT)
    model(torch.randint(11, (4, 8))).square().sum().mul(1000).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = clip(model, limit)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(norm, gradients.norm())
    torch.testing.assert_close(after, gradients * min(1, (limit or 1e9) / norm.item()))


@pytest.mark.parametrize("kind", NAMES)
def test_state_bytes_are_those_that_a_step_leaves(kind: str) -> None:
    """Of each group: under Muon and adamw8bit embeddings, norms and biases are AdamW's."""
    config = replace(GPT, d_model=96, n_head=4, vocab_size=50)
    model, options = Transformer(config), replace(OPTIONS, optimizer=kind)
    groups = assign(model, options)
    optimizer = build_optimizers(model, options, groups)
    model(torch.randint(11, (4, 8))).square().sum().backward()
    optimizer.step(OFF)
    state = {name: x for part in optimizer.parts for p, x in part.state.items() for name in [names(model)[p]]}
    for group in groups:
        kept = [x for name in group.parameters for x in state[name].values() if isinstance(x, torch.Tensor) and x.ndim]
        assert group.state_bytes == sum(x.nbytes for x in kept)


def names(model: torch.nn.Module) -> dict[torch.Tensor, str]:
    return {p: name for name, p in model.named_parameters()}
