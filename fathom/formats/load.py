"""A model and its tokenizer from files of any format: opened, planned, and the plan carried out.

Each tensor is read, rearranged and converted on its own; where its numbers can be used as they are in the file, they
are mapped into memory and not copied.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.convert import Source, plan
from fathom.formats.detect import is_model, open_model
from fathom.formats.opened import Opened, Stored
from fathom.machine import free_memory, pick_device, release_freed_memory
from fathom.model.config import ModelConfig, RopeScaling
from fathom.model.cost import parameters
from fathom.model.skeleton import skeleton
from fathom.model.transformer import Transformer
from fathom.quant.model import linears
from fathom.quant.model import replace as put
from fathom.quant.scheme import Packed, Scheme
from fathom.quant.schemes import scheme_named
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # other kinds become fp32
PIECE = 1 << 21  # numbers that are converted at a time
PADDED = 0.9  # a vocabulary may be padded to a rounder size: that much of it at least must be tokens


def load(
    path: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    rope_scaling: str | None = None,
) -> tuple[Transformer, Tokenizer | None]:
    """The model at `path` in evaluation mode, and its tokenizer, None where the files hold none.

    path: a run folder or checkpoint, a folder of Hugging Face or Meta, a .safetensors, .pth, .gguf or llama2.c file,
    or a hub id. dtype: auto (as stored; quantised files become fp32), fp32, bf16 or fp16. quantize: int8, int4 or nf4,
    for the matrices of the blocks as they are read (Q8_0 and Q4_0 of a GGUF are int8 and int4, and taken over).
    rope_scaling: KIND:FACTOR such as yarn:4, for texts so many times longer than the model was trained on. FathomError
    where there is no model, a damaged one, or no memory for it.
    """
    if dtype not in DTYPES:
        raise FathomError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    target = pick_device(device)
    opened = open_model(path)
    if rope_scaling is not None:
        opened = replace(opened, config=stretched(opened.config, rope_scaling))
    tokenizer = tokenizer_of(opened)
    return read(opened, DTYPES[dtype], target, None if quantize is None else scheme_named(quantize)), tokenizer


def stretched(config: ModelConfig, scaling: str) -> ModelConfig:
    """The config for contexts FACTOR times longer; `scaling` is KIND:FACTOR with a KIND of RopeScaling."""
    kind, _, factor = scaling.partition(":")
    if config.rope_scaling is not None:
        raise FathomError(
            f"rope_scaling is {scaling!r}, and the model has {config.rope_scaling.kind} already; leave it out"
        )
    values = {"kind": kind, "factor": factor, "original_context_length": config.context_length}
    made = build(RopeScaling, values, "rope_scaling, as KIND:FACTOR")
    if not 1 < made.factor < 1024:
        raise FathomError(f"rope_scaling is {scaling!r}; expected a factor above 1, such as {kind}:4")
    return replace(config, rope_scaling=made, context_length=int(config.context_length * made.factor))


def read(
    opened: Opened,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    scheme: Scheme | None = None,
) -> Transformer:
    """The opened model on a device, in evaluation mode. dtype None: as most of it is stored. Packed by `scheme`."""
    dtype, device = dtype or stored_dtype(opened), torch.device(device)
    sources = plan(opened)
    require_memory(opened, dtype, device, scheme)
    model = skeleton(opened.config)
    layers: set[str] = set() if scheme is None else set(linears(model))
    floats = {name: source for name, source in sources.items() if name.rpartition(".")[0] not in layers}
    tensors = {name: converted(source, dtype, device) for name, source in floats.items()}
    model.load_state_dict(tensors, strict=False, assign=True)
    if scheme is not None:
        pack_layers(model, sources, scheme, dtype, device)
    if opened.config.tie_embeddings:
        model.unembed.weight = model.embed.weight
    release_freed_memory()
    return model.to(device).eval()


def pack_layers(
    model: Transformer, sources: Mapping[str, Source], scheme: Scheme, dtype: torch.dtype, device: torch.device
) -> None:
    """Put packed layers in the place of the blocks' linear ones, one after another."""
    for layer in linears(model):
        weight, bias = sources[f"{layer}.weight"], sources.get(f"{layer}.bias")
        codes = stored_codes(weight, device, scheme)
        put(
            model,
            layer,
            converted(weight, dtype, device) if codes is None else codes,
            None if bias is None else converted(bias, dtype, device),
            scheme,
        )
        del codes
        release_freed_memory()


def stored_codes(source: Source, device: torch.device, scheme: Scheme) -> Packed | None:
    """The file's own codes and scales, rows in our order; None: it has other numbers."""
    packed = source.stored.packed[scheme.name]() if scheme.name in source.stored.packed else None
    if packed is None:
        return None
    return {field: source.place.read(x).to(device).contiguous() for field, x in packed.items()}


def converted(source: Source, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Our tensor as it is computed with; a rearranged one has memory of its own, and its file's pages go."""
    stored = source.stored
    if source.place.plain and STORED.get(stored.kind) != dtype:
        return piecewise(stored, dtype, device)
    return source.read().to(device, dtype).contiguous()


def piecewise(stored: Stored, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The tensor in another dtype, some rows at a time, so that the largest one is never in memory twice."""
    result = torch.empty(stored.shape, dtype=dtype, device=device)
    rows = max(1, PIECE * len(result) // max(result.numel(), 1))
    for start in range(0, len(result), rows):
        result[start : start + rows] = stored.rows(start, min(start + rows, len(result)))
    return result


def stored_dtype(opened: Opened) -> torch.dtype:
    """The dtype in which most of the model's numbers lie; fp32 for quantised ones."""
    numbers: dict[torch.dtype, int] = {}
    for stored in opened.tensors.values():
        dtype = STORED.get(stored.kind, torch.float32)
        numbers[dtype] = numbers.get(dtype, 0) + torch.Size(stored.shape).numel()
    return max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)


def require_memory(opened: Opened, dtype: torch.dtype, device: torch.device, scheme: Scheme | None) -> None:
    """FathomError where the model is larger than what is free. What is mapped as it lies on disk needs no memory."""
    mapped = device.type == "cpu" and all(STORED.get(x.kind) == dtype for x in opened.tensors.values())
    count, width = parameters(opened.config), dtype.itemsize
    blocks = (count["attn"] + count["mlp"]) * (width if scheme is None else scheme.bits / 8)
    needed = blocks + width * sum(n for part, n in count.items() if part not in ("attn", "mlp"))
    as_it_lies, free = mapped and scheme is None, free_memory(device)
    if free is not None and needed > free and not as_it_lies:
        raise FathomError(
            f"{opened.path} needs {needed / 2**30:,.1f} GiB as {str(dtype)[6:]} and {free / 2**30:,.1f} GiB are free on"
            f" {device}; use a narrower --dtype, --quantize, a smaller model or another machine"
        )


def tokenizer_of(opened: Opened) -> Tokenizer | None:
    """The tokenizer that lies with the model; FathomError where it is another model's."""
    tokenizer, size = opened.tokenizer(), opened.config.vocab_size
    if tokenizer is not None and not PADDED * size <= tokenizer.vocab_size <= size:
        raise FathomError(
            f"{opened.path}: the tokenizer has {tokenizer.vocab_size:,} tokens and the model {size:,}; put the right"
            " tokenizer beside it"
        )
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model, or in a tokenizer's own file or folder."""
    if not is_model(path):
        return tokenizers.load(Path(path))
    opened = open_model(path)
    return needed(tokenizer_of(opened), opened.path)


def needed(tokenizer: Tokenizer | None, path: str | Path) -> Tokenizer:
    """The tokenizer itself, for those who cannot do without."""
    if tokenizer is None:
        raise FathomError(f"{path} holds a model and no tokenizer; put its tokenizer.json or tokenizer.model beside it")
    return tokenizer
