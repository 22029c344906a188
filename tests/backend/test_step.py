"""What a native step is given: whatever it does not support runs block by block, or is refused in one line."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.errors import FathomError, OutsideVocabulary
from fathom.model.attention import Attention
from fathom.model.cache import KVCache
from fathom.model.config import Layers, ModelConfig
from fathom.model.mlp import GeluMLP, Relu2MLP
from fathom.model.norm import RMSNorm
from fathom.model.position import Rope
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.model import pack_layer
from fathom.quant.schemes import scheme_named

pytestmark = pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
V = 50
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def config(position: str = "rope", **others: int) -> ModelConfig:
    return ModelConfig(vocab_size=V, context_length=16, d_model=32, n_layer=2, n_head=4, n_kv_head=2, norm="rms",
                       mlp="swiglu", position=position, **others)  # type: ignore[arg-type]  # fmt: skip


def pair(position: str = "rope") -> tuple[Transformer, InferenceModel]:
    torch.manual_seed(0)
    plain = Transformer(config(position)).eval().requires_grad_(False)
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is not None
    return plain, quick


def agree(plain: Transformer, quick: Transformer, ids: Tensor = IDS) -> None:
    expected, actual = (one(ids, KVCache(one.config, len(ids), 8)) for one in (plain, quick))
    assert (expected - actual).abs().max() < 1e-5


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("wrong", [-1, V, 2**40, -(2**62)])
def test_ids_outside_the_vocabulary_are_refused(position: str, wrong: int) -> None:
    _, quick = pair(position)
    ids, cache = IDS.clone(), KVCache(quick.config, 2, 8)
    ids[1, 1] = wrong
    with pytest.raises(OutsideVocabulary, match=rf"found token {wrong} at position 1; expected 0 to 49"):
        quick(ids, cache)
    assert cache.length == 0
    assert not cache.store.any()


def test_ids_of_other_kinds() -> None:
    plain, quick = pair()
    agree(plain, quick, IDS.int())
    agree(plain, quick, torch.stack((IDS, IDS), -1)[..., 0])  # not one after another in memory
    for ids in (IDS.float(), IDS > 2, IDS.short()):
        with pytest.raises(RuntimeError, match=r"xpected"):
            quick(ids, KVCache(quick.config, 2, 8))


@pytest.mark.parametrize("rows, t", [(0, 3), (2, 0), (0, 0)])
def test_empty_input_gives_what_the_plain_model_does(rows: int, t: int) -> None:
    for one in pair():
        cache = KVCache(one.config, rows, 8)
        assert one(torch.zeros(rows, t, dtype=torch.long), cache).shape == (rows, t, V)
        assert cache.length == t


def test_a_cache_of_another_kind_ends_as_in_the_plain_model() -> None:
    other = KVCache(config(head_dim=16), 2, 8)
    for cache, message in (
        (KVCache(config(), 2, 8, dtype=torch.float16), "same dtype"),
        (KVCache(config(), 2, 8, dtype=torch.float64), "same dtype"),
        (KVCache(config(), 3, 8), "expand|size"),
        (other, "expand|size"),
    ):
        for one in pair():
            with pytest.raises(RuntimeError, match=message):
                one(IDS, copy.copy(cache))


def test_a_cache_that_lies_otherwise_in_memory() -> None:
    plain, quick = pair()
    caches = [KVCache(plain.config, 2, 8) for _ in range(2)]
    caches[0].store = caches[0].store.transpose(2, 4).contiguous().transpose(2, 4)
    for cache in caches:
        plain(IDS, cache)
    assert (quick(IDS, caches[0]) - plain(IDS, caches[1])).abs().max() < 1e-5


def test_only_supported_parts_make_a_step() -> None:
    class Twice(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return 2 * super().forward(ids)

    _, quick = pair()
    plain, _ = pair()
    for model in (plain, quick):
        twice = Twice(V, 32)
        twice.weight = model.embed.weight
        model.set_submodule("embed", twice)
    assert quick.step is None
    agree(plain, quick)
    lying = nn.Embedding(V, 32)
    lying.weight = nn.Parameter(plain.embed.weight.T.contiguous().T, requires_grad=False)
    for model in (plain, quick):
        model.set_submodule("embed", lying)
    agree(plain, quick)


class Leaky(Relu2MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.leaky_relu(self.up(x)))


class Doubled(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Shifted(Rope):
    def rotation(self, positions: Tensor, *kind: Any) -> Callable[[Tensor], Tensor]:
        return super().rotation(2 * positions, *kind)


class Negated(Attention):
    def forward(self, *given: Any) -> Tensor:
        return -super().forward(*given)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.1.mlp", Leaky),
        ("blocks.0.mlp", GeluMLP),  # another of the kinds that native code has, in one block alone
        ("blocks.1.attn_norm", Doubled),
        ("final_norm", Doubled),
        ("position", Shifted),
        ("blocks.0.attn", Negated),
    ],
)
def test_a_subclass_is_never_computed_as_its_parent(name: str, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=V, context_length=16, d_model=32, n_layer=2, n_head=4, position="rope", norm="rms",
                       mlp="relu2")  # fmt: skip
    plain = Transformer(config).eval().requires_grad_(False)
    plain.get_submodule(name).__class__ = kind
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is None
    agree(plain, quick)


def test_sinks_are_left_to_the_plain_model() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=V, context_length=16, d_model=32, n_layer=2, n_head=4, position="rope", norm="rms",
                       mlp="relu2", bias=("sink",))  # fmt: skip
    plain = Transformer(config).eval().requires_grad_(False)
    for block in plain.blocks:
        assert block.attn.sinks is not None
        block.attn.sinks.normal_()
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is None and "sinks in its softmax" in quick.status
    agree(plain, quick)


@pytest.mark.parametrize("field", ["mlp", "rotation", "final_norm", "q_norm", "mlp_norm", "attn_after", "down"])
@pytest.mark.parametrize("code", [-2, 7, 2**40])
def test_a_code_that_native_code_does_not_have_is_refused(isa: str, field: str, code: int) -> None:
    """Nothing is computed in its place, and nothing is written."""
    _, quick = pair()
    step, cache = quick.step, KVCache(quick.config, 2, 8)
    assert step is not None
    owner = step.model if field in ("mlp", "final_norm") else step.layers[1]
    if field in ("mlp", "rotation"):
        setattr(owner, field, code)
    else:
        getattr(owner, field).kind = code
    with pytest.raises(FathomError, match="does not support"):
        quick(IDS, cache)
    assert cache.length == 0 and not cache.store.any()


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
def test_what_is_not_finite_passes_through_every_activation(isa: str, mlp: str) -> None:
    config = ModelConfig(vocab_size=V, context_length=16, d_model=32, n_layer=1, n_head=4, mlp=mlp)  # type: ignore[arg-type]
    plain = Transformer(config).eval().requires_grad_(False)
    plain.blocks[0].mlp.up.weight[3] = torch.nan  # type: ignore[union-attr]
    assert prepare_for_inference(plain).hidden(IDS, KVCache(config, 2, 8)).isnan().all()


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_a_step_outlives_its_model(position: str) -> None:
    plain, quick = pair(position)
    assert quick.step is not None
    step, cache = quick.step, KVCache(quick.config, 2, 8)
    del quick
    rubbish = [torch.full((V, 32), torch.nan) for _ in range(50)]  # whatever was freed is written over
    hidden = step(IDS, cache)
    assert len(rubbish) == 50
    assert (hidden - plain.hidden(IDS, KVCache(plain.config, 2, 8))).abs().max() < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    for heads in (1, 4):
        config = ModelConfig(vocab_size=V, context_length=16, d_model=32, n_layer=2, n_head=4, n_kv_head=heads)
        plain = Transformer(config).eval().requires_grad_(False)
        quick = prepare_for_inference(copy.deepcopy(plain))
        try:
            torch.set_num_threads(threads)
            agree(plain, quick)
            agree(plain, quick, IDS[:1, :1])
        finally:
            torch.set_num_threads(before)


def test_layers_that_read_the_same_vectors_have_weights_of_one_kind() -> None:
    """Others run block by block: x is packed once, for one of them."""
    plain, _ = pair()
    pack_layer(plain, "blocks.1.attn.k", plain.blocks[1].attn.k.weight, None, scheme_named("int8"))
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is None
    assert "blocks.1 has attn.q in fp32, attn.k in int8, attn.v in fp32" in quick.status
    expected, actual = (one(IDS, KVCache(one.config, 2, 8)) for one in (plain, quick))
    assert (expected - actual).abs().max() < 0.05


@pytest.mark.parametrize("name", ["mlp_norm", "attn_after", "mlp_after"])
def test_a_norm_that_parallel_blocks_do_not_have_is_not_left_out(name: str) -> None:
    plain = Transformer(replace(config(), residual="parallel")).eval().requires_grad_(False)
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is not None
    setattr(plain.blocks[1], name, RMSNorm(32, 1e-5))
    quick = prepare_for_inference(copy.deepcopy(plain))
    assert isinstance(quick, InferenceModel) and quick.step is None
    agree(plain, quick)


def test_norms_of_one_more_follow_their_weights() -> None:
    plain = Transformer(replace(config(), norm="rms_1p", qk_norm="on")).eval().requires_grad_(False)
    quick = prepare_for_inference(copy.deepcopy(plain))
    for model in (plain, quick):
        for norm in (model.blocks[0].attn_norm, model.blocks[1].attn.q_norm, model.final_norm):
            norm.weight.fill_(0.3)  # type: ignore[union-attr, operator]
    agree(plain, quick)


def test_a_window_as_long_as_the_context_is_none() -> None:
    windowed = replace(config(), layers=Layers("lg", 16))
    plain = Transformer(config()).eval().requires_grad_(False)
    other = Transformer(windowed).eval().requires_grad_(False)
    other.load_state_dict(plain.state_dict())
    quick = prepare_for_inference(other)
    assert isinstance(quick, InferenceModel) and quick.step is not None
    agree(plain, quick)


def test_a_window_can_go_back_after_a_failure_and_after_drafts() -> None:
    windowed = replace(config(), layers=Layers("lg", 5), context_length=600)
    plain = Transformer(windowed).eval().requires_grad_(False)
    quick = prepare_for_inference(copy.deepcopy(plain))
    caches = [KVCache(windowed, 1, 600) for _ in range(2)]
    ids = torch.randint(0, V, (1, 300))
    for piece in ids.split(50, 1):
        for model, cache in zip((plain, quick), caches):
            model(piece, cache)
            cache.rewind(cache.length - 7)
    with pytest.raises(OutsideVocabulary):
        quick(torch.tensor([[1, V]]), caches[1])
    expected, actual = (model(ids[:, :3], cache) for model, cache in zip((plain, quick), caches))
    assert (expected - actual).abs().max() < 1e-5


def test_a_memory_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beyond its end."""
    windowed = replace(config(), layers=Layers("lg", 5), context_length=600)
    quick = prepare_for_inference(Transformer(windowed).eval())
    cache = KVCache(windowed, 1, 600)
    monkeypatch.setattr(KVCache, "make_room", lambda cache, t: None)
    with pytest.raises(FathomError, match="does not support"):
        quick(torch.randint(0, V, (1, 300)), cache)


def test_refused_in_one_line() -> None:
    with pytest.raises(FathomError) as caught:
        pair()[1](IDS - 9, KVCache(config(), 2, 8))
    assert "\n" not in str(caught.value)
