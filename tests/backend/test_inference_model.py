"""A model prepared that is copied, moved, trained, adapted, exported: done rightly, or refused in one line."""

import copy
import gc
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.backend.linear import PanelLinear
from fathom.errors import FathomError
from fathom.formats.export import write_model
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.quant.model import quantize_model

pytestmark = pytest.mark.skipif(library("step") is None, reason="no C++ compiler")
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
LAYERS = "attn.q", "attn.out", "mlp.down", "unembed"


def plain_model(bias: bool = False, dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, context_length=32, d_model=32, n_layer=2, n_head=4, n_kv_head=2, norm="rms",
                         mlp="swiglu", position="rope", bias=bias)  # fmt: skip
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.to(dtype)


def logits_of(model: Transformer) -> Tensor:
    return model(IDS, KVCache(model.config, 2, 8, dtype=model.embed.weight.dtype))


def ready(model: Transformer) -> InferenceModel:
    quick = prepare_for_inference(copy.deepcopy(model))
    assert isinstance(quick, InferenceModel)
    return quick


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
def test_a_copy_stands_alone(kind: str | None) -> None:
    model = plain_model(bias=True)
    if kind:
        quantize_model(model, kind)
    quick = ready(model)
    expected, twin = logits_of(quick), copy.deepcopy(quick)
    with torch.no_grad():
        for part in quick.modules():
            for weight in part.parameters(recurse=False):
                weight.fill_(torch.nan)
            if isinstance(part, PanelLinear):
                part.panels.lines.fill_(-1)
    del quick
    gc.collect()
    assert isinstance(twin, InferenceModel) and twin.step is not None
    assert torch.equal(logits_of(twin), expected)


def test_it_stays_where_it_is() -> None:
    quick = ready(plain_model())
    expected = logits_of(quick)
    place = quick.embed.weight.data_ptr()
    assert quick.to("cpu").float().to(torch.float32).cpu().share_memory() is quick
    assert quick.embed.weight.data_ptr() == place
    for move in (quick.half, quick.bfloat16, quick.double, lambda: quick.to("meta")):
        with pytest.raises(FathomError, match="stays in float32 on cpu; load it again for"):
            move()
        assert torch.equal(logits_of(quick), expected)


def test_it_is_for_inference_alone() -> None:
    quick = ready(plain_model())
    with pytest.raises(FathomError, match="cannot be trained"):
        quick.train()
    assert not quick.train(False).training
    assert not any(weight.requires_grad for weight in quick.parameters())
    assert not logits_of(quick).requires_grad  # nor is a graph kept of what cannot learn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_weights_are_given_as_they_were(dtype: torch.dtype) -> None:
    model = plain_model(True, dtype)
    quick, expected = ready(model), model.state_dict()
    for actual in (quick.state_dict(), merged_copy(quick).state_dict()):
        assert actual.keys() == expected.keys()
        assert all(x.dtype == actual[name].dtype and torch.equal(x, actual[name]) for name, x in expected.items())


def test_exported_or_refused(tmp_path: Path) -> None:
    assert write_model(ready(plain_model()), None, "hf", tmp_path / "whole").equal
    quantize_model(model := plain_model(), "int8")
    with pytest.raises(FathomError, match="not a weight of a plain model"):
        write_model(ready(model), None, "hf", tmp_path / "packed")


def adapted(
    kind: str | None, dora: bool, targets: tuple[str, ...] = LAYERS, dtype: torch.dtype = torch.float32
) -> Transformer:
    model = plain_model(bias=True, dtype=dtype)
    if kind:
        quantize_model(model, kind)
    for name in ("french", "poems"):
        lora.add(model, LoraOptions(targets=targets, rank=2, dora=dora and name == "french"), name)
        with torch.no_grad():
            for weight in lora.parameters(model, name):
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [None, "nf4", "int8"])
def test_adapters_count_as_on_the_plain_model(kind: str | None, dora: bool, dtype: torch.dtype) -> None:
    model = adapted(kind, dora, dtype=dtype)
    quick = ready(model)
    near = (0.03 if kind == "int8" else 1e-5) if dtype == torch.float32 else 0.15  # x in 8 bits, and bf16's rounding

    def agree() -> None:
        assert (logits_of(quick) - logits_of(model)).abs().max() < near * logits_of(model).abs().max()

    agree()
    base = logits_of(quick)
    for change in ({"french": 1.0}, {"poems": 0.5, "french": 0.3}, {}):
        for one in (model, quick):
            lora.blend(one, change)
        agree()
    assert (logits_of(quick) - base).abs().max() > 2 * near * base.abs().max()  # and they do count
    with lora.per_row(model, ["french", None]), lora.per_row(quick, ["french", None]):
        agree()
    for one in (model, quick):
        lora.enable(one)
        lora.merge(one)
    agree()
    for one in (model, quick):
        lora.unmerge(one)
        lora.remove(one, "french")
    agree()
    for one in (model, quick):
        lora.remove(one, "poems")
    agree()
    assert (quick.step is not None) == (kind != "nf4")  # native again


def test_an_adapter_of_the_embedding() -> None:
    model = adapted(None, False, ("embed", "unembed"))
    quick = ready(model)
    for weight in (1.0, 0.25):
        for one in (model, quick):
            lora.blend(one, {"french": weight})
        assert (logits_of(quick) - logits_of(model)).abs().max() < 1e-4
    for one in (model, quick):
        lora.remove(one, "french")
        lora.remove(one, "poems")
    assert quick.step is not None
    assert (logits_of(quick) - logits_of(model)).abs().max() < 1e-4


def test_adapters_are_added_before_preparing() -> None:
    with pytest.raises(FathomError, match="prepared for inference"):
        lora.add(ready(plain_model()), LoraOptions(targets=("attn.q",), rank=2))


def test_a_layer_that_is_exchanged_takes_effect() -> None:
    model, quick = plain_model(), ready(plain_model())
    other = nn.Linear(32, 32, bias=False).requires_grad_(False)
    for one in (model, quick):
        one.set_submodule("blocks.1.attn.q", other)
    assert (logits_of(quick) - logits_of(model)).abs().max() < 1e-5


def test_two_threads_at_once() -> None:
    quick = ready(plain_model())
    ids = [torch.randint(0, 50, (1, 20)) for _ in range(4)]
    expected = [quick(each, KVCache(quick.config, 1, 20)) for each in ids]
    right = []

    def read(each: Tensor, logits: Tensor) -> None:
        for _ in range(50):
            cache = KVCache(quick.config, 1, 20)
            actual = torch.cat([quick(piece, cache) for piece in each.split([7, 13], 1)], 1)
            right.append(bool((actual - logits).abs().max() < 1e-5))

    threads = [threading.Thread(target=read, args=pair) for pair in zip(ids, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 200


def test_what_is_no_number_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a weight or in the cache: a wrong number must not look like a right one."""
    for name in ("blocks.0.attn.q", "blocks.1.mlp.down", "blocks.0.attn_norm", "embed"):
        model = plain_model().requires_grad_(False)
        part = model.get_submodule(name)
        part.weight[..., 1] = torch.nan  # type: ignore[operator]
        assert not logits_of(ready(model)).isfinite().any(), name
    quick = ready(plain_model())
    cache = KVCache(quick.config, 2, 8)
    quick(IDS, cache)
    cache.store[0, 0, 1, :, 1] = torch.nan
    after = quick(IDS, cache)
    assert after[0].isfinite().all()
    assert after[1].isnan().all()
