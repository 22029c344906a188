"""What families of experts share: names and keys of a mixture, from its file's words to `Experts` and back."""

from collections.abc import Mapping

from fathom.families import llama
from fathom.families.family import Column
from fathom.families.names import Place, place
from fathom.families.values import Values
from fathom.model.config import Experts, ResolvedConfig

DENSE = ("blocks.N.mlp.gate", "blocks.N.mlp.up", "blocks.N.mlp.down")
PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # keys that only training reads


def tensors(
    table: Mapping[str, Place], router: str, experts: str, projections: Mapping[str, str], shared: bool = False
) -> dict[str, Place]:
    """The table of a dense model with a mixture in the place of its MLP. `experts` has an M for the expert."""
    result = {part: cell for part, cell in table.items() if part not in DENSE}
    result["blocks.N.mlp.router"] = place(router)
    result |= {f"blocks.N.mlp.experts.M.{ours}": place(f"{experts}.{name}") for ours, name in projections.items()}
    if shared:
        base = router.rpartition(".")[0]
        where = "shared" if base == "blocks.N.mlp" else "shared_expert"
        result |= {f"blocks.N.mlp.shared.{ours}": place(f"{base}.{where}.{name}") for ours, name in projections.items()}
        result["blocks.N.mlp.shared_gate"] = place(f"{base}.{where}_gate")
    return result


def ours(shared: bool = False) -> Column:
    names = {name: name for name in PROJECTIONS}
    table = llama.FAMILY.columns["ours"].tensors
    return Column(tensors=tensors(table, "blocks.N.mlp.router", "blocks.N.mlp.experts.M", names, shared))


def read(values: Values, n: str, renormalise: bool, shared: int = 0) -> Experts:
    return Experts(values.count(n), values.count("num_experts_per_tok"), renormalise, shared)


def sparse_everywhere(values: Values, n_layer: int) -> None:
    """FathomError where some layers have an MLP in the place of experts."""
    step, dense = values.get("decoder_sparse_step", int, 1), values.entries.get("mlp_only_layers")
    if step != 1 or dense:
        raise values.error(
            f"decoder_sparse_step is {step} and mlp_only_layers {dense}; expected 1 and none, as every layer of a model"
            " has experts here or none has"
        )


def mixture(z: ResolvedConfig) -> Experts:
    """The mixture of a config of such a family."""
    assert isinstance(z.mlp, Experts)
    return z.mlp
