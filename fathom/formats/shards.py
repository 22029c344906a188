"""Weights of a Hugging Face folder in one file or several, with an index that says which tensor lies where.

The index is a promise that is checked: every file is there, holds what is listed and nothing else, and lies in the
folder. Does not know what the tensors are.
"""

from pathlib import Path

from fathom.errors import FathomError, near
from fathom.formats.json_file import read_object, short
from fathom.formats.opened import Stored
from fathom.formats.safetensors_file import open_safetensors

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
MOST_FILES = 1000  # 405 billion parameters come in 191


def open_weights(path: Path) -> tuple[dict[str, Stored], list[Path]]:
    """All tensors of a weights file or of a folder, and the files they are in."""
    if path.is_file():
        return open_file(path), [path]
    for name in (SAFE, PICKLED):
        one, index = path / name, path / (name + INDEX)
        if one.is_file() and index.is_file():
            raise FathomError(f"{path} holds {one.name} and {index.name}, which may be two models; remove one")
        if index.is_file():
            return _open_shards(index)
        if one.is_file():
            return open_file(one), [one]
    alone = sorted(path.glob("*.safetensors"))
    if len(alone) != 1:
        said = f"{len(alone)} safetensors files, none of them {SAFE}" if alone else "no weights"
        raise FathomError(f"{path} holds {said}, and no index; expected {SAFE}, {SAFE}{INDEX} or {PICKLED}")
    return open_file(alone[0]), alone


def open_file(path: Path) -> dict[str, Stored]:
    """The tensors of one file: safetensors, or what torch.save wrote (a zip file)."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
    except OSError as problem:
        raise FathomError(f"{path} cannot be read ({problem.strerror or problem}); expected weights") from None
    if zipped:
        from fathom.formats.pickle import open_pickle  # here: most models are safetensors

        return open_pickle(path)
    return open_safetensors(path)


def _open_shards(index: Path) -> tuple[dict[str, Stored], list[Path]]:
    listed = read_index(index)
    tensors: dict[str, Stored] = {}
    for file, names in listed.items():
        found = open_file(file)
        _compare(index, file, names, set(found))
        tensors |= found
    return tensors, list(listed)


def _compare(index: Path, file: Path, listed: set[str], found: set[str]) -> None:
    for names, what in ((listed - found, "is not in it"), (found - listed, "is in it, but not listed")):
        if names:
            one = min(names)
            raise FathomError(
                f"{index} does not fit {file.name}: {short(one)} {what}{near(one[:100], (found | listed) - names)};"
                f" {len(names)} such; fetch both again"
            )


def read_index(index: Path) -> dict[Path, set[str]]:
    """Each file of the index and the tensors that it should hold. Every file lies beside the index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FathomError(f"{index}: weight_map is {short(weight_map)}; expected tensors and the files they are in")
    listed: dict[Path, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0") or len(name) > 255:
            raise FathomError(f"{index}: {short(tensor)} lies in {short(name)}; expected a file of this folder")
        listed.setdefault(index.parent / name, set()).add(tensor)
    absent = [file.name for file in listed if not file.is_file()]
    if absent or len(listed) > MOST_FILES:
        what = f"{len(absent)} of {len(listed)} files are absent, the first is {short(absent[0])}" if absent else ""
        raise FathomError(f"{index}: {what or f'{len(listed)} files are listed'}; fetch the model again")
    return listed
