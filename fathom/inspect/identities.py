"""Statements that hold for every model and every recording, as functions that return how far they are off.

C1 to C5 take recorded tensors; C6, C7, C9, C10 and C14 run the model; C8 takes a position, C15 what a sampler draws
from. Each returns residuals by name; TOLERANCES says how large each may be in fp32. For models in eval mode.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fathom.inspect.derived import Tensors, contributions, head_result, last_stream, lens
from fathom.inspect.edit import edit, zero
from fathom.inspect.look import look
from fathom.model import cost
from fathom.model.attention import attend
from fathom.model.cache import KVCache
from fathom.model.position import NoPosition
from fathom.model.transformer import Transformer

Residuals = dict[str, float]

TOLERANCES: dict[str, Residuals] = {
    "C1": {"rows of pattern sum to 1": 1e-6, "later keys get nothing": 0.0},
    "C2": {"pattern v = z": 1e-4, "heads and bias sum to attn": 1e-4},
    "C3": {
        "resid_pre + attn = resid_mid": 0.0,
        "resid_mid + mlp = resid_post": 0.0,
        "mlp_norm = norm(resid_mid)": 1e-6,
    },
    "C4": {"lens of the last stream = softmax(logits)": 1e-5},
    "C5": {"contributions sum to the logit": 1e-3},
    "C6": {"logits with look = without": 0.0},
    "C7": {"zeroed head is missing from attn": 1e-5, "an empty edit changes nothing": 0.0},
    "C8": {"score depends on the distance": 1e-4, "rotation keeps norms": 1e-4, "position 0 is the identity": 1e-4},
    "C9": {"cached logits = uncached": 1e-4, "cached tokens = uncached": 0.0, "cache bytes": 0.0},
    "C10": {"grouped = repeated to all heads": 1e-5},
    "C11": {  # fathom.adapters.merge
        "an adapter at init changes nothing": 0.0,
        "merged = unmerged": 1e-4,
        "change = alpha / r b a": 1e-6,
        "rank of the change <= r": 0.0,
    },
    "C14": {"parameters": 0.0, "FLOPs": 0.0},
    "C15": {"all probabilities are the softmax and sum to 1": 1e-6, "the sampler renormalises its own set": 1e-6},
}
RECORD = {  # what must be recorded for those that take recorded tensors
    "C1": ("blocks.*.attn.pattern",),
    "C2": ("blocks.*.attn.pattern", "blocks.*.attn.v", "blocks.*.attn.z", "blocks.*.attn"),
    "C3": ("**",),
    "C4": ("**",),
    "C5": ("**",),
}


def broken(identity: str, residuals: Residuals) -> list[str]:
    """The parts of an identity that are off by more than they may be; not a number counts as off."""
    allowed = TOLERANCES[identity]
    return [name for name, off in residuals.items() if not off <= allowed[name]]


def named(identity: str, *residuals: float) -> Residuals:
    return dict(zip(TOLERANCES[identity], residuals, strict=True))


def off(found: Tensor, expected: Tensor | float) -> float:
    """The largest absolute difference; 0 of nothing."""
    return (found - expected).abs().max().item() if found.numel() else 0.0


def worst(values: "list[float]") -> float:
    return max(values, key=lambda value: float("inf") if value != value else value, default=0.0)


def c1(model: Transformer, seen: Tensors) -> Residuals:
    """Rows of the pattern sum to 1, and keys after the query get exactly 0."""
    sums, later = [], []
    for layer in range(len(model.blocks)):
        pattern = seen[f"blocks.{layer}.attn.pattern"]  # (b, h, t, s)
        t, s = pattern.shape[-2:]
        sums.append(off(pattern.sum(-1), 1.0))
        later.append(off(pattern.triu(s - t + 1), 0.0))
    return named("C1", worst(sums), worst(later))


def c2(model: Transformer, seen: Tensors) -> Residuals:
    """pattern v = z, and the heads' z_h W_out,h with the bias sum to attn."""
    weighted, summed = [], []
    for layer, block in enumerate(model.blocks):
        path, n_head = f"blocks.{layer}.attn", model.config.n_head
        v, z = seen[f"{path}.v"], seen[f"{path}.z"]  # (b, t, g, c), (b, t, h, c)
        own = v[:, :, [head * v.shape[2] // n_head for head in range(n_head)]]  # (b, t, h, c): each head's group
        weighted.append(off(torch.einsum("bhts,bshc->bthc", seen[f"{path}.pattern"], own), z))
        heads = sum((head_result(block.attn, z, head) for head in range(n_head)), torch.zeros_like(seen[path]))
        bias = block.attn.out.bias
        summed.append(off(heads if bias is None else heads + bias, seen[path]))
    return named("C2", worst(weighted), worst(summed))


def c3(model: Transformer, seen: Tensors) -> Residuals:
    """The stream is what was there plus what is said; without a residual stream, what is said alone."""
    mid, post, norm = [], [], []
    for layer, block in enumerate(model.blocks):
        path = f"blocks.{layer}"
        keep = 1.0 if model.config.residual else 0.0
        after_attn = seen[f"{path}.resid_pre"] * keep + seen[f"{path}.attn"]
        if block.mlp is None:
            mid.append(off(after_attn, seen[path]))
            continue
        resid_mid = seen[f"{path}.resid_mid"]
        mid.append(off(after_attn, resid_mid))
        post.append(off(resid_mid * keep + seen[f"{path}.mlp"], seen[path]))
        norm.append(off(block.mlp_norm(resid_mid), seen[f"{path}.mlp_norm"]))
    return named("C3", worst(mid), worst(post), worst(norm))


def c4(model: Transformer, seen: Tensors) -> Residuals:
    """The logit lens of the last stream gives the model's own probabilities."""
    probabilities = lens(model, last_stream(model, seen)).softmax(-1)
    return named("C4", off(probabilities, seen["logits"].softmax(-1)))


def c5(model: Transformer, seen: Tensors, at: int = -1) -> Residuals:
    """What embedding, heads, MLPs and biases contribute sums to the logit, for the likeliest token at `at`."""
    logit, token = seen["logits"][:, at].max(-1)  # (b,)
    parts = contributions(model, seen, token, at)
    return named("C5", off(torch.stack(list(parts.values())).sum(0), logit))


@torch.no_grad()
def c6(model: Transformer, ids: Tensor) -> Residuals:
    """Looking at everything changes no bit of the logits."""
    without = model(ids)
    with look(model, "**", max_bytes="1TiB"):
        logits = model(ids)
    return named("C6", 0.0 if torch.equal(logits, without) else max(off(logits, without), 1e-45))


@torch.no_grad()
def c7(model: Transformer, ids: Tensor, layer: int = 0, head: int = 0) -> Residuals:
    """Zeroing z_h takes z_h W_out,h from attn; an empty edit changes nothing."""
    path = f"blocks.{layer}.attn"
    with look(model, path, f"{path}.z") as seen:
        logits = model(ids)
    with edit(model, zero(f"{path}.z", head=head)), look(model, path) as edited:
        model(ids)
    with edit(model):
        again = model(ids)
    missing = head_result(model.blocks[layer].attn, seen[f"{path}.z"], head)
    return named("C7", off(seen[path] - missing, edited[path]), off(again, logits))


def c8(position: NoPosition, q: Tensor, k: Tensor, shift: int) -> Residuals:
    """score(m, n) = score(m + s, n + s) for q, k (b, h, t, c); rotation keeps norms; position 0 is the identity."""
    here = position.rotation(torch.arange(q.shape[2], device=q.device))
    there = position.rotation(torch.arange(q.shape[2], device=q.device) + shift)
    start = position.rotation(torch.zeros(q.shape[2], dtype=torch.long, device=q.device))
    scale = getattr(position, "scale", 1.0)  # yarn's temperature
    scores, shifted = here(q) @ here(k).mT, there(q) @ there(k).mT
    root = q.shape[-1] ** 0.5
    norms = there(q).norm(dim=-1) / scale
    return named("C8", off(scores, shifted) / root, off(norms, q.norm(dim=-1)), off(start(q) / scale, q))


@torch.no_grad()
def c9(model: Transformer, ids: Tensor, new: int) -> Residuals:
    """`new` greedy tokens after ids (b, t), with and without a cache: the same logits, the same tokens."""
    length, config = ids.shape[1] + new, model.config
    dtype = model.embed.weight.dtype
    cache = KVCache(config, len(ids), length, dtype=dtype, device=ids.device)
    logits, tokens = [], []
    so_far, fresh = ids, ids
    for _ in range(new):
        plain, cached = model(so_far)[:, -1], model(fresh, cache)[:, -1]  # (b, V)
        fresh = plain.argmax(-1, keepdim=True)
        logits.append(off(cached, plain))
        tokens.append(float((cached.argmax(-1, keepdim=True) != fresh).sum()))
        so_far = torch.cat((so_far, fresh), dim=1)
    bytes_off = cache.nbytes - cost.cache_bytes(config, len(ids), length, dtype.itemsize)
    return named("C9", worst(logits), worst(tokens), abs(float(bytes_off)))


@torch.no_grad()
def c10(model: Transformer, ids: Tensor) -> Residuals:
    """A model whose keys and values are repeated to all heads, each head its group's, gives the same logits."""
    repeated = copy.deepcopy(model)
    for block in repeated.blocks:
        for linear in (block.attn.k, block.attn.v):
            for name, weight in list(linear.named_parameters()):
                heads = weight.unflatten(0, (model.config.n_kv_head, -1))  # (g, c, ...)
                each = [heads[h * len(heads) // model.config.n_head] for h in range(model.config.n_head)]
                setattr(linear, name, nn.Parameter(torch.cat(each)))
    return named("C10", off(repeated(ids), model(ids)))


@torch.no_grad()
def c14(model: Transformer, ids: Tensor) -> Residuals:
    """The arithmetic of cost.py is what torch allocates and, on the explicit attention path, what it multiplies."""
    plain = [block.attn.attend for block in model.blocks]
    try:
        for block in model.blocks:
            block.attn.attend = attend
        with FlopCounterMode(display=False) as counter:
            model(ids)
    finally:
        for block, function in zip(model.blocks, plain):
            block.attn.attend = function
    counted = sum(parameter.numel() for parameter in model.parameters())
    flops = sum(cost.flops(model.config, ids.shape[1], len(ids)).values())
    parameters_off = abs(cost.n_parameters(model.config) - counted)
    return named("C14", float(parameters_off), float(abs(flops - counter.get_total_flops())))


def c15(logits: Tensor, shown: Tensor, drawn: Tensor) -> Residuals:
    """`shown` (..., V) are the probabilities of all tokens; `drawn`, what a sampler draws from, those of its own set,
    and only they, divided by their sum."""
    total = logits.logsumexp(-1, keepdim=True)
    kept = shown * (drawn > 0)
    renormalised = kept / kept.sum(-1, keepdim=True)
    full = max(off(shown, (logits - total).exp()), off(shown.sum(-1), 1.0))
    return named("C15", full, off(drawn, renormalised))


RECORDED: dict[str, Callable[[Transformer, Tensors], Residuals]] = {"C1": c1, "C2": c2, "C3": c3, "C4": c4, "C5": c5}
