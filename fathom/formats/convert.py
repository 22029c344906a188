"""All tensors of a model from one format to another: renamed, transposed, taken apart or put together.

Every tensor is accounted for: one that is missing, misshapen or unknown is an error. What is where comes from the table
in `names`. Does not know files: it reads and writes dicts of tensors by name.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.formats.names import family, places, rename
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.transformer import Transformer

# What some files carry and no model needs: masks and rotation angles, which are worked out anew.
WORKED_OUT = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq|rope\.freqs|rope_freqs\.weight)")


def from_ours(config: ModelConfig, state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of a file of format `kind` (hf, meta, gguf) from the state dict of `Transformer(config)`."""
    config, where = config.resolved(), places(config, kind)
    together: dict[str, list[str]] = {}
    for ours, place in sorted(where.items(), key=lambda item: item[1].part):
        together.setdefault(place.name, []).append(ours)
    return {
        name: where[parts[0]].write([state[ours] for ours in parts], heads(config, parts[0]))
        for name, parts in together.items()
    }


def to_ours(config: ModelConfig, stored: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The state dict of `Transformer(config)` from the tensors of a file of format `kind`."""
    config, where = config.resolved(), places(config, kind)
    if kind == "hf" and "wte.weight" in stored:  # the first GPT-2 files leave the first word of each name away
        stored = {f"transformer.{name}": tensor for name, tensor in stored.items()}
    account(config, stored, kind)
    state = {ours: place.read(stored[place.name], heads(config, ours)) for ours, place in where.items()}
    if config.tie_embeddings:
        state["unembed.weight"] = state["embed.weight"]
    return state


def account(config: ModelConfig, stored: Mapping[str, Tensor], kind: str) -> None:
    """FathomError unless a file holds exactly the tensors of this model, each in its shape."""
    with torch.device("meta"):
        expected = from_ours(config, Transformer(config).state_dict(), kind)
    spare = {name for name in stored if name not in expected and not WORKED_OUT.fullmatch(name)}
    if config.tie_embeddings:
        spare -= set(rename("unembed.weight", "ours", kind, family(config)))
    if missing := [name for name in expected if name not in stored]:
        raise FathomError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}{near(missing[0], spare)} "
            "The file and its config are not of one model"
        )
    if spare:
        unknown = min(spare)
        raise FathomError(
            f"{len(spare)} tensors have no place in this model, one is {unknown!r}{near(unknown, expected)} "
            "The file and its config are not of one model"
        )
    for name, tensor in expected.items():
        if stored[name].shape != tensor.shape:
            raise FathomError(f"{name!r} is {tuple(stored[name].shape)}; the config expects {tuple(tensor.shape)}")


def heads(config: ResolvedConfig, ours: str) -> int:
    """How many heads the rows of a tensor are for."""
    return config.n_kv_head if ".attn.k." in ours else config.n_head
