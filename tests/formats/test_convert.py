"""Whole state dicts between formats: against the reference library, against Meta's own rotation, and there and back."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.families.registry import of
from fathom.formats.convert import from_ours
from fathom.model.config import ModelConfig
from fathom.model.position import Rope
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from tests.formats.reference import reference, to_ours

SMALL = {"vocab_size": 31, "context_length": 16, "d_model": 12, "n_layer": 2, "n_head": 6, "d_ff": 20}
TINY_GPT2 = replace(GPT2, **SMALL)
TINY_LLAMA = replace(LLAMA2_7B, **SMALL, n_kv_head=2, head_dim=8)  # with 4, pairs would be their own inverse
CONFIGS = [
    TINY_GPT2,
    replace(TINY_GPT2, tie_embeddings=False),
    TINY_LLAMA,
    replace(TINY_LLAMA, tie_embeddings=True, bias=True, n_kv_head=None),
]


def state(config: ModelConfig) -> dict[str, Tensor]:
    """Every tensor random, norms and biases too."""
    return {name: torch.randn_like(tensor) for name, tensor in Transformer(config).state_dict().items()}


@pytest.mark.parametrize("config, kind", [(c, kind) for c in CONFIGS for kind in of(c).columns])
def test_there_and_back_is_the_same_model(config: ModelConfig, kind: str) -> None:
    ours = state(config)
    if config.tie_embeddings:
        ours["unembed.weight"] = ours["embed.weight"]
    back = to_ours(config, from_ours(config, ours, kind), kind)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.parametrize("config", [GPT2, LLAMA2_7B], ids=["gpt2", "llama"])
def test_full_size_without_contents(config: ModelConfig) -> None:
    """Names and shapes are those of the reference library's model."""
    with torch.device("meta"):
        theirs = {name: tensor.shape for name, tensor in reference(config).state_dict().items()}
        stored = from_ours(config, Transformer(config).state_dict(), "hf")
    if config.tie_embeddings:
        del theirs["lm_head.weight"]
    assert {name: tensor.shape for name, tensor in stored.items()} == theirs
    assert {n: x.shape for n, x in to_ours(config, stored, "hf").items()} == {
        n: x.shape for n, x in state_on_meta(config).items()
    }


def state_on_meta(config: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return Transformer(config).state_dict()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_reference_library_agrees_on_the_logits(config: ModelConfig) -> None:
    theirs, ours = reference(config), Transformer(config).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.normal_(std=0.3)
    ours.load_state_dict(to_ours(config, theirs.state_dict(), "hf"))
    ids = torch.randint(31, (2, 16))
    with torch.no_grad():
        assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-5


def test_pairs_turn_in_meta_layout_as_meta_turns_them() -> None:
    """q . k by complex numbers on channels 2i, 2i + 1 (LLaMA's published code) is ours by halves."""
    config, x = TINY_LLAMA.resolved(), torch.randn(1, 5, 12)
    ours = state(TINY_LLAMA)
    meta = from_ours(TINY_LLAMA, ours, "meta")
    angle = torch.outer(torch.arange(5.0), 10_000.0 ** -(torch.arange(0, 8, 2) / 8))
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    rotate = Rope(config).rotation(torch.arange(5))

    def theirs(name: str) -> Tensor:
        z = (x @ meta[f"layers.0.attention.{name}.weight"].T).unflatten(-1, (-1, 8))
        return torch.view_as_real(torch.view_as_complex(z.unflatten(-1, (-1, 2))) * turn).flatten(-2).transpose(1, 2)

    def halves(name: str) -> Tensor:
        return rotate((x @ ours[f"blocks.0.attn.{name}.weight"].T).unflatten(-1, (-1, 8)).transpose(1, 2))

    for head in range(6):
        expected = halves("q")[:, head] @ halves("k")[:, head // 3].mT
        assert torch.allclose(theirs("wq")[:, head] @ theirs("wk")[:, head // 3].mT, expected, atol=1e-4)


def test_what_files_carry_besides_is_left_out() -> None:
    """GPT-2's first files: no leading word, masks among the weights, and the tied matrix twice."""
    ours = state(TINY_GPT2)
    stored = {name.removeprefix("transformer."): x for name, x in from_ours(TINY_GPT2, ours, "hf").items()}
    stored |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    back = to_ours(TINY_GPT2, stored, "hf")
    assert all(torch.equal(back[name], ours[name]) for name in ours if name != "unembed.weight")
    whole = from_ours(TINY_GPT2, ours, "hf") | {"lm_head.weight": ours["embed.weight"]}
    assert to_ours(TINY_GPT2, whole, "hf").keys() == ours.keys()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"norm.weight": None}, "not of one model: 'norm.weight' is missing"),
        ({"norms.weight": torch.ones(12), "norm.weight": None}, "did you mean norms.weight"),
        (
            {"layers.0.attention.wx.weight": torch.ones(1)},
            "'layers.0.attention.wx.weight' has no place in this model; did you mean layers.0.attention.wv",
        ),
        ({"layers.2.attention.wq.weight": torch.ones(48, 12)}, "no place in this model"),
        ({"layers.1.attention.wk.weight": torch.ones(48, 12)}, r"is \(48, 12\); the config expects \(16, 12\)"),
    ],
)
def test_every_tensor_is_accounted_for(change: dict[str, Tensor | None], says: str) -> None:
    stored = {**from_ours(TINY_LLAMA, state(TINY_LLAMA), "meta"), **change}
    with pytest.raises(FathomError, match=says):
        to_ours(TINY_LLAMA, {name: x for name, x in stored.items() if x is not None}, "meta")
