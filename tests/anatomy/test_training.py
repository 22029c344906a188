"""Bytes and FLOPs of a training step against what torch allocates, keeps and counts; traffic against a ring's closed
form."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.anatomy import training
from fathom.anatomy.amounts import KINDS, Amount
from fathom.anatomy.cost import matrices
from fathom.anatomy.skeleton import skeleton
from fathom.anatomy.swap import parts, swap
from fathom.anatomy.training import Step, memory, peak, shared, traffic
from fathom.backend.training import recompute_blocks, use_fused_passes
from fathom.model.attention import Attention, attend
from fathom.model.config import Experts, ModelConfig
from fathom.model.presets import GPT2, GPT2_CHOICES, LLAMA2_7B, LLAMA_CHOICES
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import quantize_model
from fathom.training import sharded_muon
from fathom.training.optimizers import NAMES, optimizer_named
from tests.anatomy.test_amounts import worked_out
from tests.architectures import ARCHITECTURES

SIZES = {"vocab_size": 1000, "context_length": 520, "d_model": 96, "n_layer": 4, "n_head": 6}
GPT = ModelConfig(**SIZES, **GPT2_CHOICES, tie_embeddings=True)
LLAMA = ModelConfig(**SIZES, n_kv_head=2, d_ff=260, **LLAMA_CHOICES)
SHAPES = {
    "gpt": GPT,
    "llama": LLAMA,
    "qk_norm": replace(LLAMA, qk_norm="on"),
    "one norm": replace(GPT, residual="parallel"),
    "no bias, relu2": replace(GPT, bias=False, mlp="relu2"),
}
MODES = {  # how it computes, and of how many tokens
    "fp32": (Step(128, 2, itemsize=4), 128),
    "16 bits": (Step(128, 2), 128),
    "16 bits, fused": (Step(128, 2, fused=True), 128),
    "16 bits, fused, many keys": (Step(520, 2, fused=True), 520),
    "adapter, fp32": (Step(128, 2, itemsize=4, method="lora"), 128),
    "adapter, fused": (Step(128, 2, method="lora", fused=True), 128),
}


def model_for(config: ModelConfig, step: Step) -> Transformer:
    """As a training session prepares it."""
    torch.manual_seed(0)
    model = Transformer(config).train()
    if step.method != "full":
        model.requires_grad_(False)
        model = model.bfloat16() if step.itemsize == 2 else model
        lora.add(model, LoraOptions(rank=step.rank))
    if step.fused:
        use_fused_passes(model)
    return model


def kept(model: nn.Module, call: Callable[[], Tensor], leave: Callable[[Tensor], bool]) -> int:
    """Bytes of the storages that autograd keeps, weights and what `leave` names left out."""
    known, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known and not leave(x):
            found[storage.data_ptr()] = (storage.nbytes(), x)  # holding x keeps its address from being reused
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        call()
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_autograd_keeps(name: str, mode: str) -> None:
    config, (step, t) = SHAPES[name], MODES[mode]
    model, ids = model_for(config, step), torch.randint(config.vocab_size, (step.rows, t))
    tokens = step.rows * t

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=step.itemsize == 2):
            return model.hidden(ids).sum()

    measured = kept(model, forward, leave=lambda x: x.ndim == 2 and len(x) != tokens)  # copies of weights
    measured += tokens * config.d_model * step.itemsize * (step.method == "full")  # what unembed keeps
    assert training.activations(config, step).n == pytest.approx(measured, rel=0.03 if step.method == "full" else 0.06)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_copies_are_the_matrices_in_16_bits(name: str) -> None:
    config, step = SHAPES[name], Step(16)
    model, ids = model_for(config, step), torch.randint(config.vocab_size, (1, 16))

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(ids).sum()

    measured = kept(model, forward, leave=lambda x: x.ndim != 2 or x.dtype != torch.bfloat16 or len(x) == 16)
    assert memory(config, step)["copies"].n == measured


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_recomputed_block_keeps_its_input(name: str) -> None:
    """Beside one block with all that it keeps, which there is while it is computed again."""
    config, step = replace(SHAPES[name], n_layer=5), Step(128, 2, fused=True, recompute=True)
    model, ids = model_for(config, step), torch.randint(config.vocab_size, (2, 128))
    recompute_blocks(model)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.hidden(ids).sum()

    one, two = (training.activations(replace(config, n_layer=n), replace(step, recompute=False)).n for n in (1, 2))
    measured = kept(model, forward, leave=lambda x: x.dtype == torch.int64) + 256 * config.d_model * 2
    assert training.activations(config, step).n == pytest.approx(measured + two - one, rel=0.03)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_weights_gradients_and_optimizer_are_torchs_tensors(config: ModelConfig) -> None:
    """On the meta device: no memory, the same sizes."""
    model = skeleton(config)
    found = memory(config, Step(8, itemsize=4))
    weights = sum(p.nbytes for p in model.parameters())
    assert found["weights"].n == found["gradients"].n == weights
    adam = torch.optim.AdamW(model.parameters(), foreach=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    adam.step()
    states = [x for state in adam.state.values() for name, x in state.items() if name != "step"]
    assert found["optimizer"].n == sum(x.nbytes for x in states)


@pytest.mark.parametrize("config", [GPT2, LLAMA2_7B], ids=["gpt2", "llama 2 7b"])
def test_published_sizes_in_bytes(config: ModelConfig) -> None:
    model = skeleton(config)
    weights = sum(p.nbytes for p in model.parameters())
    assert memory(config, Step(1))["weights"].n == weights
    assert memory(config, Step(1, method="lora"))["weights"].n == weights // 2


@pytest.mark.parametrize("optimizer", NAMES)
def test_the_optimizer_keeps_what_its_file_says(optimizer: str) -> None:
    kind, model = optimizer_named(optimizer), skeleton(LLAMA)
    inside = [p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2]
    others = sum(p.numel() for p in model.parameters()) - sum(inside)
    assert (
        memory(LLAMA, Step(1, state=kind.state_bytes))["optimizer"].n == sum(map(kind.state_bytes, inside)) + 8 * others
    )


def test_packed_weights_and_an_adapter_are_torchs_tensors() -> None:
    model = Transformer(LLAMA).bfloat16()
    quantize_model(model, "nf4")
    held = sum(part.nbytes for part in model.modules() if isinstance(part, QuantLinear))
    held += sum(p.nbytes for p in model.parameters())
    lora.add(model, LoraOptions(rank=8))
    found = memory(LLAMA, Step(8, method="qlora"))
    assert found["weights"].n == held and found["copies"].n == 0
    assert found["adapter"].n == found["gradients"].n == sum(p.nbytes for p in lora.parameters(model))


@pytest.mark.parametrize("step", [Step(19, 3, 2), Step(19, 3, recompute=True), Step(7, method="qlora", fused=True)],
                         ids=["two passes", "recomputed", "qlora"])  # fmt: skip
@pytest.mark.parametrize("config", [*ARCHITECTURES.values()], ids=[*ARCHITECTURES])
def test_formulas_are_equal_to_their_amounts(config: ModelConfig, step: Step) -> None:
    found = memory(config, step)
    over = shared(config, step, found, 4)
    sent = [one for way in ("ddp", "fsdp") for one in traffic(config, step, way, 4).values()]
    for one in (*found.values(), *training.flops(config, step).values()):
        assert worked_out(one.formula) == one.n
    for one in (*over.values(), *sent):  # shares are whole bytes
        assert abs(eval(one.formula.replace(",", "").replace("×", "*")) - one.n) < 1


def test_parts_have_the_arithmetic_of_their_parameters() -> None:
    from fathom.anatomy import amounts, cost

    experts = replace(LLAMA, mlp=Experts(4, 2, shared=30), bias=("qkv", "mlp"))
    for config in (*ARCHITECTURES.values(), GPT2, experts):
        found = amounts.parts(config)
        assert {name: one.n for name, one in found.items()} == cost.parameters(config)
        assert all(worked_out(one.formula) == one.n for one in found.values())


# FLOPs


def explicit(config: ModelConfig) -> Transformer:
    model = Transformer(config)  # torch's counter sees nothing inside the fused kernel on a CPU
    swap(model, attend=attend, names=parts(model, Attention))
    return model


@pytest.mark.parametrize("name", ["gpt", "llama", "qk_norm"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_flops_of_a_step_are_those_torch_counts(name: str, again: bool) -> None:
    config, step = SHAPES[name], Step(24, itemsize=4, recompute=again)
    model = explicit(config)
    if again:
        recompute_blocks(model)
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(config.vocab_size, (3, 24))).sum().backward()
    found = training.flops(config, step)
    assert 3 * sum(one.n for one in found.values()) == counter.get_total_flops()
    assert ("recomputed" in found) is again


def test_flops_of_an_adapter_are_those_torch_counts() -> None:
    """But for the first block, whose input needs no gradient: its three matrices that read the stream have one less."""
    config, step = LLAMA, Step(24, itemsize=4, method="lora", rank=4)
    model = explicit(config)
    lora.add(model, LoraOptions(rank=4))
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(config.vocab_size, (1, 24))).sum().backward()
    found = sum(one.n for one in training.flops(config, step).values())
    d, kv = config.d_model, config.resolved().n_kv_head * config.resolved().head_dim
    first = 2 * 24 * (d * d + 2 * d * kv) + 2 * 24 * 4 * 3 * d
    assert found - first == counter.get_total_flops()


# what is held at once, and what is sent


def test_the_peak_is_after_forward_or_at_the_update() -> None:
    kinds = {name: Amount(0) for name in training.KINDS} | {"weights": Amount(10), "optimizer": Amount(20)}
    kinds |= {"gradients": Amount(10), "activations": Amount(7), "logits": Amount(2)}
    one, two = Step(1), Step(1, passes=2)
    assert peak(kinds, one) == Amount(40, "weights + optimizer + gradients")
    assert peak(kinds | {"activations": Amount(70)}, one).n == 10 + 20 + 70 + 2
    assert peak(kinds, two).n == 10 + 20 + 7 + 2 + 10  # with the gradients of the pass before
    assert peak(kinds, one, keeps=True).n == 10 + 20 + 10 + 7 + 2  # in buckets that stay
    assert peak(kinds | {"scratch": Amount(5)}, one).n == 45


@pytest.mark.parametrize("devices", [2, 3, 8, 256])
def test_a_ring_sends_all_but_a_share_twice(devices: int) -> None:
    """Simulated: a chunk goes to the next neighbour N - 1 times to be summed, and N - 1 times to be shared out."""
    n, step = 1200 * devices, Step(8)
    config = replace(LLAMA, vocab_size=1, n_layer=0, d_model=n - 96, n_head=1, n_kv_head=1, head_dim=2, d_ff=1)
    numbers = memory(config, step)["gradients"].n // 4
    chunk, sent = numbers / devices, 0.0
    for _ in ("reduce-scatter", "all-gather"):
        for _ in range(devices - 1):
            sent += 4 * chunk
    assert traffic(config, step, "ddp", devices)["gradients"].n == pytest.approx(sent, abs=1)


def test_fsdp_gathers_in_every_pass_and_ddp_sums_once() -> None:
    step = Step(8, passes=3)
    n, outside = 4 * 10**6, 0
    config = LLAMA
    ddp, fsdp = (traffic(config, step, way, 4) for way in ("ddp", "fsdp"))
    n, outside = memory(config, step)["weights"].n // 4, 2 * 1000 * 96
    assert ddp["gradients"].n == 2 * 4 * n * 3 // 4
    assert fsdp["blocks"].n == 3 * 2 * 2 * (n - outside) * 3 // 4
    assert fsdp["outside of blocks"].n == 3 * 4 * outside * 3 // 4
    assert fsdp["gradients"].n == 3 * 4 * n * 3 // 4
    assert traffic(config, step, "ddp", 1) == {}


def test_fsdp_shares_what_is_stored() -> None:
    step = Step(8)
    whole = memory(LLAMA2_7B, step)
    found = shared(LLAMA2_7B, step, whole, 256)
    for kind in ("weights", "gradients", "optimizer"):
        assert found[kind].n == -(-whole[kind].n // 256)
    assert found["activations"] == whole["activations"]
    assert found["gathered"].n == 2 * 32000 * 4096 * 8 + (4 * 4096**2 + 3 * 4096 * 11008) * 6


def test_kinds_of_the_page_are_among_them() -> None:
    assert {*KINDS} - {"cache"} <= {*training.KINDS}


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_muon_sends_as_many_rows_as_its_exchange(devices: int) -> None:
    """Of all processes together: of each matrix the rows of those that do not work on it, there and back."""
    config = ModelConfig(vocab_size=64, context_length=16, d_model=24, n_layer=3, n_head=2, mlp="swiglu", d_ff=36)
    step = Step(16, itemsize=4, exchanges=True)
    shapes = [(out, width) for width, out in matrices(config).values()] * config.n_layer
    rows = 0
    for (out, width), owner in zip(shapes, sharded_muon.shared_out(shapes, devices)):
        held = [sharded_muon.parts(torch.Size((out, width)), rank, devices)[0] for rank in range(devices)]
        rows += width * (out - held[owner])
    planned = traffic(config, step, "fsdp", devices)
    assert planned["optimizer"].n * devices == pytest.approx(2 * 4 * rows, rel=1e-3)
    assert "optimizer" not in traffic(config, step, "ddp", devices)
    assert "optimizer" not in traffic(config, replace(step, exchanges=False), "fsdp", devices)
