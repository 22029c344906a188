"""The matrices of a file, opened but not read: of a model by our names, of any safetensors file by its own.

What differs between two files is named before anything is computed. Norms and biases are vectors, have no rank, and are
left out. Does not know what is done with a matrix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters.svd import finite
from fathom.errors import FathomError, near
from fathom.formats.convert import accounted, heads
from fathom.formats.detect import of_file, open_model
from fathom.formats.names import Place, places
from fathom.formats.opened import Opened, Stored
from fathom.formats.safetensors_file import DTYPES, open_safetensors
from fathom.model.config import ResolvedConfig

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
