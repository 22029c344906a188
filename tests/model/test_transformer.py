"""The whole model: sizes of known ones, the start by role, every choice trains, and it compiles as one graph."""

import contextlib
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.model.config import ModelConfig, RopeScaling, Rotary, Scale
from fathom.model.init import STD, zero_outputs
from fathom.model.presets import BIGRAM, GPT2, LLAMA2_7B, LLAMA2_13B, LLAMA2_70B
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, GPT, LLAMA, LONGROPE, TINY, ids_for, model_of

SCALINGS = {
    "linear": RopeScaling(kind="linear", factor=2.0),
    "llama3": RopeScaling(kind="llama3", factor=8.0, original_context_length=16),
    "yarn": RopeScaling(kind="yarn", factor=2.0),
    "longrope": LONGROPE,
}
every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (GPT2, 124_439_808),
        (LLAMA2_7B, 6_738_415_616),
        (LLAMA2_13B, 13_015_864_320),
        (LLAMA2_70B, 68_976_648_192),
        (BIGRAM, 2 * 65 * 128),
    ],
)
def test_known_models_have_their_published_size(config: ModelConfig, published: int) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(p.numel() for p in model.parameters()) == published


def test_the_bigram_is_a_table() -> None:
    model = model_of(BIGRAM)
    table = model.unembed.weight @ model.embed.weight.T  # (V, V)
    ids = ids_for(BIGRAM)
    torch.testing.assert_close(model(ids), table.T[ids])


@every_architecture
def test_causal(config: ModelConfig) -> None:
    """A changed token changes nothing before it and, with attention or not, its own logits."""
    model, ids = model_of(config), ids_for(config)
    changed = ids.clone()
    changed[:, 6] = (ids[:, 6] + 1) % config.vocab_size
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-5, rtol=1e-5)
    assert (before[:, 6] != after[:, 6]).any()


@every_architecture
def test_every_parameter_learns(config: ModelConfig) -> None:
    torch.manual_seed(3)
    model, ids = model_of(config, std=0.2).train(), ids_for(config, batch=4, t=config.context_length)
    loss = F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
    loss.backward()
    for name, parameter in model.named_parameters():
        constant = name.endswith("attn.k.bias") and config.qk_norm == "off" and config.position != "rope"
        assert parameter.grad is not None, name
        assert constant or parameter.grad.abs().max() > 1e-9, name  # the same for all keys: softmax does not see it


@every_architecture
def test_a_few_steps_lower_the_loss(config: ModelConfig) -> None:
    model = model_of(config, std=0.3).train()
    ids = torch.arange(config.context_length).remainder(7)[None]  # 0 1 ... 6 0 1 ...: the token tells the next
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.02), []
    for _ in range(50):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < (0.2 if config.residual else 0.6) * losses[0]


def test_the_start_by_role() -> None:
    config = replace(GPT, vocab_size=400, d_model=96, d_ff=None, head_dim=16, n_layer=4, tie_embeddings=False)
    model = Transformer(config)
    small = STD / (2 * 4) ** 0.5
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            std = small if name.endswith(("attn.out.weight", "mlp.down.weight")) else STD
            assert p.std().item() == pytest.approx(std, rel=0.06), name
            assert abs(p.mean().item()) < 5 * std / p.numel() ** 0.5, name


@pytest.mark.parametrize("config", [GPT, LLAMA, replace(LLAMA, n_layer=0)])
def test_the_first_loss_is_that_of_knowing_nothing(config: ModelConfig) -> None:
    ids, following = ids_for(config, 8, 23), ids_for(config, 8, 23)
    loss = F.cross_entropy(Transformer(config)(ids).flatten(0, 1), following.flatten())
    assert loss.item() == pytest.approx(torch.tensor(float(config.vocab_size)).log().item(), abs=0.1)


def test_zero_outputs_makes_every_block_the_identity() -> None:
    model, ids = Transformer(LLAMA).eval(), ids_for(LLAMA)
    zero_outputs(model)
    torch.testing.assert_close(model(ids), model.unembed(model.final_norm(model.embed(ids))))


def test_tied_weights_are_one() -> None:
    model = Transformer(GPT)
    assert model.unembed.weight is model.embed.weight
    assert Transformer(LLAMA).unembed.weight is not Transformer(LLAMA).embed.weight


def test_dropout_only_while_training() -> None:
    model, ids = Transformer(replace(GPT, dropout=0.3)), ids_for(GPT)
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


EXTREME = (0.0, -1.0, 1e66, 1e-30, 1e30, math.inf, math.nan, 1.0)
NUMBERS = [
    ("", "norm_eps"),
    *(("scale", name) for name in ("embed", "attn", "residual", "logits", "attn_cap", "logit_cap")),
    *(("rope", name) for name in ("theta", "local_theta")),
    *((kind, field.name) for kind in SCALINGS for field in fields(RopeScaling) if "float" in str(field.type)),
]


@pytest.mark.parametrize("part, name", NUMBERS)
def test_any_number_is_computed_with_or_refused(part: str, name: str) -> None:
    """Nothing but one line, or logits; those that overflow are as in any framework."""
    for value in EXTREME:
        changed: Any = value if (part, name) not in [("longrope", "short"), ("longrope", "long")] else (1.0, value)
        rope = Rotary(scaling=replace(SCALINGS[part], **{name: changed})) if part in SCALINGS else Rotary()
        config = replace(TINY, position="rope", rope=rope)
        if part in ("scale", "rope"):
            config = replace(config, **{part: replace(getattr(config, part), **{name: changed})})
        elif not part:
            config = replace(config, **{name: changed})
        with contextlib.suppress(FathomError):
            assert Transformer(config)(ids_for(config)).shape[-1] == config.vocab_size


@pytest.mark.parametrize("name", ["gpt", "yarn"])
def test_compiles_as_one_graph(name: str) -> None:
    torch.compiler.reset()
    model, ids = model_of(ARCHITECTURES[name]), ids_for(ARCHITECTURES[name])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids), model(ids))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_head": 7, "head_dim": None}, "d_model=20 is not a multiple of n_head=7"),
        ({"n_kv_head": 4}, "n_head=6 is not a multiple of n_kv_head=4"),
        ({"n_kv_head": 0}, "n_kv_head is 0"),
        ({"d_ff": 0}, "d_ff is 0"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"position": "rope", "head_dim": 5}, "head_dim=5 is odd"),
        ({"n_layer": -1}, "n_layer is -1"),
        ({"norm": "batch"}, "norm='batch'; choose one of none, layer, rms"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0; it must be above 0 and below 3e+38"),
        ({"scale": Scale(residual=1e66)}, "scale.residual=1e+66; it must be above 0 and below 3e+38"),
        (
            {"position": "rope", "rope": Rotary(scaling=RopeScaling(kind="yarn", factor=0.0))},
            "rope.scaling.factor=0.0;",
        ),
        ({"position": "rope", "rope": Rotary(theta=1.0, scaling=SCALINGS["yarn"])}, "theta=1.0; yarn needs it above 1"),
        (
            {"position": "rope", "rope": Rotary(scaling=replace(SCALINGS["llama3"], low_freq_factor=4.0))},
            "rope.scaling.low_freq_factor=4.0; it must be below high_freq_factor=4.0",
        ),
        ({"position": "rope", "rope": Rotary(local_theta=9.0, scaling=LONGROPE)}, "rope.local_theta is given with"),
    ],
)
def test_contradictions_are_one_line(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(FathomError) as caught:
        Transformer(replace(TINY, **wrong))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_one_compiled_graph_serves_every_length() -> None:
    config = ModelConfig(
        vocab_size=64, context_length=64, d_model=32, n_layer=1, n_head=4, n_kv_head=2, position="rope"
    )
    model = Transformer(config).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    for t in (5, 9, 17):
        ids = torch.randint(64, (1, t))
        torch.testing.assert_close(compiled(ids), model(ids))


@pytest.mark.parametrize(
    "given, parts",
    [
        (True, ("qkv", "out", "mlp", "norm")),
        (False, ()),
        ("on", ("qkv", "out", "mlp", "norm")),
        ("off", ()),
        (["mlp", "qkv"], ("qkv", "mlp")),
        (("off", "norm"), ("norm",)),
    ],
)
def test_bias_has_one_form(given: Any, parts: tuple[str, ...]) -> None:
    """Also as old runs and YAML write it: true, on."""
    values = {"vocab_size": 5, "context_length": 4, "d_model": 4, "n_layer": 1}
    config = build(ModelConfig, {**values, "bias": given}, "config.yaml")
    assert config.bias == ModelConfig(**values, bias=given).bias == parts
    assert build(ModelConfig, plain(config), "config.yaml") == config


def test_an_unknown_bias_is_named() -> None:
    with pytest.raises(FathomError, match="bias has 'head'; choose any of qkv, out, mlp, norm"):
        replace(GPT2, bias=("qkv", "head")).resolved()  # type: ignore[arg-type]
