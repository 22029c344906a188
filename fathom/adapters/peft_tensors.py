"""adapter_model.safetensors: what peft calls an adapter's matrices, and whether those in a file are the right ones.

Names are base_model.model.LAYER.lora_A.weight and so on. Does not know models: what layers there are is told.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.peft_config import Factors, Said
from fathom.errors import FathomError, near
from fathom.formats.opened import Stored
from fathom.formats.safetensors_file import open_safetensors
from fathom.json_file import short

PREFIX = "base_model.model."
LINEAR = {"a": ".lora_A.weight", "b": ".lora_B.weight", "magnitude": ".lora_magnitude_vector"}
TABLE = {"a": ".lora_embedding_A", "b": ".lora_embedding_B"}  # of an embedding
COPIES = (".base_layer.weight",)  # the embedding itself, or what unembeds, which peft saves beside an adapter of it
Sizes = Mapping[str, tuple[int, int, bool]]  # layer: out, in, and whether it is a table


def named(layer: str, factors: Factors) -> dict[str, Tensor]:
    """The tensors of one layer by peft's names."""
    ends = TABLE if factors.table else LINEAR
    tensors = {"a": factors.a, "b": factors.b, "magnitude": factors.magnitude}
    return {f"{PREFIX}{layer}{ends[key]}": x for key, x in tensors.items() if x is not None}


def read_tensors(path: Path, said: Said, known: Sizes) -> dict[str, Factors]:
    """The adapter of each layer. FathomError unless the file holds those that the config says, each in its shape."""
    if not path.exists() and path.with_suffix(".bin").exists():
        raise FathomError(f"{path} does not exist, only a pickled .bin; save the adapter anew as safetensors")
    stored = open_safetensors(path)
    found = expected(said, known, stored, path)
    wanted = {name for names in found.values() for name in names.values()}
    spare = [name for name in stored if name not in wanted and not name.endswith(COPIES)]
    missing = [name for name in wanted if name not in stored]
    problems = [f"{short(name)} has no place in this model{near(name, wanted)}" for name in spare[:2]]
    problems += [f"{name} is missing{near(name, spare)}" for name in sorted(missing)[:2]]
    if problems:
        count = len(spare) + len(missing)
        raise FathomError(
            f"{path}: {'; '.join(problems)}{f' and {count - len(problems)} more' * (count > len(problems))}"
        )
    if not found:
        raise FathomError(f"{path} holds no adapter of this model's layers; expected {PREFIX}LAYER.lora_A.weight")
    return {layer: read(layer, {key: stored[name] for key, name in names.items()}, said, known, path)
            for layer, names in found.items()}  # fmt: skip


def expected(said: Said, known: Sizes, stored: Iterable[str], path: Path) -> dict[str, dict[str, str]]:
    """What must be there of each layer: of those that the config means, and of those that have something there."""
    found = {}
    stored = set(stored)
    for layer, (_, _, table) in known.items():
        keys = ("a", "b", "magnitude") if said.dora else ("a", "b")
        names = {
            key: PREFIX + layer + (TABLE if table else LINEAR).get(key, "")
            for key in keys
            if not table or key != "magnitude"
        }
        meant = any(layer == target or layer.endswith(f".{target}") for target in said.targets)
        if meant or stored & set(names.values()):
            found[layer] = names
    return found


def read(layer: str, stored: Mapping[str, Stored], said: Said, known: Sizes, path: Path) -> Factors:
    """The matrices of one layer, copied, in fp32."""
    (out, width, table), rank = known[layer], said.rank_of(layer)
    shapes = {"a": (rank, width), "b": (out, rank), "magnitude": (out,)}
    for key, tensor in stored.items():
        if tensor.shape != shapes[key]:
            raise FathomError(
                f"{path}: {key} of {layer} is {tensor.shape}; the model and a rank of {rank} expect {shapes[key]}"
            )
    tensors = {key: tensor.read().to(torch.float32, copy=True) for key, tensor in stored.items()}
    for key, x in tensors.items():
        if not x.isfinite().all():
            raise FathomError(f"{path}: {key} of {layer} holds numbers that are not finite; the file is damaged")
    return Factors(tensors["a"], tensors["b"], said.scale_of(layer), tensors.get("magnitude"), table)
