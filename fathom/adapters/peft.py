"""An adapter as the peft library keeps it: a folder with adapter_config.json and adapter_model.safetensors.

A layer is called base_model.model.NAME, NAME as in files of Hugging Face; so GPT-2's q, k and v are one, c_attn (see
`fused`). PiSSA is written as the plain LoRA of twice the rank that it is. Does not know how an adapter was trained.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.adapters.layer import Dora, EmbeddingLora, Lora, LoraLinear, Pissa, largest, sizes
from fathom.adapters.lora import admit, attach, freeze, wrapped
from fathom.adapters.options import LoraOptions
from fathom.adapters.peft_config import CONFIG, WEIGHTS, Factors, Said, fingerprint, fuse, read_said, split, to_config
from fathom.adapters.peft_tensors import named, read_tensors
from fathom.adapters.targets import layers, modules, place
from fathom.errors import FathomError
from fathom.files import atomic_write
from fathom.formats.safetensors_file import write_tensors
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear


def save(model: Transformer, folder: str | Path, name: str = "default", base: str | Path | None = None) -> list[str]:
    """Write the adapter to `folder`, over what was there. `base`: where the model came from; its fingerprint is kept.

    Returns what is worth saying: which layers became one, and with which rank.
    """
    found = {module: gathered(model, parts, name) for module, parts in modules(model).items()}
    there = {module: factors for module, factors in found.items() if factors is not None}
    adapters = [part.adapters[name] for part in wrapped(model, name).values()]
    rates = [adapter.dropout.p for adapter in adapters if isinstance(adapter.dropout, nn.Dropout)]
    values = to_config(there, list(found), rslora=bool(adapters[0].rslora), dropout=max(rates, default=0.0))
    values["fan_in_fan_out"] = any(place(model, layer).transposed for layer in layers(model))
    values["base_model_name_or_path"] = None if base is None else str(base)
    values["fathom"] = {"base_sha256": None if base is None else fingerprint(base), "quantize": packing(model)}
    tensors = {key: x.contiguous() for module, factors in there.items() for key, x in named(module, factors).items()}
    write(Path(folder), values, tensors)
    return notes(model, there)


def gathered(model: Transformer, parts: list[str], name: str) -> Factors | None:
    """The adapter of all layers that files keep as one; None: none of them has it."""
    have, whole = wrapped(model, name), [model.get_submodule(part) for part in parts]
    if not have.keys() & set(parts):
        return None
    factors = [factors_of(have[part].adapters[name]) if part in have else None for part in parts]
    if len(parts) == 1:
        return factors[0]
    lengths = [weight_of(layer).norm(dim=1) for layer in whole]
    return fuse(factors, lengths, [len(x) for x in lengths])


def factors_of(adapter: nn.Module) -> Factors:
    """An adapter's matrices as files keep them, on the CPU in fp32."""
    assert isinstance(adapter, Lora)
    a, b = (x.detach().float().cpu() for x in adapter.matrices())
    magnitude = adapter.magnitude.detach().float().cpu() if isinstance(adapter, Dora) else None
    return Factors(a, b, adapter.scale, magnitude, isinstance(adapter, EmbeddingLora))


def weight_of(layer: nn.Module) -> Tensor:
    """The layer's own matrix, without adapters, on the CPU in fp32."""
    own = (layer.kept or layer.base) if isinstance(layer, LoraLinear) else layer
    return own.weight.detach().float().cpu()  # type: ignore[operator]


def packing(model: Transformer) -> str | None:
    """How the matrices of the blocks are packed."""
    return next((part.scheme.name for part in model.modules() if isinstance(part, QuantLinear)), None)


def notes(model: Transformer, there: dict[str, Factors]) -> list[str]:
    """What is worth saying of an adapter that was written."""
    said = []
    fused = {module.rpartition(".")[2]: there[module].rank for module, parts in modules(model).items()
             if module in there and len(parts) > 1}  # fmt: skip
    for word, rank in fused.items():
        said.append(f"attn.q, attn.k and attn.v were written as one adapter of {word}, of rank {rank}")
    return said


def write(folder: Path, values: dict[str, object], tensors: dict[str, Tensor]) -> None:
    """Both files, each whole or not at all."""
    import json

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / WEIGHTS) as partial:
            write_tensors(partial, tensors)
        with atomic_write(folder / CONFIG) as partial:
            partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as problem:
        raise FathomError(f"{folder}: the adapter could not be written ({problem.strerror or problem})") from problem


def load(model: Transformer, folder: str | Path, name: str = "default", base: str | Path | None = None) -> LoraOptions:
    """Put the adapter in `folder` on the model, enabled and the only thing that learns. `base`: where the model came
    from, to be held against what the adapter says of its own.

    FathomError: a damaged file, a tensor too many or too few, another rank than the config says, another base.
    """
    folder = Path(folder)
    said = read_said(folder / CONFIG)
    admit(model, name)
    if base is not None and said.base and said.base != fingerprint(base):
        raise FathomError(
            f"{folder} is an adapter of another model than {base}: the fingerprint of its base is {said.base:.12}...;"
            f' give that model, or take "base_sha256" out of {CONFIG} to use it all the same'
        )
    made = dict[str, Lora]()
    for module, factors in read_tensors(folder / WEIGHTS, said, shapes(model)).items():
        made |= parted(model, modules(model)[module], factors, said, f"{folder}: {module}")
    attach(model, made, name)
    freeze(model, name)
    return options_of(made, said)


def shapes(model: Transformer) -> dict[str, tuple[int, int, bool]]:
    """(out, in) of every layer as files keep it, and whether it is a table."""
    parts = layers(model)
    found = {}
    for module, names in modules(model).items():
        outs, widths = zip(*(sizes(parts[name]) for name in names))
        found[module] = (sum(outs), widths[0], isinstance(parts[names[0]], nn.Embedding))
    return found


def parted(model: Transformer, names: list[str], whole: Factors, said: Said, where: str) -> dict[str, Lora]:
    """The adapters of the layers that files keep as one."""
    bases = [layers(model)[name] for name in names]
    outs = [sizes(base)[0] for base in bases]
    if said.pissa:
        if any(isinstance(base, QuantLinear) for base in bases):
            raise FathomError(f"{where} is PiSSA, which begins with the base in floats; load it without quantize")
        first = largest(torch.cat([weight_of(base) for base in bases]), whole.rank, whole.scale)
        firsts = [(first[0], b) for b in first[1].split(outs)]
        made = [Pissa(whole.a.clone(), b.clone(), whole.scale, said.dropout, first)
                for b, first in zip(whole.b.split(outs), firsts)]  # fmt: skip
        return {name: on_device(adapter, base, said) for name, base, adapter in zip(names, bases, made)}
    factors = split(whole, outs) if len(names) > 1 else [whole]
    return {
        name: on_device(adapter_of(part, base, said), base, said)
        for name, base, part in zip(names, bases, factors)
        if part is not None
    }


def adapter_of(factors: Factors, base: nn.Module, said: Said) -> Lora:
    if isinstance(base, nn.Embedding):
        return EmbeddingLora(factors.a, factors.b, factors.scale, said.dropout)
    if factors.magnitude is None:
        return Lora(factors.a, factors.b, factors.scale, said.dropout)
    made = Dora(factors.a, factors.b, factors.scale, said.dropout, weight_of(base))
    made.magnitude.data = factors.magnitude.clone()
    return made


def on_device(adapter: Lora, base: nn.Module, said: Said) -> Lora:
    adapter.rslora = said.rslora
    return adapter.to(next(x.device for x in (*base.parameters(), *base.buffers())))


def options_of(made: dict[str, Lora], said: Said) -> LoraOptions:
    """The options that would make an adapter of these layers and ranks."""
    ranks = {name: len(adapter.a) for name, adapter in made.items()}
    alphas = {
        name: adapter.scale * (n**0.5 if said.rslora else n) for (name, adapter), n in zip(made.items(), ranks.values())
    }
    return LoraOptions(
        rank=said.rank,
        alpha=said.alpha,
        dropout=said.dropout,
        targets=tuple(made),
        rslora=said.rslora,
        dora=said.dora,
        init="pissa" if said.pissa else "default",
        ranks=tuple((name, n) for name, n in ranks.items() if n != said.rank),
        alphas=tuple((name, alpha) for name, alpha in alphas.items() if abs(alpha - said.alpha) > 1e-9),
    )
