"""GLM-4.5 and 4.6, also Air (GLM Team 2025): mixtures of experts behind one or a few dense layers, chosen by sigmoids
with a correction; half of each head rotated. Layers that guess several tokens at once are in the files and not read."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, glm, llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places
from fathom.families.names import place
from fathom.families.rope import alike
from fathom.families.values import Values, key
from fathom.model.config import Experts, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    first = min(values.get("first_k_dense_replace", int, 1), fields["n_layer"])
    mlp = experts.read(
        values,
        "n_routed_experts" if "n_routed_experts" in values else "num_local_experts",
        values.get("norm_topk_prob", bool, True),
        shared=fields["d_ff"] * values.count("n_shared_experts", 1),
        **read_first(first, values, "intermediate_size"),
        scale=values.number("routed_scaling_factor", 1.0),
        **KIND,
    )
    qk_norm = "on" if values.get("use_qk_norm", bool, False) else "off"
    return {**glm.read_hf(values, fields, tensors), "mlp": mlp, "qk_norm": qk_norm}


def read_first(n: int, values: Values, width: str) -> dict[str, Any]:
    """`dense` and `dense_ff` of a model whose first layers have an MLP of this width."""
    if n > experts.MOST_LAYERS:
        raise values.error(f"{n} layers without experts; expected at most {experts.MOST_LAYERS}")
    return {"dense": tuple(range(n)), "dense_ff": values.count(width)} if n > 0 else {}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        **glm.write_hf(z),
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "intermediate_size": mlp.dense_ff or z.d_ff,
        "first_k_dense_replace": len(mlp.dense),
        "n_routed_experts": mlp.n,
        "n_shared_experts": mlp.shared // z.d_ff,
        "num_experts_per_tok": mlp.used,
        "norm_topk_prob": mlp.renormalise,
        "routed_scaling_factor": mlp.scale,
        "n_group": 1,
        "topk_group": 1,
        "use_qk_norm": z.qk_norm == "on",
        "num_nextn_predict_layers": 0,
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """The last layers of the file may be those that guess."""
    values.require({gguf_experts.GATING: (None, 0, gguf_experts.SIGMOID)})
    width, shared = fields["d_ff"], values.get("expert_shared_count", int, 1)
    mlp = Experts(
        values.count(gguf_experts.COUNT),
        values.count(gguf_experts.USED),
        values.get(gguf_experts.NORM, bool, False),
        shared=values.get(gguf_experts.SHARED, int, width * shared),
        scale=values.get(gguf_experts.SCALE, float, 0.0) or 1.0,
        **read_first(values.get(LEADING, int, 0), values, "feed_forward_length"),
        **KIND,
    )
    guessing = values.get("nextn_predict_layers", int, 0)
    qk_norm = "on" if "blk.0.attn_q_norm.weight" in tensors else "off"
    return {"mlp": mlp, "qk_norm": qk_norm, "n_layer": fields["n_layer"] - guessing}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        "feed_forward_length": mlp.dense_ff or z.d_ff,
        LEADING: len(mlp.dense),
        gguf_experts.COUNT: mlp.n,
        gguf_experts.USED: mlp.used,
        "expert_shared_count": mlp.shared // z.d_ff,
        gguf_experts.NORM: mlp.renormalise,
        gguf_experts.SCALE: mlp.scale,
        gguf_experts.GATING: gguf_experts.SIGMOID,
    }


def holds(z: ResolvedConfig) -> bool:
    """Any first layers dense, and the shared expert as wide as some of the others."""
    if not isinstance(mlp := z.mlp, Experts) or mlp.weigh != "sigmoid" or mlp.gated or mlp.limit:
        return False
    sizes = mlp.shared > 0 and mlp.shared % z.d_ff == 0 and mlp.dense == tuple(range(len(mlp.dense)))
    return sizes and z.qk_norm in ("off", "on") and z.bias in ((), ("qkv",)) and alike(z)


LEADING = "leading_dense_block_count"
KIND: dict[str, Any] = {"gated": False, "weigh": "sigmoid"}
hf, MLP = llama.FAMILY.columns["hf"], "model.layers.N.mlp"
allowed = {name: x for name, x in hf.allowed.items() if name not in ("num_local_experts", "use_qk_norm")}
TENSORS = experts.tensors(hf.tensors, f"{MLP}.gate", f"{MLP}.experts.M", shared=f"{MLP}.shared_experts", dense=True)
del TENSORS["blocks.N.mlp.shared_gate"]
TENSORS["blocks.N.mlp.router.correction"] = place(f"{MLP}.gate.e_score_correction_bias")
NORM = {"blocks.N.mlp_norm": "blk.N.post_attention_norm"}
GGUF = column("glm4moe", places(TENSORS, cells=gguf_experts.CELLS | NORM), read_gguf, write_gguf)
FAMILY = replace(
    llama.FAMILY,
    name="glm4_moe",
    title="GLM-4.5",
    free=("rope", "qk_norm"),
    choices={**llama.FAMILY.choices, "mlp": Experts(128, 8, shared=1408, dense=(0,), dense_ff=10944, **KIND)},
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("glm4_moe",),
            keys={
                **hf.keys,
                "n_kv_head": key("num_key_value_heads"),
                "norm_eps": key("rms_norm_eps=1e-5"),
                "d_ff": key("moe_intermediate_size"),
            },
            allowed={**allowed, "n_group": (None, 1), "topk_group": (None, 1)},
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
            beyond=True,
        ),
        "gguf": replace(
            GGUF,
            keys={**GGUF.keys, "d_ff": key(gguf_experts.WIDTH)},
            honoured=(gguf_experts.COUNT,),
            allowed={"expert_group_count": (None, 0, 1), "expert_group_used_count": (None, 0, 1)},
            beyond=True,
        ),
    },
    classes=("Glm4MoeConfig", "Glm4MoeForCausalLM"),
)
