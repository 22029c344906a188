"""A model opened to be looked at: how it is called, its card, and its map."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.load import adapted_run, load
from fathom.anatomy.cost import cache_bytes, n_parameters
from fathom.anatomy.words import declared
from fathom.formats.detect import open_model
from fathom.formats.fingerprint import samples
from fathom.formats.load import stored_dtype
from fathom.machine import free_memory, pick_device
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import scheme_of
from fathom.tokenizer.protocol import Tokenizer

HASH = 12  # characters of a model's hash that are shown


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its tokenizer (None: ids are shown) and the Python that loads it."""

    name: str
    model: Transformer
    tokenizer: Tokenizer | None
    family: str = ""
    loading: str = "model, tokenizer = ..., ...  # the model and tokenizer given to fathom.show"
    path: str | None = None  # None: it was given in memory
    quantize: str | None = None
    adapters: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def card(self) -> dict[str, Any]:
        """What the model is, as JSON values."""
        config, packing = self.config.resolved(), scheme_of(self.model)
        dtype = str(self.model.embed.weight.dtype).removeprefix("torch.")
        return {
            "name": self.name,
            "family": self.family,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_kv_head": config.n_kv_head,
            "head_dim": config.head_dim,
            "d_model": config.d_model,
            "d_ff": None if config.mlp == "none" else config.d_ff,
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "dtype": dtype,
            "packing": packing or "",
            "adapters": lora.names(self.model),
            "parameters": sum(sizes_of(self.model).values()),
            "cache_bytes_per_token": cache_bytes(config, 1, 1),
            "hash": self.hash(),
            "config": declared(self.config),
        }

    def map(self) -> list[dict[str, Any]]:
        """The parts of the model in the order of computation, with shapes and sizes; blocks that are alike are one."""
        tops: dict[str, list[dict[str, Any]]] = {}
        sizes = sizes_of(self.model)
        for name, part in parts_of(self.model).items():
            top, inner = (
                (".".join(name.split(".")[:2]), name.split(".", 2)[2:])
                if name.startswith("blocks.")
                else (name.split(".")[0], [])
            )
            about = {"name": ".".join(inner) or top, "shape": shape_of(part), "parameters": sizes[name]}
            tops.setdefault(top, []).append(about)
        entries: list[dict[str, Any]] = []
        for alike, run in groupby(tops.items(), key=lambda item: (item[0].startswith("blocks."), str(item[1]))):
            names = [name for name, _ in run]
            parts = tops[names[0]]
            total = sum(part["parameters"] for part in parts)
            if alike[0]:
                first, last = (int(name.split(".")[1]) for name in (names[0], names[-1]))
                entries.append({"name": "blocks", "first": first, "last": last, "parts": parts, "parameters": total})
            else:
                entries += [{**tops[name][0], "name": name, "parameters": total} for name in names]
        if self.config.resolved().tie_embeddings:
            entries.append({"name": "unembed", "shape": entries[0]["shape"], "parameters": 0, "tied": "embed"})
        return entries

    def hash(self) -> str:
        """The first characters of a SHA-256 over names, shapes and 64 numbers of every tensor."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            if tensor.numel():
                digest.update(samples(tensor.flatten()).double().numpy().tobytes())
        return digest.hexdigest()[:HASH]


def open_subject(
    path: str | Path, name: str | None = None, quantize: str | None = None, adapters: Sequence[str | Path] = ()
) -> Subject:
    """The model at a path, a run folder, a file or a hub id, as `fathom.load` opens it: in fp32 where memory allows, so
    that identities hold to within the rounding of fp32, which numbers of 16 bits leave far behind."""
    run = None if adapters else adapted_run(path)  # a run of fine-tuning is its base with its own adapter
    opened = open_model(run.base if run else path)
    dtype = "fp32" if fits_in_fp32(opened.config) else "auto"
    model, tokenizer = load(path, dtype=dtype, quantize=quantize, adapter=list(adapters) or None)
    options = ["dtype='fp32'"] * (dtype == "fp32" and stored_dtype(opened) != torch.float32)
    options += [f"quantize={quantize!r}"] * bool(quantize)
    options += [f"adapter={[str(folder) for folder in adapters]!r}"] * bool(adapters)
    loading = f"model, tokenizer = fathom.load({', '.join([repr(str(path)), *options])})"
    own = name or called(path, quantize, adapters)
    where = tuple(str(folder) for folder in adapters)
    return Subject(own, model, tokenizer, model.source or "", loading, str(path), quantize, where)


def fits_in_fp32(config: ModelConfig) -> bool:
    """Whether the model in fp32 takes at most half of the memory that is free."""
    free = free_memory(pick_device())
    return free is None or 8 * n_parameters(config) <= free


def called(path: str | Path, quantize: str | None, adapters: Sequence[str | Path]) -> str:
    """What a model is called on the page: its folder or file, its adapters and its packing."""
    words = [Path(path).stem if Path(path).suffix in (".gguf", ".bin", ".safetensors") else Path(path).name]
    words += [f"+ {Path(folder).name}" for folder in adapters] + ([quantize] if quantize else [])
    return " ".join(words)


def parts_of(model: Transformer) -> dict[str, nn.Module]:
    """Every module that holds tensors of its own, by name, in the order of computation; ties once, also where the
    unembedding keeps the packing of its file."""
    seen: set[int] = set()
    parts = {}
    for name, part in model.named_modules():
        if name == "unembed" and isinstance(part, QuantLinear) and model.config.resolved().tie_embeddings:
            continue
        own = [*part.parameters(recurse=False)] if not isinstance(part, QuantLinear) else [*part.packed.values()]
        fresh = [tensor for tensor in own if id(tensor) not in seen]
        seen |= {id(tensor) for tensor in fresh}
        if fresh:
            parts[name] = part
    return parts


def shape_of(part: nn.Module) -> list[int]:
    """Of its matrix or vector, as it is stored: (out, in) for a linear layer."""
    if isinstance(part, QuantLinear):
        return list(part.shape)
    weight = getattr(part, "weight", None)
    weight = weight if isinstance(weight, Tensor) else next(iter(part.parameters(recurse=False)))
    return list(weight.shape)


def sizes_of(model: Transformer) -> dict[str, int]:
    """Parameters of every such module alone, ties once; of a packed matrix, those that it stands for."""
    seen: set[int] = set()
    sizes = {}
    for name, part in parts_of(model).items():
        fresh = [tensor for tensor in part.parameters(recurse=False) if id(tensor) not in seen]
        seen |= {id(tensor) for tensor in fresh}
        packed = torch.Size(part.shape).numel() if isinstance(part, QuantLinear) else 0
        sizes[name] = packed + sum(tensor.numel() for tensor in fresh)
    return sizes
