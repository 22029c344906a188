"""llama2.c's files as its export.py writes them and its run.c reads them, in numpy: held against ours in tests.

Written from the published layout, without looking at ours.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
ATTENTION = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
MLP = ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]


def export(path: Path, version: int, sizes: list[int], w: dict[str, Array], group: int = 64) -> None:
    """`sizes`: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len. `w`: weights by Meta's names."""
    dim, _, layers, heads, _, vocab, length = sizes
    shared = "output.weight" not in w

    def every(names: list[str]) -> list[Array]:
        return [w[f"layers.{layer}.{name}.weight"] for name in names for layer in range(layers)]

    embedding, norms = w["tok_embeddings.weight"], ["attention_norm", "ffn_norm"]
    last = [] if shared else [w["output.weight"]]
    with path.open("wb") as file:
        if version == 0:
            file.write(struct.pack("7i", *sizes[:5], vocab if shared else -vocab, length))
            angles = np.outer(np.arange(length), 1e4 ** -(np.arange(0, dim // heads, 2) / (dim // heads)))
            tables = [np.cos(angles), np.sin(angles)]
            parts = [embedding, *every(norms[:1]), *every(ATTENTION), *every(norms[1:]), *every(MLP), w["norm.weight"]]
            file.writelines(x.astype("<f4").tobytes() for x in [*parts, *tables, *last])
            return
        head = struct.pack("Ii7iB", 0x616B3432, version, *sizes, shared)
        file.write((head + (struct.pack("<i", group) if version == 2 else b"")).ljust(256, b"\0"))
        file.writelines(x.astype("<f4").tobytes() for x in [*every(norms), w["norm.weight"]])
        for x in [embedding, *every(ATTENTION), *every(MLP), *last]:
            if version == 1:
                file.write(x.astype("<f4").tobytes())
            else:
                rows = x.reshape(-1, group)
                scale = np.abs(rows).max(1) / np.float32(127)
                file.write(np.round(rows / scale[:, None]).astype("i1").tobytes() + scale.astype("<f4").tobytes())


def run(path: Path, ids: list[int]) -> Array:
    """Logits (t, V) from a file of version 0, one token after another, as run.c computes them."""
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack_from("<7i", data)
    c, numbers, at = dim // heads, np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape: int) -> Array:
        nonlocal at
        at += int(np.prod(shape))
        return numbers[at - int(np.prod(shape)) : at].reshape(shape)

    embedding, attn_norm = take(abs(vocab), dim), take(layers, dim)
    wq, wk, wv, wo = (take(layers, n * c, dim) for n in (heads, kv_heads, kv_heads, heads))
    ffn_norm, w1, w2, w3 = take(layers, dim), *(take(layers, *s) for s in ((hidden, dim), (dim, hidden), (hidden, dim)))
    norm, cos, sin = take(dim), take(length, c // 2), take(length, c // 2)
    output = embedding if vocab > 0 else take(-vocab, dim)
    keys, values = np.zeros((2, layers, len(ids), kv_heads, c), np.float32)
    logits = []
    for place, id in enumerate(ids):
        x = embedding[id].copy()
        for layer in range(layers):
            z = rms(x, attn_norm[layer])
            q = turn((wq[layer] @ z).reshape(heads, c), cos[place], sin[place])
            keys[layer, place] = turn((wk[layer] @ z).reshape(kv_heads, c), cos[place], sin[place])
            values[layer, place] = (wv[layer] @ z).reshape(kv_heads, c)
            out = np.zeros((heads, c), np.float32)
            for head in range(heads):
                own = head // (heads // kv_heads)
                scores = keys[layer, : place + 1, own] @ q[head] / np.sqrt(np.float32(c))
                weights = np.exp(scores - scores.max())
                out[head] = weights / weights.sum() @ values[layer, : place + 1, own]
            x += wo[layer] @ out.reshape(-1)
            z = rms(x, ffn_norm[layer])
            gate = w1[layer] @ z
            x += w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ z))
        logits.append(output @ rms(x, norm))
    return np.stack(logits)


def rms(x: Array, weight: Array) -> Array:
    return weight * x / np.sqrt((x * x).mean() + np.float32(1e-5))


def turn(x: Array, cos: Array, sin: Array) -> Array:
    """Channels 2i and 2i + 1 are the two coordinates of a point."""
    first, second = x[:, 0::2], x[:, 1::2]
    return np.stack((first * cos - second * sin, first * sin + second * cos), -1).reshape(x.shape).astype(np.float32)
