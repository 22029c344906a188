"""Falcon 40B and 180B (TII 2023): attention beside the MLP, each after its own LayerNorm, and groups of heads that
share keys; files call it the new decoder architecture."""

from dataclasses import replace
from typing import Any

from fathom.families import falcon
from fathom.families.family import Fields, Tensors
from fathom.families.names import Place, place
from fathom.families.values import Values
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    heads = values.count("num_kv_heads", fields["n_head"])
    return {**falcon.read_shared(values, fields), "n_kv_head": heads}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    new = {"new_decoder_architecture": True, "num_kv_heads": z.n_kv_head, "num_ln_in_parallel_attn": 2}
    return falcon.write_shared(z) | new


hf = falcon.FAMILY.columns["hf"]
NORMS: dict[str, Place] = {f"blocks.N.{x}_norm": place(f"transformer.h.N.ln_{x}") for x in ("attn", "mlp")}
gguf = falcon.FAMILY.columns["gguf"]
TWO = {"blocks.N.attn_norm": place("blk.N.attn_norm_2"), "blocks.N.mlp_norm": place("blk.N.attn_norm")}
FAMILY = replace(
    falcon.FAMILY,
    name="falcon_40b",
    title="Falcon 40B",
    choices={**falcon.FAMILY.choices, "residual": "parallel_norms"},
    free=(),
    holds=falcon.holds_shared,
    columns={
        "ours": falcon.FAMILY.columns["ours"],
        "hf": replace(
            hf, tensors={**hf.tensors, **NORMS}, read=read_hf, write=write_hf,
            allowed={**falcon.ALLOWED, "parallel_attn": (None, True), "num_ln_in_parallel_attn": (None, 2)},
            applies=lambda entries: not falcon.one_norm(entries),
        ),
        "gguf": replace(gguf, tensors={**gguf.tensors, **TWO}, applies=lambda tensors: falcon.SECOND in tensors),
    },
)  # fmt: skip
