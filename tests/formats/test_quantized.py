"""Quantised folders: read as the floats they stand for, codes kept where they are ours, and what is not understood."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fathom
from fathom.errors import FathomError
from fathom.formats.convert import plan
from fathom.formats.huggingface import open_huggingface
from fathom.formats.load import load
from fathom.quant.linear import QuantLinear
from tests.formats.hf import GPT2, make
from tests.formats.packers import CONFIG, GPTQ, GROUP, MATRICES, METHODS, nf4, write
from tests.mutants import survive

IDS = torch.arange(64)[None]


def edit(folder: Path, **changes: Any) -> None:
    """Other entries of quantization_config (or of MLX's quantization); None leaves one out."""
    values = json.loads((folder / "config.json").read_text())
    entries = values.get("quantization_config") or values["quantization"]
    entries |= changes
    for key in [key for key, value in changes.items() if value is None]:
        del entries[key]
    (folder / "config.json").write_text(json.dumps(values))


def change(folder: Path, **changes: Any) -> None:
    """Other tensors, by the end of their names: of every layer; None leaves one out."""
    tensors = load_file(folder / "model.safetensors")
    for end, value in changes.items():
        for name in [name for name in tensors if name.endswith("." + end.replace("__", "."))]:
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value(tensors[name]).contiguous()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_every_number_is_that_of_the_description_in_float64(tmp_path: Path, method: str) -> None:
    expected = write(tmp_path, method)
    opened = open_huggingface(tmp_path)
    assert set(opened.tensors) == set(expected)
    for name, matrix in expected.items():
        actual = opened.tensors[name].read().double().numpy()
        assert np.abs(actual - matrix).max() <= 2**-23 * np.abs(matrix).max(), name
    assert "14 matrices packed by" in opened.format


@pytest.mark.parametrize("method", METHODS)
def test_load_dequantises_and_generates(tmp_path: Path, method: str) -> None:
    expected = write(tmp_path, method)
    model, _ = load(tmp_path, device="cpu")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.allclose(model.blocks[1].mlp.down.weight.double(), torch.from_numpy(expected[name]), rtol=2**-22)
    narrow, _ = load(tmp_path, dtype="bf16", device="cpu")
    assert torch.equal(narrow.blocks[1].mlp.down.weight, model.blocks[1].mlp.down.weight.bfloat16())
    assert model(IDS).isfinite().all()
    packed, _ = load(tmp_path, quantize="int8", device="cpu")
    assert (packed(IDS) - model(IDS)).abs().max() < 0.05 * model(IDS).abs().max()
    kinds = open_huggingface(tmp_path).tensors[name].kind
    about = fathom.info(tmp_path)
    assert kinds in repr(about) and METHODS[method][0].items() <= about.about["quantization"].items()


@pytest.mark.parametrize(("method", "scheme"), [("nf4", "nf4"), ("nf4, single", "nf4-single")])
def test_nf4_is_kept_as_it_is_in_the_file(tmp_path: Path, method: str, scheme: str) -> None:
    write(tmp_path, method)
    stored = load_file(tmp_path / "model.safetensors")
    model, _ = load(tmp_path, quantize="nf4", device="cpu")
    floats, _ = load(tmp_path, device="cpu")
    layer = model.blocks[1].mlp.up
    assert isinstance(layer, QuantLinear) and layer.scheme.name == scheme
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(layer.packed["codes"].flatten(), stored[name].flatten())
    scales = "scale_codes" if scheme == "nf4" else "scales"
    assert torch.equal(layer.packed[scales], stored[f"{name}.absmax"])
    for one, other in zip(model.blocks, floats.blocks):
        assert all(
            torch.equal(getattr(one.attn, x).weight, getattr(other.attn, x).weight) for x in ("q", "k", "v", "out")
        )


def test_nf4_with_scales_of_scales_becomes_single_where_that_is_asked(tmp_path: Path) -> None:
    write(tmp_path, "nf4")
    model, _ = load(tmp_path, quantize="nf4-single", device="cpu")
    floats, _ = load(tmp_path, device="cpu")
    layer = model.blocks[0].mlp.gate
    assert isinstance(layer, QuantLinear) and layer.scheme.name == "nf4-single"
    assert torch.equal(layer.weight, floats.blocks[0].mlp.gate.weight)


@pytest.mark.parametrize(("end", "scheme"), [("quant_map", "nf4"), ("nested_quant_map", "nf4-single")])
def test_nf4_of_other_tables_is_read_with_them(tmp_path: Path, end: str, scheme: str) -> None:
    """Other values are packed again; other values of the scales leave the codes what they are."""
    write(tmp_path, "nf4")
    change(tmp_path, **{f"weight__{end}": lambda table: table * 1.5})
    model, _ = load(tmp_path, quantize="nf4", device="cpu")
    floats, _ = load(tmp_path, device="cpu")
    layer, exact = model.blocks[0].mlp.up, floats.blocks[0].mlp.up.weight
    assert isinstance(layer, QuantLinear) and layer.scheme.name == scheme
    error = float((layer.weight - exact).detach().norm() / exact.detach().norm())
    assert error == 0 if scheme == "nf4-single" else 0 < error < 0.15


PHI3 = {
    "model_type": "phi3", "vocab_size": 61, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
    "original_max_position_embeddings": 256, "sliding_window": None,
}  # fmt: skip


@pytest.mark.parametrize("values", [PHI3, GPT2 | {"n_embd": 192}], ids=["phi3", "gpt2"])
@pytest.mark.parametrize("nested", [False, True])
def test_codes_of_fused_and_of_transposed_layers(tmp_path: Path, values: dict[str, Any], nested: bool) -> None:
    """bitsandbytes packs GPT-2's matrices, which are stored as (in, out), as (out, in); Phi-3's q, k and v are one."""
    theirs = make(values)
    stored: dict[str, torch.Tensor] = {}
    for name, x in theirs.state_dict().items():
        if (".layers." not in name and ".h." not in name) or x.ndim < 2:
            stored |= {} if name == "lm_head.weight" and values["model_type"] == "gpt2" else {name: x.clone()}
            continue
        weight = x.T if values["model_type"] == "gpt2" else x
        parts, matrix = nf4(*weight.shape, np.random.default_rng(0), nested, weight.contiguous())
        with torch.no_grad():
            x.copy_(torch.from_numpy(matrix.T if values["model_type"] == "gpt2" else matrix))
        stored |= {name.removesuffix("weight") + part: y.contiguous() for part, y in parts.items()}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(values | {"quantization_config": METHODS["nf4"][0]}))
    expected = theirs(IDS[:, :60]).logits
    kept, _ = load(tmp_path, quantize="nf4", device="cpu")
    for model in (load(tmp_path, device="cpu")[0], kept):
        assert (model(IDS[:, :60]) - expected).abs().max() <= 1e-5
    attention = kept.blocks[1].attn
    codes = torch.cat([getattr(attention, x).packed["codes"].flatten() for x in "qkv"])
    (name,) = (name for name in stored if ".1." in name and name.endswith(("qkv_proj.weight", "c_attn.weight")))
    assert torch.equal(codes, stored[name].flatten())


@pytest.mark.parametrize("method", ["nf4", "fp8, blocks"])
def test_verify_compares_with_the_library(tmp_path: Path, method: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    write(tmp_path, method)
    certificate = fathom.verify(tmp_path, against=["naive", "transformers"])
    assert certificate.passed, certificate
    if method == "fp8, blocks":  # the other needs bitsandbytes, and is compared with the weights as we read them
        assert "unpacked by the library" in certificate.comparisons[1].about


@pytest.mark.parametrize("method", ["gptq", "nf4", "mlx"])
def test_export_writes_the_floats(tmp_path: Path, method: str) -> None:
    write(tmp_path / "m", method)
    result = fathom.export(tmp_path / "m", tmp_path / "out", "hf")
    assert result.equal
    assert torch.equal(load(tmp_path / "out", device="cpu")[0](IDS), load(tmp_path / "m", device="cpu")[0](IDS))


def test_one_layer_may_have_bits_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "mlx")
    layers = [f"model.layers.{i}.{name}" for i in (0, 1) for name in MATRICES]
    edit(tmp_path, bits=8, group_size=32, **{layer: {"bits": 4, "group_size": 64} for layer in layers})
    plan(open_huggingface(tmp_path))
    edit(tmp_path, **{layers[3]: {"bits": 8, "group_size": 32}})
    with pytest.raises(FathomError, match=r"o_proj.weight' is \(128, 64\); the config expects \(128, 128\)"):
        plan(open_huggingface(tmp_path))


def test_settings_beside_an_old_config(tmp_path: Path) -> None:
    """AutoGPTQ first wrote them into a file of their own."""
    write(tmp_path, "gptq", {"quantization_config": None})
    settings = {key: value for key, value in GPTQ.items() if key != "quant_method"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(settings | {"model_name_or_path": None}))
    assert "packed by GPTQ" in open_huggingface(tmp_path).format


def test_settings_of_an_old_awq(tmp_path: Path) -> None:
    write(tmp_path, "awq", {"quantization_config": None})
    old = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    (tmp_path / "quant_config.json").write_text(json.dumps(old))
    assert "packed by AWQ" in open_huggingface(tmp_path).format


def test_biases_of_zeros_are_left_out(tmp_path: Path) -> None:
    """AutoGPTQ gave every layer a bias, and a LLaMA has none; another number would be one."""
    expected = write(tmp_path, "gptq")
    tensors = load_file(tmp_path / "model.safetensors")
    biases = {n.replace("scales", "bias"): torch.zeros(x.shape[1]) for n, x in tensors.items() if "scales" in n}
    save_file(tensors | biases, tmp_path / "model.safetensors")
    assert set(open_huggingface(tmp_path).tensors) == set(expected)
    next(iter(biases.values()))[3] = 1e-3
    save_file(tensors | biases, tmp_path / "model.safetensors")
    with pytest.raises(FathomError, match=r"bias' has no place in this model"):
        plan(open_huggingface(tmp_path))


def test_floats_under_old_settings_are_read(tmp_path: Path) -> None:
    """A merged model often keeps the quantization_config of its base."""
    write(tmp_path, "nf4")
    floats, _ = load(tmp_path, device="cpu")
    fathom.export(tmp_path, tmp_path / "out", "hf")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(values | {"quantization_config": METHODS["nf4"][0]}))
    assert torch.equal(load(tmp_path / "out", device="cpu")[0](IDS), floats(IDS))
    assert "0 matrices packed by bitsandbytes" in open_huggingface(tmp_path / "out").format


def grouped(**changes: Any) -> dict[str, Any]:
    """config_groups whose weights differ in these."""
    return {"config_groups": {"group_0": {"weights": GROUP["weights"] | changes}}}


OTHERS = ("torchao", "hqq", "aqlm", "quanto", "nvfp4", "auto-round", "modelopt", "bitnet", "exl2", 4, None)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *(("gptq", {"quant_method": name}, rf"quantization_config.quant_method is {name!r}; supported are awq, ")
      for name in OTHERS if name is not None),
    ("gptq", {"checkpoint_format": "marlin"}, r"quantization_config.checkpoint_format is 'marlin'; expected 'gptq' or"),
    ("gptq", {"pack_dtype": "int64"}, r"quantization_config.pack_dtype is 'int64'"),
    ("gptq", {"rotation": "hadamard"}, r"quantization_config.rotation is 'hadamard'; expected no such key in GPTQ"),
    ("gptq", {"bits": 5}, None),  # the tensors say 4
    ("gptq_v2, 3 bits", {"checkpoint_format": "gptq"}, r"3 bits with sym false and checkpoint_format gptq"),
    ("awq", {"version": "gemv"}, r"quantization_config.version is 'gemv'; expected 'gemm'"),
    ("awq", {"bits": 8}, r"quantization_config.bits is 8; expected 4"),
    ("fp8, blocks", {"weight_block_size": [128]}, r"weight_block_size is \[128\]; expected two sizes or null"),
    ("fp8, blocks", {"weight_block_size": [64, 64]}, r"weight_scale_inv is \(1, [12]\) for .* one for 64 x 64"),
    ("fp8, blocks", {"fmt": "e5m2"}, r"quantization_config.fmt is 'e5m2'"),
    ("fp8, blocks", {"modules_to_not_convert": ["o_proj"]}, r"modules_to_not_convert is .* floats in \S+o_proj"),
    ("nf4", {"llm_int8_skip_modules": ["model.layers.1"]}, r"llm_int8_skip_modules .* model.layers.1.\S+, which"),
    ("mlx", {"mode": "mxfp4"}, r"quantization_config.mode is 'mxfp4'; expected 'affine'"),
    ("mlx", {"bits": 7}, r"quantization_config.bits is 7; expected one of 2, 3, 4, 5, 6, 8"),
    ("mlx", {"group_size": "64"}, r"quantization_config.group_size is '64'; expected a whole number"),
    ("mlx", {"bits": 8}, r"expected groups of 64 codes|expected \d+ x \d+"),
    ("mlx", {"model.layers.0.mlp.up_proj": False}, r"up_proj is False; expected bits and group_size"),
    ("int4", {"format": "nvfp4-pack-quantized"}, r"quantization_config.format is 'nvfp4-pack-quantized'"),
    ("int4", {"transform_config": {"config_groups": {"R1": {}}}}, r"quantization_config.transform_config is "),
    ("int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"quantization_config.sparsity_config is "),
    ("int4", grouped(num_bits=3), r"weights.num_bits one of 2, 4, 8"),
    ("int4", grouped(num_bits=8), r"expected the num_bits"),
    ("int4", grouped(symmetric=False), r"weight_zero_point is missing"),
    ("int4", {"sparsity_config": {"format": "dense", "global_sparsity": 0.1}}, None),
    ("gptq", {"method": "gptq", "meta": {"quantizer": ["gptqmodel:7.7.0"]}, "adapter": None, "dynamic": {}}, None),
    ("gptq", {"adapter": {"name": "lora"}}, r"quantization_config.adapter is .* expected no such key"),
    ("int4", {"config_groups": None}, r"quantization_config.config_groups is None; expected groups of layers"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "changes", "says"), REFUSED)
def test_what_is_not_understood_is_named(
    tmp_path: Path, method: str, changes: dict[str, Any], says: str | None
) -> None:
    write(tmp_path, method)
    edit(tmp_path, **changes)
    if says is None:
        plan(open_huggingface(tmp_path))
        return
    with pytest.raises(FathomError, match=says) as raised:
        plan(open_huggingface(tmp_path))
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


TENSORS: list[tuple[str, dict[str, Any], str]] = [
    ("gptq", {"qzeros": None}, r"_proj: qzeros is missing"),
    ("gptq", {"scales": lambda x: x[:, :-1]}, r"_proj: scales is \d x 127; expected any x 128"),
    ("gptq", {"g_idx": lambda x: x + 1}, r"_proj: g_idx is from 1 to \d; expected groups below \d"),
    ("awq", {"qzeros": lambda x: x.float()}, r"_proj: qzeros is F32; expected I32 or U32"),
    ("fp8, blocks", {"weight_scale_inv": None}, r"_proj.weight is F8_E4M3 without a scale"),
    ("mlx", {"biases": None}, r"_proj: biases is missing"),
    ("nf4", {"weight": lambda x: x[:-1] if x.dtype == torch.uint8 else x}, r"weight has 12287 bytes; 128 x 192"),
    ("nf4", {"weight__absmax": lambda x: x[:-1]}, r"_proj: weight.absmax is 383; expected 384"),
    ("nf4", {"weight__nested_absmax": None}, r"_proj: weight.absmax is U8; expected F32"),
    ("int8", {"weight_format": lambda x: x + 2}, r"_proj: weight_format is not 0"),
    ("int8", {"SCB": lambda x: x[:-1]}, r"_proj: SCB is 127; expected 128"),
    ("int4", {"weight_shape": lambda x: x * 2}, r"_proj: 256 x 384 numbers in \(128, 24\) words"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "changes", "says"), TENSORS)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, method: str, changes: dict[str, Any], says: str) -> None:
    write(tmp_path, method)
    change(tmp_path, **changes)
    with pytest.raises(FathomError, match=says):
        load(tmp_path, device="cpu")


def test_scales_of_the_cache_and_of_activations_are_left_out(tmp_path: Path) -> None:
    expected = write(tmp_path, "fp8")
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {f"model.layers.{i}.self_attn.{x}_scale": torch.ones(()) for i in (0, 1) for x in ("k", "v")}
    save_file(tensors | extra, tmp_path / "model.safetensors")
    assert set(open_huggingface(tmp_path).tensors) == set(expected)


def test_a_layer_without_its_scale_of_powers_of_two(tmp_path: Path) -> None:
    """ue8m0: the scale of a block is a power of two, in 8 bits."""
    write(tmp_path, "fp8, blocks")
    name = "model.layers.0.mlp.up_proj.weight"
    before = open_huggingface(tmp_path).tensors[name].read()
    change(tmp_path, weight_scale_inv=lambda x: x.to(torch.float8_e8m0fnu))
    edit(tmp_path, scale_fmt="ue8m0")
    ratio = (open_huggingface(tmp_path).tensors[name].read() / before)[before != 0]
    assert float(ratio.min()) > 0.6 and float(ratio.max()) < 1.6


def everything(path: Path) -> None:
    """Open the folder, check it against its config and read each tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_huggingface(path.parent)
        for source in plan(opened).values():
            source.read()


@pytest.mark.parametrize("method", METHODS)
def test_mutants_do_no_harm(tmp_path: Path, method: str, request: pytest.FixtureRequest) -> None:
    write(tmp_path, method)
    count = 2000 if "slow" in request.config.getoption("-m") and "not" not in request.config.getoption("-m") else 100
    survive(everything, tmp_path / "model.safetensors", count)
    survive(everything, tmp_path / "config.json", count)


def test_settings_are_one_line_whatever_they_hold(tmp_path: Path) -> None:
    write(tmp_path, "gptq")
    for entry in ([], 3, "gptq", {"quant_method": ["gptq"]}, {"quant_method": "gptq", "bits": {}}, {"bits": 4}):
        values = CONFIG | {"quantization_config": entry}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(FathomError) as raised:
            plan(open_huggingface(tmp_path))
        assert not re.search(r"\n", str(raised.value))


@pytest.mark.parametrize("method", ["nf4", "gptq, act-order", "int8", "int4"])
def test_pickled_weights(tmp_path: Path, method: str) -> None:
    expected = write(tmp_path, method)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    opened = open_huggingface(tmp_path)
    for name, matrix in expected.items():
        actual = opened.tensors[name].read().double().numpy()
        assert np.abs(actual - matrix).max() <= 2**-23 * np.abs(matrix).max(), name
    assert load(tmp_path, quantize="nf4", device="cpu")[0](IDS).isfinite().all()
