"""A family of models as one value: its choices of ModelConfig, and how each file format describes such a model.

Each file such as `fathom/families/llama.py` defines one `FAMILY`; readers, writers, `verify` and adapters use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fathom.errors import FathomError, near
from fathom.families.names import Place, join, split
from fathom.families.shapes import weight_shapes
from fathom.families.values import Key, Values
from fathom.model.config import Experts, Layers, ModelConfig, ResolvedConfig, Rotary, Scale
from fathom.words import article

if TYPE_CHECKING:
    from torch import Tensor


class StoredTensor(Protocol):
    """A tensor in a file; `kind` is what its format calls the type of its numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def kind(self) -> str: ...

    def read(self) -> Tensor: ...


S = TypeVar("S")
Tensors = Mapping[str, StoredTensor]
Fields = Mapping[str, Any]  # of ModelConfig; rope_theta is the theta of its rope, and so are all that begin with rope_
USUAL: Fields = {"residual": "on", "qk_norm": "off", "layers": Layers("g"), "scale": Scale()}  # where no family says


# Keys by which a file declares a feature that no family supports, and the values that leave the feature off.
ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "hf": {
        "quantization_config": (None,),
        "is_encoder_decoder": (None, False),
        "add_cross_attention": (None, False),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    },
    "gguf": {
        "expert_count": (None, 0),
        "attention.causal": (None, True),
        "rope.scaling.yarn_ext_factor": (None, 1.0),
        "rope.scaling.yarn_log_multiplier": (None, 0.0),
    },
}


def no_fields(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {}


def no_keys(config: ResolvedConfig) -> dict[str, Any]:
    return {}


def config_of(fields: Fields) -> ModelConfig:
    """The config with these fields."""
    rope = {name.removeprefix("rope_"): value for name, value in fields.items() if name.startswith("rope_")}
    others = {name: value for name, value in fields.items() if not name.startswith("rope_")}
    return ModelConfig(**{**({"rope": Rotary(**rope)} if rope else {}), **others})


def value_of(config: ResolvedConfig, name: str) -> Any:
    """A field of the config, or of its rope."""
    return getattr(config.rope, name.removeprefix("rope_")) if name.startswith("rope_") else getattr(config, name)


def short_rope(rope: Rotary) -> str:
    """What is not plain about a rotation."""
    kind = rope.scaling.kind if rope.scaling else None
    given = {"rotated": rope.rotated, "local_theta": rope.local_theta, "scaling": kind}
    return ",".join(f"{name}={value}" for name, value in given.items() if value is not None)


def alike(ours: Any, theirs: Any) -> bool:
    """Whether two values of a choice are of one family: equal, or mixtures of experts, which differ in sizes."""
    return ours == theirs or (isinstance(ours, Experts) and isinstance(theirs, Experts))


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one format describes models of a family."""

    ids: tuple[str, ...] = ()  # what a file calls the family: model_type, general.architecture
    tensors: Mapping[str, Place]  # our part -> its place
    keys: Mapping[str, Key] = field(default_factory=dict)  # our field of the config -> its key
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # other keys, and their supported values
    honoured: tuple[str, ...] = ()  # keys that `read` understands though no other family does
    read: Callable[[Values, Fields, Tensors], Fields] = no_fields  # fields that need several keys, given the others
    write: Callable[[ResolvedConfig], dict[str, Any]] = no_keys  # keys that are not in `keys`
    applies: Callable[[Mapping[str, Any]], bool] = lambda entries: True  # whether a config with such an id is of this
    # family, where several families share an id
    extra_tensors: Callable[[ResolvedConfig], Mapping[str, Tensor]] = no_keys  # written beside the weights
    beyond: bool = False  # whether files hold more layers than the model: those that guess several tokens at once
    skipped: str = r"(?!)"  # pattern of the names of tensors that readers ignore, since they follow from the config
    prefix: str = ""  # of every tensor name; some files omit it


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models that differ in their sizes alone, and how files describe them."""

    name: str  # in `fathom info` and errors
    title: str  # in prose
    choices: Fields  # of ModelConfig: what makes a model one of this family, beside what is `USUAL`
    free: tuple[str, ...] = ()  # fields on which models of this family differ: of `USUAL`, rope (not the whole head is
    # rotated, layers differ), unembed and sink (biases)
    holds: Callable[[ResolvedConfig], bool] = lambda config: True  # conditions on the sizes
    columns: Mapping[str, Column]  # format -> how it describes these models; `ours` has our own names
    classes: tuple[str, str]  # of transformers: the config and the model
    written_as: str | None = None  # the family whose files are written for these models; None: its own

    def fits(self, config: ResolvedConfig) -> bool:
        return not self.mismatches(config) and self.holds(config)

    def mismatches(self, config: ResolvedConfig) -> list[tuple[str, Any, Any]]:
        """What keeps a config out of this family: field, its value, and that of the family."""
        wanted = {name: value for name, value in {**USUAL, **self.choices}.items() if name not in self.free}
        wrong = [(name, getattr(config, name), value) for name, value in wanted.items()]
        rope, plain = config.rope, Rotary(theta=config.rope.theta, scaling=config.rope.scaling)
        longrope = rope.scaling is not None and rope.scaling.kind == "longrope"
        if "rope" not in self.free and config.position == "rope" and (longrope or rope != plain):
            wrong.append(("rope", short_rope(rope), "all channels rotated, alike in all layers"))
        if "bias" not in self.choices:  # elsewhere `holds` decides about biases
            rare = [part for part in ("unembed", "sink") if part in config.bias and part not in self.free]
            wrong += [("bias", config.bias, f"none of {part}") for part in rare]
        return [(name, ours, theirs) for name, ours, theirs in wrong if not alike(ours, theirs)]

    def column(self, format: str) -> Column:
        if format not in self.columns:
            known = [name for name in self.columns if name != "ours"]
            hint = near(format, known, then="choose")
            raise FathomError(f"no format {format!r} of {self.name} models{hint} one of {', '.join(known)}")
        return self.columns[format]

    def read(self, format: str, values: Values, tensors: Tensors) -> ModelConfig:
        """The config of the model in a file. FathomError names the key that is wrong."""
        column = self.column(format)
        allowed = {**ALLOWED.get(format, {}), **column.allowed}
        values.require({name: those for name, those in allowed.items() if name not in column.honoured})
        fields = {**self.choices, **{ours: key.read(values, ours) for ours, key in column.keys.items()}}
        if "tie_embeddings" not in fields:
            fields["tie_embeddings"] = column.tensors["unembed"].name + ".weight" not in tensors
        config = config_of({**fields, **column.read(values, fields, tensors)})
        try:
            config.resolved()
        except FathomError as problem:
            raise values.error(str(problem)) from None
        return config

    def write(self, format: str, config: ModelConfig) -> dict[str, Any]:
        """The configuration of a file with this model. FathomError where the format cannot hold it."""
        z, column = config.resolved(), self.column(format)
        return {key.names[0]: value_of(z, ours) for ours, key in column.keys.items()} | column.write(z)

    def weights(self, format: str, tensors: Mapping[str, S], n_layer: int | None = None) -> dict[str, S]:
        """The tensors of a file that are weights of a model of n_layer layers, under their whole names."""
        column = self.column(format)
        kept = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(column.skipped, name)}
        if column.beyond and n_layer is not None:
            kept = {name: tensor for name, tensor in kept.items() if int(split(name)[1] or 0) < n_layer}
        if column.prefix and any(f"{column.prefix}{name}" == column.tensors["embed"].name + ".weight" for name in kept):
            return {column.prefix + name: tensor for name, tensor in kept.items()}
        return kept

    def places(self, config: ModelConfig, format: str) -> dict[str, Place]:
        """Our tensor -> its place, for every tensor of this model; of two tied ones, for the first."""
        z, places = config.resolved(), {}
        for tensor in weight_shapes(config):
            part, layer, suffix = split(tensor)
            place = self.cell(format, part)
            heads = z.n_kv_head if part.endswith(("attn.k", "attn.k_norm")) else z.n_head
            qkv = (z.n_head * z.head_dim, *[z.n_kv_head * z.head_dim] * 2)
            sizes, groups = (qkv, z.n_kv_head) if ".attn." in part and place.parts == 3 else ((), 1)
            if ".mlp." in part and place.grouped:
                sizes, groups = (z.d_ff,) * place.parts, z.d_ff
            name = place.named(layer, suffix)
            places[tensor] = replace(
                place, name=name, heads=heads, groups=groups, sizes=sizes, rotated=z.rope.rotated,
                plus=place.plus and suffix == ".weight",
            )  # fmt: skip
        return places

    def cell(self, format: str, part: str) -> Place:
        """The place of a part of every layer, such as blocks.N.attn.q or blocks.N.mlp.experts.3.up."""
        expert = number[1] if (number := re.search(r"\.experts\.(\d+)\.", part)) else ""
        place = self.column(format).tensors.get(re.sub(r"\.experts\.\d+\.", ".experts.M.", part))
        if place is None:
            raise FathomError(f"format {format} has no name for {part!r}; choose another format")
        return replace(place, name=place.name.replace(".M.", f".{expert}."), expert=int(expert or 0))

    def rename(self, name: str, source: str, target: str) -> list[str]:
        """A part or tensor of format `source` in format `target`; several where one holds what the other splits.

        LLaMA: rename("blocks.3.attn.q.weight", "ours", "hf") -> ["model.layers.3.self_attn.q_proj.weight"]
        """
        part, layer, suffix = split(name)
        places = self.column(source).tensors
        rows = [ours for ours, place in places.items() if place.name == part]
        if not rows:
            likely = near(name, [join(place.name, layer or "0", suffix) for place in places.values()])
            raise FathomError(f"{name!r} is no part of {article(self.name)} model in format {source}{likely}")
        theirs = [place.name for ours, place in self.column(target).tensors.items() if ours in rows]
        if not theirs:
            raise FathomError(f"format {target} has no name for {name!r}; choose another format")
        return [join(part, layer, suffix) for part in dict.fromkeys(theirs)]
