"""A folder of Hugging Face: config.json, weights in safetensors, a tokenizer; or one file of weights beside them.

Nothing is converted on disk: tensors are mapped into memory. Layout and file names are those of transformers'
save_pretrained. An index of several files is checked: they are all there and hold what is listed and nothing else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import FathomError, near
from fathom.families.family import Family
from fathom.families.registry import from_hf, of, with_id
from fathom.files import new_folder, sync
from fathom.formats.carried import with_carried
from fathom.formats.convert import from_ours
from fathom.formats.opened import DTYPES, FLOATS, Opened, Stored
from fathom.formats.pickle_machine import is_legacy
from fathom.formats.quantized import how_packed, old_settings, settings_of, unpacked, unquantised
from fathom.formats.safetensors_file import open_safetensors, write_tensors
from fathom.formats.saved_names import prefixed, transposed, unwrapped, with_head, without_empty_biases
from fathom.formats.text_part import text_part, text_tensors
from fathom.formats.torch_file import open_pickle
from fathom.json_file import LARGEST, read_object, short
from fathom.model.config import ModelConfig
from fathom.tokenizer.load import read_folder, to_folder, with_generation
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import article, counted

if TYPE_CHECKING:
    from torch import Tensor


CONFIG, GENERATION, README = "config.json", "generation_config.json", "README.md"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
MOST_FILES = 1000  # 405 billion parameters come in 191
PROVENANCE = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_length")


def open_huggingface(path: Path) -> Opened:
    """The model in a folder, or in one file of weights with config.json beside it."""
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file():
        raise FathomError(f"{path}: no {CONFIG} beside these weights; put the model's own in the same folder")
    values = read_object(folder / CONFIG)
    part = text_part(values)
    generation = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    family, config = read_config(unquantised(part), folder)
    settings = settings_of(values, str(folder / CONFIG))
    found, files = open_weights(path)
    whole = unwrapped(found, str(path))
    stored_as = prefixed(family, whole if part is values else text_tensors(whole))
    settings = settings or old_settings(folder, stored_as)
    tensors = stored_as if settings is None else unpacked(settings, stored_as, str(path))
    packed = {name for name, stored in tensors.items() if stored_as.get(name) is not stored}
    tensors = transposed(family, family.weights("hf", tensors, config.n_layer), packed)
    tensors = without_empty_biases(family, config, tensors, packed)
    config = with_head(family, config, tensors, path)
    for name, stored in tensors.items():
        if stored.kind not in FLOATS and stored.unpack is None:
            raise FathomError(
                f"{path}: tensor {name!r} is {stored.kind}; supported are {', '.join(FLOATS)} and F8, and whole numbers"
                " where quantization_config says how they are packed: fetch the model again"
            )
    ends = read_ends(folder, {**part, **values}, generation, config.vocab_size)
    tokenizer = partial(_with_settings, folder, config.vocab_size, ends, generation)
    kind = "safetensors" if files[0].suffix == ".safetensors" else "pickled"
    format = f"Hugging Face, {kind}, {counted(len(files), 'file')}"
    about = metadata(folder, values, generation)
    if part is not values:
        format += f", the text part of {article(values['model_type'])} model, which reads no pictures here"
    if settings is not None:
        format += f", {how_packed(settings, [stored for name, stored in tensors.items() if name in packed])}"
        about |= shortened({"quantization": dict(settings.entries)})
    return Opened(path, format, config, family, "hf", tensors, tokenizer, about)


def read_config(values: Mapping[str, Any], folder: Path) -> tuple[Family, ModelConfig]:
    """The family and the config of the model. FathomError where it is not supported; its own code is never run."""
    try:
        return from_hf(values, str(folder / CONFIG))
    except FathomError as problem:
        if with_id("hf", values.get("model_type")) is None and (own := values.get("auto_map")):
            code = next((str(x) for x in own.values()), "") if isinstance(own, dict) else own
            raise FathomError(
                f"{problem}; the folder brings its own code ({short(code)}), which is never run"
            ) from None
        raise


def open_weights(path: Path) -> tuple[dict[str, Stored], list[Path]]:
    """All tensors of a file of weights or of a folder, and the files they are in."""
    if path.is_file():
        return open_file(path), [path]
    for name in (SAFE, PICKLED):
        one, index = path / name, path / (name + INDEX)
        if one.is_file() and index.is_file() and not only_lists(index, one):
            raise FathomError(f"{path} holds {one.name} and {index.name}, which may be two models; remove one")
        if index.is_file():
            return _open_shards(index)
        if one.is_file():
            return open_file(one), [one]
    others = sorted(path.glob("*.safetensors"))
    if len(others) != 1:
        actual = f"{len(others)} safetensors files, none of them {SAFE}" if others else "no weights"
        raise FathomError(f"{path} holds {actual}, and no index; expected {SAFE}, {SAFE}{INDEX} or {PICKLED}")
    return open_file(others[0]), others


def only_lists(index: Path, one: Path) -> bool:
    """Whether the index of a model in one file names that file alone: mlx-lm writes both."""
    weight_map = read_object(index).get("weight_map")
    return isinstance(weight_map, dict) and set(map(str, weight_map.values())) == {one.name}


def open_file(path: Path) -> dict[str, Stored]:
    """The tensors of one file: safetensors, or what torch.save wrote, today or before version 1.6."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as problem:
        raise FathomError(f"{path} cannot be read ({problem.strerror or problem}); expected weights") from None
    return open_pickle(path) if start.startswith(b"PK") or is_legacy(start) else open_safetensors(path, DTYPES)


def _open_shards(index: Path) -> tuple[dict[str, Stored], list[Path]]:
    tensors: dict[str, Stored] = {}
    listed = read_index(index)
    for file, names in listed.items():
        actual = open_file(file)
        missing, spare = names - actual.keys(), actual.keys() - names
        for wrong, what in ((missing, "is not in it"), (spare, "is in it, but not listed")):
            if wrong:
                one = min(wrong)
                raise FathomError(
                    f"{index} does not fit {file.name}: {short(one)} {what}"
                    f"{near(one[:100], (actual.keys() | names) - wrong)}; {len(wrong)} such; fetch both again"
                )
        tensors |= actual
    return tensors, list(listed)


def read_index(index: Path) -> dict[Path, set[str]]:
    """Each file of the index and the tensors that it should hold. Every file is beside the index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FathomError(f"{index}: weight_map is {short(weight_map)}; expected tensors and the files they are in")
    listed: dict[Path, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0") or len(name) > 255:
            raise FathomError(f"{index}: {short(tensor)} is in {short(name)}; expected a file of this folder")
        listed.setdefault(index.parent / name, set()).add(tensor)
    absent = [file.name for file in listed if not file.is_file()]
    if absent or len(listed) > MOST_FILES:
        what = f"{len(absent)} of {len(listed)} files are absent, the first is {short(absent[0])}" if absent else ""
        raise FathomError(f"{index}: {what or f'{len(listed)} files are listed'}; fetch the model again")
    return listed


def read_ends(folder: Path, values: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int) -> list[int]:
    """The ids that end a text, from both files, but for those outside the vocabulary."""
    ends: list[int] = []
    for keys, name in ((generation, GENERATION), (values, CONFIG)):
        value = keys.get("eos_token_id")
        ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(id) is int and abs(id) <= LARGEST for id in ids):
            raise FathomError(f"{folder / name}: eos_token_id is {short(value)}; expected a token id or a list of them")
        ends += [id for id in ids if 0 <= id < vocab_size]
    return list(dict.fromkeys(ends))


def metadata(folder: Path, values: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance, settings of sampling and the licence, as far as they are short."""
    known = {name: values[name] for name in PROVENANCE if values.get(name) is not None}
    sampling = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
    known |= {"generation": sampling} if sampling else {}
    known |= {"licence": licence} if (licence := _licence(folder / README)) else {}
    return shortened(known)


def shortened(known: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is longer than a few lines."""
    return {name: value for name, value in known.items() if len(json.dumps(value)) < 1000}


def _licence(readme: Path) -> str:
    """`license: ...` in the head of a model card, which is between two lines of ---."""
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
    source: Path | None = None,
) -> None:
    """A folder that transformers loads, written whole or not at all. FathomError where it holds files already.

    source: the Hugging Face folder that the model came from, whose other settings are kept.
    """
    tensors = from_ours(config, state, "hf")
    ids = _special_ids(tokenizer)
    values = of(config).write("hf", config) | ids | {name: _dtype(tensors) for name in ("dtype", "torch_dtype")}
    files = {CONFIG: _json(values), **tokenizer_files(tokenizer)}
    if source is not None:
        files = with_carried(files, source, tokenizer, config.vocab_size)
    with new_folder(folder) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(content)
            sync(new / name)
        _write_weights(new, tensors, shard_bytes)


def tokenizer_files(tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """What says how texts become ids, where they end, and how they are best generated."""
    if tokenizer is None:
        return {GENERATION: _json(_special_ids(tokenizer))}
    return {GENERATION: _json({**tokenizer.special.generation, **_special_ids(tokenizer)}), **to_folder(tokenizer)}


def read_tokenizer(folder: Path, vocab_size: int, base: Tokenizer | None = None) -> Tokenizer | None:
    """The tokenizer of a folder without weights; where its own files do not say what ends a text and how texts are
    best generated, as the base's does."""
    generation = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    ends = read_ends(folder, {}, generation, vocab_size)
    if base is not None:
        ends, generation = ends or sorted(base.special.end_ids), {**base.special.generation, **generation}
    return _with_settings(folder, vocab_size, ends, generation)


def _with_settings(
    folder: Path, vocab_size: int, ends: Sequence[int], generation: Mapping[str, Any]
) -> Tokenizer | None:
    """The tokenizer of a folder, with the entries of generation_config.json that are no ids."""
    tokenizer = read_folder(folder, vocab_size, ends)
    own = {name: x for name, x in generation.items() if x is not None and not name.startswith("_")}
    settings = {name: x for name, x in own.items() if not name.endswith(("_token_id", "_version"))}
    return tokenizer if tokenizer is None else with_generation(tokenizer, settings)


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
    """The names of each shard, in order; a tensor that would make one too large begins the next."""
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
    """bos and eos as in config.json and generation_config.json; null where there is none."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None}
    ends = sorted(tokenizer.special.end_ids, key=lambda id: (id != tokenizer.eos, id))  # eos first
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None)}


def _dtype(tensors: Mapping[str, Tensor]) -> str:
    """The type of most numbers, such as `bfloat16`."""
    kinds = Counter[str]()
    for tensor in tensors.values():
        kinds[str(tensor.dtype)] += tensor.numel()
    return kinds.most_common(1)[0][0].removeprefix("torch.")


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode("utf-8")
