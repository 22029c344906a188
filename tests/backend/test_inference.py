"""A prepared model against the plain one: every choice of a config, odd sizes, padding, rows, every number format."""

import copy
import random

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
from fathom.model.config import CHOICES, ModelConfig
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.linear import QuantLinear
from fathom.quant.model import pack_layer, quantize_model
from fathom.quant.schemes import scheme_named
from fathom.tokenizer.characters import ByteTokenizer

PASSES = (5, 1, 1, 4, 1, 9)  # tokens of one pass after another


def any_config(choice: random.Random) -> ModelConfig:
    """Any model at all, small and of odd sizes."""
    kv_heads = choice.choice([1, 2, 3])
    return ModelConfig(
        vocab_size=choice.choice([17, 50, 131]),
        context_length=40,
        d_model=choice.choice([8, 12, 33, 64, 70]),
        n_layer=choice.choice([1, 2, 3]),
        n_head=kv_heads * choice.choice([1, 2, 5]),
        n_kv_head=kv_heads,
        head_dim=choice.choice([2, 6, 16, 32, 48, 64, 128]),
        d_ff=choice.choice([None, 7, 32, 50]),
        position=choice.choice(["none", "learned", "rope"]),
        norm=choice.choice(["none", "layer", "rms"]),
        mlp=choice.choice([*CHOICES["mlp"]]),
        residual=choice.random() < 0.8,
        bias=choice.random() < 0.5,
        tie_embeddings=choice.random() < 0.5,
        qk_norm=choice.random() < 0.5,
    )


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
    """Let every packed layer see its input as native code brings it to them; `unembed` is packed in int8."""
    scheme = scheme_named("int8")
    weight = model.unembed.weight.detach()
    model.unembed = QuantLinear.quantized(weight, None, scheme)  # type: ignore[assignment]
    for part in model.modules():
        if isinstance(part, QuantLinear):
            part.register_forward_pre_hook(lambda _, given: (in_eight_bits(given[0]),))


def passes(model: Transformer, ids: Tensor, padding: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Logits (b, t, V) over a cache, read in PASSES."""
    cache = KVCache(model.config, len(ids), ids.shape[1], padding, dtype)
    with torch.no_grad():
        logits = torch.cat([model(piece, cache) for piece in ids.split(PASSES, 1)], 1)
    assert cache.length == ids.shape[1]
    return logits


def real(padding: Tensor | None, t: int) -> Tensor | slice:
    """Which of (b, t) are tokens and not filling."""
    return slice(None) if padding is None else torch.arange(t) >= padding[:, None]


def sample(choice: random.Random, config: ModelConfig) -> tuple[Tensor, Tensor | None]:
    rows = choice.choice([1, 2, 3])
    padding = torch.tensor([choice.choice([0, 1, 3]) for _ in range(rows)]) if choice.random() < 0.5 else None
    return torch.randint(0, config.vocab_size, (rows, sum(PASSES))), padding


@pytest.mark.parametrize("seed", range(12))
def test_fp32_is_the_plain_model(isa: str, seed: int) -> None:
    choice = random.Random(seed)
    model = random_model(any_config(choice))
    ids, padding = sample(choice, model.config)
    plain, exact, quick = copy.deepcopy(model), copy.deepcopy(model).double(), prepare_for_inference(model)
    assert isinstance(quick, InferenceModel)
    expected = passes(exact, ids, padding, torch.float64)
    keep = real(padding, ids.shape[1])
    near, nearer = ((passes(one, ids, padding, torch.float32) - expected)[keep].abs().max() for one in (plain, quick))
    assert nearer <= 4 * near + 1e-6  # as near to the exact numbers as the plain model is


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("seed", range(6))
def test_packed_weights_meet_x_in_eight_bits(isa: str, kind: str, seed: int) -> None:
    """Nearly all numbers agree closely: a number halfway between two codes may go either way."""
    choice = random.Random(seed)
    model = random_model(any_config(choice))
    quantize_model(model, kind)
    ids, padding = sample(choice, model.config)
    plain, quick = copy.deepcopy(model), prepare_for_inference(model)
    meets_eight_bits(plain)
    expected, actual = (passes(one, ids, padding, torch.float32) for one in (plain, quick))
    distance = (actual - expected)[real(padding, ids.shape[1])].abs() / max(1, expected.abs().max().item())
    assert distance.median() < 1e-5
    assert distance.max() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_bf16_is_at_least_as_near_to_fp32_as_the_plain_model_is(isa: str, seed: int) -> None:
    choice = random.Random(seed)
    model = random_model(any_config(choice)).bfloat16()
    ids, padding = sample(choice, model.config)
    plain, exact, quick = copy.deepcopy(model), copy.deepcopy(model).float(), prepare_for_inference(model)
    expected = passes(exact, ids, padding, torch.float32)
    keep = real(padding, ids.shape[1])
    near, nearer = (
        (passes(one, ids, padding, torch.bfloat16) - expected)[keep].square().mean() for one in (plain, quick)
    )
    assert nearer <= 1.2 * near + 1e-9


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
