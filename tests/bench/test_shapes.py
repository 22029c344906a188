"""Random models: the shapes that are promised, finite, in memory of their own, and as packed as asked."""

from dataclasses import replace

import pytest
import torch

from fathom.anatomy.cost import n_parameters
from fathom.bench import shapes
from fathom.bench.shapes import SHAPES, nbytes, random_model
from fathom.errors import FathomError
from fathom.families.shapes import weight_shapes
from fathom.model.config import Rotary
from fathom.quant.linear import QuantLinear
from fathom.quant.schemes import scheme_named

KINDS = {name: replace(config, d_model=64, d_ff=96, n_layer=2, n_head=4, n_kv_head=2, vocab_size=100,
                       rope=Rotary())
         for name, config in SHAPES.items()}  # fmt: skip


MILLIONS = {"gpt2": 124.4, "110M": 134.1, "1.1B": 1100.0, "7B": 6738.4, "qwen3-1.7B": 1720.6, "gemma2-2.6B": 2614.3,
            "pythia-1.4B": 1414.6}  # fmt: skip


@pytest.mark.parametrize("name, millions", MILLIONS.items())
def test_shapes_have_their_sizes(name: shapes.Shape, millions: float) -> None:
    assert round(n_parameters(SHAPES[name]) / 1e6, 1) == millions


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scheme", [None, "int8", "int4", "nf4"])
def test_a_random_model_runs(name: str, scheme: str | None) -> None:
    config = KINDS[name]
    model = random_model(config, torch.bfloat16, scheme=None if scheme is None else scheme_named(scheme))
    packed = [part for part in model.modules() if isinstance(part, QuantLinear)]
    assert len(packed) == (0 if scheme is None else 2 * (7 if "glu" in config.mlp else 6))
    logits = model(torch.randint(100, (1, 5)))
    assert logits.isfinite().all() and logits.std() > 0
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_no_two_layers_share_memory(scheme: str | None) -> None:
    """Else a step would read them from the cache of the processor."""
    model = random_model(KINDS["7B"], torch.bfloat16, scheme=None if scheme is None else scheme_named(scheme))
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.ndim > 1]
    assert len({t.data_ptr() for t in tensors}) == len(tensors) >= 16
    wanted = {
        name: shape for name, shape in weight_shapes(KINDS["7B"]).items() if scheme is None or "blocks" not in name
    }
    assert {name: tuple(model.get_parameter(name).shape) for name in wanted} == wanted


def test_a_tied_unembedding_stays_tied() -> None:
    model = random_model(KINDS["gpt2"], torch.float32)
    assert model.unembed.weight is model.embed.weight


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
def test_bytes_are_those_of_the_tensors(scheme: str | None) -> None:
    kind = None if scheme is None else scheme_named(scheme)
    model = random_model(KINDS["7B"], torch.bfloat16, scheme=kind)
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers())) - model.position.frequency.nbytes
    assert nbytes(KINDS["7B"], torch.bfloat16, kind) == held


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "free_memory", lambda device: 2**30)
    with pytest.raises(FathomError, match=r"12\.6 GiB as bfloat16 and 1\.0 GiB are free"):
        random_model(SHAPES["7B"], torch.bfloat16)
