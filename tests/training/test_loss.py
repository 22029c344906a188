"""The loss in pieces is the loss at once, in value and gradient; parts of a batch add up to the batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.data.batches import IGNORED, Batch
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.training.batches import micro_batches
from fathom.training.loss import AT_ONCE, Learner, accumulate, next_token_loss
from fathom.training.options import TrainOptions
from fathom.training.precision import choose

CONFIG = ModelConfig(
    vocab_size=23, context_length=10, d_model=16, n_layer=2, n_head=2, position="rope", norm="rms", mlp="swiglu"
)
CPU = torch.device("cpu")
FP32 = choose(TrainOptions(dtype="fp32"), CONFIG, CPU)


def gradients(model: Transformer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def batch(rows: int) -> tuple[Tensor, Tensor]:
    """Rows of very different trained lengths; the first trains on nothing."""
    ids, targets = torch.randint(23, (2, rows, 10))
    for row in range(rows):
        targets[row, (row * 3) % 11 :] = IGNORED
    return ids, targets


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("at_once", [1, 23, 100, 23 * 40, 10**9])
def test_pieces_are_the_whole(at_once: int, tie: bool) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = Transformer(ModelConfig(**{**vars(CONFIG), "tie_embeddings": tie}))
    finally:
        torch.set_default_dtype(torch.float32)
    ids, targets = batch(4)
    plain = F.cross_entropy(model(ids).float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    whole = micro_batches(Batch(ids, targets))
    loss = next_token_loss(model, whole.parts[0], at_once)
    loss.backward()
    assert whole.count == (targets != -100).sum() == 0 + 3 + 6 + 9
    torch.testing.assert_close(loss, plain)
    assert (gradients(model) - expected).norm() <= 1e-6 * expected.norm()


def test_never_all_logits_at_once() -> None:
    model, seen = Transformer(CONFIG), []
    model.unembed.register_forward_hook(lambda module, args, out: seen.append(out.numel()))
    ids, targets = batch(4)
    next_token_loss(model, micro_batches(Batch(ids, targets)).parts[0], at_once=230).backward()
    learned = int((targets != IGNORED).sum())
    assert max(seen) <= 230 and 0 < learned < 40  # at the others no logits are needed
    assert sum(seen) == 2 * learned * 23  # once forward, once more backward


def test_an_even_guess_costs_ln_v() -> None:
    model = Transformer(CONFIG)
    torch.nn.init.zeros_(model.unembed.weight)
    whole = micro_batches(Batch(*batch(4)))
    assert (next_token_loss(model, whole.parts[0]) / whole.count).item() == pytest.approx(math.log(23))


def accumulated(model: Transformer, rows: Batch, size: int | None = None) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    loss = accumulate(Learner(model), micro_batches(rows, size), FP32, FP32.scaler())
    return loss, gradients(model)


@pytest.mark.parametrize("passes", [1, 2, 4, 8])
def test_accumulation_is_exact_with_uneven_lengths(passes: int) -> None:
    model, (ids, targets) = Transformer(CONFIG), batch(8)
    F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    expected = gradients(model)
    size = 8 // passes
    loss, found = accumulated(model, Batch(ids, targets), size)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    whole = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-6, atol=0)


def test_a_batch_with_nothing_to_train_on_has_no_gradient() -> None:
    loss, found = accumulated(Transformer(CONFIG), Batch(*batch(1)))
    assert loss == 0 and not found.any()


def test_what_follows_is_one_further() -> None:
    windows = torch.arange(24).view(4, 6)
    parts = micro_batches(windows, 2).parts
    assert len(parts) == 2 and len(micro_batches(windows).parts) == 1
    for part in parts:
        assert part.ids.shape == (2, 5) and (part.targets == part.ids.flatten() + 1).all() and part.places is None


def test_bf16_is_near_fp32() -> None:
    model, (ids, targets) = Transformer(CONFIG), batch(8)
    bf16 = choose(TrainOptions(dtype="bf16"), CONFIG, CPU)
    near = accumulate(Learner(model), micro_batches(Batch(ids, targets)), bf16, bf16.scaler())
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, accumulated(model, Batch(ids, targets))[0], rtol=0.01, atol=0)


@pytest.mark.parametrize("at_once", [AT_ONCE, 230, 23])
def test_a_frozen_unembedding_gives_the_same_loss_and_gradient(at_once: int) -> None:
    model, (ids, targets) = Transformer(CONFIG), batch(4)
    blocks = [(name, p) for name, p in model.named_parameters() if name.startswith("blocks.")]

    def found() -> tuple[Tensor, Tensor]:
        model.zero_grad()
        loss = next_token_loss(model, micro_batches(Batch(ids, targets)).parts[0], at_once)
        (loss / 7).backward()
        return loss.detach(), torch.cat([p.grad.flatten() for _, p in blocks if p.grad is not None])

    expected, reference = found()
    for matrix in (model.unembed, model.embed):
        matrix.requires_grad_(False)
    loss, slope = found()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert (slope - reference).norm() <= 1e-6 * reference.norm() and model.unembed.weight.grad is None


def test_logits_of_a_frozen_unembedding_are_made_once_and_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, targets), seen = Transformer(CONFIG), batch(4), list[int]()
    model.unembed.requires_grad_(False)
    linear = F.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(x.numel() // CONFIG.d_model * 23 if weight is model.unembed.weight else 0)
        return linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", counted)
    next_token_loss(model, micro_batches(Batch(ids, targets)).parts[0], at_once=230).backward()
    assert max(seen) <= 230 and sum(seen) == int((targets != IGNORED).sum()) * 23
