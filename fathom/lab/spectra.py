"""Matrices measured: singular values, the ranks that hold their energy, and a random matrix of the same shape beside.

Energy is squared singular values. Small matrices are decomposed exactly, products from their factors; of large ones the
strongest directions are found by sampling and the rest is known by its energy alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.svd import (
    control,
    control_of_product,
    effective_rank,
    energy_rank,
    finite,
    sampled_svd,
    singular_values,
    stable_rank,
    svd_of_product,
)
from fathom.errors import FathomError, near
from fathom.formats.convert import accounted, heads
from fathom.formats.detect import of_file, open_model
from fathom.formats.names import Place, places
from fathom.formats.opened import Opened, Stored
from fathom.formats.safetensors_file import DTYPES, open_safetensors
from fathom.model.config import ResolvedConfig

# The matrices of a file, opened but not read: of a model by our names, of any safetensors file by its own.
#
# What differs between two files is named before anything is computed. Norms and biases are vectors, have no rank, and
# are left out. Does not know what is done with a matrix.

BESIDE = ("config.json", "config.yaml", "params.json")  # what makes a file of tensors one of a model


@dataclass(frozen=True)
class Matrices:
    """Where they come from, how to read each, and the model they are of, None for a plain file."""

    path: Path
    stored: Mapping[str, Stored]
    opened: Opened | None = None

    def read(self, name: str) -> Tensor:
        """The tensor in fp32 at least. FathomError names it where it holds what is not a number."""
        try:
            return finite(self.stored[name].read())
        except FathomError as error:
            raise FathomError(f"{self.path}: {name!r}: {error}") from None

    def only(self, patterns: tuple[str, ...]) -> "Matrices":
        """Those whose names fit one of these patterns, such as *.attn.q*; no patterns: all."""
        for pattern in patterns:
            if not any(fits(name, pattern) for name in self.stored):
                known = ", ".join(list(self.stored)[:3])
                raise FathomError(
                    f"{self.path} has no matrix {pattern!r}{near(pattern, self.stored) or ';'} It has {known}, ..."
                )
        kept = {n: s for n, s in self.stored.items() if not patterns or any(fits(n, p) for p in patterns)}
        return Matrices(self.path, kept, self.opened)


def fits(name: str, pattern: str) -> bool:
    """A whole name, or a part of it between dots with or without stars."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*{pattern}*")


def open_matrices(path: str | Path) -> Matrices:
    """All matrices of a model of any format, or of a plain .safetensors file. FathomError where there are none."""
    place = Path(path)
    if is_plain(place):
        stored, opened = open_safetensors(place), None
        stored = {name: tensor for name, tensor in sorted(stored.items()) if tensor.kind in DTYPES}
    else:
        opened = open_model(path)
        place, stored = opened.path, ours(opened)
    found = {name: tensor for name, tensor in stored.items() if len(tensor.shape) == 2 and 0 not in tensor.shape}
    if not found:
        raise FathomError(f"{place} holds no matrix: none of its {len(stored)} tensors has two sides")
    return Matrices(place, found, opened)


def is_plain(place: Path) -> bool:
    """Whether this is a safetensors file with no model's config beside it."""
    return (
        place.is_file()
        and of_file(place) in ("hf", "run")
        and place.suffix == ".safetensors"
        and not any((place.parent / name).exists() for name in BESIDE)
    )


def ours(opened: Opened) -> dict[str, Stored]:
    """A model's tensors by our names, each read and laid out anew when it is asked for; of two tied ones the first."""
    config = opened.config.resolved()
    try:
        stored = accounted(config, opened.tensors, opened.names)
    except FathomError as error:
        raise FathomError(f"{opened.path}: {error}") from None
    if opened.names == "ours":
        return stored
    return {name: part(stored[place.name], place, config, name) for name, place in places(config, opened.names).items()}


def part(stored: Stored, place: Place, config: ResolvedConfig, name: str) -> Stored:
    """One of our tensors in the stored one that holds it."""
    shape = place.read(torch.empty(stored.shape, device="meta"), n_heads := heads(config, name)).shape
    read: Callable[[], Tensor] = partial(laid_out, stored, place, n_heads)
    return Stored(tuple(shape), stored.kind, stored.nbytes // place.parts, read)


def laid_out(stored: Stored, place: Place, n_heads: int) -> Tensor:
    return place.read(stored.read(), n_heads)


def same(base: Matrices, tuned: Matrices) -> list[str]:
    """The names that two files share. FathomError names what one of them lacks or has in another shape."""
    problems = [f"{name!r} is in {base.path} alone" for name in base.stored if name not in tuned.stored]
    problems += [f"{name!r} is in {tuned.path} alone" for name in tuned.stored if name not in base.stored]
    problems += [
        f"{name!r} is {there.shape} in {base.path} and {tuned.stored[name].shape} in {tuned.path}"
        for name, there in base.stored.items()
        if name in tuned.stored and there.shape != tuned.stored[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" * (len(problems) > 3)
        raise FathomError(f"these are not two versions of one model: {'; '.join(problems[:3])}{more}")
    same_words(base, tuned)
    return list(base.stored)


def same_words(base: Matrices, tuned: Matrices) -> None:
    """FathomError where both files have a tokenizer and a token is spelled differently."""
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


SHARES = (0.5, 0.9, 0.99)
LARGE = 2048  # the smaller side from which on a full decomposition takes minutes
SAMPLED = 256  # directions that are found of a larger one


@dataclass(frozen=True)
class Numbers:
    """What one spectrum says. A rank of None is more than was looked at; so is the effective rank."""

    rank_50: int | None  # directions that hold half the energy
    rank_90: int | None
    rank_99: int | None
    effective: float | None  # Roy & Vetterli 2007
    stable: float


@dataclass(frozen=True)
class Measured:
    """One matrix and its control. `missed` is None where all singular values are known, else |A - Q Q^T A|_F."""

    name: str
    shape: tuple[int, ...]
    norm: float  # Frobenius
    numbers: Numbers
    chance: Numbers  # of a random matrix, or a random product, of the same shape
    values: tuple[float, ...]  # singular values, from large to small
    missed: float | None = None

    @property
    def full(self) -> int:
        """The largest rank it could have."""
        return min(self.shape)


def numbers(s: Tensor, energy: float | None = None) -> Numbers:
    """Of all singular values, or of the largest ones of a matrix of this energy."""
    half, most, nearly = (energy_rank(s, share, energy) for share in SHARES)
    return Numbers(half, most, nearly, effective_rank(s) if energy is None else None, stable_rank(s, energy))


@lru_cache(maxsize=64)
def chance(shape: tuple[int, int], rank: int | None = None) -> Numbers:
    """Of a random matrix, or a random product through `rank` dimensions."""
    return numbers(control(shape, 1.0) if rank is None else control_of_product(shape, rank, 1.0))


def measure(name: str, matrix: Tensor) -> Measured:
    """A matrix (m, n)."""
    shape, norm = (matrix.shape[0], matrix.shape[1]), float(matrix.double().norm())
    if min(shape) <= LARGE:
        s = singular_values(matrix)
        return Measured(name, shape, norm, numbers(s), chance(shape), rounded(s))
    found = sampled_svd(matrix, SAMPLED)
    said = numbers(found.svd.s, norm**2)
    return Measured(name, shape, norm, said, chance(shape), rounded(found.svd.s), found.missed)


def measure_product(name: str, b: Tensor, a: Tensor) -> Measured:
    """b a, for b (m, r) and a (r, n), never multiplied out."""
    s, shape = svd_of_product(b, a).s, (b.shape[0], a.shape[1])
    return Measured(name, shape, float(s.double().norm()), numbers(s), chance(shape, b.shape[1]), rounded(s))


def rounded(s: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in s.tolist())


def spectra(matrices: Matrices) -> Iterator[Measured]:
    """Each matrix of a file in turn."""
    for name in matrices.stored:
        yield measure(name, matrices.read(name))
