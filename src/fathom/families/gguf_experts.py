"""GGUF columns of mixtures of experts: all experts of a layer are one tensor, and keys say how many a token runs.

What llama.cpp's architecture fixes, such as whether the weights of those that a token runs sum to 1, is in no key: a
model that has it otherwise is refused when it is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fathom.families import experts
from fathom.families.family import Column, Fields, Tensors
from fathom.families.gguf_columns import Read, Write, column, nothing, places, refusal
from fathom.families.names import Place
from fathom.families.values import Key, Values, key
from fathom.model.config import Experts, ResolvedConfig

CELLS = {
    "blocks.N.mlp.router": "blk.N.ffn_gate_inp",
    "blocks.N.mlp.router.correction": "blk.N.exp_probs_b.bias",
    "blocks.N.mlp.shared_gate": "blk.N.ffn_gate_inp_shexp[row]",
    **{f"blocks.N.mlp.experts.M.{x}": f"blk.N.ffn_{x}_exps[e]" for x in ("gate", "up", "down")},
    **{f"blocks.N.mlp.shared.{x}": f"blk.N.ffn_{x}_shexp" for x in ("gate", "up", "down")},
}
COUNT, USED, WIDTH = "expert_count", "expert_used_count", "expert_feed_forward_length"
SHARED, NORM, SCALE = "expert_shared_feed_forward_length", "expert_weights_norm", "expert_weights_scale"
GATING = "expert_gating_func"
SOFTMAX, SIGMOID = 1, 2  # values of it; 0: what the architecture has
ALLOWED: Mapping[str, tuple[Any, ...]] = {  # of those whose mixture is always a softmax's
    GATING: (None, 0, SOFTMAX),
    SCALE: (None, 0.0, 1.0),
    "expert_group_count": (None, 0, 1),
    "expert_group_used_count": (None, 0, 1),
}


def has_experts(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether metadata of an architecture, of which some models have experts and some have none, is of one that has."""
    return lambda metadata: bool(metadata.get(f"{name}.{COUNT}", 0))


def column_of(
    name: str,
    tensors: Mapping[str, Place],
    *,
    renormalise: bool,
    own_width: bool = False,
    pairs: bool = False,
    read: Read = nothing,
    write: Write = lambda z: {},
) -> Column:
    """The column of an architecture. renormalise: as it always does; own_width: experts have a key for their width;
    read and write: what else it has."""

    def reader(values: Values, fields: Fields, stored: Tensors) -> Fields:
        if values.get(NORM, bool, renormalise) != renormalise:
            raise values.error(f"{values.prefix}{NORM} is {not renormalise}; expected {renormalise} or none")
        shared = values.get(SHARED, int, 0)
        mlp = Experts(values.count(COUNT), values.count(USED), renormalise, shared)
        return {"mlp": mlp, **read(values, {**fields, "mlp": mlp}, stored)}

    def writer(z: ResolvedConfig) -> dict[str, Any]:
        mlp = experts.mixture(z)
        if mlp.renormalise != renormalise:
            raise refusal(name, f"mlp.renormalise={mlp.renormalise}", str(renormalise))
        if mlp.dense:
            raise refusal(name, f"mlp.dense={mlp.dense}", "experts in all layers")
        widths = {WIDTH: z.d_ff} if own_width else {}
        shared = {SHARED: mlp.shared} if mlp.shared else {}
        return {"feed_forward_length": z.d_ff, **widths, **shared, COUNT: mlp.n, USED: mlp.used, **write(z)}

    found = column(name, places(tensors, cells=CELLS, pairs=pairs), reader, writer)
    width: Key = key(f"{WIDTH}|feed_forward_length") if own_width else found.keys["d_ff"]
    return replace(found, keys={**found.keys, "d_ff": width}, allowed=ALLOWED, honoured=(COUNT,))
