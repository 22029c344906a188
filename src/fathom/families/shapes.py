"""Names and shapes of a model's weights, as arithmetic on its config, so that headers of files are checked without
torch. A test compares them with what `Transformer(config)` holds.
"""

from collections.abc import Mapping
from functools import lru_cache

from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.cost import BIAS_OF, NORM_VECTORS, POSITION_TABLES, entry, matrices

Shape = tuple[int, ...]


@lru_cache(maxsize=16)
def weight_shapes(config: ModelConfig) -> Mapping[str, Shape]:
    """Name and shape of every tensor in the state dict, in its order; of two tied ones the first."""
    z = config.resolved()
    result: dict[str, Shape] = {"embed.weight": (z.vocab_size, z.d_model)}
    if entry(POSITION_TABLES, "position", z.position):
        result["position.table.weight"] = (z.context_length, z.d_model)
    block = block_shapes(z)
    result |= {f"blocks.{layer}.{name}": shape for layer in range(z.n_layer) for name, shape in block.items()}
    result |= norm_shapes(z, "final_norm")
    return result if z.tie_embeddings else result | {"unembed.weight": (z.vocab_size, z.d_model)}


def block_shapes(z: ResolvedConfig) -> dict[str, Shape]:
    """The weights of one block."""
    linear: dict[str, Shape] = {}
    for name, (width_in, width_out) in matrices(z).items():
        linear[f"{name}.weight"] = (width_out, width_in)
        if BIAS_OF.get(name, "mlp") in z.bias:
            linear[f"{name}.bias"] = (width_out,)
    attn, mlp = ({name: x for name, x in linear.items() if name.startswith(part)} for part in ("attn.", "mlp."))
    if z.qk_norm:
        attn |= {f"attn.{name}_norm.weight": (z.head_dim,) for name in "qk"}
    return norm_shapes(z, "attn_norm") | attn | mlp | (norm_shapes(z, "mlp_norm") if mlp else {})


def norm_shapes(z: ResolvedConfig, name: str) -> dict[str, Shape]:
    vectors = entry(NORM_VECTORS, "norm", z.norm)
    return {f"{name}.{vector}": (z.d_model,) for vector in vectors if vector != "bias" or "norm" in z.bias}
