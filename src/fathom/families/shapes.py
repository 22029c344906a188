"""Names and shapes of a model's weights, as arithmetic on its config, so that headers of files are checked without
torch. A test compares them with what `Transformer(config)` holds.
"""

from collections.abc import Mapping
from functools import lru_cache

from fathom.anatomy.cost import BIAS_OF, NORM_VECTORS, POSITION_TABLES, entry, matrices, norm_names, qk_norm_widths
from fathom.model.config import Experts, ModelConfig, ResolvedConfig

Shape = tuple[int, ...]


@lru_cache(maxsize=16)
def weight_shapes(config: ModelConfig) -> Mapping[str, Shape]:
    """Name and shape of every tensor in the state dict, in its order; of two tied ones the first."""
    z = config.resolved()
    result: dict[str, Shape] = {"embed.weight": (z.vocab_size, z.d_model)}
    result |= norm_shapes(z, "embed_norm") if z.scale.embed_norm else {}
    if entry(POSITION_TABLES, "position", z.position):
        result["position.table.weight"] = (z.context_length, z.d_model)
    shapes = {block: block_shapes(block) for block in z.blocks()}
    for layer in range(z.n_layer):
        result |= {f"blocks.{layer}.{name}": shape for name, shape in shapes[z.block(layer)].items()}
    result |= norm_shapes(z, "final_norm")
    result |= {} if z.tie_embeddings else {"unembed.weight": (z.vocab_size, z.d_model)}
    return result | ({"unembed.bias": (z.vocab_size,)} if "unembed" in z.bias else {})


def block_shapes(z: ResolvedConfig) -> dict[str, Shape]:
    """The weights of one block."""
    linear: dict[str, Shape] = {}
    for name, (width_in, width_out) in matrices(z).items():
        linear[f"{name}.weight"] = (width_out, width_in)
        if BIAS_OF.get(name, "mlp") in z.bias:
            linear[f"{name}.bias"] = (width_out,)
        if name == "mlp.router" and isinstance(z.mlp, Experts) and z.mlp.weigh == "sigmoid":
            linear["mlp.router.correction"] = (width_out,)
    attn, mlp = ({name: x for name, x in linear.items() if name.startswith(part)} for part in ("attn.", "mlp."))
    mlp = {"mlp.alpha_p": (1,), "mlp.alpha_n": (1,), "mlp.beta": (), "mlp.eps": ()} | mlp if z.mlp == "xielu" else mlp
    attn = {"attn.sinks": (z.n_head,)} | attn if "sink" in z.bias else attn
    attn |= {f"attn.{name}_norm.weight": (width,) for name, width in qk_norm_widths(z).items() if width}
    norms = {name: norm_shapes(z, name) for name in norm_names(z)}
    return (
        norms.get("attn_norm", {}) | attn | norms.get("attn_after", {})
        | mlp | norms.get("mlp_norm", {}) | norms.get("mlp_after", {})
    )  # fmt: skip


def norm_shapes(z: ResolvedConfig, name: str) -> dict[str, Shape]:
    vectors = entry(NORM_VECTORS, "norm", z.norm)
    return {f"{name}.{vector}": (z.d_model,) for vector in vectors if vector != "bias" or "norm" in z.bias}
