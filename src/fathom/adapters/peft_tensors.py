"""adapter_model.safetensors: the matrices of an adapter under peft's names, and q, k and v as one in GPT-2's c_attn.

Names are base_model.model.MODULE.lora_A.weight and so on. Where three layers share one module, their b lie one below
the other if they have one a; with three, the a do, and b is block diagonal: the ranks add up. DoRA's magnitudes lie one
below the other either way.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.peft_config import PeftConfig
from fathom.errors import FathomError, near
from fathom.formats.opened import Stored
from fathom.formats.safetensors_file import open_safetensors
from fathom.formats.torch_file import open_pickle
from fathom.json_file import short

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
LINEAR = {"a": ".lora_A.weight", "b": ".lora_B.weight", "magnitude": ".lora_magnitude_vector", "bias": ".lora_B.bias"}
EMBEDDING = {"a": ".lora_embedding_A", "b": ".lora_embedding_B"}


@dataclass(frozen=True)
class Factors:
    """scale b a, and DoRA's magnitudes."""

    a: Tensor  # (r, in)
    b: Tensor  # (out, r)
    scale: float
    magnitude: Tensor | None = None  # (out,)
    embedding: bool = False  # of a table: columns of a are looked up
    bias: Tensor | None = None  # (out,), of b

    @property
    def rank(self) -> int:
        return len(self.a)

    def reordered(self, rows: Tensor | None) -> "Factors":
        """With the rows of the layer in this order; None: as they are."""
        if rows is None:
            return self
        magnitude, bias = (None if x is None else x[rows] for x in (self.magnitude, self.bias))
        return replace(self, b=self.b[rows], magnitude=magnitude, bias=bias)

    def tensors(self, module: str) -> dict[str, Tensor]:
        """Under peft's names."""
        names = tensor_names(module, self.embedding, {"a", "b", "magnitude", "bias"})
        return {name: x for key, name in names.items() if (x := getattr(self, key)) is not None}


@dataclass(frozen=True)
class ModuleShape:
    """A module that may have an adapter."""

    out: int
    width: int
    embedding: bool


def tensor_names(module: str, embedding: bool, keys: Collection[str]) -> dict[str, str]:
    """Peft's name for each matrix of a module's adapter."""
    ends = EMBEDDING if embedding else LINEAR
    return {key: f"{PREFIX}{module}{end}" for key, end in ends.items() if key in keys}


def open_weights(folder: Path) -> dict[str, Stored]:
    """The tensors of an adapter's folder; those of peft before 0.6 are a file of torch.save."""
    path = folder / WEIGHTS
    pickled = path.with_suffix(".bin")
    return open_pickle(pickled) if pickled.exists() and not path.exists() else open_safetensors(path)


def read_factors(
    stored: Mapping[str, Stored], config: PeftConfig, modules: Mapping[str, ModuleShape], path: Path
) -> dict[str, Factors]:
    """The adapter of each module. FathomError unless the file holds what the config says, each in its shape."""
    names = expected_names(config, modules, stored)
    expected = {name for each in names.values() for name in each.values()}
    spare = [name for name in stored if name not in expected]
    missing = [name for name in expected if name not in stored]
    problems = [f"{short(name)} has no place in this model{near(name, expected)}" for name in spare[:2]]
    problems += [f"{name} is missing{near(name, spare)}" for name in sorted(missing)[:2]]
    if problems:
        more = len(spare) + len(missing) - len(problems)
        raise FathomError(f"{path}: {'; '.join(problems)}{f' and {more} more' * (more > 0)}")
    if not names:
        raise FathomError(f"{path} holds no adapter of this model's layers; expected {PREFIX}LAYER.lora_A.weight")
    return {
        module: read(module, {key: stored[name] for key, name in each.items()}, config, modules[module], path)
        for module, each in names.items()
    }


def expected_names(
    config: PeftConfig, modules: Mapping[str, ModuleShape], stored: Iterable[str]
) -> dict[str, dict[str, str]]:
    """The tensors of each module that the config targets, and of each that has any tensor in the file."""
    stored, expected = set(stored), {}
    keys = ["a", "b", *["magnitude"] * config.dora, *["bias"] * config.lora_bias]
    for module, shape in modules.items():
        names, targeted = tensor_names(module, shape.embedding, keys), config.targets.hold(module)
        if targeted or (targeted is None and stored & set(names.values())):
            expected[module] = names
    return expected


def read(
    module: str, stored: Mapping[str, Stored], config: PeftConfig, shape: ModuleShape, path: Path, experts: int = 1
) -> Factors:
    """The matrices of one module, copied, in fp32; of `experts` together, of the rank of all of them."""
    rank = config.rank_of(module) * experts
    shapes = {"a": (rank, shape.width), "b": (shape.out, rank), "magnitude": (shape.out,), "bias": (shape.out,)}
    for key, tensor in stored.items():
        if tensor.shape != shapes[key]:
            raise FathomError(
                f"{path}: {key} of {module} is {tensor.shape}; the model and a rank of {rank} expect {shapes[key]}"
            )
    tensors = {key: tensor.read().to(torch.float32, copy=True) for key, tensor in stored.items()}
    for key, x in tensors.items():
        if not x.isfinite().all():
            raise FathomError(f"{path}: {key} of {module} holds numbers that are not finite; the file is damaged")
    magnitude, bias = tensors.get("magnitude"), tensors.get("bias")
    return Factors(tensors["a"], tensors["b"], config.scale_of(module), magnitude, shape.embedding, bias)


def fuse(parts: Sequence[Factors | None], norms: Sequence[Tensor]) -> Factors:
    """One adapter of several layers in one module. `norms`: of the rows of each layer, which are the magnitudes of one
    without an adapter. Where scales differ, b absorbs the difference."""
    given, outs = [part for part in parts if part is not None], [len(rows) for rows in norms]
    scale, shared = given[0].scale, all(torch.equal(part.a, given[0].a) for part in given)
    ranks = [0 if part is None else part.rank for part in parts]
    b = torch.zeros(sum(outs), given[0].rank if shared else sum(ranks))
    for i, part in enumerate(parts):
        if part is not None:
            column = 0 if shared else sum(ranks[:i])
            b[sum(outs[:i]) : sum(outs[: i + 1]), column : column + part.rank] = part.b * (part.scale / scale)
    magnitudes = [rows if part is None else part.magnitude for part, rows in zip(parts, norms)]
    magnitude = None if given[0].magnitude is None else torch.cat([x for x in magnitudes if x is not None])
    a, bias = given[0].a if shared else torch.cat([part.a for part in given]), None
    if any(part.bias is not None for part in given):
        pairs = zip(parts, outs)
        bias = torch.cat(
            [
                torch.zeros(out) if part is None or part.bias is None else part.bias * (part.scale / scale)
                for part, out in pairs
            ]
        )
    return Factors(a, b, scale, magnitude, bias=bias)


def split(whole: Factors, outs: Sequence[int]) -> list[Factors | None]:
    """One adapter for each layer of a module, None where it would do nothing. Columns of b that are 0 in one layer but
    not in all are left out there, so that `fuse` is undone exactly."""
    if len(outs) == 1:
        return [whole]
    used = (whole.b != 0).any(0)  # (r,)
    magnitudes = [None] * len(outs) if whole.magnitude is None else whole.magnitude.split(list(outs))
    biases = [None] * len(outs) if whole.bias is None else whole.bias.split(list(outs))
    parts: list[Factors | None] = []
    for b, magnitude, bias in zip(whole.b.split(list(outs)), magnitudes, biases):
        keep = (b != 0).any(0) | ~used  # (r,)
        if (magnitude is not None or bias is not None) and not keep.any():
            keep[0] = True
        part = Factors(whole.a[keep].clone(), b[:, keep].clone(), whole.scale, magnitude, bias=bias)
        parts.append(part if keep.any() else None)
    return parts
