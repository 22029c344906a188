"""The load-balancing loss is transformers', adds the same gradient however a step is computed, and balances experts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fathom
from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.data.batches import IGNORED, Batch
from fathom.formats.detect import open_model
from fathom.formats.load import read
from fathom.formats.run import METRICS, PAGE
from fathom.model.config import Experts, ModelConfig
from fathom.model.transformer import Transformer
from fathom.training import loss as losses
from fathom.training.batches import micro_batches
from fathom.training.experts import Balance
from fathom.training.loss import Learner, accumulate
from fathom.training.options import TrainOptions
from fathom.training.precision import choose
from fathom.training.session import Session
from tests.training.runs import recipe

CONFIG = ModelConfig(
    vocab_size=23, context_length=10, d_model=16, n_layer=3, n_head=2, position="rope", norm="rms", mlp=Experts(5, 2),
    d_ff=12,
)  # fmt: skip
FP32 = choose(TrainOptions(dtype="fp32"), CONFIG, torch.device("cpu"))
COEF = 0.7


def decided(config: ModelConfig = CONFIG) -> Transformer:
    """A model whose routers are far from balanced."""
    torch.manual_seed(0)
    model = Transformer(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def rows(padded: bool) -> Batch:
    ids, targets = torch.randint(23, (2, 4, 10), generator=torch.Generator().manual_seed(1))
    documents = torch.zeros(4, 10, dtype=torch.long)
    if padded:
        for row, length in enumerate((10, 3, 7, 4)):
            documents[row, length:] = -1
    return Batch(ids, targets.masked_fill(documents < 0, IGNORED), documents)


def step(
    model: Transformer, batch: Batch, coefficient: float = COEF, size: int | None = None
) -> tuple[Tensor, Balance]:
    model.zero_grad()
    balance = Balance.of(model, coefficient)
    assert balance is not None
    return accumulate(Learner(model), micro_batches(batch, size), FP32, FP32.scaler(), balance), balance


def gradients(model: Transformer) -> Tensor:
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_the_loss_of_transformers_for_mixtral(padded: bool, tmp_path: Path) -> None:
    """Value and gradient; padding does not count."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    sizes = {"hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2}
    settings = library.MixtralConfig(
        vocab_size=23, num_hidden_layers=3, num_local_experts=5, num_experts_per_tok=2, max_position_embeddings=10,
        router_aux_loss_coef=COEF, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = library.MixtralForCausalLM(settings).train()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    theirs.set_experts_implementation("eager")
    theirs.save_pretrained(tmp_path)
    ours, batch = read(open_model(tmp_path), torch.float32, FP32.device).train().requires_grad_(True), rows(padded)
    assert batch.documents is not None
    mask = (batch.documents >= 0).long()
    out = theirs(batch.ids, attention_mask=mask, output_router_logits=True)
    (F.cross_entropy(out.logits.flatten(0, 1), batch.targets.flatten()) + COEF * out.aux_loss).backward()
    loss, balance = step(ours, batch)
    torch.testing.assert_close(balance.loss, out.aux_loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, F.cross_entropy(out.logits.flatten(0, 1), batch.targets.flatten()).detach())
    for layer, block in enumerate(ours.blocks):
        router = theirs.get_submodule(f"model.layers.{layer}.mlp.gate").weight.grad
        torch.testing.assert_close(block.mlp.router.weight.grad, router, rtol=1e-4, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, mlp=Experts(5, 2, weigh="sigmoid"))], ids=["softmax", "sigmoid"]
)
def test_pieces_and_recomputation_change_neither_value_nor_gradient(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, balance = step(decided(config), rows(True))
    assert 2 < balance.loss < 5
    model = decided(config)
    plain, _ = step(model, rows(True))
    expected = gradients(model)
    assert plain == loss
    without = decided(config)
    assert step(without, rows(True), 0.0)[0] == loss and (gradients(without) - expected).norm() > 0.01 * expected.norm()
    monkeypatch.setattr(losses, "next_token_loss", partial(losses.next_token_loss, at_once=50))
    session = Session(
        decided(config), TrainOptions(checkpoint_blocks=True, dtype="fp32", router_aux_loss_coef=COEF), FP32.device
    )
    assert session.balance is not None
    session.model.zero_grad()
    found = accumulate(session.learner, micro_batches(rows(True)), FP32, FP32.scaler(), session.balance)
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(session.balance.loss, balance.loss)
    assert (gradients(session.model) - expected).norm() <= 1e-5 * expected.norm()


def test_micro_batches_count_by_their_tokens() -> None:
    """The sum over micro-batches is the mean of what each is alone, weighted by tokens that are no padding."""
    model, batch = decided(), rows(True)
    alone = [step(model, part)[1].loss for part in batch.split(2)]
    value = step(model, batch, size=2)[1].loss
    torch.testing.assert_close(value, (13 * alone[0] + 11 * alone[1]) / 24)


def test_an_adapter_learns_it_through_a_frozen_router() -> None:
    gradient = []
    for coefficient in (0.0, COEF):
        model = decided().requires_grad_(False)
        lora.add(model, LoraOptions(rank=2), seed=1)
        step(model, rows(False), coefficient)
        assert all(block.mlp.router.weight.grad is None for block in model.blocks)  # type: ignore[union-attr]
        gradient.append(gradients(model))
    assert (gradient[1] - gradient[0]).norm() > 0.01 * gradient[0].norm()


def test_experts_are_used_more_evenly_with_it(tmp_path: Path) -> None:
    """It is reported beside the losses, which it is no part of."""
    uneven = []
    for name, coefficient in (("without", 0.0), ("with", 0.1)):
        changes = {"mlp": {"n": 4, "used": 1}, "dropout": 0.0}, {"max_iters": 40, "eval_interval": 40}
        options = changes[1] | {"router_aux_loss_coef": coefficient, "keep": 2}
        result = fathom.train(recipe(tmp_path), tmp_path / name, model=changes[0], options=options)
        lines = [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        use = next(line["experts"] for line in reversed(lines) if "experts" in line)
        assert len(use) == 2 and all(sum(layer) == pytest.approx(4, abs=0.01) for layer in use)
        values = [line["load_balancing_loss"] for line in lines if "loss" in line]
        assert all(0.9 <= value <= 4 for value in values)
        assert values == [value for value in result.history["load_balancing_loss"] if value is not None]
        uneven.append(values[-1])
        assert f"Load-balancing loss: {values[-1]:.3f} at the last step" in (tmp_path / name / PAGE).read_text()
    assert uneven[1] < uneven[0]


def test_a_dense_model_has_none(tmp_path: Path) -> None:
    result = fathom.train(recipe(tmp_path), tmp_path / "run", options={"max_iters": 1, "eval_interval": 1})
    assert "load_balancing_loss" not in result.history
    assert "experts" not in (tmp_path / "run" / METRICS).read_text()
