"""What the finished models compute without an idea, against the equation of attention written out."""

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.experiments.experiment import taken_out
from fathom.experiments.rungs import find
from fathom.experiments.take_aways import everything, see_all, see_itself, unscaled
from fathom.model.attention import attend_fused
from fathom.model.transformer import Transformer

ALL = [*everything(11, context_length=8, d_model=16)]
BY_KEY = {rung.key: rung for rung in ALL}


def sharpen(model: Transformer) -> None:
    """Random weights of a size at which it matters what is looked at."""
    for p in model.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.5)


def softmax_attention(scores: Tensor, v: Tensor) -> Tensor:
    return scores.softmax(-1) @ v


def test_each_function_leaves_out_what_it_says() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 6).double()  # b=2, h=4, t=5, c=6
    scores, hidden = q @ k.mT, torch.ones(5, 5).triu(1).bool()
    torch.testing.assert_close(see_itself(q, k, v, None, 0.0), v)
    torch.testing.assert_close(see_all(q, k, v, None, 0.0), softmax_attention(scores / 6**0.5, v))
    torch.testing.assert_close(
        unscaled(q, k, v, None, 0.0), softmax_attention(scores.masked_fill(hidden, -torch.inf), v)
    )


@pytest.mark.parametrize("function", [see_itself, see_all, unscaled])
def test_grouped_heads_are_shared_as_in_attention(function: object) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 6)
    repeated = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    torch.testing.assert_close(function(q, k, v, None, 0.0), function(q, *repeated, None, 0.0))  # type: ignore[operator]


@pytest.mark.parametrize("key", ["gpt-mask", "llama-mask", "gpt-attention", "llama-scale"])
def test_what_is_taken_out_comes_back(key: str) -> None:
    """Inside, the model computes something else; after it, what its config says."""
    torch.manual_seed(0)
    model, ids = Transformer(BY_KEY[key].config).eval(), torch.arange(8)[None]
    sharpen(model)
    whole = model(ids)
    with taken_out(BY_KEY[key], model):
        assert not torch.allclose(model(ids), whole)
    assert all(block.attn.attend is attend_fused for block in model.blocks)
    torch.testing.assert_close(model(ids), whole)


def test_only_the_mask_lets_a_model_see_what_it_must_predict() -> None:
    for rung in ALL:
        model, ids = Transformer(rung.config).eval(), torch.arange(8)[None]
        sharpen(model)
        other = ids.clone()
        other[0, -1] = 9
        with taken_out(rung, model):
            sees = not torch.allclose(model(ids)[0, :-1], model(other)[0, :-1])
        assert sees == rung.peeks == rung.key.endswith("-mask")


def test_a_take_away_brings_its_finished_model() -> None:
    assert [rung.key for rung in find(("gpt-mask", "bigram"), ALL)] == ["bigram", "depth", "gpt-mask"]
    assert find((), ALL) == ALL and len(ALL) == 34


def test_the_former_rung_names_its_successor() -> None:
    with pytest.raises(FathomError, match="rung 'residual' is now 'mlp'"):
        find(("residual",), ALL)
