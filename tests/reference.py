"""GPT-2 and LLaMA written from their papers in NumPy float64: a second opinion on every activation of the model.

Knows nothing of fathom's code but the names of weights and activations. Loops where the model has tensors, complex
numbers where it has pairs of channels, one head at a time.
"""

import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def forward(config: Any, weights: Arrays, ids: np.ndarray, interleaved: bool = False) -> Arrays:
    """All activations by name, for ids (b, t). `interleaved`: channels 2i and 2i + 1 are a pair, as in Meta's files."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    seen: Arrays = {}
    x = seen["embed"] = w["embed.weight"][ids] * config.scale.embed
    if config.scale.embed_norm:
        x = seen["embed_norm"] = norm(config, w, "embed_norm", x)
    if config.position == "learned":
        seen["position"] = np.broadcast_to(w["position.table.weight"][: ids.shape[1]], x.shape)
        x = x + seen["position"]
    for layer in range(config.n_layer):
        x = block(config, w, seen, f"blocks.{layer}", x, interleaved)
    seen["final_norm"] = norm(config, w, "final_norm", x)
    logits = seen["final_norm"] @ w["embed.weight" if config.tie_embeddings else "unembed.weight"].T
    logits = (logits + w.get("unembed.bias", 0.0)) * config.scale.logits
    seen["logits"] = capped(logits, config.scale.logit_cap)
    return seen


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def block(config: Any, w: Arrays, seen: Arrays, name: str, x: np.ndarray, interleaved: bool) -> np.ndarray:
    start = seen[f"{name}.resid_pre"] = x
    before, after = config.residual != "post", config.residual in ("post", "sandwich")
    read = first = seen[f"{name}.attn_norm"] = norm(config, w, f"{name}.attn_norm", x) if before else x
    said = seen[f"{name}.attn"] = attention(config, w, seen, f"{name}.attn", read, interleaved)
    if after:
        said = seen[f"{name}.attn_after"] = norm(config, w, f"{name}.attn_after", said)
    x = said if config.residual == "off" else x + config.scale.residual * said
    if config.mlp != "none":
        seen[f"{name}.resid_mid"] = x
        if config.residual == "parallel":  # what attention read
            read = first
        else:
            read = start if config.residual == "parallel_norms" else x
            read = norm(config, w, f"{name}.mlp_norm", read) if before else read
        seen[f"{name}.mlp_norm"] = read
        said = seen[f"{name}.mlp"] = mlp(config, w, seen, f"{name}.mlp", read)
        if after:
            said = seen[f"{name}.mlp_after"] = norm(config, w, f"{name}.mlp_after", said)
        x = said if config.residual == "off" else x + config.scale.residual * said
    seen[name] = x
    return x


def attention(config: Any, w: Arrays, seen: Arrays, name: str, x: np.ndarray, interleaved: bool) -> np.ndarray:
    batch, t, _ = x.shape
    q, k, v = (linear(w, f"{name}.{n}", x).reshape(batch, t, -1, config.head_dim) for n in "qkv")
    seen |= {f"{name}.q": q, f"{name}.k": k, f"{name}.v": v}
    if config.qk_norm == "on":
        q, k = normed_heads(config, w, name, q, k)
    if config.qk_norm == "whole":
        flat_q, flat_k = (y.reshape(batch, t, -1) for y in (q, k))
        q = (rms(flat_q, config.norm_eps) * w[f"{name}.q_norm.weight"]).reshape(q.shape)
        k = (rms(flat_k, config.norm_eps) * w[f"{name}.k_norm.weight"]).reshape(k.shape)
    if config.qk_norm == "layer":
        q, k = (layer_norm_of_heads(config, w[f"{name}.{n}_norm.weight"], x) for n, x in zip("qk", (q, k)))
    kind = config.layers.pattern[int(name.split(".")[1]) % len(config.layers.pattern)]
    if config.position == "rope" and kind != "n":
        q, k = rotated(config, q, interleaved, kind == "l"), rotated(config, k, interleaved, kind == "l")
    if config.qk_norm == "rotated":
        q, k = normed_heads(config, w, name, q, k)
    if config.scale.attn is not None:
        q = q * config.scale.attn * math.sqrt(config.head_dim)
    if config.scale.attn_by_layer:
        q = q / (int(name.split(".")[1]) + 1)
    seen |= {f"{name}.q_rot": q, f"{name}.k_rot": k}
    scores = np.full((batch, config.n_head, t, t), -np.inf)
    pattern, z = np.zeros_like(scores), np.zeros((batch, t, config.n_head, config.head_dim))
    for b in range(batch):
        for head in range(config.n_head):
            group = head // (config.n_head // config.n_kv_head)
            for i in range(t):
                first = max(0, i + 1 - config.layers.window) if kind == "l" else 0
                row = k[b, first : i + 1, group] @ q[b, i, head] / math.sqrt(config.head_dim)
                row = capped(row, config.scale.attn_cap)
                if config.position == "alibi":
                    row = row - slope(head, config.n_head) * (i - np.arange(first, i + 1))
                e = np.exp(row - row.max())
                sink = np.exp(w[f"{name}.sinks"][head] - row.max()) if "sink" in config.bias else 0.0
                scores[b, head, i, first : i + 1], pattern[b, head, i, first : i + 1] = row, e / (e.sum() + sink)
                z[b, i, head] = pattern[b, head, i, first : i + 1] @ v[b, first : i + 1, group]
    seen |= {f"{name}.scores": scores, f"{name}.pattern": pattern, f"{name}.z": z}
    return linear(w, f"{name}.out", z.reshape(batch, t, -1))


def normed_heads(config: Any, w: Arrays, name: str, q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one = 1.0 if config.norm == "rms_1p" else 0.0
    weights = (1.0 if config.norm == "rms_plain" else w[f"{name}.{x}_norm.weight"] + one for x in "qk")
    return tuple(rms(x, config.norm_eps) * weight for x, weight in zip((q, k), weights))  # type: ignore[return-value]


def layer_norm_of_heads(config: Any, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Each head (b, t, c) by itself, with its own part of the weight."""
    heads = []
    for head in range(x.shape[2]):
        one = x[:, :, head] - x[:, :, head].mean(-1, keepdims=True)
        own = weight[head * config.head_dim : (head + 1) * config.head_dim]
        heads.append(one / np.sqrt((one**2).mean(-1, keepdims=True) + config.norm_eps) * own)
    return np.stack(heads, axis=2)


def slope(head: int, n_head: int) -> float:
    """Press et al. 2022, section 3, and their code's rule for numbers of heads that are no power of two."""
    if n_head & (n_head - 1) == 0:
        return 2 ** (-8 * (head + 1) / n_head)
    below = 2 ** (n_head.bit_length() - 1)
    return slope(head, below) if head < below else slope(2 * (head - below), 2 * below)


def mlp(config: Any, w: Arrays, seen: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    config = config.block(int(name.split(".")[1]))
    if not isinstance(config.mlp, str):
        return experts(config, w, seen, name, x)
    up = seen[f"{name}.up"] = linear(w, f"{name}.up", x)
    match config.mlp:
        case "gelu":
            act = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        case "gelu_exact":
            act = 0.5 * up * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        case "relu":
            act = np.where(up > 0, up, 0.0)
        case "geglu":
            gate = seen[f"{name}.gate"] = linear(w, f"{name}.gate", x)
            act = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) * up
        case "xielu":  # Huang & Schlag 2024, eq. 10, with softplus sizes
            above, below = (math.log1p(math.exp(w[f"{name}.alpha_{x}"][0])) for x in "pn")
            beta = float(w[f"{name}.beta"])
            low = (below + beta) * (np.expm1(np.minimum(up, w[f"{name}.eps"])) - up)
            act = np.where(up > 0, above * up * up, low) + beta * up
        case "relu2":
            act = np.where(up > 0, up, 0.0) ** 2
        case "swiglu":
            gate = seen[f"{name}.gate"] = linear(w, f"{name}.gate", x)
            act = gate / (1 + np.exp(-gate)) * up
    seen[f"{name}.act"] = act
    return linear(w, f"{name}.down", act)


def experts(config: Any, w: Arrays, seen: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Shazeer et al. 2017, eq. 1, one token at a time."""

    def swiglu(where: str, token: np.ndarray) -> np.ndarray:
        gate, up = linear(w, f"{where}.gate", token), linear(w, f"{where}.up", token)
        if limit := config.mlp.limit:  # OpenAI 2025, as gpt-oss's model.py has it
            gate, up = np.minimum(gate, limit), np.maximum(np.minimum(up, limit), -limit)
            return linear(w, f"{where}.down", gate / (1 + np.exp(-1.702 * gate)) * (up + 1))
        return linear(w, f"{where}.down", gate / (1 + np.exp(-gate)) * up)

    scores = seen[f"{name}.router"] = linear(w, f"{name}.router", x)
    y, used, tokens = np.zeros_like(x), np.zeros_like(scores), np.zeros(config.mlp.n)
    seen[f"{name}.weights"], seen[f"{name}.tokens"] = used, tokens
    for place in np.ndindex(x.shape[:-1]):
        weights = weights_of_experts(config.mlp, scores[place], w.get(f"{name}.router.correction"))
        total = sum(weights.values()) / config.mlp.scale if config.mlp.renormalise else 1 / config.mlp.scale
        y[place] = sum(weight / total * swiglu(f"{name}.experts.{i}", x[place]) for i, weight in weights.items())
        for i, weight in weights.items():
            used[place][i] = weight / total
            tokens[i] += 1
        if config.mlp.shared:
            gate = 1 / (1 + np.exp(-linear(w, f"{name}.shared_gate", x[place]))) if config.mlp.gated else 1.0
            y[place] += gate * swiglu(f"{name}.shared", x[place])
    return y


def weights_of_experts(mlp: Any, scores: np.ndarray, correction: np.ndarray | None) -> dict[int, float]:
    """Of the chosen ones."""
    if mlp.weigh == "mixer":  # Liu et al. 2024, algorithm 1, as Phi-3.5-MoE runs it
        found: dict[int, float] = {}
        for _ in range(mlp.used):
            left = [i for i in range(mlp.n) if i not in found]
            top = max(scores[i] for i in left)
            near = [i for i in left if (top - scores[i]) / max(abs(scores[i]), top) <= 2 * mlp.near]
            best = next(i for i in left if scores[i] == top)
            found[best] = 1 / sum(np.exp(scores[i] - top) for i in near)
        return found
    if mlp.weigh == "sigmoid":  # DeepSeek-V3, eqs. 13 to 16
        shares = 1 / (1 + np.exp(-scores))
        return {int(i): shares[i] for i in np.argsort(-(shares + correction))[: mlp.used]}
    shares = np.exp(scores - scores.max())
    return {int(i): shares[i] / shares.sum() for i in np.argsort(-shares)[: mlp.used]}


def linear(w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return np.einsum("...i,oi->...o", x, w[f"{name}.weight"]) + w.get(f"{name}.bias", 0.0)


def rms(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def norm(config: Any, w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    if config.norm == "none":
        return x
    if config.norm.startswith("layer"):
        x = x - x.mean(-1, keepdims=True)  # what remains has mean 0, so its mean square is the variance
    one = 1.0 if config.norm.endswith("_1p") else 0.0  # where the weight is what is added to 1
    weight = 1.0 if config.norm.endswith("_plain") else w[f"{name}.weight"] + one
    return rms(x, config.norm_eps) * weight + w.get(f"{name}.bias", 0.0)


def rotated(config: Any, whole: np.ndarray, interleaved: bool, local: bool = False) -> np.ndarray:
    """whole (b, t, h, c): each pair of the first channels a complex number, multiplied by exp(i position frequency)."""
    c = config.rope.rotated or whole.shape[-1]
    x = whole[..., :c]
    own = local and config.rope.local_theta is not None  # its own base, and unscaled
    base, scaling = (config.rope.local_theta, None) if own else (config.rope.theta, config.rope.scaling)
    real, imaginary = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., : c // 2], x[..., c // 2 :])
    turn = np.exp(
        1j
        * np.outer(np.arange(x.shape[1]), [stretched(config, i, c, base, scaling, x.shape[1]) for i in range(c // 2)])
    )
    pairs = (real + 1j * imaginary) * turn[:, None] * temperature(config, scaling)
    out = np.empty_like(x)
    if interleaved:
        out[..., ::2], out[..., 1::2] = pairs.real, pairs.imag
    else:
        out[..., : c // 2], out[..., c // 2 :] = pairs.real, pairs.imag
    return np.concatenate((out, whole[..., c:]), -1)


def stretched(config: Any, i: int, c: int, base: float, s: Any, t: int) -> float:
    """Radians per position of pair i of c channels, one pair at a time."""
    frequency = 1 / base ** (2 * i / c)
    if s is None:
        return frequency
    original = s.original_context_length or config.context_length
    if s.kind == "longrope":  # Ding et al. 2024: one list within the original context, another beyond it
        return frequency / (s.long if t > original else s.short)[i]
    if s.kind == "linear":  # Chen et al. 2023, eq. 4: position m becomes m / factor
        return frequency / s.factor
    if s.kind == "llama3":  # by wavelength; Llama 3.1's published rule
        wavelength = 2 * math.pi / frequency
        if wavelength < original / s.high_freq_factor:
            return frequency
        if wavelength > original / s.low_freq_factor:
            return frequency / s.factor
        smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        return (1 - smooth) * frequency / s.factor + smooth * frequency

    def pair_with(turns: float) -> float:  # the i at which original * theta^(-2i/c) = 2 pi turns
        return c / 2 * math.log(original / (2 * math.pi * turns), base)

    first, last = pair_with(s.beta_fast), pair_with(s.beta_slow)
    first, last = (math.floor(first), math.ceil(last)) if s.truncate else (first, last)
    first, last = max(first, 0), min(last, c - 1)
    stretch = min(max((i - first) / (last - first or 0.001), 0.0), 1.0)  # a short context gives a ramp backwards
    return frequency * (1 - stretch) + frequency / s.factor * stretch


def temperature(config: Any, s: Any) -> float:
    """YaRN: sqrt(1/t) = 0.1 ln(factor) + 1 (Peng et al. 2023, eq. 22), on q and on k; LongRoPE has its own."""
    if s is not None and s.kind == "longrope":
        original = s.original_context_length or config.context_length
        return s.attention_factor or math.sqrt(1 + math.log(s.factor) / math.log(original))
    return 1.0 if s is None or s.kind != "yarn" else s.attention_factor or 0.1 * math.log(s.factor) + 1
