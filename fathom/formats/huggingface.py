"""A folder of Hugging Face: config.json, weights in safetensors, a tokenizer; or one weights file with all that beside.

Nothing is converted on disk: tensors stay where they are, mapped into memory. Layout and file names are those of
transformers' save_pretrained. Tensor names are the column `hf` of `names`; what they become is not known here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fathom.errors import FathomError, near
from fathom.families.family import Family
from fathom.families.registry import from_hf, of
from fathom.files import new_folder, sync
from fathom.formats.convert import from_ours
from fathom.formats.opened import FLOATS, Opened, Stored
from fathom.formats.safetensors_file import open_safetensors, write_tensors
from fathom.json_file import LARGEST, read_object, short
from fathom.model.config import ModelConfig
from fathom.tokenizer.protocol import Tokenizer

# Weights of a Hugging Face folder in one file or several, with an index that says which tensor lies where.
#
# The index is a promise that is checked: every file is there, holds what is listed and nothing else, and lies in the
# folder. Does not know what the tensors are.

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
        from fathom.formats.torch_file import open_pickle  # here: most models are safetensors

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


CONFIG, GENERATION, README = "config.json", "generation_config.json", "README.md"
SAID = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_length")


def open_huggingface(path: Path) -> Opened:
    """The model in a folder, or in one weights file with config.json beside it."""
    folder = path if path.is_dir() else path.parent
    values = read_object(folder / CONFIG)
    generation = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    family, config = from_hf(values, str(folder / CONFIG))
    tensors, files = open_weights(path)
    tensors = _weights(family, tensors, path)
    ends = read_ends(folder, values, generation, config.vocab_size)

    def tokenizer() -> Tokenizer | None:
        from fathom.tokenizer.load import read_folder

        return read_folder(folder, config.vocab_size, ends)

    kind = "safetensors" if files[0].suffix == ".safetensors" else "pickled"
    name = f"Hugging Face, {kind}, {len(files)} file{'s' * (len(files) > 1)}"
    return Opened(path, name, config, family, "hf", tensors, tokenizer, about(folder, values, generation))


def _weights(family: Family, tensors: dict[str, Stored], path: Path) -> dict[str, Stored]:
    """The tensors that a model needs. FathomError names one whose numbers are not plain floats."""
    tensors = family.weights("hf", tensors)
    for name, stored in tensors.items():
        if stored.kind not in FLOATS:
            raise FathomError(
                f"{path}: tensor {name!r} is {stored.kind}; supported are {', '.join(FLOATS)}: fetch the model in one"
                " of them, not a quantised copy"
            )
    return tensors


def read_ends(folder: Path, values: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int) -> list[int]:
    """The ids after which generation ends, from both files. An id that the model cannot give is left out."""
    ends: list[int] = []
    for said, name in ((generation, GENERATION), (values, CONFIG)):
        value = said.get("eos_token_id")
        ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(id) is int and abs(id) <= LARGEST for id in ids):
            raise FathomError(f"{folder / name}: eos_token_id is {short(value)}; expected a token id or a list of them")
        ends += [id for id in ids if 0 <= id < vocab_size]
    return list(dict.fromkeys(ends))


def about(folder: Path, values: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """What the files say of themselves, as far as it is short."""
    said = {name: values[name] for name in SAID if values.get(name) is not None}
    sampling = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
    said |= {"generation": sampling} if sampling else {}
    said |= {"licence": licence} if (licence := _licence(folder / README)) else {}
    return {name: value for name, value in said.items() if len(json.dumps(value)) < 1000}


def _licence(readme: Path) -> str:
    """`license: ...` of a model card's head, which stands between two lines of ---."""
    try:
        with readme.open("rb") as file:
            start = file.read(8192).decode("utf-8", "replace")
    except OSError:
        return ""
    head = re.match(r"---\n(.*?)\n---", start, re.DOTALL)
    line = re.search(r"^license:[ \t]*([\w.-]+)", head[1], re.MULTILINE) if head else None
    return line[1] if line else ""


def write_huggingface(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """A folder that transformers loads unaided. It is there whole or not at all; one that holds files is refused."""
    tensors = from_ours(config, state, "hf")
    ids = _special_ids(tokenizer)
    values = of(config).write("hf", config) | ids | {name: _dtype(tensors) for name in ("dtype", "torch_dtype")}
    files = {CONFIG: _json(values), GENERATION: _json(ids), **_tokenizer_files(tokenizer)}
    with new_folder(folder) as partial:
        for name, content in files.items():
            (partial / name).write_bytes(content)
            sync(partial / name)
        _write_weights(partial, tensors, shard_bytes)


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    shards = _cut(tensors, shard_bytes)
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [SAFE]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, {tensor: tensors[tensor] for tensor in shard})
        sync(folder / name)
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
        (folder / (SAFE + INDEX)).write_bytes(_json({"metadata": total, "weight_map": places}))
        sync(folder / (SAFE + INDEX))


def _cut(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """The names in order, a new shard begun where the next tensor would make it larger than allowed."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """bos and eos as config.json and generation_config.json name them; null where there is none."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None}
    ends = sorted(tokenizer.special.end_ids, key=lambda id: (id != tokenizer.eos, id))  # eos first
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None)}


def _tokenizer_files(tokenizer: Tokenizer | None) -> dict[str, bytes]:
    if tokenizer is None:
        return {}
    from fathom.tokenizer.load import to_folder

    return to_folder(tokenizer)


def _dtype(tensors: Mapping[str, Tensor]) -> str:
    """What most of the numbers are, such as `bfloat16`."""
    kinds: dict[str, int] = {}
    for tensor in tensors.values():
        kinds[str(tensor.dtype)] = kinds.get(str(tensor.dtype), 0) + tensor.numel()
    return max(kinds, key=lambda kind: kinds[kind]).removeprefix("torch.")


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode("utf-8")
