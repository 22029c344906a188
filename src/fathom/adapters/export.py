"""`fathom.export`: a model in another format, a run of an adapter with its base, or an adapter alone for llama.cpp.

An adapter in GGUF has the tensors NAME.lora_a and NAME.lora_b for a matrix NAME of the model, rows in the model's order
there (llama.cpp, convert_lora_to_gguf.py); llama.cpp multiplies them by alpha / rank.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.layer import Lora, features
from fathom.adapters.load import AdaptedRun, adapted_run, load
from fathom.adapters.merge import folder_of, merged_copy
from fathom.adapters.peft import own_weight, to_factors
from fathom.adapters.peft_config import CONFIG
from fathom.adapters.peft_tensors import Factors, fuse
from fathom.adapters.targets import layers
from fathom.errors import FathomError
from fathom.families.registry import of
from fathom.formats import export as formats
from fathom.formats import gguf
from fathom.formats.detect import open_model
from fathom.formats.ggml_blocks import IDS, TYPES, packed
from fathom.formats.load import STORED
from fathom.formats.opened import Opened, Stored
from fathom.json_file import read_object, short
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

KINDS = {dtype: kind for kind, dtype in STORED.items()}


def export(
    model: str | Path | Transformer,
    out: str | Path,
    format: str,
    quantize: str | None = None,
    tokenizer: Tokenizer | None = None,
    dtype: str = "auto",
    device: str = "cpu",
) -> formats.Exported:
    """Write a model in another format, read it back and compare every tensor.

        >>> fathom.export("runs/demo", "demo.gguf", format="gguf", quantize="q8_0")

    model: the path of a model in any format that `fathom.load` reads, of a run of fine-tuning (its base with the
    adapter in its weights), of an adapter's own folder (gguf: the adapter alone, as llama.cpp's --lora reads it), or a
    model in memory, with its `tokenizer`. out: a new file; for hf and meta a new folder. format: hf (a folder for
    transformers), gguf (llama.cpp, Ollama), meta, llama2c or llama2c-v1. quantize: f32, f16, bf16, q8_0, q6_k, q5_k_m,
    q5_k_s, q4_k_m, q4_k_s or q4_0 for gguf, q8_0 for llama2c; None: as it is. dtype, device: how the model is loaded,
    as in `fathom.load`.

    Returns what was written and how it compares. FathomError where the format cannot hold this model (the message
    names the fields that stand in the way), or `out` exists.
    """
    out = Path(out)
    if isinstance(model, Transformer):
        return formats.write_model(model, tokenizer, format, out, quantize)
    run = adapted_run(model)
    if run is None and (Path(model) / CONFIG).is_file() and not (Path(model) / "config.json").is_file():
        return export_adapter(Path(model), out, format, quantize)
    network, its_own = load(model, dtype, device)
    source = source_of(open_model(model if run is None else run.base)) if format == "hf" else None
    whole = network if run is None else merged_copy(network)
    return formats.write_model(whole, tokenizer or its_own, format, out, quantize, source)


def source_of(opened: Opened) -> Path | None:
    """The Hugging Face folder that a model comes from: its own, or that of the model that was trained further."""
    while opened.names == "ours" and isinstance(base := opened.metadata.get("base"), dict):
        try:
            opened = open_model(str(base.get("path")))
        except FathomError as problem:
            warnings.warn(f"settings of the base, such as its pad token, are not kept: {problem}", stacklevel=3)
            return None
    return folder_of(opened)


def open_adapted(path: str | Path, run: AdaptedRun) -> Opened:
    """The base of a run with its adapter in the weights, in memory, as if it had been opened from files."""
    network, tokenizer = load(path, device="cpu")
    model = merged_copy(network)
    tensors = {
        name: Stored(tuple(x.shape), KINDS[x.dtype], x.nbytes, x.detach)
        for name, x in model.state_dict().items()
        if name != "unembed.weight" or not model.config.tie_embeddings
    }
    about = {"base": run.base, "adapter": str(run.adapter)}
    return Opened(
        Path(path), f"{run.base} with its adapter", model.config, None, "ours", tensors, lambda: tokenizer, about
    )


def export_adapter(folder: Path, out: Path, format: str, quantize: str | None) -> formats.Exported:
    """An adapter alone, from its folder, as a GGUF file; of the base only the header and shapes are used."""
    if format != "gguf" or (quantize or "f32").lower() != "f32":
        raise FathomError(
            f"{folder} is an adapter, which is written as gguf in f32; for base and adapter as one model give the run,"
            " or merge them first: fathom merge MODEL ADAPTER -o FOLDER"
        )
    if out.exists():
        raise FathomError(f"{out} exists; give another -o, or remove it first")
    run = adapted_run(folder.parent)
    base = run.base if run is not None else read_object(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise FathomError(f"{folder / CONFIG}: base_model_name_or_path is {short(base)}; expected the adapter's base")
    model, _ = load(base, "fp32", "cpu", adapter=folder)
    tensors, alpha = adapter_tensors(model)
    number = TYPES[IDS["F32"]]
    metadata = {
        "general.architecture": of(model.config).column("gguf").ids[0],
        "general.type": "adapter",
        "general.name": folder.resolve().parent.name if folder.name == "adapter" else folder.name,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    gguf.write(
        out,
        metadata,
        {n: gguf.Outgoing(tuple(x.shape), number, partial(packed, x, number)) for n, x in tensors.items()},
    )
    written = gguf.read_header(out).tensors
    if {name: info.shape for name, info in written.items()} != {name: tuple(x.shape) for name, x in tensors.items()}:
        raise FathomError(f"{out} holds other tensors than were written; do not use it")
    parts = (formats.Part("adapter", len(tensors), len(tensors), 0.0, 0.0),)
    return formats.Exported(out, "GGUF, an adapter", sum(x.nbytes for x in tensors.values()), parts, None)


def adapter_tensors(model: Transformer, name: str = "default") -> tuple[dict[str, Tensor], float]:
    """The matrices of an adapter under GGUF's names, and the alpha that belongs to all of them."""
    refuse_others(model, name)
    places = of(model.config).places(model.config, "gguf")
    bases, groups = layers(model), dict[str, list[str]]()
    for layer in bases:
        if f"{layer}.weight" in places:
            groups.setdefault(places[f"{layer}.weight"].name, []).append(layer)
    adapters = {layer: part.adapters[name] for layer, part in lora.wrapped(model, name).items()}
    tensors: dict[str, Tensor] = {}
    alpha = 0.0
    for stored, parts in groups.items():
        if not adapters.keys() & set(parts):
            continue
        each = [to_factors(adapters[layer]) if layer in adapters else None for layer in parts]
        if places[f"{parts[0]}.weight"].stacked:
            a, b = of_all_experts(each, *features(bases[parts[0]]))
            alpha = alpha or float(a.shape[1])
            tensors |= {f"{stored}.lora_a": a, f"{stored}.lora_b": b * (a.shape[1] / alpha)}
            continue
        whole = each[0] if len(each) == 1 else fuse(each, [own_weight(bases[layer]).norm(dim=1) for layer in parts])
        assert whole is not None
        alpha = alpha or whole.scale * whole.rank
        b = whole.b * (whole.scale * whole.rank / alpha)
        place = places[f"{parts[0]}.weight"]
        tensors[f"{stored}.lora_a"] = (whole.a.T if whole.embedding else whole.a).contiguous()
        if place.pairs:
            b = place.write(b.split([features(bases[layer])[0] for layer in parts]))
        tensors[f"{stored}.lora_b"] = b.contiguous()
    return tensors, alpha


def of_all_experts(each: Sequence[Factors | None], out: int, width: int) -> tuple[Tensor, Tensor]:
    """The matrices of adapters of experts, (e, r, in) and (e, out, r) with the scale in b; 0 where one has none."""
    rank = max(part.rank for part in each if part is not None)
    a, b = torch.zeros(len(each), rank, width), torch.zeros(len(each), out, rank)
    for expert, part in enumerate(each):
        if part is not None:
            a[expert, : part.rank], b[expert, :, : part.rank] = part.a, part.b * part.scale
    return a, b


def refuse_others(model: Transformer, name: str) -> None:
    """FathomError where an adapter is more than low-rank matrices, which is all that llama.cpp adds."""
    kinds = [part.adapters[name] for part in lora.wrapped(model, name).values()]
    whole = any(name in tensor.values for tensor in lora.active_adapters(model).replaced.values())
    plain = all(isinstance(part, Lora) and not hasattr(part, "magnitude") and part.bias is None for part in kinds)
    if whole or not plain or (model.config.tie_embeddings and "unembed" in lora.wrapped(model, name)):
        raise FathomError(
            "the adapter has whole weights, biases, DoRA or a tied unembedding, which a GGUF adapter cannot hold;"
            " merge it first: fathom merge MODEL ADAPTER -o FOLDER"
        )
