"""adapter_config.json as the peft library writes it: rank, alpha and what else one must know to use the matrices.

Fields that would mean something else than what is computed here are refused, also those that peft does not have yet.
Does not know models or tensors.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.adapters.options import scale_of
from fathom.errors import FathomError
from fathom.formats.convert import read_ours
from fathom.formats.detect import open_model
from fathom.json_file import LARGEST, field, read_object, short
from fathom.quant.schemes import SCHEMES

# One matrix, or three that a format keeps as one: an adapter of q, k and v as an adapter of GPT-2's c_attn, and back.
#
# With one a for all three, their b lie one below the other. With three, their a do, and b has blocks: the ranks add
# up. Lengths of rows (DoRA) lie one below the other either way. Does not know files.

#     a = a_q     b = b_q  .   .       rank r_q + r_k + r_v
#         a_k          .  b_k  .
#         a_v          .   .  b_v


@dataclass(frozen=True)
class Factors:
    """scale b a, and the lengths of the rows of W + scale b a where they are learned too."""

    a: Tensor  # (r, in)
    b: Tensor  # (out, r)
    scale: float
    magnitude: Tensor | None = None  # (out,)
    table: bool = False  # of an embedding: columns of a are looked up

    @property
    def rank(self) -> int:
        return len(self.a)


def fuse(parts: Sequence[Factors | None], magnitudes: Sequence[Tensor], outs: Sequence[int]) -> Factors:
    """One adapter of all rows. None: a part without one; `magnitudes`: of its rows then. `outs`: how many rows each
    part has. Where scales differ, b takes the difference."""
    there = [part for part in parts if part is not None]
    scale, shared = there[0].scale, all(torch.equal(part.a, there[0].a) for part in there)
    widths = [0 if part is None else part.rank for part in parts]
    b = torch.zeros(sum(outs), there[0].rank if shared else sum(widths))
    for i, part in enumerate(parts):
        if part is not None:
            column = 0 if shared else sum(widths[:i])
            b[sum(outs[:i]) : sum(outs[: i + 1]), column : column + part.rank] = part.b * (part.scale / scale)
    lengths = [rows if part is None else part.magnitude for part, rows in zip(parts, magnitudes)]
    whole = None if there[0].magnitude is None else torch.cat([x for x in lengths if x is not None])
    return Factors(there[0].a if shared else torch.cat([part.a for part in there]), b, scale, whole)


def split(whole: Factors, outs: Sequence[int]) -> list[Factors | None]:
    """One adapter for each part, None where it would do nothing. What is 0 in a part but not in all, is left out there:
    so the blocks that `fuse` made are again what they were."""
    used = (whole.b != 0).any(0)  # (r,)
    lengths = [None] * len(outs) if whole.magnitude is None else whole.magnitude.split(list(outs))
    found: list[Factors | None] = []
    for b, magnitude in zip(whole.b.split(list(outs)), lengths):
        keep = (b != 0).any(0) | ~used  # (r,)
        if magnitude is not None and not keep.any():
            keep[0] = True
        part = Factors(whole.a[keep].clone(), b[:, keep].clone(), whole.scale, magnitude)
        found.append(part if keep.any() else None)
    return found


# Which model an adapter was made for: a hash by which it knows its base again.
#
# The same for every format and every 16- or 32-bit copy of one model. Does not know adapters.

SAMPLES = 64  # of each tensor, so that a file of many gigabytes need not be read


def fingerprint(path: str | Path) -> str:
    """SHA-256, in hex, of each tensor's name (ours), shape and 64 of its numbers, rounded to bfloat16."""
    opened, digest = open_model(path), hashlib.sha256()
    for name, tensor in read_ours(opened.config, opened.tensors, opened.names):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(samples(tensor).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def samples(tensor: Tensor) -> Tensor:
    """64 numbers from all over a tensor of one or two dimensions, which is not copied for that."""
    places = torch.arange(SAMPLES)
    return tensor[tuple((places * 7919 + places // 7 + size // 2) % size for size in tensor.shape)].cpu()


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OURS = "fathom"  # our own field: of which base the adapter is
READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "target_modules"}
READ |= {"rank_pattern", "alpha_pattern", "bias", "layers_to_transform", "exclude_modules", OURS}
IGNORED = {  # they say where it comes from, how it was started, or what the files show themselves
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version",
    "fan_in_fan_out", "layers_pattern", "megatron_core", "eva_config", "qalora_group_size", "runtime_config",
}  # fmt: skip
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica", "pissa")  # others leave another base behind
# Patterns are regular expressions in peft. These parts of them suffice, and none can take for ever.
PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.|\.\*|\\d\+?|\[[\w-]+\]\+?|\((?:\?:)?[\w.|-]+\))+\$?")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the file says, checked."""

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    pissa: bool  # the base is meant to be without its largest directions
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...]  # all layers of these names have an adapter; empty: the tensors show it
    base: str  # the fingerprint of the base, if it says one
    quantize: str  # how the base was packed, if it says so

    def rank_of(self, module: str) -> int:
        return int(first(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        return scale_of(self.rank_of(module), first(self.alphas, module, self.alpha), self.rslora)


def first(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that fits the end of a module's name, as peft looks it up."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), default)


def read_said(path: Path) -> Said:
    """adapter_config.json. FathomError where it is damaged, or asks for what is not done here."""
    values, where = read_object(path), str(path)
    refuse(values, where)
    rank, alpha = field(values, "r", int, where), field(values, "lora_alpha", float, where)
    dropout = field(values, "lora_dropout", float, where, 0.0)
    alphas = {k: field({"alpha": v}, "alpha", float, where) for k, v in pairs(values, "alpha_pattern", where)}
    if rank < 1 or min(alpha, *alphas.values(), alpha) <= 0 or not 0 <= dropout < 1:
        raise FathomError(
            f"{where}: r is {rank}, lora_alpha {alpha}, lora_dropout {dropout}; expected from 1 on, above 0, and from 0"
            " to below 1"
        )
    ours = values.get(OURS)
    ours = ours if isinstance(ours, dict) else {}
    return Said(
        rank=rank,
        alpha=alpha,
        rslora=field(values, "use_rslora", bool, where, False),
        dora=field(values, "use_dora", bool, where, False),
        pissa=values.get("init_lora_weights") == "pissa",
        dropout=dropout,
        ranks={k: whole(v, f"{where}: rank_pattern {short(k)}") for k, v in pairs(values, "rank_pattern", where)},
        alphas=alphas,
        targets=targets(values, where),
        base=field(ours, "base_sha256", str, where, ""),
        quantize=packing(field(ours, "quantize", str, where, ""), where),
    )


def packing(name: str, where: str) -> str:
    if name and name not in SCHEMES:
        raise FathomError(f"{where}: quantize is {short(name)}; expected null or one of {', '.join(SCHEMES)}")
    return name


def refuse(values: Mapping[str, Any], where: str) -> None:
    """FathomError where a field asks for something that is not done here."""
    if values.get("peft_type") != "LORA":
        raise FathomError(f"{where}: peft_type is {short(values.get('peft_type'))}; expected LORA: other kinds of"
                          " adapters are not known here")  # fmt: skip
    if (bias := values.get("bias", "none")) != "none":
        raise FathomError(f"{where}: bias is {short(bias)}; expected none: biases that were trained are not read")
    start = values.get("init_lora_weights", True)
    if not isinstance(start, bool | str) or start not in STARTS:
        raise FathomError(
            f"{where}: init_lora_weights is {short(start)}, which leaves another base behind; save it as plain LoRA"
            " with peft's path_initial_model_for_weight_conversion"
        )
    for name in sorted(values.keys() - READ - IGNORED):
        if values[name] not in (None, False, 0, "", [], {}):
            raise FathomError(f"{where}: {name:.80} is {short(values[name])}, which is not known here; expected none")


def pairs(values: Mapping[str, Any], name: str, where: str) -> list[tuple[str, Any]]:
    """The patterns of a field and their values."""
    found = values.get(name)
    if found is None:
        return []
    if not isinstance(found, dict) or len(found) > 10_000:
        raise FathomError(f"{where}: {name} is {short(found)}; expected patterns with values")
    for pattern in found:
        if len(pattern) > 200 or pattern.count(".*") > 3 or not PATTERN.fullmatch(pattern):
            raise FathomError(f"{where}: {name} has the pattern {short(pattern)}; expected names of layers")
    return list(found.items())


def whole(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= LARGEST:
        raise FathomError(f"{where} is {short(value)}; expected a whole number from 1 on")
    return value


def targets(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names that every layer of has an adapter. Where it is said in another way, the tensors alone say which."""
    said = values.get("target_modules")
    if said is not None and not isinstance(said, str | list):
        raise FathomError(f"{where}: target_modules is {short(said)}; expected names of layers")
    if not isinstance(said, list) or values.get("layers_to_transform") or values.get("exclude_modules"):
        return ()
    if not all(isinstance(name, str) and len(name) < 300 for name in said):
        raise FathomError(f"{where}: target_modules is {short(said)}; expected names of layers")
    return tuple(said)


def to_config(there: Mapping[str, Factors], known: Sequence[str], rslora: bool, dropout: float) -> dict[str, Any]:
    """The fields for an adapter of these layers; `known` are all that the model has."""
    alphas = {name: alpha_of(factors, rslora) for name, factors in there.items()}
    (rank, alpha), _ = Counter((factors.rank, alphas[name]) for name, factors in there.items()).most_common(1)[0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "use_dora": any(factors.magnitude is not None for factors in there.values()),
        "init_lora_weights": True,
        "target_modules": shortest(list(there), known),
        "rank_pattern": {name: factors.rank for name, factors in there.items() if factors.rank != rank},
        "alpha_pattern": {name: alphas[name] for name in there if alphas[name] != alpha},
    }


def alpha_of(factors: Factors, rslora: bool) -> float:
    """The alpha that gives this scale at this rank; whole where it is all but whole."""
    alpha = factors.scale * (factors.rank**0.5 if rslora else factors.rank)
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * alpha else alpha


def shortest(there: Sequence[str], known: Sequence[str]) -> list[str]:
    """Last words of names, if those of `there` and no others end so; else the names."""
    words = sorted({name.rpartition(".")[2] for name in there})
    meant = [name for name in known if name.rpartition(".")[2] in words]
    return words if set(meant) == set(there) else sorted(there)
