"""Whatever a model on a GPU does, it does on the GPU: found out without one.

The device is "meta", whose tensors have a shape but no numbers; no two devices may meet in an operation. What reads a
number back, or sends some, would make the host wait for the device: counted, so that none slips into a hot loop.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.backend.cuda_graph import RecordedStep, StaticCache
from fathom.backend.inference import InferenceModel
from fathom.backend.matvec import use_matvec
from fathom.data.batches import Batch
from fathom.generation.generate import stream
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import linears
from fathom.quant.schemes import SCHEMES
from fathom.tokenizer.characters import ByteTokenizer
from fathom.training.loop import evaluate, update
from fathom.training.options import TrainOptions
from fathom.training.session import Session
from tests.gpu.checks import LLAMA, MODELS, STRONG

GPU = torch.device("meta")
aten = torch.ops.aten
MAY_MEET = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}


class Imagined(TorchDispatchMode):
    """Refuses what a GPU would refuse. Every number that is read is 1, and everything is not zero: counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(x.device == GPU for x in tensors)
        if there and func not in MAY_MEET:
            strangers = [x for x in tensors if x.device != GPU and x.ndim]  # a single number is passed along
            assert not strangers, f"{func} is given tensors on {[str(x.device) for x in tensors]}"
        if func is aten._local_scalar_dense.default and there:
            self.waits["a number"] += 1
            return 1.0 if args[0].is_floating_point() else 1
        if func is aten.nonzero.default and there:
            self.waits["places"] += 1
            return torch.zeros(args[0].numel(), args[0].ndim, dtype=torch.int64, device=GPU)
        if func is aten._to_copy.default and there and (kwargs or {}).get("device", GPU) != GPU:
            self.waits["a tensor"] += 1
            return torch.ones(args[0].shape, dtype=(kwargs or {}).get("dtype") or args[0].dtype)
        if func is aten._to_copy.default and (kwargs or {}).get("device") == GPU and not there:
            self.waits["sent"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imagined]:
    monkeypatch.setattr("fathom.backend.one_piece.free_memory", lambda device: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)  # which does not know this device
    with Imagined() as imagined:
        yield imagined


def model_on(config: Any, packed: str | None = None) -> Transformer:
    model = Transformer(config).to(GPU)
    if packed:
        for name in linears(model):
            old, scheme = model.get_submodule(name), SCHEMES[packed]
            shape = (old.out_features, old.in_features)
            model.set_submodule(name, QuantLinear(scheme, shape, scheme.empty(shape), old.bias))
    return model


def test_what_meets_another_device_is_refused(gpu: Imagined) -> None:
    with pytest.raises(AssertionError, match="cpu"):
        model_on(LLAMA)(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(AssertionError, match="cpu"):
        torch.ones(3, device=GPU) + torch.ones(3)
    torch.ones(3, device=GPU).sum().item()
    torch.ones(3, device=GPU).tolist()
    assert gpu.waits["a number"] == 1 and gpu.waits["a tensor"] == 1


@pytest.mark.parametrize("packed", [None, *SCHEMES])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_a_model_reads_and_writes_where_it_is(config: ModelConfig, packed: str | None, gpu: Imagined) -> None:
    model, ids = model_on(config, packed), torch.zeros(2, 9, dtype=torch.int64, device=GPU)
    cache = KVCache(config, 2, 20, device=GPU)
    model(ids)  # tables of a number format are sent there once
    gpu.waits.clear()
    for past in (None, cache):
        for piece in (ids, ids[:, :1], ids[:, :4]):
            assert model(piece, past).device == GPU
    assert not gpu.waits


@pytest.mark.parametrize("packed", [None, *SCHEMES])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_a_prepared_model_reads_and_writes_where_it_is(config: ModelConfig, packed: str | None, gpu: Imagined) -> None:
    plain, ids = model_on(config, packed), torch.zeros(2, 9, dtype=torch.int64, device=GPU)
    assert not use_matvec(plain)
    model = InferenceModel(plain.requires_grad_(False), RecordedStep)
    cache = StaticCache(config, 2, 20, device=GPU)
    model(ids)
    gpu.waits.clear()
    for piece in (ids, ids[:, :1], ids[:, :1], ids[:, :4]):
        assert model(piece, cache).device == GPU
    cache.rewind(3)
    assert cache.length == 3 and model(ids[:, :1], cache).shape == (2, 1, config.vocab_size)
    assert model.status == "CUDA graphs" and not gpu.waits


@pytest.mark.parametrize("what", ["adamw", "muon", "lora", "qlora", "packed rows", "recomputed blocks"])
def test_a_step_of_training_waits_for_the_device_only_to_tell(what: str, gpu: Imagined) -> None:
    """Once, for the loss and the norm; what is to be found in a batch was found before it was sent."""
    model = model_on(STRONG, "nf4" if what == "qlora" else None)
    if "lora" in what:
        lora.add(model, LoraOptions(rank=4))
    options = TrainOptions(
        batch_size=4, micro_batch_size=2, compile="off", dtype="fp32",
        optimizer="muon" if what == "muon" else "adamw", checkpoint_blocks=what == "recomputed blocks",
    )  # fmt: skip
    session, ids = Session(model, options, GPU), torch.ones(4, 49, dtype=torch.int64)
    documents = torch.ones(4, 48, dtype=torch.int64) if what == "packed rows" else None
    gpu.waits.clear()
    batch = session.prepare(Batch(ids[:, :-1], ids[:, 1:], documents))
    assert set(gpu.waits) == {"sent"}
    gpu.waits.clear()
    assert update(session, batch).step == 1
    assert gpu.waits == {"a tensor": 1}


def test_measuring_waits_a_few_times_for_each_chunk(gpu: Imagined) -> None:
    session = Session(model_on(STRONG), TrainOptions(compile="off", dtype="fp32"), GPU)
    gpu.waits.clear()
    evaluate(session.model, [torch.ones(4, 49, dtype=torch.int64)] * 5, session.precision)
    assert gpu.waits == {"sent": 15, "a number": 5}  # of each chunk inputs, targets and their count; the loss


@pytest.mark.parametrize("rows", [1, 2])
def test_a_generated_token_makes_the_host_wait_once(rows: int, gpu: Imagined) -> None:
    """When it is drawn, and not before; sent are the random numbers."""
    model = model_on(LLAMA).eval()
    running = stream(
        model, ByteTokenizer(), [[1, 2, 3], [4]][:rows], temperature=0.7, top_k=5, top_p=0.9, min_p=0.01,
        repetition_penalty=1.1, max_new_tokens=8, seed=0,
    )  # fmt: skip
    for _ in range(rows):
        next(running)
    gpu.waits.clear()
    for _ in range(rows):
        next(running)
    assert gpu.waits == {"a tensor": 1, "sent": 1}
