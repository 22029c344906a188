"""What families of experts share: names and keys of a mixture, from its file's words to `Experts` and back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fathom.families.family import Column
from fathom.families.names import Place, place
from fathom.families.values import Values
from fathom.json_file import short
from fathom.model.config import Experts, ResolvedConfig

DENSE = ("blocks.N.mlp.gate", "blocks.N.mlp.up", "blocks.N.mlp.down")
PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # keys that only training reads
MOST_LAYERS = 1 << 16  # of which each is looked at


def tensors(
    table: Mapping[str, Place],
    router: str,
    experts: str,
    projections: Mapping[str, str] = PROJECTIONS,
    shared: str = "",
    dense: bool = False,
) -> dict[str, Place]:
    """The table of a dense model with a mixture in the place of its MLP, or beside it: dense. `experts` comes before
    the names of their projections, with an M for the expert; `shared` before those of one that every token runs."""
    result = {part: cell for part, cell in table.items() if dense or part not in DENSE}
    result["blocks.N.mlp.router"] = place(router)
    result |= {f"blocks.N.mlp.experts.M.{ours}": place(f"{experts}.{name}") for ours, name in projections.items()}
    if shared:
        result |= {f"blocks.N.mlp.shared.{ours}": place(f"{shared}.{name}") for ours, name in projections.items()}
        result["blocks.N.mlp.shared_gate"] = place(f"{shared}_gate")
    return result


def ours(parts: Iterable[str]) -> Column:
    return Column(tensors={part: place(part) for part in parts})


def read(values: Values, n: str, renormalise: bool, **others: Any) -> Experts:
    return Experts(values.count(n), values.count("num_experts_per_tok"), renormalise, **others)


def read_dense(values: Values, n_layer: int) -> dict[str, Any]:
    """`dense` and `dense_ff` of a mixture, as Qwen's files say which layers have an MLP in the place of experts."""
    step, named = values.count("decoder_sparse_step", 1), values.entries.get("mlp_only_layers") or []
    if not isinstance(named, list) or not all(type(layer) is int for layer in named):
        raise values.error(f"mlp_only_layers is {short(named)}; expected a list of layers")
    if n_layer > MOST_LAYERS:
        raise values.error(f"num_hidden_layers is {n_layer}; expected at most {MOST_LAYERS}")
    without = set(named)
    dense = tuple(layer for layer in range(n_layer) if layer in without or (layer + 1) % step)
    return {"dense": dense, "dense_ff": values.count("intermediate_size")} if dense else {}


def write_dense(z: ResolvedConfig) -> dict[str, Any]:
    """Its keys."""
    mlp = mixture(z)
    width = mlp.dense_ff if mlp.dense else z.d_ff
    return {"decoder_sparse_step": 1, "mlp_only_layers": list(mlp.dense), "intermediate_size": width}


def plain(z: ResolvedConfig, *, shared: bool = False, dense: bool = False) -> bool:
    """Whether there is a mixture that a softmax weighs, with a gated shared expert or without; dense: in some layers
    there may be none."""
    if not isinstance(mlp := z.mlp, Experts):
        return False
    usual = Experts(mlp.n, mlp.used, mlp.renormalise, mlp.shared)
    if dense:
        usual = replace(usual, dense=mlp.dense, dense_ff=mlp.dense_ff)
    return mlp == usual and (mlp.shared > 0) == shared


def mixture(z: ResolvedConfig) -> Experts:
    """The mixture of a config of such a family."""
    assert isinstance(z.mlp, Experts)
    return z.mlp
