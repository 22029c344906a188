"""All tensors of a model from one format to another: renamed, transposed, taken apart or put together.

Every tensor is accounted for: one that is missing, misshapen or unknown is an error. What is where comes from the table
in `names`. Reads one stored tensor after another, so that a model never lies in memory twice. Does not know files.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.formats.names import family, places, rename
from fathom.formats.opened import Stored
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.cost import n_parameters
from fathom.model.skeleton import weight_shapes

# What some files carry and no model needs: masks and rotation angles, which are worked out anew.
WORKED_OUT = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq|rope\.freqs|rope_freqs\.weight)")


def from_ours(config: ModelConfig, state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of a file of format `kind` (hf, meta, gguf) from the state dict of `Transformer(config)`."""
    return {name: make() for name, make in makers(config, state, kind).items()}


def makers(config: ModelConfig, state: Mapping[str, Tensor], kind: str) -> dict[str, Callable[[], Tensor]]:
    """`from_ours` for one tensor at a time: what is laid out anew need not all be in memory at once."""
    config, where = config.resolved(), places(config, kind)
    together: dict[str, list[str]] = {}
    for ours, place in sorted(where.items(), key=lambda item: item[1].part):
        together.setdefault(place.name, []).append(ours)
    return {
        name: partial(where[parts[0]].write, [state[ours] for ours in parts], heads(config, parts[0]))
        for name, parts in together.items()
    }


def to_ours(config: ModelConfig, stored: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The state dict of `Transformer(config)` from the tensors of a file of format `kind`."""
    state = dict(read_ours(config, {name: in_memory(tensor) for name, tensor in stored.items()}, kind))
    if config.tie_embeddings:
        state["unembed.weight"] = state["embed.weight"]
    return state


def in_memory(tensor: Tensor) -> Stored:
    """A tensor that is at hand, as one that lies in a file."""
    return Stored(tuple(tensor.shape), str(tensor.dtype), tensor.nbytes, lambda: tensor)


def read_ours(config: ModelConfig, stored: Mapping[str, Stored], kind: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of `Transformer(config)` with our name, read when its turn comes; of two tied ones the first."""
    for name, tensor, arranged in plan(config, stored, kind):
        yield name, arranged(tensor.read()) if arranged else tensor.read()


def plan(
    config: ModelConfig, stored: Mapping[str, Stored], kind: str
) -> Iterator[tuple[str, Stored, Callable[[Tensor], Tensor] | None]]:
    """For each of our tensors the stored one it comes from, and how it is made of that; None: it is that."""
    stored = accounted(config, stored, kind)
    if kind == "ours":
        yield from ((name, tensor, None) for name, tensor in stored.items())
        return
    config = config.resolved()
    for ours, place in places(config, kind).items():
        as_it_lies = not (place.transposed or place.pairs or place.parts > 1)
        yield ours, stored[place.name], None if as_it_lies else partial(place.read, heads=heads(config, ours))


def accounted(config: ModelConfig, stored: Mapping[str, Stored], kind: str) -> dict[str, Stored]:
    """The tensors that are read. FathomError unless they are exactly those of this model, each in its shape."""
    if kind == "hf" and "wte.weight" in stored:  # the first GPT-2 files leave the first word of each name away
        stored = {f"transformer.{name}": tensor for name, tensor in stored.items()}
    refuse_larger(config, stored)
    expected = shapes(config, kind)
    spare = {name for name in stored if name not in expected and not WORKED_OUT.fullmatch(name)}
    if config.tie_embeddings:
        spare -= {"unembed.weight"} if kind == "ours" else set(rename("unembed.weight", "ours", kind, family(config)))
    problems: list[tuple[str, str, Iterable[str]]] = [
        *((name, "is missing", spare) for name in expected if name not in stored),
        *((name, "has no place in this model", expected) for name in sorted(spare)),
        *(
            (name, f"is {tuple(stored[name].shape)}; the config expects {shape}", ())
            for name, shape in expected.items()
            if name in stored and tuple(stored[name].shape) != shape
        ),
    ]
    if problems:
        shown = [f"{name!r} {what}{near(name, known)}" for name, what, known in problems[:4]]  # near is slow
        more = f"; and {len(problems) - 4} more" * (len(problems) > 4)
        raise FathomError(f"the tensors and the config are not of one model: {'; '.join(shown)}{more}")
    return {name: stored[name] for name in expected}


def refuse_larger(config: ModelConfig, stored: Mapping[str, Stored]) -> None:
    """FathomError where a config speaks of a model many times larger than the file, before its parts are listed."""
    held = sum(math.prod(tensor.shape) for tensor in stored.values())
    if config.resolved().n_layer > len(stored) or n_parameters(config) > 8 * held + 1_000_000:
        raise FathomError(
            f"the config has n_layer={config.n_layer} and {n_parameters(config):,} parameters; the file has"
            f" {len(stored):,} tensors with {held:,} numbers; they are not of one model"
        )


def shapes(config: ModelConfig, kind: str) -> dict[str, tuple[int, ...]]:
    """The tensors that a file of format `kind` holds of this model; of two tied ones the first."""
    ours = weight_shapes(config)
    if kind == "ours":
        return dict(ours)
    state = {name: torch.empty(shape, device="meta") for name, shape in ours.items()}
    return {name: tuple(x.shape) for name, x in from_ours(config, state, kind).items()}


def heads(config: ResolvedConfig, ours: str) -> int:
    """How many heads the rows of a tensor are for."""
    return config.n_kv_head if ".attn.k." in ours else config.n_head
