"""Models in GGUF: back to the bit, laid out as llama.cpp runs them, and refused where they are not ours."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats import gguf
from fathom.formats.convert import plan, read_ours
from fathom.formats.ggml_blocks import IDS, TYPES, packed
from fathom.formats.gguf_model import open_gguf, write_gguf
from fathom.formats.opened import Opened
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.position import frequencies
from fathom.model.transformer import Transformer
from tests.architectures import model_of
from tests.mutants import survive

SIZES = {"vocab_size": 96, "context_length": 64, "d_model": 64, "n_layer": 2, "n_head": 8, "d_ff": 96}
LLAMA = ModelConfig(**SIZES, n_kv_head=2, position="rope", norm="rms", mlp="swiglu")
GPT2 = ModelConfig(**SIZES, position="learned", norm="layer", mlp="gelu", bias=True)


def scaled(**scaling: Any) -> ModelConfig:
    return replace(LLAMA, head_dim=16, rope=Rotary(scaling=RopeScaling(**scaling)))


CONFIGS = {
    "llama": LLAMA,
    "multi-query, tied": replace(LLAMA, n_kv_head=1, tie_embeddings=True),
    "bias, head_dim": replace(LLAMA, n_kv_head=None, bias=True, head_dim=16),
    "theta, eps": replace(LLAMA, rope=Rotary(theta=500_000.0), norm_eps=1e-6),
    "linear": scaled(kind="linear", factor=4.0),
    "llama3": scaled(kind="llama3", factor=8.0, original_context_length=16),
    "llama3, other bands": scaled(
        kind="llama3", factor=3.3, original_context_length=32, low_freq_factor=0.5, high_freq_factor=3.0
    ),
    "llama3, context alone": scaled(kind="llama3", factor=8.0),
    "yarn": scaled(kind="yarn", factor=4.0, original_context_length=16),
    "yarn, warm": scaled(kind="yarn", factor=4.0, original_context_length=16, attention_factor=1.5),
    "gpt2": GPT2,
    "gpt2, tied": replace(GPT2, tie_embeddings=True),
    "qwen2": replace(LLAMA, bias=("qkv",)),
    "qwen3": replace(LLAMA, qk_norm="on", head_dim=20),
    "arcee": replace(LLAMA, mlp="relu2"),
    "biases of attention": replace(LLAMA, bias=("qkv", "out")),
    "biases of the mlp": replace(LLAMA, bias=("mlp",)),
}
YARN_BANDS = scaled(kind="yarn", factor=4.0, beta_fast=3.0, beta_slow=0.5)  # llama.cpp does not read its keys


def read_back(opened: Opened) -> dict[str, Tensor]:
    return dict(read_ours(opened))


def written(folder: Path, config: ModelConfig, kind: str = "F32") -> tuple[Transformer, Opened]:
    model = model_of(config, std=0.15)
    write_gguf(folder / "x.gguf", config, model.state_dict(), None, kind)
    return model, open_gguf(folder / "x.gguf")


@pytest.mark.parametrize("config", [*CONFIGS.values(), YARN_BANDS], ids=[*CONFIGS, "yarn, other bands"])
def test_there_and_back_to_the_bit(tmp_path: Path, config: ModelConfig) -> None:
    model, opened = written(tmp_path, config)
    assert opened.config.resolved() == config.resolved()
    assert opened.format == "GGUF v3" and opened.metadata["file_type"] == "F32" and opened.tokenizer() is None
    ours, back = model.state_dict(), read_back(opened)
    assert all(torch.equal(back[name], ours[name]) for name in back)
    assert ours.keys() - back.keys() == ({"unembed.weight"} if config.tie_embeddings else set())


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("kind, dtype", [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_narrow_floats_come_back_to_the_bit(tmp_path: Path, config: ModelConfig, kind: str, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in model_of(config).state_dict().items()}
    write_gguf(tmp_path / "x.gguf", config, state, None, kind)
    opened = open_gguf(tmp_path / "x.gguf")
    assert all(torch.equal(tensor.to(dtype), state[name]) for name, tensor in read_back(opened).items())
    for name, stored in opened.tensors.items():
        assert stored.kind == ("F32" if len(stored.shape) == 1 or "position" in name else kind)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_quantised_as_the_reference_does(tmp_path: Path, kind: str) -> None:
    """Matrices in blocks, those whose rows are no whole blocks in fp16, vectors in fp32."""
    library = pytest.importorskip("gguf", reason="needs the extra `peers`")
    model, opened = written(tmp_path, replace(LLAMA, d_ff=40), kind)
    kinds = {name: stored.kind for name, stored in opened.tensors.items() if "blk.1" in name or "token" in name}
    assert kinds.pop("blk.1.ffn_down.weight") == "F16"
    assert kinds.pop("blk.1.attn_norm.weight") == kinds.pop("blk.1.ffn_norm.weight") == "F32"
    assert set(kinds.values()) == {kind}
    code = library.GGMLQuantizationType(IDS[kind])
    for name, tensor in read_back(opened).items():
        if name.endswith((".v.weight", ".up.weight", "embed.weight")):
            x = model.state_dict()[name].numpy()
            assert np.array_equal(tensor.numpy(), library.quants.dequantize(library.quants.quantize(x, code), code))


@pytest.mark.parametrize("config", [LLAMA, replace(LLAMA, bias=True), GPT2], ids=["llama", "bias", "gpt2"])
def test_the_common_reader_sees_the_tensors_that_its_own_map_names(tmp_path: Path, config: ModelConfig) -> None:
    library, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    from tests.formats.reference import reference

    written(tmp_path, config)
    reader = library.GGUFReader(tmp_path / "x.gguf")
    arch = library.MODEL_ARCH.LLAMA if config.position == "rope" else library.MODEL_ARCH.GPT2
    names = library.get_tensor_name_map(arch, config.n_layer)
    theirs = dict(reference(config).state_dict())
    expected = {names.get_name(name, (".weight", ".bias")): tuple(x.shape) for name, x in theirs.items()}
    if transformers and config.position == "learned":  # transposed in GPT-2's own files
        expected |= {
            name: shape[::-1]
            for name, shape in expected.items()
            if ("attn_" in name or "ffn_" in name) and "norm" not in name
        }
    assert {x.name: tuple(x.shape.tolist())[::-1] for x in reader.tensors} == expected
    for x in reader.tensors:
        assert np.array_equal(x.data, open_gguf(tmp_path / "x.gguf").tensors[x.name].read().numpy())


def llama_cpp_logits(path: Path, ids: list[int]) -> Tensor:
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = library.Llama(
        str(path), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False, type_k=0, type_v=0
    )
    model.eval(ids)
    return torch.from_numpy(np.array(model.scores[: len(ids)]))


@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, name: str) -> None:
    """LLaMA to rounding; GPT-2 as far as ggml's table of GELU goes, whose entries are fp16."""
    model, _ = written(tmp_path, CONFIGS[name])
    ids = torch.randint(96, (1, 48))
    with torch.no_grad():
        ours = model(ids)[0]
    bound = 5e-3 if name.startswith("gpt2") else 5e-5
    assert (ours - llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())).abs().max() < bound < ours.std() / 100


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_llama_cpp_runs_every_kind(tmp_path: Path, config: ModelConfig, kind: str) -> None:
    """Against the numbers as we read them: the rest is that llama.cpp rounds activations too."""
    _, opened = written(tmp_path, config, kind)
    model = Transformer(config).eval()
    model.load_state_dict(read_back(opened))
    ids = torch.randint(96, (1, 48))
    with torch.no_grad():
        ours = model(ids)[0]
    assert (ours - llama_cpp_logits(tmp_path / "x.gguf", ids[0].tolist())).std() < 0.05 * ours.std()


def rewritten(path: Path, tensors: Mapping[str, Tensor], drop: tuple[str, ...] = (), **values: Any) -> Opened:
    """The file with other values (keys without `llama.`, dots as __) and tensors, opened again."""
    header = gguf.read_header(path)
    stored = {name: x.read() for name, x in open_gguf(path).tensors.items() if name not in drop} | dict(tensors)
    metadata = dict(header.metadata)
    for key, value in values.items():
        key = key.replace("__", ".") if key.startswith("general") else f"llama.{key.replace('__', '.')}"
        metadata[key] = value
    kept = {key: value for key, value in metadata.items() if value is not None}
    f32 = TYPES[IDS["F32"]]
    out = {name: gguf.Outgoing(tuple(x.shape), f32, lambda x=x: packed(x, f32)) for name, x in stored.items()}
    gguf.write(path, kept, out)
    return open_gguf(path)


def converter_stretch(config: ModelConfig, original: int, factor: float) -> Tensor:
    """By wavelength, as the converter's loop is written (LLaMA 3.1: bands 1 and 4)."""
    z, found = config.resolved(), []
    for i in range(0, z.head_dim, 2):
        wavelength = 2 * np.pi * z.rope.theta ** (i / z.head_dim)
        if wavelength < original / 4:
            found.append(1.0)
        elif wavelength > original:
            found.append(factor)
        else:
            smooth = (original / wavelength - 1) / 3
            found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found, dtype=torch.float32)


def test_llama_3_1_as_its_converter_writes_it(tmp_path: Path) -> None:
    """No key says what was done, only the tensor, and 8192 is meant."""
    config = replace(LLAMA, head_dim=32, rope=Rotary(theta=500_000.0), context_length=131_072)
    written(tmp_path, config)
    stretch = converter_stretch(config, 8192, 32.0)
    assert 1 < stretch[stretch > 1].min() < 32
    found = rewritten(tmp_path / "x.gguf", {"rope_freqs.weight": stretch}).config
    assert found.rope.scaling == RopeScaling(kind="llama3", factor=32.0, original_context_length=8192)
    plain = frequencies(config.resolved())
    assert torch.allclose(plain / frequencies(found.resolved()), stretch, rtol=1e-5)
    for wrong in (stretch.flip(0), stretch * 1.01, converter_stretch(config, 4096, 32.0), stretch[1:]):
        with pytest.raises(FathomError, match=r"rope_freqs.weight is not what LLaMA 3.1 does"):
            rewritten(tmp_path / "x.gguf", {"rope_freqs.weight": wrong})


def test_other_words_for_scaling(tmp_path: Path) -> None:
    """What files of other writers say: a factor alone, the older key, the model's own temperature."""
    written(tmp_path, LLAMA)
    linear = RopeScaling(kind="linear", factor=2.0)
    assert rewritten(tmp_path / "x.gguf", {}, rope__scaling__factor=2.0).config.rope.scaling == linear
    none = rewritten(tmp_path / "x.gguf", {}, rope__scaling__type="none").config
    assert none.rope.scaling is None
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__yarn_attn_factor": 1.25}
    found = rewritten(tmp_path / "x.gguf", {}, **yarn).config.rope.scaling
    assert found == RopeScaling(kind="yarn", factor=2.0, attention_factor=1.25)
    written(tmp_path, LLAMA)
    assert rewritten(tmp_path / "x.gguf", {}, rope__scale_linear=2.0).config.rope.scaling == linear


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"general__architecture": "qwen9"},
        "is 'qwen9'; the nearest architecture that is supported is",
    ),
    "no architecture": ({"general__architecture": None}, "is None; supported are"),
    "a list": ({"general__architecture": ["llama"]}, "supported are arcee, "),
    "experts": ({"expert_count": 8}, "llama.expert_used_count is missing; expected a whole number"),
    "not causal": ({"attention__causal": False}, "attention.causal is False; expected None or True"),
    "no width": ({"embedding_length": None}, "llama.embedding_length is missing; expected a whole number"),
    "text for a size": ({"block_count": "two"}, "block_count is 'two'"),
    "a list for a size": ({"feed_forward_length": [1, 2]}, r"feed_forward_length is array\(\[1, 2\]"),
    "billions of layers": ({"block_count": 4_000_000_000}, "block_count is 4000000000; expected a whole number"),
    "a million layers": ({"block_count": 1_000_000}, "n_layer=1000000 .* the file has 21 tensors"),
    "other heads": (
        {"attention__head_count_kv": 4},
        r"attn_k.weight' is \(16, 64\); the config expects \(32, 64\)",
    ),
    "other width": ({"embedding_length": 128}, r"token_embd.weight' is \(96, 64\)"),
    "other vocabulary": ({"vocab_size": 95}, "token_embd.weight' is .96, 64.; the config expects .95, 64."),
    "heads that do not group": ({"attention__head_count_kv": 3}, "n_head=8 is not a multiple of n_kv_head=3"),
    "half rotated": ({"rope__dimension_count": 4}, "dimension_count is 4; expected 8"),
    "narrow values": ({"attention__value_length": 4}, "value_length is 4; expected 8"),
    "no epsilon": ({"attention__layer_norm_rms_epsilon": float("nan")}, "epsilon is nan; expected a finite number"),
    "infinite theta": ({"rope__freq_base": float("inf")}, "freq_base is inf; expected a finite number"),
    "no factor": ({"rope__scaling__factor": 0.0}, "scaling.factor is 0.0; it must be above 0"),
    "longrope": ({"rope__scaling__type": "longrope"}, "scaling.type is 'longrope'; expected .*none, linear or yarn"),
    "half yarn": ({"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5; expected None or 1.0"),
}


@pytest.mark.parametrize("values, says", REFUSED.values(), ids=REFUSED)
def test_a_model_that_is_not_ours_is_refused(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    written(tmp_path, LLAMA)
    with pytest.raises(FathomError, match=says) as raised:
        plan(rewritten(tmp_path / "x.gguf", {}, **values))
    assert str(raised.value).startswith(f"{tmp_path / 'x.gguf'}: ")


def test_missing_tensors_and_parts_of_files_are_refused(tmp_path: Path) -> None:
    _, opened = written(tmp_path, LLAMA)
    path = tmp_path / "x.gguf"
    with pytest.raises(FathomError, match=r"'blk.0.attn_q.weight' is missing"):
        plan(rewritten(path, {}, drop=("blk.0.attn_q.weight",)))
    written(tmp_path, LLAMA)
    header = gguf.read_header(path)
    gguf.write(path, {**header.metadata, "split.count": np.uint16(3)}, {})
    with pytest.raises(FathomError, match="one of several files; join them first"):
        open_gguf(path)
    with pytest.raises(FathomError, match="cannot be mapped into memory"):
        opened.tensors["output.weight"].read()
    with pytest.raises(FathomError, match="kind is 'Q2_K'; choose one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M"):
        write_gguf(path, LLAMA, {}, None, "Q2_K")


def test_reading_maps_floats_and_never_writes_to_the_file(tmp_path: Path) -> None:
    _, opened = written(tmp_path, LLAMA)
    before = (tmp_path / "x.gguf").read_bytes()
    opened.tensors["output.weight"].read().zero_()
    assert (tmp_path / "x.gguf").read_bytes() == before
    assert opened.tensors["output.weight"].read().any()


def test_about_is_what_the_file_says_of_itself_in_short(tmp_path: Path) -> None:
    written(tmp_path, LLAMA)
    said = {"general__license": "mit", "general__file_type": 15, "general__readme": "x" * 5000}
    about = rewritten(tmp_path / "x.gguf", {}, **said).metadata
    assert about == {"type": "model", "name": "x", "license": "mit", "file_type": "Q4_K_M", "quantization_version": 2}


def read_all(path: Path) -> None:
    opened = open_gguf(path)
    read_back(opened)
    frequencies(opened.config.resolved())
    opened.tokenizer()


@pytest.mark.parametrize("count", [pytest.param(667, id="few"), pytest.param(3334, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config, kind", [(LLAMA, "Q4_0"), (CONFIGS["llama3"], "F16"), (GPT2, "F32")])
def test_damaged_models(tmp_path: Path, config: ModelConfig, kind: str, count: int) -> None:
    tiny = replace(config, vocab_size=33, d_model=32, n_layer=1, n_head=2, d_ff=33, context_length=8)
    tiny = replace(tiny, n_kv_head=1 if config.position == "rope" else None)
    written(tmp_path, tiny, kind)
    survive(read_all, tmp_path / "x.gguf", count)
