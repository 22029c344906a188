"""`fathom.verify`: does this model compute what it should? The answer is a certificate anyone can ask for again.

The model is loaded as everybody loads it and compared with each reference in turn, one at a time in memory.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from fathom.errors import FathomError
from fathom.fast.linear import FLOATS
from fathom.formats.detect import open_model
from fathom.formats.load import DTYPES, read, tokenizer_of
from fathom.formats.names import family
from fathom.formats.opened import Opened
from fathom.machine import describe, pick_device
from fathom.model.transformer import Transformer
from fathom.native import build as native
from fathom.quant.schemes import scheme_named
from fathom.verify.certificate import Certificate
from fathom.verify.compare import TOLERANCES, Comparison, compare
from fathom.verify.layout import layout
from fathom.verify.prompts import prompts, texts
from fathom.verify.references import reference, unpacked, whole

SAME_WEIGHTS = ("naive", "cache")  # whatever the model's weights are, these have them


def verify(
    path: str | Path,
    against: Sequence[str] = (),
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 0,
    quantize: str | None = None,
) -> Certificate:
    """Compare the model at `path` with each of `against`: naive, cache, native, transformers, file:OTHER.

    Without `against`: naive, cache, native where it runs, and transformers where it is installed and knows the
    architecture. Packed by
    `quantize` it is judged by naive and cache, with the weights that it has; how it differs from floats is told, and
    without `against` that is its own file.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    opened, target, scheme = open_model(path), pick_device(device), None if quantize is None else scheme_named(quantize)
    tokenizer = tokenizer_of(opened)
    model = read(opened, DTYPES[dtype], target, scheme)
    asked = prompts(model.config.vocab_size, model.config.context_length, tokenizer, seed)
    spoken = [torch.tensor(ids[: len(asked[-1])]) for ids in texts(tokenizer)]
    names = against or [*SAME_WEIGHTS, *quick(model), *(library(opened) if scheme is None else [f"file:{path}"])]
    found = tuple(compared(opened, model, names, asked, scheme is not None))
    evidence = layout(model if scheme is None else unpacked(model), [ids for ids in spoken if len(ids) > 1])
    return Certificate(
        str(opened.path), opened.format, str(model.embed.weight.dtype)[6:], quantize, describe(target),
        torch.__version__, len(asked), seed, evidence, found,
    )  # fmt: skip


def compared(
    opened: Opened, model: Transformer, against: Sequence[str], asked: Sequence[torch.Tensor], packed: bool
) -> Iterator[Comparison]:
    """The model against each reference; what a dtype may do is judged by the coarser of the two, and what packing does
    is not judged."""
    for name in against:
        other = reference(name, opened, model)
        coarser = max(other.dtype, model.embed.weight.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        tolerance = None if packed and name not in SAME_WEIGHTS else TOLERANCES[coarser]
        yield compare(other.name, other.about, whole(model), other.logits, asked, tolerance)


def quick(model: Transformer) -> list[str]:
    """Native code, where it computes this model."""
    there = model.embed.weight.device.type == "cpu" and model.embed.weight.dtype in FLOATS
    return ["native"] if there and native.library("step") else []


def library(opened: Opened) -> list[str]:
    """The reference library, where it is installed and has the architecture."""
    try:
        family(opened.config)
    except FathomError:  # an architecture that only we have
        return []
    return ["transformers"] if find_spec("transformers") else []
