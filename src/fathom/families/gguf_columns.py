"""GGUF columns: the names and keys that llama.cpp's architectures share, and the values that an architecture fixes.

q, k and v may be one tensor and gate and up another; some architectures rotate channels 2i and 2i + 1 together, and
some store norms as 1 + weight. What llama.cpp cannot be told in a key is refused when a model is written.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fathom.errors import FathomError
from fathom.families import llama
from fathom.families.family import Column, Fields, Tensors, config_of
from fathom.families.names import Place, place
from fathom.families.rope import gguf_rope_tensors, read_gguf_rope, write_gguf_rope
from fathom.families.values import Key, Values, key
from fathom.json_file import short
from fathom.model.config import Bias, Layers, ModelConfig, ResolvedConfig

NAMES = {part: cell.name for part, cell in llama.FAMILY.columns["gguf"].tensors.items()} | {
    "embed_norm": "token_embd_norm",
    "blocks.N.attn.q_norm": "blk.N.attn_q_norm",
    "blocks.N.attn.k_norm": "blk.N.attn_k_norm",
    "blocks.N.attn_after": "blk.N.post_attention_norm",
    "blocks.N.mlp_after": "blk.N.post_ffw_norm",
}
PAIRED = ("blocks.N.attn.q", "blocks.N.attn.k")
QKV = {f"blocks.N.attn.{x}": f"blk.N.attn_qkv[{i}/3]" for i, x in enumerate("qkv", 1)}
QK_NORMS = {f"blocks.N.attn.{x}_norm": f"blk.N.attn_{x}_norm[h]" for x in "qk"}  # a weight for each head
UP = {f"blocks.N.mlp.{x}": f"blk.N.ffn_up[{i}/2]" for i, x in enumerate(("gate", "up"), 1)}
LONG = "rope_factors_long.weight"  # of LongRoPE, which Phi-3 reads itself
LAYER_EPS = key("attention.layer_norm_epsilon")
HELD: dict[Bias, tuple[str, ...]] = {  # the tensor of a layer, or of the model, that says that a part has biases
    "qkv": ("blk.0.attn_q", "blk.0.attn_qkv"),
    "out": ("blk.0.attn_output",),
    "mlp": ("blk.0.ffn_up",),
    "norm": ("blk.0.attn_norm",),
    "unembed": ("output",),
}

Read = Callable[[Values, Fields, Tensors], Fields]
Write = Callable[[ResolvedConfig], dict[str, Any]]


def places(
    parts: Iterable[str], *, cells: Mapping[str, str] = NAMES, pairs: bool = False, plus: bool = False
) -> dict[str, Place]:
    """The place of each part. cells: other names, such as QKV; pairs: how q and k are rotated; plus: norms as 1 + w."""
    found = {part: place({**NAMES, **cells}[part]) for part in parts}
    for part, cell in found.items():
        norm = "norm" in part or part.endswith("_after")
        found[part] = replace(cell, pairs=cell.pairs or (pairs and part in PAIRED), plus=plus and norm)
    return found


def column(
    name: str, tensors: Mapping[str, Place], read: Read, write: Write, *, eps: Key | None = None, rope: bool = True
) -> Column:
    """The column of an architecture. read and write: what is beyond the sizes, the rotation and the biases."""
    keys = {**llama.FAMILY.columns["gguf"].keys, **({"norm_eps": eps} if eps else {})}
    if not rope:
        keys.pop("rope_theta")

    def reader(values: Values, fields: Fields, stored: Tensors) -> Fields:
        common = read_rotation(values, config_of(fields), stored) if rope else {}
        held = tuple(part for part in HELD if any(f"{tensor}.bias" in stored for tensor in HELD[part]))
        fields = {**fields, **common, "bias": held}
        return {**common, "bias": held, **read(values, fields, stored)}

    def writer(z: ResolvedConfig) -> dict[str, Any]:
        longrope = z.rope.scaling is not None and z.rope.scaling.kind == "longrope"
        stretched = {} if longrope else write_gguf_rope(z)
        rotation = {"rope.dimension_count": z.rope.rotated or z.head_dim, **stretched} if rope else {}
        return {"attention.value_length": z.head_dim, **rotation, **write(z)}

    return Column(
        ids=(name,), tensors=tensors, keys=keys, read=reader, write=writer, extra_tensors=gguf_rope_tensors,
        skipped=r"rope_freqs\.weight",
    )  # fmt: skip


def read_rotation(values: Values, config: ModelConfig, tensors: Tensors) -> Fields:
    """How many channels of a head are rotated, and how the rotation is stretched."""
    head_dim = config.head_dim or max(1, config.d_model // max(1, config.n_head))
    if (width := values.count("attention.value_length", head_dim)) != head_dim:
        raise values.error(f"{values.prefix}attention.value_length is {width}; expected {head_dim}, as q and k have")
    values.number("rope.freq_base", 10_000.0, above=1.0)
    rotated = values.count("rope.dimension_count", head_dim)
    return {
        "rope_rotated": None if rotated == head_dim else rotated,
        "rope_scaling": None if LONG in tensors else read_gguf_rope(values, config, tensors),
    }


def require(name: str, z: ResolvedConfig, **fixed: Any) -> None:
    """FathomError unless fields of the config are what the architecture always has."""
    for field, expected in fixed.items():
        if (value := getattr(z, field)) != expected:
            raise refusal(name, f"{field}={shown(value)}", shown(expected))


def refusal(name: str, ours: str, theirs: str) -> FathomError:
    return FathomError(f"{ours}, and llama.cpp's {name} has {theirs} alone; choose --format hf")


def shown(value: Any) -> str:
    return (",".join(value) or "off") if isinstance(value, tuple) else str(value)


PATTERN = "attention.sliding_window_pattern"  # every how many layers one has no window, or for each whether it has one


def read_pattern(values: Values, pattern: str, window: int, n_layer: int) -> Layers:
    """What the layers see: as the file says, or in the architecture's pattern. window: where the file does not say."""
    given = values.entries.get(values.prefix + PATTERN)
    each: Any = given.tolist() if given is not None and hasattr(given, "tolist") else given
    if isinstance(each, list):
        if len(each) != n_layer or any(narrow not in (False, True) for narrow in each):
            raise values.error(f"{values.prefix}{PATTERN} is {short(given)}; expected yes or no for {n_layer} layers")
        pattern = "".join("l" if narrow else pattern[-1] for narrow in each)
    elif given is not None:
        pattern = "l" * (values.count(PATTERN) - 1) + pattern[-1]
    return Layers(pattern, values.count("attention.sliding_window", window))


def write_pattern(name: str, z: ResolvedConfig, pattern: str) -> dict[str, Any]:
    """The keys of windows; of their pattern where it is another. FathomError where the architecture has none such."""
    kinds = "".join(z.layers.kind(layer) for layer in range(z.n_layer))
    usual = "".join(replace(z.layers, pattern=pattern).kind(layer) for layer in range(z.n_layer))
    if kinds != usual and (set(kinds) - set(pattern) or "l" not in pattern or not z.layers.window):
        raise refusal(name, f"layers={z.layers.pattern}", pattern)
    keys = {"attention.sliding_window": z.layers.window} if z.layers.window else {}
    return keys if kinds == usual else {**keys, PATTERN: [kind == "l" for kind in kinds]}


def arranged(column: Column, tensors: Tensors) -> Column:
    """The column with q, k and v as they are in a file: one tensor or three. Converters have written both."""
    found = column.tensors.get(PAIRED[0])
    fused, apart = ("blk.0.attn_qkv.weight" in tensors, "blk.0.attn_q.weight" in tensors)
    if found is None or fused == apart or fused == (found.parts == 3):
        return column
    cells = {part: place((QKV if fused else NAMES)[part]) for part in QKV}
    kept = {part: replace(cell, pairs=column.tensors[part].pairs) for part, cell in cells.items()}
    return replace(column, tensors={**column.tensors, **kept})


def nothing(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {}
