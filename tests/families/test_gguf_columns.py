"""Families in GGUF: written and read again they are the same model, and llama.cpp computes its logits and tokens."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.families.registry import families, from_gguf, from_hf, of, to_gguf
from fathom.formats import gguf
from fathom.formats.convert import read_ours
from fathom.formats.ggml_blocks import TYPES, packed
from fathom.formats.gguf_model import open_gguf, stored, write_gguf
from fathom.formats.load import read as load_opened
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import model_of
from tests.families.test_variants import EVERY
from tests.formats.hf import LLAMA3, YARN
from tests.formats.test_gguf_model import llama_cpp_logits

FOUR = {"num_hidden_layers": 5, "layer_types": ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"]}
TWO = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
SQUARE = {"head_dim": None}  # d_model / n_head
CHANGED: dict[str, dict[str, Any]] = {  # to what llama.cpp's architectures have
    "Phi-3, longrope": {"max_position_embeddings": 512, "original_max_position_embeddings": 256},
    "SmolLM3": {"no_rope_layers": [1, 1, 1, 0, 1], "num_hidden_layers": 5},
    "Gemma": {},
    "Gemma 2": {"query_pre_attn_scalar": 8},
    "Gemma 3": {"query_pre_attn_scalar": 8, **TWO},
    "Granite": {},
    "OLMo": {},
    "OLMo 2": {},
    "OLMo 3": FOUR,
    "GLM-4": {"head_dim": 4},
    "GLM-4 0414": {},
    "StarCoder2": {"sliding_window": None},
    "StableLM": {},
    "StableLM 2 12B": {},
    "StableLM, normed heads": {},
    "Nemotron": {},
    "Command-R": {},
    "Command-R+": {"num_hidden_layers": 64},  # from so many on llama.cpp has the norms
    "Command-R7B": {**FOUR, **SQUARE},
    "Phi": {},
    "Pythia": {},
    "GPT-NeoX, in order": {},
    "EXAONE 4": {**SQUARE, "sliding_window": None, "layer_types": None},
    "MPT": {},
    "Mixtral": {},
    "Qwen2-MoE": {},
    "Qwen3-MoE": {},
    "OLMoE": {"num_key_value_heads": 6},
    "Granite MoE": {},
    "GLM-4.5": {},
    "GLM-4.5, shares": {},
    "StarCoder": {},
    "Falcon": {},
    "Falcon 2": {},
    "Falcon 40B": {"bias": False},
    "BLOOM": {},
    "gpt-oss": {**TWO, "swiglu_limit": 7.0, "rope_scaling": {"rope_type": "default"}, "rope_theta": 4096.0},
    "Hunyuan": {"rope_scaling": None, "rope_theta": 8192.0},  # as GGUF keeps it, in fp32
}
TOKENS = (  # every dense architecture, and kinds of scaling and of biases
    *CHANGED, "Qwen2", "Qwen2, tied, YaRN", "Qwen3", "Arcee", "Mistral", "Phi-3", "ERNIE 4.5", "Ministral 3",
    "Seed-OSS", "Seed-OSS, other biases", "LLaMA, biases of attention", "LLaMA, biases of the MLP", "Helium",
)  # fmt: skip
GELU = (
    "Gemma",
    "Gemma 2",
    "Gemma 3",
    "StarCoder2",
    "Phi",
    "Pythia",
    "GPT-NeoX, in order",
    "MPT",
    "StarCoder",
    "Falcon",
    "Falcon 2",
    "Falcon 40B",
    "BLOOM",
)  # ggml: fp16 table


def config_of(name: str) -> ModelConfig:
    return from_hf(EVERY[name] | CHANGED.get(name, {}), "config.json")[1]


def written(path: Path, name: str, std: float = 0.15) -> Transformer:
    torch.manual_seed(5)
    model = model_of(config_of(name), std)
    write_gguf(path, model.config, model.state_dict(), None)
    return model


@torch.no_grad()
def logits(model: Transformer, ids: Tensor) -> Tensor:
    out: Tensor = model(ids)[0]
    return out


@pytest.mark.parametrize("name", CHANGED)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """To the bit; norms of 1 + weight to rounding."""
    model = written(tmp_path / "x.gguf", name)
    opened = open_gguf(tmp_path / "x.gguf")
    assert opened.config.resolved() == model.config.resolved()
    ours, shifted = model.state_dict(), model.config.norm.endswith("_1p")
    for part, tensor in read_ours(opened):
        assert torch.allclose(tensor, ours[part], rtol=0, atol=2e-7 if shifted and "_" in part else 0), part


@pytest.mark.parametrize("name", CHANGED)
def test_llama_cpp_computes_the_same(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of 48 positions, beyond every window, with GELU out of ggml's table. Where a product that differs in its
    last bit falls on another entry of the table, an activation differs by up to 2**-11 of itself."""
    model = written(tmp_path / "x.gguf", name)
    ids = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))
    theirs = llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())
    plain = logits(model, ids)
    monkeypatch.setattr(torch.nn.functional, "gelu", ggml_gelu)
    difference = (logits(model, ids) - theirs).abs()
    assert difference.max() <= (1e-3 if name in GELU else 1e-5) * plain.std().clamp(min=1)
    if name in GELU:  # the table is what remains
        assert 100 * difference.median() < (plain - theirs).abs().median() < 1e-3


def ggml_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """ggml_vec_gelu_f32: the tanh form of every fp16 number, as fp16; 0 up to -10 and x from 10 on."""
    half = x.half().float()
    inner = math.sqrt(2 / math.pi) * half * (1 + 0.044715 * half * half)
    entry = (0.5 * half * (1 + inner.tanh())).half().float()
    return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, entry))


@pytest.mark.parametrize("barred", [0, 16], ids=["greedy", "no token again"])
@pytest.mark.parametrize("name", TOKENS)
@torch.no_grad()
def test_llama_cpp_continues_with_the_same_tokens(
    tmp_path: Path, name: str, barred: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 of them over the cache of both, beyond every window. Small models repeat themselves, so that once each is the
    likeliest of those that are not among the last 16; these are closer together, and GELU is ggml's then."""
    if barred:
        monkeypatch.setattr(torch.nn.functional, "gelu", ggml_gelu)
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model, prompt = written(tmp_path / "x.gguf", name, 0.4), [3, 1, 4, 1, 5, 9, 2, 6]
    runner = library.Llama(
        str(tmp_path / "x.gguf"), n_ctx=128, n_threads=1, verbose=False, type_k=0, type_v=0, logits_all=True
    )
    cache = KVCache(model.config, 1, 128)

    def theirs(step: list[int]) -> Tensor:
        runner.eval(step)
        return torch.tensor(runner.scores[runner.n_tokens - 1])

    found = continued(theirs, prompt, barred)
    assert found == continued(lambda step: model(torch.tensor([step]), cache)[0, -1], prompt, barred)
    assert len(found) == 64 and (not barred or len(set(found)) > 16)


def continued(last: Callable[[list[int]], Tensor], step: list[int], barred: int) -> list[int]:
    """64 tokens after a prompt. last: logits after the tokens that it is given."""
    found: list[int] = []
    for _ in range(64):
        scores = last(step).clone()
        scores[found[max(0, len(found) - barred) :]] = -torch.inf
        step = [int(scores.argmax())]
        found += step
    return found


@pytest.mark.parametrize("window", [None, 12])
def test_llama_cpp_passes_over_the_window_of_phi_3(tmp_path: Path, window: int | None) -> None:
    """The file says it, and so does its warning; we honour it, as transformers does, and `fathom info` says so."""
    model = written(tmp_path / "x.gguf", "Phi-3, longrope")
    header = gguf.read_header(tmp_path / "x.gguf")
    f32, tensors = TYPES[0], {name: stored(tmp_path / "x.gguf", x).read() for name, x in header.tensors.items()}
    out = {name: gguf.Outgoing(tuple(x.shape), f32, lambda x=x: packed(x, f32)) for name, x in tensors.items()}
    gguf.write(tmp_path / "y.gguf", header.metadata | {"phi3.attention.sliding_window": window or 0}, out)
    opened = open_gguf(tmp_path / "y.gguf")
    assert ("passes over the window of 12" in opened.metadata.get("note", "")) == (window is not None)
    ids = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))
    ours, theirs = logits(load_opened(opened), ids), llama_cpp_logits(tmp_path / "y.gguf", ids[0].tolist())
    assert torch.allclose(theirs, logits(model, ids), atol=1e-5)
    assert torch.allclose(ours[:12], theirs[:12], atol=1e-5)
    assert torch.allclose(ours, theirs, atol=1e-5) == (window is None)


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("Gemma 2", {"tie_word_embeddings": False}, "tie_embeddings=False, and llama.cpp's gemma2 has True alone"),
        ("Gemma 2", {"query_pre_attn_scalar": 12}, "scale.attn=.* llama.cpp's gemma2 has .* in this size"),
        ("Gemma 2", {"attn_logit_softcapping": None}, "attn_cap=None.* models with both caps"),
        ("SmolLM3", {"no_rope_layers": [1, 0, 1, 0, 1]}, "layers=gn, and llama.cpp's smollm3 has gggn alone"),
        ("StarCoder2", {"sliding_window": 12}, "layers=.*starcoder2"),
        ("Qwen3, biases", {}, "bias=out, and llama.cpp's qwen3 has biases of qkv alone"),
        ("Arcee, biases", {}, "bias=out,mlp, and llama.cpp's arcee has biases of qkv alone"),
        ("OLMo 2", {"tie_word_embeddings": True}, "tie_embeddings=True, and llama.cpp's olmo2 has False alone"),
        ("Nemotron", {"head_dim": 8}, "head_dim=8, and llama.cpp's nemotron has d_model / n_head = 4 alone"),
        ("GLM-4", {"rope_scaling": LLAMA3}, "rope.scaling=llama3, and llama.cpp's chatglm has linear and yarn alone"),
        ("Gemma 3", {"rope_scaling": YARN | {"attention_factor": 1.5}}, "attention_factor=1.5, and llama.cpp's gemma3"),
        ("Command-R", {"tie_word_embeddings": False}, "llama.cpp's command-r has True alone"),
        (
            "Command-R+",
            {"num_hidden_layers": 2},
            "qk_norm=layer, and .* has off in models of 2 layers alone",
        ),
        ("Command-R", {"num_hidden_layers": 64}, "qk_norm=off, and llama.cpp's command-r has layer in models"),
        ("Mistral, a window", {}, "layers=l:12, and llama.cpp's llama has layers without a window alone"),
        ("Ministral", {}, "layers=lg:12, and llama.cpp's llama has layers without a window alone"),
        ("gpt-oss", {"swiglu_limit": 0.5}, "mlp.limit=0.5, and llama.cpp's gpt-oss has 7.0 alone"),
        ("gpt-oss", {"attention_bias": False}, "bias=mlp,sink, and llama.cpp's gpt-oss has qkv,out,mlp,sink alone"),
        ("gpt-oss", {"tie_word_embeddings": True}, "tie_embeddings=True, and llama.cpp's gpt-oss has False alone"),
        ("gpt-oss", {"rope_scaling": YARN}, "truncate=True, and llama.cpp's gpt-oss has False alone"),
    ],
)
def test_what_llama_cpp_cannot_be_told_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    config = from_hf(EVERY[name] | CHANGED.get(name, {}) | change, "config.json")[1]
    with pytest.raises(FathomError, match=says):
        to_gguf(config)


def test_glm_has_norms_of_heads_alone() -> None:
    config = from_hf(EVERY["GLM-4.5"], "config.json")[1]
    with pytest.raises(FathomError):
        of(replace(config, qk_norm="whole"))


def test_gpt_oss_as_published(tmp_path: Path) -> None:
    """Its YaRN is not truncated. llama.cpp's always is: truncated here too, logits are the same; weights so large that
    gate and up are clamped."""
    stretch = YARN | {"beta_fast": 9.0, "truncate": False}
    config = from_hf(EVERY["gpt-oss"] | CHANGED["gpt-oss"] | {"rope_scaling": stretch}, "config.json")[1]
    torch.manual_seed(5)
    model = model_of(config, 0.6)
    write_gguf(tmp_path / "x.gguf", config, model.state_dict(), None)
    opened = open_gguf(tmp_path / "x.gguf")
    assert opened.config.resolved() == config.resolved()
    assert config.rope.scaling is not None
    truncated = replace(config.rope, scaling=replace(config.rope.scaling, truncate=True))
    theirs = Transformer(replace(config, rope=truncated)).eval()
    theirs.load_state_dict(model.state_dict())
    ids = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))
    expected, ours = llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist()), logits(theirs, ids)
    assert (ours - expected).abs().max() < 1e-4 * ours.std()
    assert (logits(model, ids) - expected).abs().max() > 0.01 * ours.std()
    gate = torch.randn(99, config.d_model) @ model.state_dict()["blocks.0.mlp.experts.0.gate.weight"].T
    assert gate.max() > 7  # the limit is reached


@pytest.mark.parametrize("name", ["internlm2", "mistral3"])
def test_architectures_with_the_tensors_of_llama(tmp_path: Path, name: str) -> None:
    """Ministral 3 is held to its original context where queries grow beyond it; YaRN's temperature is a quotient."""
    written(tmp_path / "x.gguf", "Ministral 3")
    metadata = gguf.read_header(tmp_path / "x.gguf").metadata
    renamed = {key.replace("llama.", f"{name}."): value for key, value in metadata.items()}
    kind = "yarn" if name == "mistral3" else "linear"
    renamed |= {"general.architecture": name, f"{name}.context_length": 256, f"{name}.rope.scaling.type": kind}
    if name == "mistral3":
        renamed |= {f"{name}.attention.temperature_scale": 0.1, f"{name}.rope.scaling.yarn_log_multiplier": 1.0}
    family, config = from_gguf(renamed, open_gguf(tmp_path / "x.gguf").tensors, "x.gguf")
    assert family.name == {"internlm2": "internlm2", "mistral3": "ministral3"}[name]
    assert config.rope.scaling is not None and config.rope.scaling.kind == kind
    if name == "mistral3":
        assert config.context_length == 64 and config.rope.scaling.attention_factor == 1.0


@pytest.mark.parametrize("name", ["ernie4_5", "seed_oss"])
def test_families_written_as_llama_are_read_under_their_own_names(tmp_path: Path, name: str) -> None:
    """The same tensors in another order of channels or under another name."""
    column = families()[name].columns["gguf"]
    written(tmp_path / "x.gguf", "Granite")
    metadata = gguf.read_header(tmp_path / "x.gguf").metadata
    renamed = {key.replace("granite.", f"{name}."): value for key, value in metadata.items() if "scal" not in key}
    family, config = from_gguf(renamed | {"general.architecture": name}, {}, "x.gguf")
    assert family.name == name and config.position == "rope" and column.ids == (name,)
    assert {cell.pairs for part, cell in column.tensors.items() if part.endswith("attn.q")} == {name == "ernie4_5"}
