"""A model prepared for inference computes what its parts do, whatever takes their place: never what they replaced."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.anatomy.swap import swap
from fathom.backend.cuda_graph import RecordedStep, StaticCache
from fathom.backend.inference import InferenceModel, cache_for, prepare_for_inference
from fathom.backend.training import recompute_blocks, use_fused_passes
from fathom.errors import ContextOverflow, FathomError
from fathom.formats.config_file import CONFIG as CONFIG_FILE
from fathom.formats.config_file import write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.generation.generate import generate
from fathom.model.attention import Attention, attend
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.mlp import SwigluMLP
from fathom.model.norm import RMSNorm
from fathom.model.transformer import Add, Block, Transformer
from fathom.native.build import library
from fathom.tokenizer.characters import ByteTokenizer
from tests.backend.parts import Sharper, Shifted

CONFIG = ModelConfig(vocab_size=256, context_length=32, d_model=32, n_layer=2, n_head=4, n_kv_head=2, norm="rms",
                     mlp="swiglu", position="rope")  # fmt: skip
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


class Doubled(SwigluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Half(Block):
    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return super().forward(x, *rest) / 2


class Cautious(Add):
    def forward(self, stream: Tensor, update: Tensor) -> Tensor:
        return stream + update / 2


class Twice(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return 2 * super().forward(ids)


class Louder(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.base(x)


def halved(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    return attend(q, k, v, visible, dropout) / 2


CHANGES: dict[str, dict[str, Any]] = {
    "mlp": {"kinds": {SwigluMLP: Doubled}, "names": ["blocks.1.mlp"]},
    "every mlp": {"kinds": {SwigluMLP: Doubled}},
    "norm": {"kinds": {RMSNorm: Shifted}, "names": ["blocks.0.mlp_norm"]},
    "final norm": {"kinds": {RMSNorm: Louder}, "names": ["final_norm"]},
    "attention": {"kinds": {Attention: Sharper}, "names": ["blocks.0.attn"]},
    "block": {"kinds": {Block: Half}},
    "join": {"kinds": {Add: Cautious}},
    "attend": {"attend": halved, "names": ["blocks.1.attn"]},
    "embedding": {"kinds": {nn.Embedding: Twice}},
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def plain_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval().requires_grad_(False)
    for weight in model.parameters():
        weight += 0.1 * torch.randn_like(weight)
    return model


def recorded(model: Transformer) -> Transformer:
    """As on a GPU, where steps are recorded; here each runs as it is."""
    return InferenceModel(model, RecordedStep)


@pytest.fixture(params=[prepare_for_inference, recorded])
def prepare(request: pytest.FixtureRequest) -> Callable[[Transformer], Any]:
    if request.param is prepare_for_inference and library("step") is None:
        pytest.skip("no C++ compiler")
    return request.param  # type: ignore[no-any-return]


def logits(model: Transformer) -> Tensor:
    cache = cache_for(model, 2, 8)
    return torch.cat([model(IDS, cache), *(model(ids, cache) for ids in IDS.split(1, 1))], 1)


def agree(model: Transformer, plain: Transformer) -> bool:
    return bool((logits(model) - logits(plain)).abs().max() < 1e-4)


@every_change
def test_what_is_exchanged_before_runs_as_it_is(change: dict[str, Any], prepare: Callable[..., Any]) -> None:
    plain = plain_model()
    untouched = copy.deepcopy(plain)
    swap(plain, **change)
    model = prepare(copy.deepcopy(plain))
    assert agree(model, plain) and not agree(model, untouched)
    assert model.step is None and "block by block, as " in model.status


@every_change
def test_what_is_exchanged_later_is_noticed_and_undone(change: dict[str, Any], prepare: Callable[..., Any]) -> None:
    plain = plain_model()
    model = prepare(copy.deepcopy(plain))
    assert model.step is not None and agree(model, plain)
    with swap(model, **change), swap(plain, **change):
        assert model.step is None and agree(model, plain)
    assert model.step is not None and agree(model, plain)


def test_the_reason_is_one_line(prepare: Callable[..., Any]) -> None:
    model = prepare(plain_model())
    assert "block" not in model.status
    with swap(model, {SwigluMLP: Doubled}, names=["blocks.1.mlp"]):
        assert model.status.endswith("block by block, as blocks.1.mlp is a Doubled")
    with swap(model, attend=halved):
        assert model.status.endswith("block by block, as blocks.0.attn calls another function than attend")
    hook = model.blocks[0].mlp.register_forward_hook(lambda *_: None)
    assert model.status.endswith("block by block, as a part has hooks")
    hook.remove()
    assert "block" not in model.status
    plain = plain_model()
    plain.blocks[1].mlp.forward = lambda x: x  # type: ignore[union-attr, method-assign, assignment]
    model = prepare(copy.deepcopy(plain))
    assert model.status.endswith("block by block, as blocks.1.mlp is a SwigluMLP with a forward of its own")
    assert agree(model, plain)


def test_a_part_that_is_assigned_is_noticed_too(prepare: Callable[..., Any]) -> None:
    plain = plain_model()
    model = prepare(copy.deepcopy(plain))
    for one in (plain, model):
        one.blocks[0].mlp = Louder(one.blocks[0].mlp)  # type: ignore[assignment]
        one.blocks[1].attn.attend = halved
    assert agree(model, plain) and model.step is None


def test_a_table_of_positions_that_is_exchanged_is_noticed(prepare: Callable[..., Any]) -> None:
    config = replace(CONFIG, position="learned")
    plain = Transformer(config).eval().requires_grad_(False)
    model, other = prepare(copy.deepcopy(plain)), nn.Embedding(32, 32).requires_grad_(False)
    for one in (plain, model):
        one.position.table = other
    assert agree(model, plain) and model.step is not None


def test_a_static_cache_holds_what_it_was_asked_for_and_steps_are_of_one_token() -> None:
    model = recorded(plain_model())
    cache, step = cache_for(model, 2, 3), model.step  # type: ignore[attr-defined]
    assert isinstance(cache, StaticCache) and cache.room == 3
    assert step.takes(IDS[:, :1], cache) and not step.takes(IDS, cache) and not step.takes(IDS[:1, :1], cache)
    assert not step.takes(IDS[:, :1], KVCache(CONFIG, 2, 3))
    model(IDS, cache)
    with pytest.raises(ContextOverflow, match="holds 3 tokens and 4 are needed"):
        model(IDS[:, :1], cache)
    cache.rewind(2)
    assert cache.place == cache.length == 2


def test_a_hook_sees_every_pass(prepare: Callable[..., Any]) -> None:
    plain, seen = plain_model(), list[int]()
    model = prepare(copy.deepcopy(plain))
    logits(model)
    hooks = [one.blocks[1].mlp.register_forward_hook(lambda *_: seen.append(1)) for one in (plain, model)]
    assert agree(model, plain) and len(seen) == 2 * 4
    for hook in hooks:
        hook.remove()
    logits(model)
    assert len(seen) == 8 and model.step is not None


def test_a_model_that_was_trained_is_prepared_like_any_other(prepare: Callable[..., Any]) -> None:
    """Fused passes and recomputed blocks compute the same; a graph records them not, and says so."""
    plain = plain_model()
    trained = copy.deepcopy(plain)
    use_fused_passes(trained)
    recompute_blocks(trained)
    model = prepare(trained)
    assert agree(model, plain) and (model.step is None) == (prepare is recorded)


def test_adapters_switched_after_preparing_count(prepare: Callable[..., Any]) -> None:
    plain = plain_model()
    lora.add(plain, LoraOptions(rank=2, targets=("attn.q", "mlp.down")))
    for name, parameter in plain.named_parameters():
        parameter.data += 0.1 * (".adapters." in name)
    model = prepare(copy.deepcopy(plain))
    assert agree(model, plain) and (model.step is None) == (prepare is recorded)  # native code adds plain LoRA
    for one in (plain, model):
        lora.disable(one)
    assert agree(model, plain)


def test_generated_as_itself(prepare: Callable[..., Any]) -> None:
    plain = plain_model()
    for changed in (False, True):  # 60 tokens are more than the context: its window slides
        texts = [
            [text.tokens for text in generate(one, ByteTokenizer(), ["a", "two and"], temperature=0, max_new_tokens=60)]
            for one in (plain, prepare(copy.deepcopy(plain)))
        ]
        assert texts[0] == texts[1]
        if not changed:
            swap(plain, {SwigluMLP: Doubled})


def test_a_linear_layer_of_its_own_class_stays() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain = plain_model()
    swap(plain, {nn.Linear: Scaled}, names=["blocks.0.attn.q", "unembed"])
    model = prepare_for_inference(copy.deepcopy(plain))
    assert agree(model, plain) and isinstance(model.blocks[0].attn.q, Scaled) and isinstance(model.unembed, Scaled)


def test_prepared_twice_is_prepared_once() -> None:
    model = prepare_for_inference(plain_model())
    assert prepare_for_inference(model) is model


@pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
def test_load_for_inference_is_one_call(tmp_path: Path) -> None:
    plain = plain_model()
    write_config(tmp_path / CONFIG_FILE, {"model": asdict(plain.config)})
    write_weights(plain, tmp_path / WEIGHTS)
    model, _ = fathom.load(tmp_path, for_inference=True)
    assert isinstance(model, InferenceModel) and agree(model, plain)
    with pytest.raises(FathomError, match="load it again"):
        model.train()
    assert not isinstance(fathom.load(tmp_path)[0], InferenceModel)


class LouderModel(Transformer):
    def hidden(self, *inputs: Any) -> Tensor:
        return 2 * super().hidden(*inputs)


@pytest.mark.parametrize("own", ["class", "forward", "hidden"])
def test_a_model_that_computes_something_else_stays_as_it_is(own: str) -> None:
    plain = plain_model()
    if own == "class":
        plain.__class__ = LouderModel
    else:
        original = getattr(plain, own)
        setattr(plain, own, lambda *inputs: 2 * original(*inputs))
    expected = plain(IDS)
    with pytest.warns(UserWarning, match="not prepared for inference: the model is a"):
        model = prepare_for_inference(plain)
    assert model is plain and torch.equal(model(IDS), expected)


def test_hooks_on_the_model_itself_stay(prepare: Callable[..., Any]) -> None:
    plain, seen = plain_model(), list[int]()
    handle = plain.register_forward_hook(lambda *_: seen.append(1))
    model = prepare(plain)
    model(IDS)
    handle.remove()
    model(IDS)
    assert seen == [1]


@pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, norm="layer", mlp="gelu", bias=True)], ids=["rms", "layer"])
def test_norms_and_biases_changed_in_place_count(config: ModelConfig, inference_mode: bool) -> None:
    torch.manual_seed(0)
    plain = Transformer(config).bfloat16().eval().requires_grad_(False)
    with torch.inference_mode(inference_mode):
        model = prepare_for_inference(copy.deepcopy(plain) if not inference_mode else plain)
    if inference_mode:
        plain = Transformer(config).bfloat16().eval().requires_grad_(False)
        plain.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    names = ["final_norm.weight", "blocks.1.attn_norm.weight"]
    names += ["final_norm.bias", "blocks.0.attn.v.bias", "blocks.1.mlp.down.bias"] if config.bias else []
    for name in names:
        before = logits(model)
        for one in (plain, model, copied):
            weight = one.get_parameter(name)
            weight.mul_(3).add_(torch.linspace(0, 1, len(weight)))
        assert (logits(model) - before).abs().max() > 0.05, name
        for one in (model, copied):
            assert (logits(one) - logits(plain)).abs().max() < 0.1, name
            assert (one(IDS) - plain(IDS)).abs().max() < 0.1, name  # block by block
