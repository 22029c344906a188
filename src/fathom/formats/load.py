"""A model and its tokenizer from files of any format: opened, planned, and the plan carried out.

Each tensor is read, rearranged and converted on its own; where its numbers can be used as they are in the file, they
are mapped into memory and not copied.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.anatomy.skeleton import skeleton
from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.convert import Source, plan
from fathom.formats.detect import open_model
from fathom.formats.opened import CHUNK, Opened
from fathom.formats.tokenizer import load_tokenizer as load_tokenizer  # beside `load`, where one looks for it
from fathom.formats.tokenizer import tokenizer_of
from fathom.machine import free_memory, pick_device, release_freed_memory
from fathom.model.config import ModelConfig, RopeScaling
from fathom.model.transformer import Transformer
from fathom.quant.model import linears, pack_layer
from fathom.quant.scheme import Packed, Scheme
from fathom.quant.schemes import scheme_named
from fathom.tokenizer.protocol import Tokenizer

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # other kinds become fp32
ALIKE = {"nf4": ("nf4-single",)}  # other schemes whose codes in a file are as good
PIECE = 8 * CHUNK  # bytes of a tensor that are converted at a time


def load(
    path: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    rope_scaling: str | None = None,
) -> tuple[Transformer, Tokenizer | None]:
    """The model at `path` in evaluation mode, and its tokenizer; None where the files hold none.

    path: a run folder or checkpoint, a folder of Hugging Face or Meta, a .safetensors, .pth, .gguf or llama2.c file,
    or a hub id. dtype: auto (as stored; quantised files become fp32), fp32, bf16 or fp16. quantize: int8, int4 or nf4,
    for the matrices of the blocks (Q8_0 and Q4_0 of a GGUF file are used as int8 and int4 without repacking, the NF4 of
    bitsandbytes as nf4).
    rope_scaling: KIND:FACTOR such as yarn:4, for contexts FACTOR times longer. FathomError where there is no model, it
    is damaged, or memory does not suffice.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    target, scheme = pick_device(device), None if quantize is None else scheme_named(quantize)
    opened = open_model(path)
    if rope_scaling is not None:
        opened = replace(opened, config=with_rope_scaling(opened.config, rope_scaling))
    tokenizer = tokenizer_of(opened)
    return read(opened, DTYPES[dtype], target, scheme), tokenizer


def with_rope_scaling(config: ModelConfig, scaling: str) -> ModelConfig:
    """The config for contexts FACTOR times longer; `scaling` is KIND:FACTOR with a KIND of RopeScaling."""
    kind, _, factor = scaling.partition(":")
    if config.rope.scaling is not None:
        raise FathomError(
            f"rope_scaling is {scaling!r}, and the model has {config.rope.scaling.kind} already; leave it out"
        )
    if not factor:
        raise FathomError(f"rope_scaling is {scaling!r}; expected KIND:FACTOR, such as yarn:4")
    values = {"kind": kind, "factor": factor, "original_context_length": config.context_length}
    rope_scaling = build(RopeScaling, values, "rope_scaling, as KIND:FACTOR")
    if not 1 < rope_scaling.factor < 1024:
        raise FathomError(f"rope_scaling is {scaling!r}; expected a factor above 1, such as {kind}:4")
    longer = int(config.context_length * rope_scaling.factor)
    return replace(config, rope=replace(config.rope, scaling=rope_scaling), context_length=longer)


@dataclass(frozen=True)
class Target:
    """What a model is read into; `scheme` packs the matrices of its blocks."""

    dtype: torch.dtype
    device: torch.device
    scheme: Scheme | None = None


def read(
    opened: Opened,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    scheme: Scheme | None = None,
) -> Transformer:
    """The opened model on a device, in evaluation mode. dtype None: as most of it is stored. Packed by `scheme`."""
    target = Target(dtype or stored_dtype(opened), torch.device(device), scheme)
    sources, model = plan(opened), skeleton(opened.config)
    model.source = None if opened.family is None else opened.family.name
    layers = [] if scheme is None else linears(model)
    require_memory(opened.path, sources, layers, target)
    packed = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    exact = replace(target, dtype=torch.float32)  # of corrections, which decide between experts that are nearly equal
    dtypes = {name: exact if name.endswith("router.correction") else target for name in sources}
    tensors = {name: converted(source, dtypes[name]) for name, source in sources.items() if name not in packed}
    model.load_state_dict(tensors, strict=False, assign=True)
    for layer in layers:
        fill_packed(model, layer, sources, target)
    if opened.config.tie_embeddings:
        model.unembed.weight = model.embed.weight
    release_freed_memory()
    return model.to(target.device).eval()


def fill_packed(model: Transformer, layer: str, sources: Mapping[str, Source], target: Target) -> None:
    """Replace an empty linear layer by a packed one, its weights read and packed."""
    assert target.scheme is not None
    weight, bias = sources[f"{layer}.weight"], sources.get(f"{layer}.bias")
    scheme, packed = stored_codes(weight, target) or (target.scheme, converted(weight, target))
    pack_layer(model, layer, packed, None if bias is None else converted(bias, target), scheme)
    del packed
    release_freed_memory()


def stored_codes(source: Source, target: Target) -> tuple[Scheme, Packed] | None:
    """The codes and scales in the file, rows in our order; None where its numbers are not those of the scheme. NF4
    codes are kept whether their scales are packed a second time or not, as they are in the file."""
    assert target.scheme is not None
    stored, place = source.stored, source.place
    for name in (target.scheme.name, *ALIKE.get(target.scheme.name, ())):
        scheme, packed = scheme_named(name), stored.packed[name]() if name in stored.packed else None
        if packed is not None and not place.plain:
            out, width = stored.shape[::-1] if place.transposed else stored.shape
            packed = scheme.rows(packed, width, place.read(torch.arange(out)))
        if packed is not None:
            return scheme, {field: x.to(target.device).contiguous() for field, x in packed.items()}
    return None


def converted(source: Source, target: Target) -> Tensor:
    """One of our tensors in the dtype of the model. A rearranged one is a copy, and its stored tensor is released."""
    stored = source.stored
    if not source.place.plain or STORED.get(stored.kind) == target.dtype:
        return source.read().to(target.device, target.dtype).contiguous()
    result = torch.empty(stored.shape, dtype=target.dtype, device=target.device)
    rows = max(1, PIECE * len(result) // max(result.nbytes, 1))  # the largest tensor is never in memory twice
    for start in range(0, len(result), rows):
        result[start : start + rows] = stored.rows(start, min(start + rows, len(result)))
    return result


def stored_dtype(opened: Opened) -> torch.dtype:
    """The dtype of most numbers of the model; fp32 for quantised ones."""
    numbers = Counter({torch.float32: 0})
    for stored in opened.tensors.values():
        numbers[STORED.get(stored.kind, torch.float32)] += math.prod(stored.shape)
    return numbers.most_common(1)[0][0]


def require_memory(path: Path, sources: Mapping[str, Source], layers: list[str], target: Target) -> None:
    """FathomError where less is free than the model takes. Tensors that are used as mapped from the file take none."""
    packed, required = {f"{layer}.weight" for layer in layers}, 0.0
    for name, source in sources.items():
        mapped = target.device.type == "cpu" and source.place.plain and STORED.get(source.stored.kind) == target.dtype
        bits = target.scheme.bits if target.scheme is not None and name in packed else 8 * target.dtype.itemsize
        required += 0 if mapped and name not in packed else source.numel * bits / 8
    free = free_memory(target.device)
    if free is not None and required > free:
        raise FathomError(
            f"{path} needs {required / 2**30:,.1f} GiB as {str(target.dtype)[6:]} and {free / 2**30:,.1f} GiB are free"
            f" on {target.device}; use a narrower --dtype, --quantize, a smaller model or another machine"
        )
