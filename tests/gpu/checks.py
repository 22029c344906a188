"""What must hold on a GPU: each check says how far it is off and how far it may be.

Run by `pytest -m gpu`, and by benchmarks/gpu.py before anything is timed. All of them also run on a CPU, where they
compare it with itself: so a mistake in a check is seen without a GPU.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.backend.cuda_graph import RecordedStep, StaticCache
from fathom.backend.inference import InferenceModel, cache_for
from fathom.backend.matvec import matvec, matvec_int4, use_matvec
from fathom.generation.generate import generate
from fathom.model.attention import attend, attend_fused, causal
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model
from fathom.quant.schemes import SCHEMES
from fathom.tokenizer.characters import ByteTokenizer
from fathom.training.batches import micro_batches
from fathom.training.loop import update
from fathom.training.loss import next_token_loss
from fathom.training.options import TrainOptions
from fathom.training.session import Session

GPT = ModelConfig(
    vocab_size=211, context_length=96, d_model=128, n_layer=2, n_head=4,
    position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True,
)  # fmt: skip
LLAMA = replace(GPT, n_kv_head=2, position="rope", norm="rms", mlp="swiglu", bias=False, tie_embeddings=False)
STRONG = replace(GPT, position="rope", norm="rms", mlp="relu2", qk_norm="on", bias=False, tie_embeddings=False)
MODELS = {"gpt": GPT, "llama": LLAMA, "strong": STRONG}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Found:
    """A difference and what is allowed."""

    what: str
    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.allowed  # and so not where it is no number


def model_of(config: ModelConfig, device: torch.device) -> Transformer:
    """Random weights, the same on every device, large enough that logits differ."""
    torch.manual_seed(1)
    model = Transformer(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.08)
    return model.to(device).eval()


def some(*shape: int, device: torch.device, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def ids_of(config: ModelConfig, rows: int, t: int, device: torch.device) -> Tensor:
    return torch.randint(0, config.vocab_size, (rows, t), generator=torch.Generator().manual_seed(3)).to(device)


def apart(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in float64 on the CPU; NaN where one of them is not finite."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def gradients(model: nn.Module, ids: Tensor) -> Tensor:
    """All of the gradient of the loss, as one vector."""
    model.zero_grad()
    batch = micro_batches(ids, device=ids.device)
    (next_token_loss(model, batch.parts[0]) / batch.count).backward()  # type: ignore[arg-type]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def against_the_cpu(device: torch.device) -> Iterator[Found]:
    """Logits and gradients in fp32, and in bf16 as in training."""
    for name, config in MODELS.items():
        here, there = model_of(config, CPU), model_of(config, device)
        ids = ids_of(config, 3, 48, CPU)
        logits, expected = here(ids), gradients(here, ids)
        yield Found(f"{name}: logits, fp32", apart(there(ids.to(device)), logits), 1e-5)
        yield Found(f"{name}: gradient, fp32", apart(gradients(there, ids.to(device)), expected), 1e-4)
        with torch.autocast(device.type, torch.bfloat16):
            yield Found(f"{name}: logits, bf16", apart(there(ids.to(device)), logits), 3e-2)
            yield Found(f"{name}: gradient, bf16", apart(gradients(there, ids.to(device)), expected), 6e-2)


def fused_attention(device: torch.device) -> Iterator[Found]:
    """`attend_fused` beside `attend` in fp32: causal, one query of many, masked, shared heads."""
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for heads, t, s, masked in ((4, 40, 40, False), (4, 1, 40, False), (2, 40, 40, False), (2, 7, 40, True)):
            q, k, v = (some(2, h, n, 32, device=device, seed=n + h) for h, n in ((4, t), (heads, s), (heads, s)))
            visible = causal(t, s, device) if masked else None
            found = attend_fused(q.to(dtype), k.to(dtype), v.to(dtype), visible, 0.0)
            what = f"fused attention, {str(dtype)[6:]}, {t} x {s}, {heads} of 4 heads" + ", masked" * masked
            yield Found(what, apart(found, attend(q, k, v, visible, 0.0)), allowed)


@torch.no_grad()
def cached(device: torch.device) -> Iterator[Found]:
    """The cache beside a whole pass, and recorded steps beside it."""
    for name, config in MODELS.items():
        model, ids = model_of(config, device), ids_of(config, 2, 40, device)
        cache, whole = KVCache(config, 2, 40, device=device), model(ids)
        pieces = [model(chunk, cache) for chunk in (ids[:, :9], *ids[:, 9:].split(1, dim=1))]
        yield Found(f"{name}: cache, logits", apart(torch.cat(pieces, 1), whole), 1e-5)
        yield recorded(name, model)


def packed(device: torch.device) -> Iterator[Found]:
    """Every number format packs and unpacks to the same bits."""
    weight = some(96, 160, device=CPU) * 0.05
    for name, scheme in SCHEMES.items():
        here, there = scheme.quantize(weight), scheme.quantize(weight.to(device))
        wrong = sum(int((here[field] != there[field].cpu()).sum()) for field in scheme.fields if here[field].ndim)
        yield Found(f"{name}: packed numbers that differ", wrong, 0)
        moved = {field: x.to(device) for field, x in here.items()}
        for dtype in (torch.float32, torch.bfloat16):
            back = [scheme.dequantize(p, (96, 160), dtype).cpu() for p in (here, moved)]
            yield Found(f"{name}: unpacked numbers that differ", int((back[0] != back[1]).sum()), 0)


@torch.no_grad()
def few(device: torch.device) -> Iterator[Found]:
    """The kernels for few rows beside matrix products; a whole model of them."""
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        weight, x = some(144, 416, device=device).to(dtype), some(3, 416, device=device, seed=4).to(dtype)
        yield Found(f"few rows, {str(dtype)[6:]}", apart(matvec(x, weight), x.float() @ weight.float().T), allowed)
        scheme = SCHEMES["int4"]
        four = scheme.quantize(weight)
        expected = x.float() @ scheme.dequantize(four, (144, 416), torch.float32).T
        result = matvec_int4(x, four["codes"], four["scales"])
        yield Found(f"few rows, int4, {str(dtype)[6:]}", apart(result, expected), allowed)
    for name, scheme_name in (("llama", None), ("llama", "int4"), ("gpt", "int4")):
        plain = model_of(MODELS[name], device)
        if scheme_name:
            quantize_model(plain, scheme_name)
        swift, ids = deepcopy(plain), ids_of(plain.config, 1, 3, device)
        assert not use_matvec(swift)
        yield Found(f"{name} of few rows, {scheme_name or 'fp32'}", apart(swift(ids), plain(ids)), 1e-5)


def learns(device: torch.device) -> Iterator[Found]:
    """Steps of the loop beside the same steps on the CPU: all weights, an adapter, an adapter on packed weights."""
    for what in ("adamw", "muon", "lora", "qlora"):
        losses = [steps(what, where) for where in (CPU, device)]
        yield Found(f"{what}: loss after three steps", apart(losses[1], losses[0]), 1e-4)
        yield Found(f"{what}: nothing learned", float(losses[1][2] >= losses[1][0]), 0)


def steps(what: str, device: torch.device) -> Tensor:
    """The losses of three steps on one batch."""
    model, muon = model_of(STRONG, device), what == "muon"
    if what == "qlora":
        quantize_model(model, "nf4")
    if "lora" in what:
        lora.add(model, LoraOptions(rank=4))
    rates = {"learning_rate": 1e-3, "muon_learning_rate": 1e-3, "optimizer": "muon" if muon else "adamw"}
    options = TrainOptions(**rates, batch_size=4, micro_batch_size=2, max_iters=3, warmup_steps=0,
                           schedule="constant", dtype="fp32", compile="off")  # fmt: skip
    session = Session(model, options, device)
    return torch.tensor([update(session, session.prepare(ids_of(STRONG, 4, 49, CPU))).loss for _ in range(3)])


def compiled(device: torch.device) -> Iterator[Found]:
    """Blocks compiled as in training, beside the same as they are."""
    for name in ("gpt", "strong"):
        plain, other = model_of(MODELS[name], device), model_of(MODELS[name], device)
        for block in other.blocks:
            block.compile()  # type: ignore[operator]
        ids = ids_of(GPT, 3, 48, device)
        yield Found(f"{name}: compiled, logits", apart(other(ids), plain(ids)), 1e-5)
        yield Found(f"{name}: compiled, gradient", apart(gradients(other, ids), gradients(plain, ids)), 1e-4)


@torch.no_grad()
def recorded(what: str, plain: Transformer) -> Found:
    """The logits of recorded steps over one cache beside those of the plain model over another: one token at a time,
    then several, then again from an earlier place."""
    swift = InferenceModel(deepcopy(plain), RecordedStep)
    ids, device = ids_of(plain.config, 2, 40, plain.embed.weight.device), plain.embed.weight.device
    caches = [KVCache(plain.config, 2, 40, device=device), cache_for(swift, 2, 40)]
    assert isinstance(caches[1], StaticCache) and swift.step is not None
    logits: list[list[Tensor]] = [[], []]
    for model, cache, seen in zip((plain, swift), caches, logits):
        for piece in (ids[:, :9], *ids[:, 9:20].split(1, dim=1), ids[:, 20:24], ids[:, 24:25]):
            seen.append(model(piece, cache)[:, -1])
        cache.rewind(12)
        seen.append(model(ids[:, 3:4], cache)[:, -1])
    difference = apart(torch.cat(logits[1]), torch.cat(logits[0]))
    return Found(f"{what}: recorded steps", difference, 1e-5)


def generated(device: torch.device) -> Iterator[Found]:
    """Texts that `fathom.generate` writes with recorded steps and kernels for few rows, beside the plain model's."""
    for name in ("gpt", "llama"):
        plain = model_of(MODELS[name], device)
        swift = deepcopy(plain)
        assert not use_matvec(swift)
        prepared = InferenceModel(swift, RecordedStep)
        options = {"max_new_tokens": 30, "temperature": 0.0}
        texts = [
            [text.tokens for text in generate(model, ByteTokenizer(), ["one", "a longer prompt"], **options)]
            for model in (plain, prepared)
        ]
        yield Found(f"{name}: texts that differ", sum(a != b for a, b in zip(*texts)), 0)


EVERY = (against_the_cpu, fused_attention, cached, packed, few, generated, learns, compiled)
CHECKS: dict[str, Callable[[torch.device], Iterator[Found]]] = {check.__name__: check for check in EVERY}
