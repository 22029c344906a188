"""The matrices of a file, opened but not read: of a model by our names, of any safetensors file by its own.

Norms and biases are vectors, have no rank, and are left out. Two files must agree before anything is computed on both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.svd import as_finite
from fathom.errors import FathomError, near
from fathom.families.shapes import weight_shapes
from fathom.formats.convert import plan
from fathom.formats.detect import of_file, open_model
from fathom.formats.load import read
from fathom.formats.opened import FLOATS, Opened, Stored
from fathom.formats.safetensors_file import open_safetensors
from fathom.model.transformer import Transformer

CONFIGS = ("config.json", "config.yaml", "params.json")  # beside one of these a file of tensors is a model


@dataclass(frozen=True)
class Matrices:
    """How to read each, and the model they are of; None for a plain file."""

    path: Path
    stored: Mapping[str, Stored]
    opened: Opened | None = None

    def read(self, name: str) -> Tensor:
        """The tensor in fp32 or fp64. FathomError names it where it has numbers that are not finite."""
        try:
            return as_finite(self.stored[name].read())
        except FathomError as error:
            raise FathomError(f"{self.path}: {name!r}: {error}") from None

    def only(self, patterns: tuple[str, ...]) -> "Matrices":
        """Those whose names match any of these patterns, such as *.attn.q*; no patterns: all."""
        for pattern in patterns:
            if not any(matches(name, pattern) for name in self.stored):
                known = ", ".join(list(self.stored)[:3])
                raise FathomError(
                    f"{self.path} has no matrix {pattern!r}{near(pattern, self.stored, then='it')} has {known}, ..."
                )
        kept = {n: s for n, s in self.stored.items() if not patterns or any(matches(n, p) for p in patterns)}
        return replace(self, stored=kept)

    def all_tensors(self) -> "Matrices":
        """With norms and biases too."""
        return replace(self, stored=our_tensors(self.require_opened()))

    def model(self) -> Transformer:
        """The model in fp32."""
        return read(self.require_opened(), torch.float32)

    def require_opened(self) -> Opened:
        if self.opened is None:
            raise FathomError(f"{self.path} is a file of tensors, not a model; an adapter needs the model it is for")
        return self.opened


def matches(name: str, pattern: str) -> bool:
    """A pattern matches a whole name or any part of it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*{pattern}*")


def open_matrices(path: str | Path) -> Matrices:
    """All matrices of a model of any format, or of a plain .safetensors file. FathomError where there are none."""
    place = Path(path)
    if is_plain(place):
        stored, opened = open_safetensors(place), None
        stored = {name: tensor for name, tensor in sorted(stored.items()) if tensor.kind in FLOATS}
    else:
        opened = open_model(path)
        place, stored = opened.path, our_tensors(opened)
    matrices = {name: tensor for name, tensor in stored.items() if len(tensor.shape) == 2 and 0 not in tensor.shape}
    if not matrices:
        raise FathomError(f"{place} holds no matrix: none of its tensors has two dimensions")
    return Matrices(place, matrices, opened)


def is_plain(place: Path) -> bool:
    """Whether this is a safetensors file with no model's config beside it."""
    return (
        place.is_file()
        and of_file(place) in ("hf", "run")
        and place.suffix == ".safetensors"
        and not any((place.parent / name).exists() for name in CONFIGS)
    )


def our_tensors(opened: Opened) -> dict[str, Stored]:
    """A model's tensors by our names, each converted when it is read; of two tied ones the first."""
    shapes = weight_shapes(opened.config)
    return {name: replace(x.stored, shape=shapes[name], read=x.read) for name, x in plan(opened).items()}


def require_same(base: Matrices, tuned: Matrices) -> None:
    """FathomError names what one of two files lacks or has in another shape, or a token that they spell differently."""
    problems = [f"{name!r} is in {base.path} alone" for name in base.stored if name not in tuned.stored]
    problems += [f"{name!r} is in {tuned.path} alone" for name in tuned.stored if name not in base.stored]
    problems += [
        f"{name!r} is {stored.shape} in {base.path} and {tuned.stored[name].shape} in {tuned.path}"
        for name, stored in base.stored.items()
        if name in tuned.stored and stored.shape != tuned.stored[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" * (len(problems) > 3)
        raise FathomError(f"these are not two versions of one model: {'; '.join(problems[:3])}{more}")
    first, second = (None if m.opened is None else m.opened.tokenizer() for m in (base, tuned))
    if first is None or second is None:
        return
    for id in range(min(first.vocab_size, second.vocab_size)):
        if (a := first.decode_bytes([id])) != (b := second.decode_bytes([id])):
            raise FathomError(
                f"token {id} is {a!r} in {base.path} and {b!r} in {tuned.path}; a change between two vocabularies"
                " means nothing: give two models of one tokenizer"
            )
    if first.vocab_size != second.vocab_size:
        raise FathomError(
            f"{base.path} has {first.vocab_size:,} tokens and {tuned.path} {second.vocab_size:,}; give one tokenizer"
        )
