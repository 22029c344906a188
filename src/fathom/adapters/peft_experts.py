"""Adapters of experts under the names that peft has for them since transformers 5, whose experts are one parameter.

`target_parameters` names such parameters. All experts of a layer then have one a (experts * r, in) and one b
(out, r * experts), gate and up together; a wrapper around `down_proj` is outside of one around `gate_up_proj`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fathom.adapters.layer import features
from fathom.adapters.peft_config import PeftConfig
from fathom.adapters.peft_tensors import Factors, ModuleShape, fuse, read, split, tensor_names
from fathom.adapters.targets import BLOCKS, layers, place
from fathom.errors import FathomError, near
from fathom.families.registry import of_model
from fathom.formats.opened import Stored
from fathom.model.config import Experts
from fathom.model.transformer import Transformer

GATE_UP, DOWN = "gate_up_proj", "down_proj"
CONVERTED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe")  # adapters of single experts of these are read
# by peft, which puts them together; of other families it leaves them out without an error
MODULE = {"granitemoe": "block_sparse_moe.experts"}  # in transformers 5; mlp.experts in all others


@dataclass(frozen=True)
class Parameter:
    """A parameter of transformers' model: of all experts of a layer, or the weight of one linear layer."""

    module: str  # model.layers.3.mlp.experts
    name: str  # gate_up_proj
    experts: tuple[tuple[str, ...], ...]  # our layers that it holds, of each expert
    outs: tuple[int, ...]  # rows of each layer of an expert
    width: int
    turns: bool = False  # whether rows of gate and up take turns (gpt-oss)

    @property
    def key(self) -> str:
        return f"{self.module}.{self.name}"

    def place(self, both: bool) -> str:
        """Where the tensors of its adapter are; both: whether the experts' two parameters have one."""
        return f"{self.module}.base_layer" if self.name == GATE_UP and both else self.module

    @property
    def shape(self) -> ModuleShape:
        return ModuleShape(sum(self.outs), self.width, False)


def parameters(model: Transformer) -> dict[str, Parameter]:
    """Every parameter of a mixture of experts' MLPs that can have an adapter, by its name in transformers 5."""
    if not isinstance(mixture := model.config.mlp, Experts):
        return {}
    sizes = {name: features(layer) for name, layer in layers(model).items()}
    family, found = of_model(model.config, model.source), list[Parameter]()
    module = MODULE.get(family.name, "mlp.experts")
    turns = family.cell("hf", "blocks.N.mlp.experts.0.gate").grouped
    for name, (out, width) in sizes.items():
        if name.startswith(BLOCKS) and ".mlp." in name and ".experts." not in name:
            found.append(Parameter(place(model, name).name, "weight", ((name,),), (out,), width))
    for layer in range(model.config.n_layer):
        if layer in mixture.dense:
            continue
        for parameter, parts in ((GATE_UP, ("gate", "up")), (DOWN, ("down",))):
            ours = [tuple(f"blocks.{layer}.mlp.experts.{e}.{part}" for part in parts) for e in range(mixture.n)]
            outs = tuple(sizes[part][0] for part in ours[0])
            width = sizes[ours[0][0]][1]
            found.append(
                Parameter(
                    f"model.layers.{layer}.{module}",
                    parameter,
                    tuple(ours),
                    outs,
                    width,
                    turns and parameter == GATE_UP,
                )
            )
    return {parameter.key: parameter for parameter in found}


def targeted(known: Mapping[str, Parameter], names: Iterable[str], where: Path) -> list[Parameter]:
    """Those that `target_parameters` name, as peft matches them. FathomError for a name that matches none."""
    chosen = dict[str, Parameter]()
    for name in names:
        matching = {key: parameter for key, parameter in known.items() if f".{key}".endswith(f".{name}")}
        if not matching:
            hint = near(name, {key.split(".", 3)[-1] for key in known})
            raise FathomError(f"{where}: target_parameters has {name!r}, which no adapter can have here{hint}")
        chosen |= matching
    return list(chosen.values())


def read_parameters(
    model: Transformer, stored: Mapping[str, Stored], config: PeftConfig, where: Path
) -> tuple[dict[str, Factors], dict[str, Stored]]:
    """The adapter of each of our layers that `target_parameters` mean, and the tensors that are not theirs."""
    chosen, left, found = targeted(parameters(model), config.parameters, where), dict(stored), dict[str, Factors]()
    inner = {parameter.module for parameter in chosen if parameter.name == DOWN}
    for parameter in chosen:
        names = tensor_names(parameter.place(parameter.module in inner), False, ("a", "b"))
        if missing := [name for name in names.values() if name not in left]:
            raise FathomError(f"{where}: {missing[0]} is missing{near(missing[0], left)}")
        tensors = {key: left.pop(name) for key, name in names.items()}
        n, rank = len(parameter.experts), config.rank_of(parameter.key)
        whole = read(parameter.key, tensors, config, parameter.shape, where, n)
        a, b = whole.a.view(n, rank, -1), whole.b.view(-1, rank, n).permute(2, 0, 1)
        b = torch.cat((b[:, ::2], b[:, 1::2]), 1) if parameter.turns else b
        for expert, ours in enumerate(parameter.experts):
            parts = split(Factors(a[expert].clone(), b[expert].contiguous(), whole.scale), parameter.outs)
            found |= {layer: part for layer, part in zip(ours, parts) if part is not None}
    return found, left


def together(
    model: Transformer, config: PeftConfig, factors: Mapping[str, Factors]
) -> tuple[PeftConfig, dict[str, Factors], str]:
    """An adapter as files keep it: its config, the matrices at each place, and a note for the user, or an empty text.

    Of experts alone, all of them and of one rank, each has its own, as every version of peft reads them. Otherwise
    those of the MLPs become adapters of parameters, since peft would give them to others or leave them out.
    """
    known = parameters(model)
    single = {place(model, layer).name: layer for x in known.values() for expert in x.experts for layer in expert}
    ours = {single[module]: part for module, part in factors.items() if module in single}
    if not ours or config.dora or config.lora_bias or alike(model, known, ours):
        return config, dict(factors), ""
    left = {module: part for module, part in factors.items() if module not in single}
    chosen = [x for x in known.values() if any(layer in ours for expert in x.experts for layer in expert)]
    inner = {x.module for x in chosen if x.name == DOWN}
    ranks, alphas = dict[str, int](), dict[str, float]()
    for x in chosen:
        whole, rank = stacked(x, ours)
        left[x.place(x.module in inner)] = whole
        alpha = whole.scale * (rank**0.5 if config.rslora else rank)
        ranks |= {x.key: rank} if rank != config.rank else {}
        alphas |= {x.key: alpha} if abs(alpha - config.alpha) > 1e-9 * alpha else {}
    for module, rank in config.ranks.items():
        ranks |= {module: rank} if module not in single else {}
    for module, alpha in config.alphas.items():
        alphas |= {module: alpha} if module not in single else {}
    others = [module for module in factors if module not in single]
    words = tuple(name for name in config.targets.names or () if any(f".{m}".endswith(f".{name}") for m in others))
    config = replace(
        config, ranks=ranks, alphas=alphas, parameters=short_keys(chosen, known), dropout=0.0,
        targets=replace(config.targets, names=words),
    )  # fmt: skip
    lost = f" and without its dropout of {config.dropout:g}" if config.dropout else ""
    return config, left, f"the adapters of the MLPs were written as target_parameters, for peft from 0.17 on{lost}"


def short_keys(chosen: Sequence[Parameter], known: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Names that peft matches with the ends of those of parameters: for all layers, where all are meant."""
    keys, result = {x.key for x in chosen}, dict[str, None]()
    for x in chosen:
        word = x.key.split(".", 3)[-1]  # after model.layers.3
        meant = {key for key in known if key.endswith(f".{word}")}
        result[word if meant <= keys else x.key] = None
    return tuple(result)


def alike(model: Transformer, known: Mapping[str, Parameter], ours: Mapping[str, Factors]) -> bool:
    """Whether peft puts these adapters of single experts together: all have one, of the same rank and scale."""
    if of_model(model.config, model.source).name not in CONVERTED:
        return False
    every = {layer for x in known.values() if x.name != "weight" for expert in x.experts for layer in expert}
    return every == ours.keys() and len({(part.rank, part.scale) for part in ours.values()}) == 1


def stacked(parameter: Parameter, ours: Mapping[str, Factors]) -> tuple[Factors, int]:
    """The adapters of all experts as one, and the rank of each."""
    empty = [torch.zeros(out) for out in parameter.outs]
    each: list[Factors | None] = []
    for expert in parameter.experts:
        parts = [ours.get(layer) for layer in expert]
        each.append(fuse(parts, empty) if any(part is not None for part in parts) else None)
    given = [part for part in each if part is not None]
    rank, scale = max(part.rank for part in given), given[0].scale
    a, b = torch.zeros(len(each), rank, parameter.width), torch.zeros(len(each), sum(parameter.outs), rank)
    for i, part in enumerate(each):
        if part is not None:
            a[i, : part.rank], b[i, :, : part.rank] = part.a, part.b * (part.scale / scale)
    b = b.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2) if parameter.turns else b
    return Factors(a.flatten(0, 1), b.permute(1, 2, 0).flatten(1).contiguous(), scale), rank
