"""The tensors of a peft folder that are weights of the model as they are, read and written.

Such are modules_to_save, trained biases, the embeddings of a vocabulary of another size, and the rows of
trainable_token_indices. Wrapped modules have words in the names of their tensors that the model does not know.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fathom.adapters.lora import active_adapters, wrapped
from fathom.adapters.peft_config import PeftConfig
from fathom.adapters.rows import TokenRows
from fathom.adapters.whole import Replaced
from fathom.errors import FathomError
from fathom.families.names import Place
from fathom.families.registry import of_model
from fathom.families.shapes import weight_shapes
from fathom.formats.opened import Stored
from fathom.json_file import short
from fathom.model.transformer import Transformer

PREFIX = "base_model.model."
WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save(\.default)?|token_adapter)(?=\.)")
ROWS = ".trainable_tokens_delta"
SKIPPED = re.compile(r".*\.(trainable_tokens_original|original_module\..*)")
ENDS = ("embed.weight", "unembed.weight")
BIAS = "unembed.bias"  # of the few models that have one
Tensors = Mapping[str, Stored]


def plain_name(name: str) -> str:
    """`base_model.model.lm_head.base_layer.weight` -> `lm_head.weight`."""
    return WRAPPERS.sub("", name.removeprefix(PREFIX))


def places(model: Transformer) -> dict[str, Place]:
    """Where each of our tensors lies in files of Hugging Face, the tied unembedding too."""
    shapes = weight_shapes(model.config)
    try:
        family = of_model(model.config, model.source)
    except FathomError:
        return {name: Place(name) for name in (*shapes, ENDS[1])}
    unembed = family.column("hf").tensors["unembed"].name
    return {ENDS[1]: Place(f"{unembed}.weight")} | family.places(model.config, "hf")


def in_files(model: Transformer, config: PeftConfig, stored: Tensors) -> tuple[PeftConfig, dict[str, Stored]]:
    """With the names that files of the base have: transformers 5 calls GPT-NeoX's embed_out lm_head."""
    unembed = places(model)[ENDS[1]].name.removesuffix(".weight")
    if unembed != "embed_out":
        return config, dict(stored)

    def renamed(name: str) -> str:
        return re.sub(r"(^|\.)lm_head(?=$|\.)", r"\1embed_out", name)

    names, whole = config.targets.names, tuple(map(renamed, config.whole))
    targets = replace(config.targets, names=None if names is None else tuple(map(renamed, names)))
    return replace(config, targets=targets, whole=whole), {renamed(name): x for name, x in stored.items()}


def with_both_names(values: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and tensors of a folder, GPT-NeoX's embed_out as lm_head too: every transformers finds its own."""

    def listed(names: list[str] | None) -> list[str] | None:
        return None if names is None else [*names, *["lm_head"] * ("embed_out" in names)]

    lists = {key: listed(values[key]) for key in ("target_modules", "modules_to_save")}
    old = f"{PREFIX}embed_out."
    again = {name.replace(old, f"{PREFIX}lm_head."): x.clone() for name, x in tensors.items() if name.startswith(old)}
    return values | lists, tensors | again


def vocabulary(model: Transformer, stored: Tensors) -> int:
    """How many tokens the model has with the adapter."""
    ends = [places(model)[end].name for end in ENDS]
    shapes = [x.shape for name, x in stored.items() if plain_name(name) in ends and not SKIPPED.fullmatch(name)]
    return shapes[0][0] if shapes and len(shapes[0]) == 2 else model.config.vocab_size


def is_whole(name: str, config: PeftConfig, known: Mapping[str, Place]) -> bool:
    """Whether a tensor of the file is a weight that the adapter holds whole, or belongs to one."""
    if SKIPPED.fullmatch(name) or name.endswith(ROWS):
        return bool(config.tokens) or SKIPPED.fullmatch(name) is not None
    plain = plain_name(name)
    if plain not in {place.name for place in known.values()}:
        return False
    biased = config.bias != "none" and plain.endswith(".bias")
    return biased or config.holds_whole(plain) or plain in (known[end].name for end in (*ENDS, BIAS) if end in known)


def read_whole(
    model: Transformer, stored: Tensors, config: PeftConfig, where: str, resized: bool = False
) -> dict[str, Tensor]:
    """Our tensors as the adapter has them, those that are equal to the model's left out. FathomError: one is missing,
    or of another shape. resized: the vocabulary is another than the base's, so that both its matrices are needed."""
    known, values = places(model), dict[str, Tensor]()
    whole = {name: x for name, x in stored.items() if is_whole(name, config, known) and ROWS not in name}
    given = {plain_name(name): x for name, x in whole.items() if not SKIPPED.fullmatch(name)}
    tied = model.config.tie_embeddings and model.unembed.weight is model.embed.weight
    embed, unembed = (known[end].name for end in ENDS)
    for name, place in known.items():
        if place.name not in given:
            if config.holds_whole(place.name) and not (tied and name == ENDS[1]):
                raise FathomError(f"{where}: {place.name} is missing, which modules_to_save lists; save it again")
            if resized and name in (*ENDS, BIAS) and not (tied and name == ENDS[1]):
                raise FathomError(
                    f"{where}: {place.name} is missing, and the vocabulary is another than the base's; save the adapter"
                    " again with save_embedding_layers=True"
                )
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        own = getattr(getattr(owner, "base", owner), name.rpartition(".")[2])
        value = place.read(given[place.name].read()).to(torch.float32, copy=True)
        if value.shape != own.shape or not value.isfinite().all():
            actual = f"{tuple(value.shape)}; the model expects {tuple(own.shape)}"
            raise FathomError(f"{where}: {place.name} is {actual}, and finite numbers")
        if (resized and name in (*ENDS, BIAS)) or not torch.equal(value, own.detach().float().cpu()):
            values[name] = value
    if tied and {*ENDS} <= values.keys() and torch.equal(*(values[end] for end in ENDS)):
        values[ENDS[1]] = values[ENDS[0]]  # they stay one
    if tied and not config.holds_whole(embed) and not config.holds_whole(unembed):
        both = [values[end] for end in ENDS if end in values]
        if len(both) == 2 and not torch.equal(*both):
            raise FathomError(
                f"{where}: {embed} and {unembed} differ, and the model ties them; list them in modules_to_save"
            )
        values |= dict.fromkeys(ENDS, both[0]) if both else {}
    return values | read_rows(model, stored, config, values, where)


def read_rows(
    model: Transformer, stored: Tensors, config: PeftConfig, values: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Embedding and unembedding with the rows of trainable_token_indices in them."""
    known, changed = places(model), dict[str, Tensor]()
    for module, ids in config.tokens.items():
        ours = [end for end in ENDS if module and f".{known[end].name}".endswith(f".{module}.weight")] or [ENDS[0]]
        name = next((x for x in stored if x.endswith(ROWS) and plain_name(x).startswith(known[ours[0]].name[:-7])), "")
        if not name:
            raise FathomError(f"{where}: the rows of trainable_token_indices are missing; save the adapter again")
        rows = stored[name].read().float()
        if tuple(rows.shape) != (len(ids), model.config.d_model) or max(ids, default=0) >= model.config.vocab_size:
            raise FathomError(
                f"{where}: {short(name)} is {tuple(rows.shape)}; expected rows of the tokens {short(ids)}"
            )
        if model.config.tie_embeddings and model.unembed.weight is model.embed.weight:
            ours = [*ENDS]
        for end in ours:
            own: Tensor = getattr(*owner_of(model, end))
            matrix = changed.get(end, values.get(end, own.detach().float().cpu()))
            changed[end] = matrix.index_copy(0, torch.tensor(ids), rows)
    return changed


def replace_whole(model: Transformer, values: Mapping[str, Tensor], name: str) -> None:
    """Put these tensors of an adapter on the model, active."""
    active = active_adapters(model)
    tied = model.unembed.weight is model.embed.weight and values.get(ENDS[0]) is values.get(ENDS[1])
    one: tuple[str, ...] = ENDS if tied else ()
    for tensor, value in values.items():
        key = one[0] if tensor in one else tensor
        if key not in active.replaced:
            active.replaced[key] = Replaced([owner_of(model, each) for each in (one if key in one else [tensor])])
        active.replaced[key].values[name] = value
    active.set(active.weights)


def owner_of(model: Transformer, tensor: str) -> tuple[nn.Module, str]:
    """The module that a tensor belongs to, and its attribute there."""
    module, _, attribute = tensor.rpartition(".")
    part = model.get_submodule(module)
    return getattr(part, "base", part), attribute


def collect_whole(model: Transformer, name: str) -> dict[str, Tensor]:
    """Our tensors that an adapter holds whole, on the CPU in fp32: those it was read with, and rows it has learned."""
    values: dict[str, Tensor] = {}
    for tensor, replaced in active_adapters(model).replaced.items():
        if name in replaced.values:
            ends = ENDS if len(replaced.places) == 2 else (tensor,)
            values |= dict.fromkeys(ends, replaced.values[name].float().cpu())
    for layer, part in wrapped(model, name).items():
        adapter = part.adapters[name]
        if isinstance(adapter, TokenRows):
            weight = part.base.weight.detach().float()
            values[f"{layer}.weight"] = (weight + adapter.delta(weight).detach()).cpu()
            bias = part.base.bias if layer == "unembed" else None
            if isinstance(bias, Tensor):
                values[BIAS] = bias.detach().float().cpu()
    return values


def modules_to_save(model: Transformer, values: Mapping[str, Tensor], name: str) -> tuple[str, ...]:
    """Those of the file that it was read from, and an end of a tied model that alone has changed."""
    known, listed = places(model), active_adapters(model).modules_to_save.get(name, ())
    ends = [end for end in ENDS if end in values]
    same = len(ends) != 1 and all(torch.equal(values[end], values[ends[0]]) for end in ends)
    saved = any(f".{known[end].name}".endswith(f".{each}.weight") for end in ends for each in listed)
    apart = model.config.tie_embeddings and (not same or (saved and len(ends) == 2))
    return tuple(dict.fromkeys([*listed, *(known[end].name.removesuffix(".weight") for end in ends if apart)]))


def write_whole(
    model: Transformer, values: Mapping[str, Tensor], targeted: Mapping[str, object], saved: Sequence[str] = ()
) -> dict[str, Tensor]:
    """These tensors under peft's names; `targeted` are the modules that have an adapter, and are wrapped; `saved` is
    modules_to_save."""
    known, files = places(model), dict[str, list[str]]()
    both = known[ENDS[1]].name.removesuffix(".weight") not in saved and {*ENDS} <= values.keys()
    if model.config.tie_embeddings and both and torch.equal(*(values[end] for end in ENDS)):
        values = {ours: value for ours, value in values.items() if ours != ENDS[1]}  # peft loads it into both
    for ours in values:
        files.setdefault(known[ours].name, []).append(ours)
    written = dict[str, Tensor]()
    for name, parts in files.items():
        together = [ours for ours, place in known.items() if place.name == name]
        own = {ours: values.get(ours, getattr(*owner_of(model, ours)).detach().float().cpu()) for ours in together}
        module, _, attribute = name.rpartition(".")
        wrapper = ".base_layer" if module in targeted else ""
        value: Tensor = known[parts[0]].write([own[ours] for ours in together])
        shared = any(value.data_ptr() == other.data_ptr() for other in written.values())  # which no file can hold
        written[f"{PREFIX}{module}{wrapper}.{attribute}"] = value.clone() if shared else value
    return written
