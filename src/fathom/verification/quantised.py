"""The cost of packing a model's weights: bits, the error of each kind of matrix, and the change of its predictions.

Native code multiplies packed weights by x in 8 bits and packs `unembed` too; torch unpacks the weights: both are
measured. Copies share all unchanged tensors with the model, so that each needs only its packed weights.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from fathom.backend.inference import InferenceModel, prepare_for_inference
from fathom.data.batches import Batch
from fathom.fields import plain
from fathom.model.transformer import Transformer
from fathom.native.panels import PACKED
from fathom.quant.linear import QuantLinear
from fathom.quant.model import Cost, cost, quantize_model, scheme_of
from fathom.quant.schemes import SCHEMES, scheme_named
from fathom.tokenizer.protocol import Tokenizer
from fathom.verification.evaluate import Evaluation, evaluate

ALL = "all"


@dataclass(frozen=True)
class Scores:
    """A model's scores on a text: as it generates on this machine, and as torch computes with the same weights.

    The same object where native code is off or keeps x in floats: then they would differ by rounding alone.
    """

    used: Evaluation
    torch: Evaluation


@dataclass(frozen=True)
class KindCost:
    """Cost of all matrices with the same place in their blocks."""

    kind: str  # such as attn.q
    parameters: int
    bits: float  # per parameter, with scales
    relative_error: float  # rms(w - w') / rms(w)
    max_error: float  # the largest |w - w'|


@dataclass(frozen=True)
class SchemeReport:
    """Cost of one number format."""

    scheme: str
    bits: float  # per parameter of the packed matrices, with scales
    model_bytes: int  # of the whole model, unpacked parts included
    relative_error: float
    kinds: tuple[KindCost, ...]
    scores: Scores

    def plain(self, exact: Evaluation) -> dict[str, Any]:
        """JSON values; `exact`: the scores of the float model."""
        used, torch = self.scores.used, self.scores.torch
        change = used.loss - exact.loss
        values = {"delta_loss": change, "delta_percent": percent(change, exact), "torch_loss": torch.loss}
        values |= {name: getattr(used, name) for name in ("loss", "top1", "kl", "agreement", "bits_per_byte")}
        return {key: value for key, value in plain(self).items() if key != "scores"} | values


def percent(change: float, exact: Evaluation) -> float:
    """Percent of the float model's loss."""
    return 100 * change / exact.loss if exact.loss else 0.0


def schemes(name: str) -> list[str]:
    """The number formats that `name` selects; FathomError lists them."""
    return list(SCHEMES) if name == ALL else [scheme_named(name).name]


def packed_copy(model: Transformer, scheme: str) -> Transformer:
    """A copy of the model with the matrices of its blocks packed; all other tensors are shared.

    FathomError where there is none to pack, or it is packed already.
    """
    other = shared_copy(model)
    quantize_model(other, scheme)
    return other


def as_generated(model: Transformer) -> Transformer:
    """A copy prepared for inference where native code computes with x in 8 bits; else the model itself."""
    if scheme_of(model) not in PACKED or not model.embed.weight.is_cpu:
        return model
    prepared = prepare_for_inference(shared_copy(model))
    return prepared if isinstance(prepared, InferenceModel) else model


def shared_copy(model: Transformer) -> Transformer:
    """New modules and parameters over the same storage."""
    shared = {id(x): nn.Parameter(x.detach(), x.requires_grad) for x in model.parameters()}
    return copy.deepcopy(model, shared | {id(x): x for x in model.buffers()})


def score_all(models: Sequence[Transformer], windows: Iterable[Batch], tokenizer: Tokenizer) -> list[Scores]:
    """The scores of each model, all compared with the first one in torch."""
    used = [as_generated(model) for model in models]
    every = list(dict.fromkeys([*models, *used]))
    result = dict(zip(every, evaluate(every, windows, tokenizer)))
    return [Scores(result[fast], result[model]) for fast, model in zip(used, models)]


def tensors(model: Transformer) -> list[Tensor]:
    """All parameters and buffers of the model, each once."""
    return list(chain(model.parameters(), model.buffers()))


def nbytes(model: Transformer) -> int:
    return sum(tensor.nbytes for tensor in tensors(model))


def report(model: Transformer, packed: Transformer, scheme: str, scores: Scores) -> SchemeReport:
    """The cost and scores of `packed`, a packed copy of the model."""
    groups: dict[str, list[tuple[Cost, float]]] = {}
    for name, layer in packed.named_modules():
        if isinstance(layer, QuantLinear):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            groups.setdefault(kind_of(name), []).append((cost(name, weight, layer), weight.float().norm().item()))
    kinds = tuple(pooled(kind, costs) for kind, costs in groups.items())
    whole = pooled("", list(chain.from_iterable(groups.values())))
    return SchemeReport(scheme, whole.bits, nbytes(packed), whole.relative_error, kinds, scores)


def kind_of(name: str) -> str:
    """`attn.q` of `blocks.3.attn.q`, also where it has an adapter."""
    return re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".base")


def pooled(kind: str, costs: Sequence[tuple[Cost, float]]) -> KindCost:
    """The cost of several matrices, each given with its norm, as if they were one."""
    count, size = sum(c.parameters for c, _ in costs), sum(c.nbytes for c, _ in costs)
    wrong, norm = sum((c.relative_error * n) ** 2 for c, n in costs), sum(n**2 for _, n in costs)
    relative = (wrong / norm) ** 0.5 if norm else 0.0
    return KindCost(kind, count, 8 * size / count, relative, max(c.max_error for c, _ in costs))
