"""Draw the figures of the concept pages: `python docs/figures.py [FOLDER]`.

Everything drawn is computed by the rooms of the package that the pages quote; nothing is drawn from a copy.
"""

import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from fathom.adapters.svd import MarchenkoPastur, singular_values, svd
from fathom.anatomy.cost import cache_bytes, flops, matrices, n_parameters, parameters
from fathom.bench.shapes import SHAPES
from fathom.inspect.look import look
from fathom.model.attention import attend
from fathom.model.config import ModelConfig
from fathom.model.mlp import make_mlp
from fathom.model.norm import layer_norm, rms_norm
from fathom.model.position import make_position
from fathom.model.presets import GPT2, LLAMA2_7B, LLAMA2_70B
from fathom.model.transformer import Transformer
from fathom.quant.nf4 import BLOCK, NF4, encode
from fathom.quant.scheme import Scheme
from fathom.quant.schemes import SCHEMES
from fathom.report.plot import LIGHT, Curve, Row, bars, curves, save

T = 10  # tokens in the pictures of attention


def pattern(q: Tensor, k: Tensor) -> Tensor:
    """Where each query looks: the pattern (h, t, s) inside `attend`, for q and k (h, t, c)."""
    seen = {}

    def note(name: str, x: Tensor) -> Tensor:
        seen[name] = x
        return x

    attend(q[None], k[None], k[None], None, 0.0, note)
    return seen["pattern"][0]


def looks(*back: int) -> Tensor:
    """(t, c) queries that ask for the keys this many places back, where keys are one-hot places."""
    places = torch.arange(T)
    return 40.0 * sum(torch.eye(T)[(places - b).clamp(min=0)] for b in back)


def heatmaps(patterns: Sequence[tuple[str, Tensor]]) -> Figure:
    """Patterns (t, s) side by side; the darker, the more of it is read."""
    figure = Figure(figsize=(3.1 * len(patterns), 3.3), layout="constrained", facecolor=LIGHT.paper)
    for ax, (title, shown) in zip(figure.subplots(1, len(patterns), squeeze=False)[0], patterns):
        ax.imshow(shown.numpy(), cmap="Blues", vmin=0, vmax=1)
        ax.set_title(title, fontsize=10, color=LIGHT.ink)
        ax.set_xlabel("key: what is read", fontsize=9, color=LIGHT.faint)
        ax.set_ylabel("query: who reads", fontsize=9, color=LIGHT.faint)
        ax.set_xticks([]), ax.set_yticks([])
        ax.spines[:].set_color(LIGHT.line)
    return figure


def self_attention() -> Figure:
    k = torch.eye(T)
    shown = torch.stack([torch.zeros(T, T), looks(1), looks(0, 1, 2)])
    titles = ("asks nothing: a mean of the past", "asks for the token before", "asks for the last three")
    return heatmaps(list(zip(titles, (pattern(q[None], k[None])[0] for q in shown))))


def multi_head() -> Figure:
    k = torch.eye(T)
    one = pattern(looks(1, 3)[None], k[None])
    two = pattern(torch.stack([looks(1), looks(3)]), torch.stack([k, k]))
    titles = ("one head, two questions: mixed", "two heads: the first", "and the second, kept apart")
    return heatmaps(list(zip(titles, (one[0], *two))))


def scaled_dot_product() -> Figure:
    widths = [1, 2, 4, 8, 16, 32, 64, 128]
    random = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 64, 64, c, generator=random) for c in widths]

    def largest(q: Tensor, k: Tensor) -> float:
        """The mean weight of the key that is read most, among all 64."""
        return float(pattern(q, k)[:, -1].amax(-1).mean())

    scaled = [largest(q, k) for q, k in draws]
    unscaled = [largest(q * q.shape[-1] ** 0.5, k) for q, k in draws]  # takes the division back
    drawn = [Curve("without", widths, unscaled, colour=1), Curve("divided by √c", widths, scaled)]
    return curves(drawn, "head_dim c", "weight of the strongest of 64 random keys", number="  {:.2f}")


def layer_norm_figure() -> Figure:
    def lengths(norm: str) -> list[float]:
        """Root mean square of the stream before each block and after the last, at a start with large weights."""
        torch.manual_seed(0)
        config = ModelConfig(vocab_size=64, context_length=32, d_model=64, n_layer=16, norm=norm, mlp="gelu")
        model = Transformer(config)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 2:
                    p.normal_(std=p.shape[1] ** -0.5)
            with look(model, "blocks.*.resid_pre", "blocks.15") as seen:
                model(torch.arange(32)[None])
        return [float(seen[name].square().mean().sqrt()) for name in seen]

    depth = list(range(17))
    drawn = [Curve("without norms", depth, lengths("none"), colour=1), Curve("with LayerNorm", depth, lengths("layer"))]
    figure = curves(drawn, "blocks passed", "root mean square of the stream", number="  {:.1f}")
    figure.axes[0].set(yscale="log", ylim=(0.07, 700))
    return figure


def rms_norm_figure() -> Figure:
    torch.manual_seed(0)
    x, ones = torch.randn(1000, 64), torch.ones(64)
    x = x - x.mean(-1, keepdim=True)
    offsets = [i / 10 for i in range(11)]

    def apart(offset: float) -> float:
        """How far the two results are apart, as a part of their length, for vectors whose mean is this offset."""
        a, b = layer_norm(x + offset, ones, None, 1e-5), rms_norm(x + offset, ones, 1e-5)
        return float((a - b).norm() / a.norm())

    drawn = [Curve("difference", offsets, [apart(offset) for offset in offsets])]
    return curves(drawn, "mean of the vector, in deviations", "LayerNorm against RMSNorm", number="")


def rope() -> Figure:
    config = ModelConfig(vocab_size=1, context_length=128, d_model=64, n_layer=1, position="rope").resolved()
    position, x = make_position(config), torch.ones(1, 1, 1, 64) / 8

    def score(query: int, key: int) -> float:
        q, k = (position.rotation(torch.tensor([place]))(x) for place in (query, key))
        return float((q * k).sum())

    distances = list(range(0, 65))
    drawn = [
        Curve("query at 64", distances, [score(64, 64 - distance) for distance in distances], raw=True, colour=1),
        Curve("any place", distances, [score(127, 127 - distance) for distance in distances]),
    ]
    return curves(drawn, "distance between query and key", "q · k of two equal vectors, turned", number="")


def rope_layouts() -> Figure:
    """A head that looks three tokens back, in the layout it was made for and in the other one."""
    config = ModelConfig(vocab_size=1, context_length=T, d_model=32, n_layer=1, position="rope").resolved()
    position = make_position(config)
    rotate = position.rotation(torch.arange(T))
    first = torch.tensor([1.0, 0.0]).repeat_interleave(16).expand(1, 1, 1, -1)  # each pair points along its first axis
    q = position.rotation(torch.tensor([-3]))(first).expand(1, 1, T, -1)  # as a key three places earlier is turned
    k = first.expand(1, 1, T, -1)

    def shown(order: Tensor) -> Tensor:
        return pattern(rotate(24 * q[..., order])[0], rotate(k[..., order])[0])[0]

    own, other = torch.arange(32), torch.arange(32).view(2, 16).T.flatten()
    return heatmaps([("in its own layout", shown(own)), ("the same numbers in the other", shown(other))])


def swiglu() -> Figure:
    inputs = torch.linspace(-4, 4, 81)
    drawn = []
    for colour, mlp in enumerate(("gelu", "relu2", "swiglu")):
        config = ModelConfig(vocab_size=1, context_length=1, d_model=1, n_layer=1, d_ff=1, mlp=mlp).resolved()
        made = make_mlp(config)
        with torch.no_grad():
            for p in made.parameters():
                p.fill_(1.0)
            out = made(inputs[:, None])[:, 0]
        inside = [(x, y) for x, y in zip(inputs.tolist(), out.tolist()) if y <= 6]
        drawn.append(Curve(mlp, *zip(*inside), colour=colour))
    return curves(drawn, "input", "one hidden channel, all weights 1", number="")


def grouped_query_attention() -> Figure:
    def gigabytes(groups: int) -> float:
        return cache_bytes(replace(LLAMA2_70B, n_kv_head=groups), 1, 4096, itemsize=2) / 2**30

    names = {64: "64: multi-head", 8: "8: grouped, as LLaMA 2 70B", 1: "1: multi-query"}
    rows = [Row(name, gigabytes(groups)) for groups, name in names.items()]
    return bars(rows, "GiB of cache for 4,096 tokens in 16 bit", number="{:.2f}".format)


def kv_cache() -> Figure:
    lengths = list(range(32, 1025, 32))
    giga = [1e-9 * sum(flops(GPT2, t).values()) for t in lengths]
    cached = [1e-9 * sum(flops(GPT2, 1, past=t - 1).values()) for t in lengths]
    drawn = [Curve("recompute", lengths, giga, colour=1), Curve("with the cache", lengths, cached)]
    return curves(drawn, "tokens so far", "GFLOPs for the next token of GPT-2", number="  {:.3g}")


def fast_decoding() -> Figure:
    config = SHAPES["1.1B"]
    count = parameters(config)
    cache = cache_bytes(config, 1, 2048, itemsize=2)

    def gigabytes(blocks: float, unembed: float) -> float:
        """With so many bits for each weight."""
        return (blocks * (count["attn"] + count["mlp"]) + unembed * count["unembed"]) / 8e9

    int8, int4 = SCHEMES["int8"].bits, SCHEMES["int4"].bits
    rows = [Row("bf16", gigabytes(16, 16)), Row("int8", gigabytes(int8, int8)), Row("int4", gigabytes(int4, int8))]
    rows.append(Row("the cache, after 2,048 tokens", cache / 1e9))
    return bars(rows, "GB that one token of a LLaMA of 1.1B reads", number="{:.2f}".format)


def falling(rate: float, n: int = 64) -> Tensor:
    """(n, n) with singular values 1, e^-rate, e^-2 rate, ..."""
    random = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=random)).Q for _ in range(2))
    return (u * torch.exp(-rate * torch.arange(n))) @ v.T


def svd_figure() -> Figure:
    random = torch.Generator().manual_seed(0)
    product = torch.randn(64, 8, generator=random) @ torch.randn(8, 64, generator=random)
    shown = [
        ("random", torch.randn(64, 64, generator=random)),
        ("falling by a tenth each", falling(0.1)),
        ("b a, r = 8", product),
    ]
    ranks = list(range(65))

    def lost(matrix: Tensor) -> list[float]:
        """|W - W_r| / |W| at every rank."""
        terms = svd(matrix)
        return [float((matrix - terms.cut(r).matrix()).norm() / matrix.norm()) for r in ranks]

    drawn = [Curve(name, ranks, lost(matrix), colour=i) for i, (name, matrix) in enumerate(shown)]
    return curves(drawn, "rank r of the approximation", "|W - W_r| / |W|", number="")


def rank_figure() -> Figure:
    n, random = 256, torch.Generator().manual_seed(0)
    noise = torch.randn(n, n, generator=random)
    signal = 4 * torch.randn(n, 4, generator=random) @ torch.randn(4, n, generator=random) / n**0.5
    places = list(range(1, 33))

    def values(matrix: Tensor) -> list[float]:
        return (singular_values(matrix) / n**0.5)[: len(places)].tolist()

    law = (MarchenkoPastur(n, n).values() / n**0.5)[: len(places)].tolist()
    drawn = [
        Curve("noise + rank 4", places, values(noise + signal)),
        Curve("noise", places, values(noise), colour=1),
        Curve("the law for noise", places, law, colour=4),
    ]
    return curves(drawn, "singular value, from the largest", "size, in units of the square root of n", number="")


def lora_figure() -> Figure:
    """What stays in memory of LLaMA 2 7B while it is trained, besides what a batch needs."""
    whole, rank = n_parameters(LLAMA2_7B), 8
    learned = LLAMA2_7B.n_layer * sum(rank * (n + m) for n, m in matrices(LLAMA2_7B).values())
    blocks = LLAMA2_7B.n_layer * sum(n * m for n, m in matrices(LLAMA2_7B).values())
    trained = 16  # bytes of a number that learns: itself, its gradient and two moments, in fp32
    rows = [
        Row("all weights", trained * whole / 2**30),
        Row("LoRA, rank 8, on bf16", (2 * whole + trained * learned) / 2**30),
        Row("QLoRA, rank 8, on NF4", (2 * (whole - blocks) + NF4().bits / 8 * blocks + trained * learned) / 2**30),
    ]
    return bars(rows, "GiB for weights, gradients and optimizer of LLaMA 2 7B", number="{:.1f}".format)


def qlora_figure() -> Figure:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))

    def lost(back: Tensor) -> float:
        """The part of the weights' length, in percent."""
        return 100 * float((back.view(512, 512) - weight).norm() / weight.norm())

    def packed(scheme: Scheme) -> Tensor:
        return scheme.dequantize(scheme.quantize(weight), (512, 512), torch.float32)

    even = torch.linspace(-1, 1, 16)
    codes, scales = encode(weight.flatten(), BLOCK, even)
    rows = [Row(f"{name}: {scheme.bits:.3f} bits", lost(packed(scheme))) for name, scheme in SCHEMES.items()]
    rows.append(Row("16 even values: 4.500 bits", lost(even[codes.int()] * scales[:, None])))
    return bars(rows, "% of normal weights lost by packing them", number="{:.2f}".format)


FIGURES: dict[str, Callable[[], Figure]] = {
    "self-attention": self_attention,
    "scaled-dot-product": scaled_dot_product,
    "multi-head": multi_head,
    "layer-norm": layer_norm_figure,
    "rms-norm": rms_norm_figure,
    "rope": rope,
    "rope-layouts": rope_layouts,
    "swiglu": swiglu,
    "grouped-query-attention": grouped_query_attention,
    "kv-cache": kv_cache,
    "fast-decoding": fast_decoding,
    "svd": svd_figure,
    "rank": rank_figure,
    "lora": lora_figure,
    "qlora": qlora_figure,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    learning = runpy.run_path(str(Path(__file__).with_name("learning_figures.py")))["FIGURES"]
    for name, draw in {**learning, **FIGURES}.items():
        save(draw(), folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures")
