"""A model and its tokenizer from files of any format: opened, planned, and the plan carried out.

Each tensor is read, rearranged and converted on its own; where its numbers can be used as they are in the file, they
are mapped into memory and not copied.
"""

import math
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

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
from fathom.quant.model import keep_layer, linears, pack_layer
from fathom.quant.scheme import NumberFormat, Packed
from fathom.quant.schemes import FORMATS, KEEP, Packing, packing_named
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
    bitsandbytes as nf4); or keep: those that the file has packed stay as they are, k-quants and the unembedding too.
    rope_scaling: KIND:FACTOR such as yarn:4, for contexts FACTOR times longer. FathomError where there is no model, it
    is damaged, or memory does not suffice.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    target, scheme = pick_device(device), packing_named(quantize)
    opened = open_model(path)
    if rope_scaling is not None:
        opened = replace(opened, config=with_rope_scaling(opened.config, rope_scaling))
    with ThreadPoolExecutor(1) as beside:  # the weights are read outside of Python's lock
        tokenizer = beside.submit(tokenizer_of, opened)
        return read(opened, DTYPES[dtype], target, scheme), tokenizer.result()


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
    """What a model is read into; `scheme` packs the matrices of its blocks, or keeps what is packed."""

    dtype: torch.dtype
    device: torch.device
    scheme: Packing | None = None


def read(
    opened: Opened,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    scheme: Packing | None = None,
) -> Transformer:
    """The opened model on a device, in evaluation mode. dtype None: as most of it is stored. Packed by `scheme`."""
    target = Target(dtype or stored_dtype(opened), torch.device(device), scheme)
    sources, model = plan(opened), skeleton(opened.config)
    model.source = None if opened.family is None else opened.family.name
    layers = layers_to_pack(opened, sources, model, target)
    require_memory(opened.path, sources, layers, target)
    packed = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    exact = replace(target, dtype=torch.float32)  # of corrections, which decide between experts that are nearly equal
    dtypes = {name: exact if name.endswith("router.correction") else target for name in sources}
    tensors = {name: converted(source, dtypes[name]) for name, source in sources.items() if name not in packed}
    model.load_state_dict(tensors, strict=False, assign=True)
    for layer, weight in layers.items():
        fill_packed(model, layer, weight, sources.get(f"{layer}.bias"), target)
    if opened.config.tie_embeddings and isinstance(model.get_submodule("unembed"), nn.Linear):
        model.unembed.weight = model.embed.weight
    release_freed_memory()
    return model.to(target.device).eval()


def layers_to_pack(
    opened: Opened, sources: Mapping[str, Source], model: Transformer, target: Target
) -> dict[str, Source]:
    """The linear layers that become packed ones, and where their weights are: those of the blocks; to keep what is
    packed, all that are. FathomError where that is none."""
    every = {layer: sources[f"{layer}.weight"] for layer in linears(model)} if target.scheme else {}
    if target.scheme != KEEP:
        return every
    every["unembed"] = sources["embed.weight" if opened.config.tie_embeddings else "unembed.weight"]
    kept = {layer: source for layer, source in every.items() if source.stored.packed}
    if not kept:
        kinds = ", ".join(dict.fromkeys(source.stored.kind for source in every.values()))
        raise FathomError(
            f"{opened.path}: its matrices are {kinds}; expected some in Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K or NF4 to"
            " keep; choose --quantize int8, int4 or nf4, or leave it out"
        )
    return kept


def fill_packed(model: Transformer, layer: str, weight: Source, bias: Source | None, target: Target) -> None:
    """Replace an empty linear layer by a packed one, its weights read and packed."""
    assert target.scheme is not None
    numbers = None if bias is None else converted(bias, target)
    if (kept := stored_codes(weight, target)) is not None:
        form, packed = kept
        keep_layer(model, layer, packed, numbers, form)
    elif target.scheme == KEEP:  # its codes are none that we have
        tensors = {f"{layer}.weight": converted(weight, target)} | (
            {} if numbers is None else {f"{layer}.bias": numbers}
        )
        model.load_state_dict(tensors, strict=False, assign=True)
    else:
        pack_layer(model, layer, converted(weight, target), numbers, target.scheme)
    release_freed_memory()


def stored_codes(source: Source, target: Target) -> tuple[NumberFormat, Packed] | None:
    """The codes and scales in the file, rows in our order; None where its numbers are not those of the scheme. NF4
    codes are kept whether their scales are packed a second time or not, as they are in the file."""
    assert target.scheme is not None
    stored, place = source.stored, source.place
    if target.scheme == KEEP:
        names = list(stored.packed)
    else:
        names = [target.scheme.name, *ALIKE.get(target.scheme.name, ())]
    for name in names:
        form, packed = FORMATS[name], stored.packed[name]() if name in stored.packed else None
        if packed is not None and not place.plain:
            out, width = stored.shape[::-1] if place.transposed else stored.shape
            packed = form.rows(packed, width, place.read(torch.arange(out)))
        if packed is not None:
            return form, {field: x.to(target.device) for field, x in packed.items()}
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


def require_memory(path: Path, sources: Mapping[str, Source], layers: Mapping[str, Source], target: Target) -> None:
    """FathomError where less is free than the model takes. Tensors that are used as mapped from the file take none."""
    floats = {name: source for name, source in sources.items() if name.removesuffix(".weight") not in layers}
    required = 0.0
    for source in layers.values():
        form = FORMATS[next(iter(source.stored.packed))] if target.scheme == KEEP else target.scheme
        required += 0 if form is None else source.numel * form.bits / 8
    for source in floats.values():
        mapped = target.device.type == "cpu" and source.place.plain and STORED.get(source.stored.kind) == target.dtype
        required += 0 if mapped else source.numel * target.dtype.itemsize
    free = free_memory(target.device)
    if free is not None and required > free:
        raise FathomError(
            f"{path} needs {required / 2**30:,.1f} GiB as {str(target.dtype)[6:]} and {free / 2**30:,.1f} GiB are free"
            f" on {target.device}; use a narrower --dtype, --quantize, a smaller model or another machine"
        )
