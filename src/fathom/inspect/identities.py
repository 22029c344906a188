"""Identities that hold for every model and every recording, as functions that return their residuals by name.

The first seven take recorded tensors (RECORD lists which); the others run the model, or take its position or a
sampler's probabilities. TOLERANCES has the largest residual allowed in fp32. For models in eval mode.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fathom.anatomy import cost
from fathom.anatomy.swap import parts, swap
from fathom.inspect.attribute import before_cap, contributions
from fathom.inspect.derived import Tensors, head_result, last_stream
from fathom.inspect.edit import Edit, edit, zero
from fathom.inspect.lens import lens
from fathom.inspect.look import look
from fathom.model.attention import Attention, attend
from fathom.model.cache import KVCache
from fathom.model.mlp import ExpertsMLP, SharedExpertsMLP
from fathom.model.position import Alibi, NoPosition
from fathom.model.transformer import Transformer

Residuals = dict[str, float]
Layers = Iterable[int] | None

TOLERANCES: dict[str, Residuals] = {
    "pattern_is_causal": {"rows of pattern sum to 1": 1e-6, "later keys get nothing": 0.0},
    "scores_are_products": {"q k / sqrt(c) = score": 1e-4, "softmax of scores = pattern": 1e-6},
    "heads_sum_to_attention": {"pattern v = z": 1e-4, "heads and bias sum to attn": 1e-4},
    "stream_is_a_sum": {
        "resid_pre + attn = resid_mid": 0.0,
        "resid_mid + mlp = resid_post": 0.0,
        "mlp_norm = norm(resid_mid)": 1e-6,
    },
    "mixture_is_a_sum": {
        "weighted experts sum to mlp": 1e-4,
        "tokens = b t used": 0.0,
        "as many weights as used": 0.0,
    },
    "lens_of_last_stream": {"lens of the last stream = softmax(logits)": 1e-5},
    "contributions_sum_to_logit": {"contributions sum to the logit": 1e-3},
    "looking_changes_nothing": {"logits with look = without": 0.0},
    "zeroing_a_head": {"zeroed head is missing from attn": 1e-5, "an empty edit changes nothing": 0.0},
    "patching_a_layer": {"all of layer 0 put in gives the other run": 1e-5},  # fathom.inspect.patch
    "rotation_is_relative": {
        "score depends on the distance": 1e-4,
        "rotation keeps norms": 1e-4,
        "position 0 is the identity": 1e-4,
    },
    "cache_equals_recompute": {"cached logits = uncached": 1e-4, "cached tokens = uncached": 0.0, "cache bytes": 0.0},
    "grouped_equals_repeated": {"grouped = repeated to all heads": 1e-5},
    "adapter_is_its_delta": {  # fathom.adapters.merge
        "an adapter at init changes nothing": 0.0,
        "merged = unmerged": 1e-4,
        "change = alpha / r b a": 1e-6,
        "rank of the change <= r": 0.0,
    },
    "cut_loses_the_tail": {"what a cut loses = the energy of what was cut": 1e-5},  # fathom.lab.changed
    "cost_equals_count": {"parameters": 0.0, "FLOPs": 0.0},
    "packing_is_stable": {  # fathom.inspect.quant_view
        "packed again, the codes are the same": 0.0,
        "level × scale is the weight": 0.0,
        "bytes = packed + scales": 0.0,
    },
    "sampler_renormalises": {
        "all probabilities are the softmax and sum to 1": 1e-6,
        "the sampler renormalises its own set": 1e-6,
    },
}
RECORD = {  # what must be recorded for those that take recorded tensors
    "pattern_is_causal": ("blocks.*.attn.pattern",),
    "scores_are_products": ("blocks.*.attn.*",),
    "heads_sum_to_attention": ("blocks.*.attn.pattern", "blocks.*.attn.v", "blocks.*.attn.z", "blocks.*.attn"),
    "stream_is_a_sum": ("**",),
    "mixture_is_a_sum": ("blocks.*.mlp_norm", "blocks.*.mlp.weights", "blocks.*.mlp.tokens", "blocks.*.mlp"),
    "lens_of_last_stream": ("**",),
    "contributions_sum_to_logit": ("**",),
}


def broken(identity: str, residuals: Residuals) -> list[str]:
    """The parts of an identity whose residual exceeds its tolerance; NaN counts as exceeding."""
    allowed = TOLERANCES[identity]
    return [name for name, off in residuals.items() if not off <= allowed[name]]


def named(identity: str, *residuals: float) -> Residuals:
    return dict(zip(TOLERANCES[identity], residuals, strict=True))


def off(actual: Tensor, expected: Tensor | float) -> float:
    """The largest absolute difference; 0 for empty tensors."""
    return (actual - expected).abs().max().item() if actual.numel() else 0.0


def worst(values: "list[float]") -> float:
    return max(values, key=lambda value: float("inf") if value != value else value, default=0.0)


def pattern_is_causal(model: Transformer, seen: Tensors, layers: Layers = None) -> Residuals:
    """Rows of the pattern sum to 1, to less where their head has a sink (see `scores_are_products`), and keys after the
    query get exactly 0. layers: these alone; None: all."""
    sums, later = [], []
    for layer in range(len(model.blocks)) if layers is None else layers:
        pattern = seen[f"blocks.{layer}.attn.pattern"]  # (b, h, t, s)
        t, s = pattern.shape[-2:]
        most = 1.0 if model.blocks[layer].attn.sinks is None else pattern.sum(-1).clamp(max=1)
        sums.append(off(pattern.sum(-1), most))
        later.append(off(pattern.triu(s - t + 1), 0.0))
    return named("pattern_is_causal", worst(sums), worst(later))


def keys_share(attn: Attention, scores: Tensor) -> Tensor:
    """What keys with these scores (b, h, t, s) get in all, (b, h, t): 1, of a head with a sink less."""
    total = scores.logsumexp(-1)
    return torch.ones_like(total) if attn.sinks is None else (total - attn.sinks[:, None]).sigmoid()


def scores_are_products(model: Transformer, seen: Tensors, layers: Layers = None) -> Residuals:
    """A score is q k / sqrt(c), capped and lowered by ALiBi where the model does so, wherever a key may be seen; the
    pattern is the softmax of the scores, less what a sink takes."""
    products, softmax = [], []
    for layer in range(len(model.blocks)) if layers is None else layers:
        path, attn = f"blocks.{layer}.attn", model.blocks[layer].attn
        q, k = (seen.get(f"{path}.{name}_rot", seen[f"{path}.{name}"]) for name in "qk")  # (b, t, h, c), (b, t, g, c)
        k = k[:, :, [head * k.shape[2] // q.shape[2] for head in range(q.shape[2])]]
        score, t = torch.einsum("bthc,bshc->bhts", q, k) / q.shape[-1] ** 0.5, q.shape[1]
        if cap := attn.cap:
            score = cap * torch.tanh(score / cap)
        if isinstance(model.position, Alibi):
            places = torch.arange(t, device=score.device)
            slopes = model.position.slopes.to(score.device)[:, None, None]
            score = score - slopes * (places[:, None] - places).clamp(min=0)
        scores = seen[f"{path}.scores"]
        products.append(off(score[scores.isfinite()], scores[scores.isfinite()]))
        shares = scores.softmax(-1) * keys_share(attn, scores)[..., None]
        softmax.append(off(shares, seen[f"{path}.pattern"]))
    return named("scores_are_products", worst(products), worst(softmax))


def heads_sum_to_attention(model: Transformer, seen: Tensors, layers: Layers = None) -> Residuals:
    """pattern v = z, and the heads' z_h W_out,h with the bias sum to attn."""
    weighted, summed = [], []
    for layer in range(len(model.blocks)) if layers is None else layers:
        block, path, n_head = model.blocks[layer], f"blocks.{layer}.attn", model.config.n_head
        v, z = seen[f"{path}.v"], seen[f"{path}.z"]  # (b, t, g, c), (b, t, h, c)
        own = v[:, :, [head * v.shape[2] // n_head for head in range(n_head)]]  # (b, t, h, c): each head's group
        weighted.append(off(torch.einsum("bhts,bshc->bthc", seen[f"{path}.pattern"], own), z))
        heads = sum((head_result(block.attn, z, head) for head in range(n_head)), torch.zeros_like(seen[path]))
        bias = block.attn.out.bias
        summed.append(off(heads if bias is None else heads + bias, seen[path]))
    return named("heads_sum_to_attention", worst(weighted), worst(summed))


def stream_is_a_sum(model: Transformer, seen: Tensors, layers: Layers = None) -> Residuals:
    """The stream after a layer is the stream before it plus the layer's output; without residual, the output alone."""
    mid, post, norm = [], [], []
    for layer in range(len(model.blocks)) if layers is None else layers:
        block, path = model.blocks[layer], f"blocks.{layer}"
        keep = 0.0 if model.config.residual == "off" else 1.0
        after_attn = with_layer(model, seen[f"{path}.resid_pre"] * keep, seen, f"{path}.attn")
        if block.mlp is None:
            mid.append(off(after_attn, seen[path]))
            continue
        resid_mid = seen[f"{path}.resid_mid"]
        mid.append(off(after_attn, resid_mid))
        post.append(off(with_layer(model, resid_mid * keep, seen, f"{path}.mlp"), seen[path]))
        reads = {"parallel": seen[f"{path}.attn_norm"], "parallel_norms": seen[f"{path}.resid_pre"]}
        norm.append(off(block.mlp_norm(reads.get(model.config.residual, resid_mid)), seen[f"{path}.mlp_norm"]))
    return named("stream_is_a_sum", worst(mid), worst(post), worst(norm))


def with_layer(model: Transformer, stream: Tensor, seen: Tensors, layer: str) -> Tensor:
    """The stream with what a layer, such as blocks.0.attn, adds to it."""
    return torch.add(stream, seen.get(f"{layer}_after", seen[layer]), alpha=model.config.scale.residual)


def mixture_is_a_sum(model: Transformer, seen: Tensors) -> Residuals:
    """What all experts give for every token, times their weights, is what the mixture writes; each token has `used`."""
    sums, counts, each = [], [], []
    for layer, block in enumerate(model.blocks):
        if not isinstance(block.mlp, ExpertsMLP):
            continue
        path, used = f"blocks.{layer}.mlp", block.mlp.used
        x, weights, tokens = seen[f"{path}_norm"], seen[f"{path}.weights"], seen[f"{path}.tokens"]
        total = sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(block.mlp.experts))
        if isinstance(block.mlp, SharedExpertsMLP):
            gate = block.mlp.shared_gate
            total = total + (1 if gate is None else gate(x).sigmoid()) * block.mlp.shared(x)
        sums.append(off(total, seen[path]))
        counts.append(abs(tokens.sum().item() - used * x[..., 0].numel()) + off(tokens, (weights != 0).sum((0, 1))))
        each.append(off((weights != 0).sum(-1), used))
    return named("mixture_is_a_sum", worst(sums), worst(counts), worst(each))


def lens_of_last_stream(model: Transformer, seen: Tensors) -> Residuals:
    """The logit lens of the last stream gives the model's own probabilities."""
    probabilities = lens(model, last_stream(model, seen)).softmax(-1)
    return named("lens_of_last_stream", off(probabilities, seen["logits"].softmax(-1)))


def contributions_sum_to_logit(model: Transformer, seen: Tensors, at: int = -1) -> Residuals:
    """Contributions of embedding, heads, MLPs and biases sum to the logit of the likeliest token at `at`."""
    logit, token = before_cap(model, seen["logits"][:, at]).max(-1)  # (b,)
    parts = contributions(model, seen, token[:, None], at)
    return named("contributions_sum_to_logit", off(torch.stack(list(parts.values())).sum(0)[:, 0], logit))


@torch.no_grad()
def looking_changes_nothing(model: Transformer, ids: Tensor) -> Residuals:
    """Looking at everything changes no bit of the logits."""
    without = model(ids)
    with look(model, "**", max_bytes="1TiB"):
        logits = model(ids)
    return named("looking_changes_nothing", difference(logits, without))


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, which is 0 only where no bit differs."""
    return 0.0 if torch.equal(actual, expected) else max(off(actual, expected), 1e-45)


@torch.no_grad()
def zeroing_a_head(
    model: Transformer, ids: Tensor, layer: int = 0, head: int = 0, cut: Edit | None = None
) -> Residuals:
    """Zeroing z_h takes z_h W_out,h from attn; an empty edit changes nothing. cut: the edit that should do so."""
    path = f"blocks.{layer}.attn"
    with look(model, path, f"{path}.z") as seen:
        logits = model(ids)
    with edit(model, cut or zero(f"{path}.z", head=head)), look(model, path) as edited:
        model(ids)
    with edit(model):
        again = model(ids)
    missing = head_result(model.blocks[layer].attn, seen[f"{path}.z"], head)
    return named("zeroing_a_head", off(seen[path] - missing, edited[path]), off(again, logits))


def rotation_is_relative(position: NoPosition, q: Tensor, k: Tensor, shift: int) -> Residuals:
    """score(m, n) = score(m + s, n + s) for q, k (b, h, t, c); rotation keeps norms; position 0 is the identity."""
    here = position.rotation(torch.arange(q.shape[2], device=q.device))
    there = position.rotation(torch.arange(q.shape[2], device=q.device) + shift)
    start = position.rotation(torch.zeros(q.shape[2], dtype=torch.long, device=q.device))
    scale = getattr(position, "scale", 1.0)  # yarn's temperature
    scores, shifted = here(q) @ here(k).mT, there(q) @ there(k).mT
    root = q.shape[-1] ** 0.5
    norms = there(q).norm(dim=-1) / scale
    return named(
        "rotation_is_relative", off(scores, shifted) / root, off(norms, q.norm(dim=-1)), off(start(q) / scale, q)
    )


@torch.no_grad()
def cache_equals_recompute(model: Transformer, ids: Tensor, new: int) -> Residuals:
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
    return named("cache_equals_recompute", worst(logits), worst(tokens), abs(float(bytes_off)))


@torch.no_grad()
def grouped_equals_repeated(model: Transformer, ids: Tensor) -> Residuals:
    """A model whose keys and values are repeated to all heads, each head its group's, gives the same logits."""
    repeated = copy.deepcopy(model)
    for block in repeated.blocks:
        whole = [block.attn.k_norm] if model.config.qk_norm in ("whole", "layer") else []
        for part in (block.attn.k, block.attn.v, *whole):
            for name, weight in list(part.named_parameters()):
                heads = weight.unflatten(0, (model.config.n_kv_head, -1))  # (g, c, ...)
                each = [heads[h * len(heads) // model.config.n_head] for h in range(model.config.n_head)]
                setattr(part, name, nn.Parameter(torch.cat(each)))
        if whole:
            block.attn.k_norm.width = block.attn.q_norm.width
    return named("grouped_equals_repeated", off(repeated(ids), model(ids)))


@torch.no_grad()
def counted_flops(model: Transformer, ids: Tensor) -> int:
    """What torch counts of one pass of ids (b, t) on the explicit path; it sees no fused attention on a CPU."""
    with swap(model, attend=attend, names=parts(model, Attention)), FlopCounterMode(display=False) as counter:
        model(ids)
    return int(counter.get_total_flops())


@torch.no_grad()
def cost_equals_count(model: Transformer, ids: Tensor) -> Residuals:
    """The arithmetic of cost.py is what torch allocates and, on the explicit attention path, what it multiplies."""
    counted = sum(parameter.numel() for parameter in model.parameters())
    flops = sum(cost.flops(model.config, ids.shape[1], len(ids)).values())
    parameters_off = abs(cost.n_parameters(model.config) - counted)
    return named("cost_equals_count", float(parameters_off), float(abs(flops - counted_flops(model, ids))))


def sampler_renormalises(logits: Tensor, shown: Tensor, drawn: Tensor) -> Residuals:
    """`shown` (..., V) are the probabilities of all tokens; `drawn`, what a sampler draws from, those of its own set,
    and only they, divided by their sum."""
    total = logits.logsumexp(-1, keepdim=True)
    kept = shown * (drawn > 0)
    renormalised = kept / kept.sum(-1, keepdim=True)
    full = max(off(shown, (logits - total).exp()), off(shown.sum(-1), 1.0))
    return named("sampler_renormalises", full, off(drawn, renormalised))


RECORDED: dict[str, Callable[..., Residuals]] = {
    "pattern_is_causal": pattern_is_causal,
    "scores_are_products": scores_are_products,
    "heads_sum_to_attention": heads_sum_to_attention,
    "stream_is_a_sum": stream_is_a_sum,
    "mixture_is_a_sum": mixture_is_a_sum,
    "lens_of_last_stream": lens_of_last_stream,
    "contributions_sum_to_logit": contributions_sum_to_logit,
}
