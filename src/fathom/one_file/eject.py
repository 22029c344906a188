"""`fathom.eject`: a model as one file of Python, with its weights beside it."""

import inspect
import json
import re
import runpy
import textwrap
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fathom import __version__
from fathom.adapters.load import load
from fathom.adapters.merge import merged_copy
from fathom.errors import FathomError
from fathom.files import atomic_write
from fathom.formats.safetensors_file import write_tensors
from fathom.generation import sampling
from fathom.model.cache import KVCache
from fathom.model.config import ResolvedConfig
from fathom.model.transformer import Transformer
from fathom.one_file import standalone
from fathom.one_file.lines import lines_of
from fathom.one_file.work import parsed
from fathom.one_file.written import source_of
from fathom.tokenizer.protocol import Tokenizer

SAMPLERS = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.pick)
PROBE = 16  # tokens that both models read before anything is written
USED = ("n_layer", "n_kv_head", "head_dim")  # fields of the config that the cache reads


@dataclass(frozen=True)
class Ejected:
    """The file, its lines and those of the model in it; what lies beside it."""

    path: Path
    lines: int
    model_lines: int
    weights: Path
    vocabulary: Path | None

    def __repr__(self) -> str:
        """As a terminal shows it."""
        words = [f"{self.path}: {self.lines} lines, {self.model_lines} of them the model; it needs torch alone"]
        words.append(f"{self.weights}: its weights; logits equal to the bit on {PROBE} tokens")
        if self.vocabulary:
            words.append(f"{self.vocabulary}: the bytes of its tokens")
        return "\n".join([*words, f"try it: python {self.path}"])


def eject(model: str | Path, out: str | Path, training: bool = False) -> Ejected:
    """Write a model as one file that needs torch alone: its forward pass, cache, sampling and loading.

        >>> fathom.eject("runs/demo", "mygpt.py").lines

    The source is the package's own, without what this model never does: it is made of the functions that run when the
    model runs here. out: a new .py file; the weights go beside it as .safetensors, in the dtype that they have (packed
    ones as fp32), adapters merged, and the bytes of the tokens as .vocab.json where there is a tokenizer. training:
    with `start`, which draws new weights, and `train`, a loop over tokens.

    FathomError where `out` is no name of a new .py file, or the logits of the file differ from the model's in one bit;
    nothing is written then.
    """
    path = Path(out)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise FathomError(f"{path} is no name of a Python file; expected one such as mygpt.py")
    beside = [path, path.with_suffix(".safetensors"), path.with_suffix(".vocab.json")]
    if there := [one for one in beside if one.exists()]:
        raise FathomError(f"{there[0]} exists; give another name, or remove it")
    loaded, tokenizer = load(model, device="cpu")
    plain = merged_copy(loaded)
    source, fields = source_of(plain.config)
    text = whole(source, fields, plain.config, tokenizer, path.stem, training)
    compare(text, plain)
    state = {name: value.contiguous() for name, value in plain.state_dict().items()}
    if plain.config.tie_embeddings:
        del state["unembed.weight"]
    vocabulary = None
    with atomic_write(beside[1]) as new:
        write_tensors(new, state)
    if tokenizer is not None:
        vocabulary = beside[2]
        with atomic_write(vocabulary) as new:
            new.write_text(json.dumps([one.hex() for one in pieces(tokenizer)]), encoding="utf-8")
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8")
    return Ejected(path, len(text.splitlines()), len(source.splitlines()), beside[1], vocabulary)


def whole(
    source: str,
    fields: set[str],
    config: ResolvedConfig,
    tokenizer: Tokenizer | None,
    name: str,
    training: bool = False,
) -> str:
    """The text of the file."""
    cache, running = inspect.getsource(standalone).split("# %% cache\n")[1].split("# %% running\n")
    running, loop, last = re.split(r"# %% \w+\n", running)
    running += loop.lstrip("\n") * training + last.lstrip("\n")
    begin, windows, rest = re.split(r"    # %% \w+\n\n", cache)
    windowed = "cache.visible" in source or "cache.keys" in source
    if not windowed:  # every layer sees all tokens
        rest = rest.replace("first, end = self.first(config.windows[layer]), ", "end = ").replace("first:end", ":end")
    cache = begin + windows * windowed + rest
    samplers = "\n\n\n".join("\n".join(lines_of(parsed(one), 0)) for one in SAMPLERS)
    body = "\n\n".join(
        part.strip("\n") + "\n" for part in (cache, source.replace("ContextOverflow", "ValueError"), samplers, running)
    )
    imports = ["argparse", "json", "math", "sys"]
    head = [
        f'"""{name}: one language model in one file, which needs torch alone. Made by fathom {__version__}.',
        f'`python {name}.py 1 15 7` continues these tokens; without any it begins a new text."""',
        "",
        *(f"import {each}" for each in imports if re.search(rf"\b{each}\.", body)),
        "from collections.abc import Iterator, Sequence",
        "from pathlib import Path",
        "from types import SimpleNamespace",
        f"from typing import Any{', NamedTuple' if 'NamedTuple' in body else ''}",
        "",
        "import torch",
        "import torch.nn.functional as F",
        "from torch import Tensor, nn",
        "",
        f'OUT, FIRST = float("-inf"), {sampling.FIRST}',
        *shape_of(config, fields, tokenizer, windowed),
    ]
    return "\n".join(head) + "\n\n\n" + body


def shape_of(config: ResolvedConfig, fields: set[str], tokenizer: Tokenizer | None, windowed: bool) -> list[str]:
    """The namespace `config` of the file."""
    names = [name for name in vars(config) if name in {*fields, *USED}]
    windows = [config.layers.window_of(layer) for layer in range(config.n_layer)]
    tokens = min(tokenizer.vocab_size, config.vocab_size) if tokenizer else config.vocab_size
    begin = (tokenizer.prefix if tokenizer else None) or [0]
    values = {name: repr(getattr(config, name)) for name in names}
    if windowed:
        values["windows"] = repr(windows) if any(windows) else f"[None] * {config.n_layer}"
    comments = {
        "windows": "how many tokens each layer sees; None: all",
        "tokens": "that it may write",
        "begin": "where a text starts",
    }
    values |= {"tokens": str(tokens), "begin": repr(begin)}
    sizes = textwrap.wrap(
        ", ".join(f"{name}={value}" for name, value in values.items() if name not in comments) + ",", 100
    )
    lines = [*sizes, *(f"{name}={values[name]},  # {said}" for name, said in comments.items() if name in values)]
    return ["config = SimpleNamespace(", *(f"    {line}" for line in lines), ")"]


def compare(text: str, model: Transformer) -> None:
    """FathomError where the model of the file is not this one, to the bit."""
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "ejected.py").write_text(text, encoding="utf-8")
        names = runpy.run_path(str(path))
    with torch.device("meta"):
        ejected = names["Transformer"]()
    ejected.load_state_dict(model.state_dict(), assign=True)
    ids = torch.arange(min(PROBE, model.config.context_length))[None] % model.config.vocab_size
    with torch.no_grad():
        found, expected = ejected.eval()(ids), model(ids)
        same = torch.equal(found, expected)
        if model.position.continues(1, ids.shape[1]):  # and over a cache, in two pieces
            weight, t = model.embed.weight, ids.shape[1]
            theirs, ours = names["KVCache"](t, weight), KVCache(model.config, 1, t, weight.dtype)
            same = same and all(torch.equal(ejected(x, theirs), model(x, ours)) for x in ids.tensor_split([1], dim=1))
    if not same:
        raise FathomError("the logits of the file are not the model's; please report this with the model's config")


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token adds to a text: after another one, since some drop the space of a first word."""
    first = max(set(range(tokenizer.vocab_size)) - tokenizer.added_ids, default=0)
    pairs = [id for each in range(tokenizer.vocab_size) for id in (first, each)]
    return tokenizer.token_bytes(pairs)[1::2]
