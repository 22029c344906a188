"""A prepared model against the plain one: every choice of a config, odd sizes, rows, every number format."""

import copy
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.backend.linear import PanelLinear
from fathom.backend.step import AT_ONCE
from fathom.errors import ContextOverflow, FathomError, OutsideVocabulary
from fathom.generation.generate import generate
from fathom.inspect.look import look
from fathom.model.cache import KVCache
from fathom.model.config import BIASES, CHOICES, Layers, ModelConfig, RopeScaling, Rotary, Scale
from fathom.model.ends import ScaledUnembed
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.linear import QuantLinear
from fathom.quant.model import keep_layer, linears, pack_layer, quantize_model
from fathom.quant.schemes import FORMATS, scheme_named
from fathom.tokenizer.characters import ByteTokenizer
from tests.native.k_quants import K_QUANTS, in_blocks

PASSES = (5, 1, 1, 4, 1, 9)  # tokens of one pass after another


def any_config(choice: random.Random) -> ModelConfig:
    """Any model at all, small and of odd sizes."""
    kv_heads, head_dim = choice.choice([1, 2, 3]), choice.choice([2, 6, 16, 32, 48, 64, 80, 96, 128, 256])
    pattern, position = choice.choice(["g", "g", "l", "lg", "lln", "nl"]), choice.choice(["none", *CHOICES["position"]])
    position = choice.choice([position, "rope"])
    return ModelConfig(
        vocab_size=choice.choice([17, 50, 131]),
        context_length=400,
        d_model=choice.choice([8, 12, 33, 64, 70]),
        n_layer=choice.choice([1, 2, 3]),
        n_head=kv_heads * choice.choice([1, 2, 5]),
        n_kv_head=kv_heads,
        head_dim=head_dim,
        d_ff=choice.choice([None, 7, 32, 50]),
        position=position,  # type: ignore[arg-type]
        norm=choice.choice([*CHOICES["norm"]]),  # type: ignore[arg-type]
        mlp=choice.choice([word for word in CHOICES["mlp"] if word != "xielu"]),  # type: ignore[arg-type]
        residual=(residual := choice.choice([*CHOICES["residual"]])),  # type: ignore[arg-type]
        bias=tuple(word for word in BIASES if choice.random() < 0.4 and word != "sink"),  # native code has no sinks
        tie_embeddings=choice.random() < 0.5,
        qk_norm=choice.choice([*CHOICES["qk_norm"]]),  # type: ignore[arg-type]
        rope=any_rotary(choice, head_dim) if position == "rope" else Rotary(),
        layers=Layers(pattern, choice.choice([1, 3, 7, 500]) if "l" in pattern else None),
        scale=Scale(
            **{
                name: choice.choice(each)
                for name, each in SCALES.items()
                if choice.random() < 0.3 and (name, residual) != ("residual", "off")
            }
        ),
    )


SCALES = {"embed": [0.5, 5.0], "embed_norm": [True], "attn": [0.3], "residual": [0.4], "logits": [0.25, 3.0],
          "attn_cap": [0.7, 20.0], "logit_cap": [1.5]}  # fmt: skip


def any_rotary(choice: random.Random, head_dim: int) -> Rotary:
    rotated = choice.choice([None, 2, head_dim // 4 * 2 or 2])
    factors = tuple(1 + choice.random() for _ in range((rotated or head_dim) // 2))
    longer = tuple(3 * factor for factor in factors)
    scaling = choice.choice([
        None, None, RopeScaling(kind="linear", factor=2.0), RopeScaling(kind="yarn", factor=4.0),
        RopeScaling(kind="llama3", factor=4.0),
        RopeScaling(kind="longrope", factor=4.0, short=factors, long=longer, original_context_length=12),
        RopeScaling(kind="longrope", factor=4.0, short=factors, long=longer, original_context_length=100),
    ])  # fmt: skip
    longrope = scaling is not None and scaling.kind == "longrope"
    local = None if longrope else choice.choice([None, 50.0])  # no model has both
    return Rotary(theta=choice.choice([100.0, 10_000.0]), rotated=rotated, local_theta=local, scaling=scaling)


def random_model(config: ModelConfig) -> Transformer:
    """No weight is 0 or 1, as many are at the start."""
    model = Transformer(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight += 0.1 * torch.randn_like(weight)
    return model


def in_eight_bits(x: Tensor) -> Tensor:
    groups = F.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale > 0, groups / scale, 0).round()
    return (whole * scale).flatten(-2)[..., : x.shape[-1]]


def meets_eight_bits(model: Transformer) -> None:
    """Let every packed layer see its input as native code brings it to them; an `unembed` of floats becomes int8."""
    if not isinstance(model.unembed, QuantLinear):
        if not isinstance(model.unembed, ScaledUnembed):
            model.unembed.__class__ = ScaledUnembed
            model.unembed.scale, model.unembed.cap = 1.0, None
        int8, weight = scheme_named("int8"), model.unembed.weight.detach()
        rounded = int8.dequantize(int8.quantize(weight), (weight.shape[0], weight.shape[1]), torch.float32)
        model.unembed.weight = nn.Parameter(rounded, requires_grad=False)
    for part in model.modules():
        if isinstance(part, QuantLinear) or part is model.unembed:
            part.register_forward_pre_hook(lambda _, given: (in_eight_bits(given[0]),))


def passes(model: Transformer, ids: Tensor, dtype: torch.dtype, lengths: tuple[int, ...] = PASSES) -> Tensor:
    """Logits (b, t, V) over a cache, read in passes of these lengths."""
    cache = KVCache(model.config, len(ids), model.config.context_length, dtype)
    cache.horizon = ids.shape[1]
    with torch.no_grad():
        logits = torch.cat([model(piece, cache) for piece in ids.split(lengths, 1)], 1)
    assert cache.length == ids.shape[1]
    return logits


def sample(choice: random.Random, config: ModelConfig) -> Tensor:
    return torch.randint(0, config.vocab_size, (choice.choice([1, 2, 3]), sum(PASSES)))


@pytest.mark.parametrize("seed", range(40))
def test_fp32_is_the_plain_model(isa: str, seed: int) -> None:
    choice = random.Random(seed)
    model = random_model(any_config(choice))
    ids = sample(choice, model.config)
    plain, exact, quick = copy.deepcopy(model), copy.deepcopy(model).double(), prepare_for_inference(model)
    assert isinstance(quick, InferenceModel) and quick.step is not None
    expected = passes(exact, ids, torch.float64)
    near, nearer = ((passes(one, ids, torch.float32) - expected).abs().max() for one in (plain, quick))
    assert nearer <= 4 * near + 1e-6  # as near to the exact numbers as the plain model is


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("seed", range(6))
def test_packed_weights_meet_x_in_eight_bits(isa: str, kind: str, seed: int) -> None:
    """A number halfway between two codes may go either way, which later layers pass on: the others agree closely."""
    choice = random.Random(seed)
    model = random_model(any_config(choice))
    quantize_model(model, kind)
    agree_in_eight_bits(model, sample(choice, model.config))


def agree_in_eight_bits(model: Transformer, ids: Tensor) -> None:
    plain, quick = copy.deepcopy(model), prepare_for_inference(model)
    assert isinstance(quick, InferenceModel) and quick.step is not None
    meets_eight_bits(plain)
    expected, actual = (passes(one, ids, torch.float32) for one in (plain, quick))
    distance = (actual - expected).abs() / max(1, expected.abs().max().item())
    assert distance.quantile(0.1) < 1e-5
    assert distance.median() < 2e-3
    assert distance.max() < 0.1  # where an activation rounds to the other of two integers


@pytest.mark.parametrize("seed", range(6))
def test_k_quants_of_every_kind_side_by_side(isa: str, seed: int) -> None:
    """As mixed as in no file: each layer in a format of its own, `unembed` too."""
    choice = random.Random(seed)
    heads = choice.choice([(4, 64), (8, 32), (2, 128)])
    config = replace(any_config(choice), d_model=256, n_head=heads[0], n_kv_head=choice.choice([1, 2]),
                     head_dim=heads[1], d_ff=choice.choice([256, 512]), n_layer=2, rope=Rotary())  # fmt: skip
    model = random_model(config)
    for name in [*linears(model), *(["unembed"] if choice.random() < 0.7 else [])]:
        layer, kind = model.get_submodule(name), choice.choice(["int8", "int4", *K_QUANTS])
        assert isinstance(layer, nn.Linear)
        fields = in_blocks(layer.weight, kind) if kind in K_QUANTS else scheme_named(kind).quantize(layer.weight)
        keep_layer(model, name, fields, layer.bias, FORMATS[kind])
    agree_in_eight_bits(model, sample(choice, config))


@pytest.mark.parametrize("seed", range(6))
def test_bf16_is_at_least_as_near_to_fp32_as_the_plain_model_is(isa: str, seed: int) -> None:
    choice = random.Random(seed)
    model = random_model(any_config(choice)).bfloat16()
    ids = sample(choice, model.config)
    plain, exact, quick = copy.deepcopy(model), copy.deepcopy(model).float(), prepare_for_inference(model)
    expected = passes(exact, ids, torch.float32)
    near, nearer = ((passes(one, ids, torch.bfloat16) - expected).square().mean() for one in (plain, quick))
    assert nearer <= 1.2 * near + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_layers_with_a_window_keep_only_their_last_keys(isa: str, seed: int) -> None:
    """Over texts much longer than what they keep."""
    choice, lengths = random.Random(seed), (5, 150, 1, 1, 130, 60, 1, 40)
    config = replace(any_config(choice), layers=Layers(choice.choice(["l", "lg", "lln"]), choice.choice([1, 9, 70])))
    config = replace(config, position="alibi", rope=Rotary()) if choice.random() < 0.4 else config
    model, ids = random_model(config), torch.randint(0, config.vocab_size, (2, sum(lengths)))
    exact, quick = copy.deepcopy(model).double(), prepare_for_inference(copy.deepcopy(model))
    assert isinstance(quick, InferenceModel) and quick.step is not None
    expected = passes(exact, ids, torch.float64, lengths)
    near, nearer = ((passes(one, ids, torch.float32, lengths) - expected).abs().max() for one in (model, quick))
    assert nearer <= 4 * near + 1e-6


@pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
class TestManners:
    config = ModelConfig(vocab_size=256, context_length=400, d_model=32, n_layer=2, n_head=4, n_kv_head=2,
                         position="rope", norm="rms", mlp="swiglu")  # fmt: skip

    def test_generates_the_same_text(self) -> None:
        model = random_model(self.config)
        plain, quick = copy.deepcopy(model), prepare_for_inference(model)
        prompts = ["one", "a longer prompt", "x"]
        for options in ({"temperature": 0}, {"seed": 3, "num_samples": 2}):
            expected, actual = (
                [piece.text for piece in generate(one, ByteTokenizer(), prompts, max_new_tokens=40, **options)]  # type: ignore[arg-type]
                for one in (plain, quick)
            )
            assert actual == expected

    def test_many_tokens_go_in_several_calls_and_agree(self) -> None:
        model = random_model(self.config)
        plain, quick = copy.deepcopy(model), prepare_for_inference(model)
        ids = torch.randint(0, 256, (1, AT_ONCE + 9))
        caches = [KVCache(self.config, 1, 300) for _ in range(2)]
        with torch.no_grad():
            for piece in (ids, ids[:, :1]):
                expected, actual = plain(piece, caches[0]), quick(piece, caches[1])
                assert (actual - expected).abs().max() < 1e-5

    def test_what_fails_late_leaves_the_clock_where_it_was(self) -> None:
        quick, cache = prepare_for_inference(random_model(self.config)), KVCache(self.config, 1, 300)
        ids = torch.randint(0, 256, (1, AT_ONCE + 9))
        ids[0, -1] = 256
        with pytest.raises(OutsideVocabulary, match="found token 256 at position 136"):
            quick(ids, cache)
        assert cache.length == 0

    def test_a_full_cache_and_a_context_too_long_are_refused(self) -> None:
        learned = ModelConfig(vocab_size=20, context_length=6, d_model=8, n_layer=1, position="learned")
        for config, capacity, message in (
            (self.config, 4, "the cache holds 4"),
            (learned, 20, "learned positions for 6"),
        ):
            cache = KVCache(config, 1, capacity)
            with pytest.raises(ContextOverflow, match=message):
                prepare_for_inference(random_model(config))(torch.zeros(1, 7, dtype=torch.long), cache)
            assert cache.length == 0

    def test_looking_runs_block_by_block(self) -> None:
        quick = prepare_for_inference(random_model(self.config))
        cache = KVCache(self.config, 1, 10)
        ids = torch.randint(0, 256, (1, 5))
        with torch.no_grad(), look(quick, "blocks.*.attn.pattern", "logits") as seen:
            logits = quick(ids, cache)
        assert len(seen) == 3
        assert torch.equal(seen["logits"], logits)

    def test_no_blocks_and_tied_weights(self) -> None:
        for config in (
            ModelConfig(vocab_size=20, context_length=9, d_model=8, n_layer=0, tie_embeddings=True),
            ModelConfig(vocab_size=20, context_length=9, d_model=8, n_layer=1, tie_embeddings=True),
        ):
            model = random_model(config)
            plain, quick = copy.deepcopy(model), prepare_for_inference(model)
            ids = torch.randint(0, 20, (2, 4))
            assert torch.allclose(quick(ids, KVCache(config, 2, 4)), plain(ids), atol=1e-5)
            assert torch.equal(quick.unembed.weight, plain.unembed.weight)

    def test_unsupported_layers_stay_and_work(self) -> None:
        model = random_model(self.config)
        weight = model.blocks[0].attn.q.weight
        pack_layer(model, "blocks.0.attn.q", weight, None, scheme_named("nf4"))
        plain, quick = copy.deepcopy(model), prepare_for_inference(model)
        assert isinstance(quick.blocks[0].attn.q, QuantLinear)
        assert isinstance(quick.blocks[0].attn.k, PanelLinear)
        ids = torch.randint(0, 256, (1, 5))
        assert torch.allclose(quick(ids, KVCache(self.config, 1, 5)), plain(ids), atol=2e-2)

    def test_without_native_code_the_model_stays_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FATHOM_NATIVE", "off")
        model = random_model(self.config)
        assert prepare_for_inference(model) is model
        assert not any(isinstance(part, PanelLinear) for part in model.modules())

    def test_half_precision_stays_plain(self) -> None:
        model = random_model(self.config).half()
        assert prepare_for_inference(model) is model
        with pytest.raises(FathomError, match="expected fp32 or bf16"):
            prepare_for_inference(random_model(self.config)).unembed(torch.zeros(1, 32).half())

    def test_the_weights_are_those_of_the_model(self) -> None:
        model = random_model(self.config)
        expected = {name: part.weight.clone() for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        quick = prepare_for_inference(model)
        assert expected
        for name, weight in expected.items():
            assert torch.equal(quick.get_submodule(name).weight, weight)
