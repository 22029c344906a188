"""The names of everything that can be seen in a model, known from its config alone.

One name per thing. Shape letters: b rows, t queries, s keys, d d_model, h heads, g KV heads, c head_dim, f d_ff,
V vocabulary, e experts. Patterns: `*` matches within one part of a name, `**` across parts. Does not import torch.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fathom.anatomy.cost import MATRICES
from fathom.errors import FathomError, near
from fathom.model.config import Experts, ModelConfig

UNITS = {"": 1, "B": 1} | {f"{p}{b}": k**i for i, p in enumerate("KMGT", 1) for b, k in (("B", 1000), ("iB", 1024))}


@dataclass(frozen=True)
class Size:
    """One pass: `batch` rows of t queries over s keys (s > t where a cache holds the past)."""

    batch: int
    t: int
    s: int


def names(config: ModelConfig) -> dict[str, str]:
    """Every name this model has, in the order of computation, with its shape in letters."""
    config = config.resolved()
    result = {"embed": "btd"} | ({"embed_norm": "btd"} if config.scale.embed_norm else {})
    if config.position == "learned":
        result["position"] = "btd"
    for layer in range(config.n_layer):
        result |= {f"blocks.{layer}{name}": letters for name, letters in block_names(config.block(layer)).items()}
    return result | {"final_norm": "btd", "logits": "btV"}


def block_names(config: ModelConfig) -> dict[str, str]:
    """The names of one block, after `blocks.L`; "" is the block's output, the residual stream after it."""
    result = {".resid_pre": "btd", ".attn_norm": "btd", ".attn.q": "bthc", ".attn.k": "btgc", ".attn.v": "btgc"}
    if config.position == "rope" or config.qk_norm != "off" or config.scale.attn or config.scale.attn_by_layer:
        result |= {".attn.q_rot": "bthc", ".attn.k_rot": "btgc"}
    result |= {".attn.scores": "bhts", ".attn.pattern": "bhts", ".attn.z": "bthc", ".attn": "btd"}
    after = config.residual in ("post", "sandwich")
    result |= {".attn_after": "btd"} if after else {}
    if isinstance(config.mlp, Experts):
        routing = {".mlp.router": "bte", ".mlp.weights": "bte", ".mlp.tokens": "e"}
        result |= {".resid_mid": "btd", ".mlp_norm": "btd", **routing, ".mlp": "btd"}
    elif config.mlp != "none":
        gate = {".mlp.gate": "btf"} if "gate" in MATRICES[config.mlp] else {}
        result |= {".resid_mid": "btd", ".mlp_norm": "btd", **gate, ".mlp.up": "btf", ".mlp.act": "btf", ".mlp": "btd"}
    result |= {".mlp_after": "btd"} if after and config.mlp != "none" else {}
    return result | {"": "btd"}


def canonical(name: str) -> str:
    """`blocks.3.resid_post` is another name of `blocks.3`."""
    return name.removesuffix(".resid_post")


def select(config: ModelConfig, patterns: Iterable[str]) -> list[str]:
    """The names that match any pattern, in the order of computation. FathomError for a pattern that matches none."""
    known, chosen = names(config), set()
    if not (patterns := list(patterns)):
        raise FathomError("nothing to look at: no pattern was given; give names such as 'blocks.*.attn.pattern'")
    for pattern in patterns:
        matched = {name for name in known if matches(canonical(pattern), name)}
        if not matched:
            raise FathomError(f"{pattern!r} matches nothing in this model{_hint(pattern, known)}")
        chosen |= matched
    return [name for name in known if name in chosen]


def matches(pattern: str, name: str) -> bool:
    """`*` matches within one part of a dotted name, `**` across parts; everything else is literal."""
    wild = {"**": ".*", "*": "[^.]*"}
    return re.fullmatch("".join(wild.get(p) or re.escape(p) for p in re.split(r"(\*+)", pattern)), name) is not None


def _hint(pattern: str, known: Iterable[str]) -> str:
    """Near matches, with a wildcard for the layer where the pattern has one."""
    candidates = dict.fromkeys(re.sub(r"\.\d+", ".*", name) if "*" in pattern else name for name in known)
    return near(pattern, candidates) or f"; examples are {', '.join(list(candidates)[:4])}"


def shapes(config: ModelConfig, size: Size) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a pass of this size."""
    config = config.resolved()
    sizes = {"b": size.batch, "t": size.t, "s": size.s, "d": config.d_model, "f": config.d_ff}
    sizes |= {"h": config.n_head, "g": config.n_kv_head, "c": config.head_dim, "V": config.vocab_size}
    sizes |= {"e": config.mlp.n} if isinstance(config.mlp, Experts) else {}
    width = {f"blocks.{layer}": config.block(layer).d_ff for layer in range(config.n_layer)}
    own = {name: sizes | {"f": width.get(name.rpartition(".mlp")[0], 0)} for name in names(config)}
    return {name: tuple(own[name][letter] for letter in letters) for name, letters in names(config).items()}


def n_bytes(config: ModelConfig, chosen: Iterable[str], size: Size, itemsize: int) -> dict[str, int]:
    """Bytes of each chosen name, largest first."""
    every = shapes(config, size)
    counts = {name: itemsize * math.prod(every[name]) for name in chosen}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def check_budget(config: ModelConfig, chosen: Iterable[str], size: Size, itemsize: int, max_bytes: int) -> None:
    """FathomError naming the largest tensors where the chosen names need more than `max_bytes`."""
    needed = n_bytes(config, chosen, size, itemsize)
    if (total := sum(needed.values())) > max_bytes:
        largest = ", ".join(f"{name} {readable(count)}" for name, count in list(needed.items())[:3])
        raise FathomError(
            f"recording would keep {readable(total)}, more than max_bytes={readable(max_bytes)} (largest: {largest}); "
            "choose fewer names, a shorter text or a larger max_bytes"
        )


def to_bytes(text: str | int) -> int:
    """2147483648 from "2GiB"; a plain number is bytes."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[1].count(".") > 1 or match[1] == "." or match[2] not in UNITS:
        raise FathomError(f"max_bytes is {text!r}; expected a number of bytes or a text such as '2GiB'")
    return int(float(match[1]) * UNITS[match[2]])


def readable(count: int) -> str:
    """3.2 MiB from 3355443."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
