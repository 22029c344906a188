"""An adapter as the peft library keeps it: a folder with adapter_config.json and adapter_model.safetensors.

A module is called base_model.model.NAME, NAME as in files of Hugging Face; so GPT-2's q, k and v are one, c_attn. PiSSA
is written as the plain LoRA of twice the rank that it is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.adapters.layer import Dora, EmbeddingLora, Layer, Lora, Pissa, features, principal_components
from fathom.adapters.lora import active_adapters, attach, freeze, require_available, wrapped
from fathom.adapters.peft_config import CONFIG, OURS, PeftConfig, read_config
from fathom.adapters.peft_experts import GATE_UP, read_parameters, together
from fathom.adapters.peft_targets import Targets
from fathom.adapters.peft_tensors import WEIGHTS, Factors, ModuleShape, fuse, open_weights, read_factors, split
from fathom.adapters.peft_whole import (
    collect_whole,
    in_files,
    is_whole,
    modules_to_save,
    places,
    read_whole,
    replace_whole,
    vocabulary,
    with_both_names,
    write_whole,
)
from fathom.adapters.targets import BLOCKS, modules, place, rows_in_file
from fathom.adapters.whole import vocabulary_resized
from fathom.errors import FathomError
from fathom.files import atomic_write
from fathom.formats.fingerprint import fingerprint
from fathom.formats.opened import Stored
from fathom.formats.safetensors_file import write_tensors
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import scheme_of

FILES = (OURS, WEIGHTS, CONFIG)  # in this order: a folder with CONFIG is complete


@dataclass(frozen=True)
class PeftAdapter:
    """What such a folder holds, checked: its settings, the matrices of each module, and whole weights."""

    config: PeftConfig
    factors: Mapping[str, Factors]
    whole: Mapping[str, Tensor] = field(default_factory=dict)  # our tensors that it holds as they are


def load(model: Transformer, folder: str | Path, name: str = "default", base: str | Path | None = None) -> PeftAdapter:
    """Put the adapter in `folder` on the model, enabled, and let nothing else be trainable. `base`: where the model
    came from, to be compared with the base that the adapter names.

    FathomError: a damaged file, a tensor too many or too few, another rank than the config says, another base.
    """
    require_available(model, name)
    config, stored = in_files(model, *opened(Path(folder), base))
    where, before = Path(folder) / WEIGHTS, model.config.vocab_size
    with vocabulary_resized(model, vocabulary(model, stored)):
        known, targets = places(model), modules(model)
        factors = {key: x for key, x in stored.items() if not is_whole(key, config, known)}
        shapes = {module: shape(parts.values()) for module, parts in targets.items()}
        found, left = read_parameters(model, factors, config, where) if config.parameters else ({}, factors)
        single = {layer: module for module, parts in targets.items() for layer in parts}
        separate = read_factors(left, config, shapes, where) if left or not found else {}
        adapter = PeftAdapter(config, separate | {single[layer]: part for layer, part in found.items()})
        values = read_whole(model, stored, config, str(where), model.config.vocab_size != before)
        layers: dict[str, Lora] = {}
        for module, part in adapter.factors.items():
            ours = part.reordered(rows_in_file(model, targets[module]))
            layers |= to_layers(targets[module], ours, config, f"{folder}: {module}")
        attach(model, layers, name)
    replace_whole(model, values, name)
    for layer, wrapper in wrapped(model, name).items():
        if f"{layer}.weight" in values and isinstance(dora := wrapper.adapters[name], Dora):
            dora.squares = own_weight(wrapper.base).to(dora.squares.device).square().sum(1)
    active_adapters(model).modules_to_save[name] = config.whole
    freeze(model, name)
    return adapter


def opened(folder: Path, base: str | Path | None) -> tuple[PeftConfig, dict[str, Stored]]:
    """The settings and tensors of an adapter in a folder. FathomError where it belongs to another base."""
    config = read_config(folder / CONFIG)
    if base is not None and config.base and config.base != fingerprint(base):
        raise FathomError(
            f"{folder} is an adapter of another model than {base}: the fingerprint of its base is {config.base:.12}...;"
            f" give that model, or remove {OURS} to use it anyway"
        )
    return config, open_weights(folder)


def shape(parts: Iterable[Layer]) -> ModuleShape:
    """Of the module that holds these layers."""
    outs, widths = zip(*map(features, parts))
    return ModuleShape(sum(outs), widths[0], any(isinstance(part, nn.Embedding) for part in parts))


def to_layers(parts: Mapping[str, Layer], whole: Factors, config: PeftConfig, where: str) -> dict[str, Lora]:
    """A module's adapter as adapters of its layers."""
    outs = [features(base)[0] for base in parts.values()]
    adapters: list[Lora | None]
    if not config.pissa:
        pairs = zip(split(whole, outs), parts.values())
        adapters = [None if part is None else to_lora(part, base, config.dropout) for part, base in pairs]
    elif any(isinstance(base, QuantLinear) for base in parts.values()):
        raise FathomError(f"{where} is PiSSA, which begins with the base in floats; load it without quantize")
    else:
        first_a, first_b = principal_components(torch.cat([*map(own_weight, parts.values())]), whole.rank, whole.scale)
        adapters = [
            Pissa(whole.a.clone(), b.clone(), whole.scale, config.dropout, (first_a, first))
            for b, first in zip(whole.b.split(outs), first_b.split(outs))
        ]
    layers = {}
    for (name, base), adapter in zip(parts.items(), adapters):
        if adapter is not None:
            adapter.rslora = config.rslora
            layers[name] = adapter.to(next(x.device for x in (*base.parameters(), *base.buffers())))
    return layers


def to_lora(factors: Factors, base: Layer, dropout: float) -> Lora:
    if isinstance(base, nn.Embedding):
        return EmbeddingLora(factors.a, factors.b, factors.scale, dropout)
    if factors.magnitude is None:
        return Lora(factors.a, factors.b, factors.scale, dropout, factors.bias)
    adapter = Dora(factors.a, factors.b, factors.scale, dropout, own_weight(base))
    adapter.magnitude.data = factors.magnitude.clone()
    return adapter


def save(model: Transformer, folder: str | Path, name: str = "default", base: str | Path | None = None) -> list[str]:
    """Write the adapter to `folder`, over what was there. `base`: where the model came from; its fingerprint is kept.

    Returns notes for the user: which layers became one module, and of which rank.
    """
    targets, adapter = modules(model), collect(model, name, "" if base is None else fingerprint(base))
    config, written, joined = together(model, adapter.config, adapter.factors)
    values = config.to_json() | {
        "fan_in_fan_out": any(place(model, layer).transposed for layers in targets.values() for layer in layers),
        "base_model_name_or_path": None if base is None else str(base),
    }
    tensors = {key: x for place, part in written.items() for key, x in part.tensors(place).items()}
    tensors |= write_whole(model, adapter.whole, adapter.factors, adapter.config.whole)
    values, tensors = with_both_names(values, tensors)
    write(Path(folder), {CONFIG: values, OURS: config.ours()}, tensors)
    notes = {GATE_UP: joined} if joined else {}
    for module, part in adapter.factors.items():
        *roles, last = (name.removeprefix(BLOCKS).partition(".")[2] for name in targets[module])
        if roles:
            word = module.rpartition(".")[2]
            notes[word] = f"{', '.join(roles)} and {last} were written as one adapter of {word}, of rank {part.rank}"
    return list(notes.values())


def collect(model: Transformer, name: str, base: str) -> PeftAdapter:
    """An adapter of the model as files keep it, on the CPU in fp32. `base`: the model's fingerprint, "" if unknown."""
    targets = modules(model)
    parts = {layer: part.adapters[name] for layer, part in wrapped(model, name).items()}
    adapters, whole = (
        {layer: part for layer, part in parts.items() if isinstance(part, Lora)},
        collect_whole(model, name),
    )
    factors = {}
    for module, layers in targets.items():
        if layers.keys() & adapters.keys():
            rows = rows_in_file(model, layers)
            factors[module] = from_layers(layers, adapters).reordered(None if rows is None else rows.argsort())
    dropouts = [adapter.dropout.p for adapter in adapters.values() if isinstance(adapter.dropout, nn.Dropout)]
    rslora = any(adapter.rslora for adapter in adapters.values())
    ranks = {module: part.rank for module, part in factors.items()}
    alphas = {module: alpha_of(part, rslora) for module, part in factors.items()}
    (rank, alpha), _ = Counter((ranks[module], alphas[module]) for module in factors).most_common(1)[0]
    config = PeftConfig(
        rank=rank,
        alpha=alpha,
        rslora=rslora,
        dora=any(part.magnitude is not None for part in factors.values()),
        pissa=False,
        dropout=max(dropouts, default=0.0),
        ranks={module: n for module, n in ranks.items() if n != rank},
        alphas={module: n for module, n in alphas.items() if n != alpha},
        targets=Targets(shortest_names(list(factors), list(targets))),
        whole=modules_to_save(model, whole, name),
        bias="all" if any(tensor.endswith(".bias") for tensor in whole) else "none",
        lora_bias=any(part.bias is not None for part in factors.values()),
        base=base,
        quantize=scheme_of(model) or "",
    )
    return PeftAdapter(config, factors, whole)


def from_layers(layers: Mapping[str, Layer], adapters: Mapping[str, nn.Module]) -> Factors:
    """The adapters of a module's layers, some of which have one, as one adapter."""
    parts = [to_factors(adapters[name]) if name in adapters else None for name in layers]
    whole, *others = parts
    if whole is not None and not others:
        return whole
    return fuse(parts, [own_weight(layer).norm(dim=1) for layer in layers.values()])


def to_factors(adapter: nn.Module) -> Factors:
    assert isinstance(adapter, Lora)
    a, b = (x.detach().float().cpu() for x in adapter.matrices())
    magnitude = adapter.magnitude.detach().float().cpu() if isinstance(adapter, Dora) else None
    bias = None if adapter.bias is None else adapter.bias.detach().float().cpu()
    return Factors(a, b, adapter.scale, magnitude, isinstance(adapter, EmbeddingLora), bias)


def own_weight(layer: Layer) -> Tensor:
    """The layer's matrix on the CPU in fp32."""
    return layer.weight.detach().float().cpu()


def alpha_of(factors: Factors, rslora: bool) -> float:
    """The alpha that gives this scale at this rank; whole where it is all but whole."""
    alpha = factors.scale * (factors.rank**0.5 if rslora else factors.rank)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * alpha else alpha


def shortest_names(targets: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Last words of names, if only those of `targets` end so; else the names."""
    words = sorted({name.rpartition(".")[2] for name in targets})
    meant = [name for name in known if name.rpartition(".")[2] in words]
    return tuple(words if set(meant) == set(targets) else sorted(targets))


def write(folder: Path, texts: Mapping[str, Mapping[str, object]], tensors: Mapping[str, Tensor]) -> None:
    """Every file, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / WEIGHTS) as partial:
            write_tensors(partial, tensors)
        for file, values in texts.items():
            with atomic_write(folder / file) as partial:
                partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as problem:
        raise FathomError(f"{folder}: the adapter could not be written ({problem.strerror or problem})") from problem
