"""Mixtures of experts in GGUF: quantised, with layers that are not read, and what llama.cpp computes otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.families.registry import from_hf, to_gguf
from fathom.formats import gguf
from fathom.formats.convert import read_ours
from fathom.formats.export import write_model
from fathom.formats.ggml_blocks import IDS, TYPES, packed
from fathom.formats.gguf_model import open_gguf, write_gguf
from fathom.formats.opened import Opened
from fathom.formats.safetensors_file import open_safetensors, write_tensors
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import model_of
from tests.families.test_gguf_columns import CHANGED, EVERY, config_of, logits
from tests.formats.ggml_library import quantised
from tests.formats.hf import make
from tests.formats.test_gguf_model import llama_cpp_logits

WIDE = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 2, "shared_expert_intermediate_size": 64}  # fmt: skip
MIXTURES = ["Mixtral", "Qwen2-MoE", "Qwen3-MoE", "Granite MoE", "GLM-4.5"]
IDS_OF_TEXT = torch.randint(61, (1, 48), generator=torch.Generator().manual_seed(2))


def wide(name: str, **change: Any) -> ModelConfig:
    return from_hf(EVERY[name] | {key: value for key, value in WIDE.items() if key in EVERY[name]} | change, "x")[1]


def written(path: Path, config: ModelConfig, kind: str = "F32") -> tuple[Transformer, Opened]:
    torch.manual_seed(5)
    model = model_of(config, std=0.1)
    write_gguf(path, config, model.state_dict(), None, kind)
    return model, open_gguf(path)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", MIXTURES)
def test_llama_cpp_runs_every_kind(tmp_path: Path, name: str, kind: str) -> None:
    """Against the numbers as we read them: the rest is that llama.cpp rounds activations too."""
    config = wide(name)
    _, opened = written(tmp_path / "x.gguf", config, kind)
    model = Transformer(config).eval()
    model.load_state_dict(dict(read_ours(opened)), strict=False)
    kinds = {x.kind for x in opened.tensors.values() if len(x.shape) == 3}
    assert kinds == {kind}
    ours, theirs = logits(model, IDS_OF_TEXT), llama_cpp_logits(tmp_path / "x.gguf", IDS_OF_TEXT[0].tolist())
    close = (ours - theirs).std(-1) < 0.05 * ours.std()
    assert close.float().mean() > 0.9  # rounded activations may choose other experts where two are nearly equal


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q5_K_M", "Q3_K_M"])
@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_types_of_llama_quantize_are_read(tmp_path: Path, name: str, mix: str) -> None:
    """Experts of one layer in several types: each is read as what it is, by the numbers that llama.cpp computes."""
    wider = {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 256, "head_dim": 64}
    config = wide(name, **{key: value for key, value in wider.items() if key in EVERY[name] or key == "hidden_size"})
    written(tmp_path / "x.gguf", config)
    quantised(tmp_path / "x.gguf", tmp_path / "mixed.gguf", mix)
    opened = open_gguf(tmp_path / "mixed.gguf")
    kinds = {x.kind for x in opened.tensors.values() if len(x.shape) == 3}
    assert len(kinds) > 1, kinds
    model = Transformer(opened.config).eval()
    model.load_state_dict(dict(read_ours(opened)), strict=False)
    ours, theirs = logits(model, IDS_OF_TEXT), llama_cpp_logits(tmp_path / "mixed.gguf", IDS_OF_TEXT[0].tolist())
    close = (ours - theirs).std(-1) < 0.05 * ours.std()
    # Rounded activations choose other experts where two are nearly equal; a matrix that is read wrong is always wrong.
    assert close.float().mean() > 0.5


def test_gpt_oss_as_its_files_are_published(tmp_path: Path) -> None:
    """Experts in MXFP4, their biases and the rest in other types."""
    config = wide("gpt-oss", **CHANGED["gpt-oss"])
    written(tmp_path / "x.gguf", config)
    quantised(tmp_path / "x.gguf", tmp_path / "mxfp4.gguf", "MXFP4_MOE")
    opened = open_gguf(tmp_path / "mxfp4.gguf")
    assert {x.kind for x in opened.tensors.values() if len(x.shape) == 3} == {"MXFP4"}
    model = Transformer(opened.config).eval()
    model.load_state_dict(dict(read_ours(opened)), strict=False)
    ours, theirs = logits(model, IDS_OF_TEXT), llama_cpp_logits(tmp_path / "mxfp4.gguf", IDS_OF_TEXT[0].tolist())
    assert ((ours - theirs).std(-1) < 0.05 * ours.std()).float().mean() > 0.5  # as above


@pytest.mark.parametrize("name", MIXTURES)
def test_codes_of_each_expert_are_taken_over(tmp_path: Path, name: str) -> None:
    """Q8_0 as int8 and Q4_0 as int4: what is computed from codes is what is computed from their numbers."""
    for kind, quantize in (("Q8_0", "int8"), ("Q4_0", "int4")):
        written(tmp_path / f"{kind}.gguf", wide(name), kind)
        floats, _ = fathom.load(tmp_path / f"{kind}.gguf", device="cpu")
        codes, _ = fathom.load(tmp_path / f"{kind}.gguf", device="cpu", quantize=quantize)
        assert codes.get_submodule("blocks.2.mlp.experts.1.up" if name == "GLM-4.5" else "blocks.1.mlp.experts.1.up")
        assert (logits(floats, IDS_OF_TEXT) - logits(codes, IDS_OF_TEXT)).abs().max() < 1e-4


@pytest.mark.parametrize("name", [*MIXTURES, "OLMoE"])
def test_llama_cpp_continues_with_the_same_tokens(tmp_path: Path, name: str) -> None:
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    torch.manual_seed(7)
    model = model_of(config_of(name), std=0.15)
    write_gguf(tmp_path / "x.gguf", model.config, model.state_dict(), None)
    runner = library.Llama(str(tmp_path / "x.gguf"), n_ctx=128, n_threads=1, verbose=False, type_k=0, type_v=0)
    ids, theirs = [3, 1, 4, 1, 5], [3, 1, 4, 1, 5]
    runner.eval(theirs)
    for _ in range(64):
        theirs.append(int(runner.sample(temp=0.0, top_k=1, repeat_penalty=1.0)))
        runner.eval(theirs[-1:])
        ids.append(int(logits(model, torch.tensor([ids]))[-1].argmax()))
    assert ids == theirs


def changed(path: Path, **values: Any) -> None:
    """The file with other values of keys after the architecture's name; None: without."""
    header, tensors = gguf.read_header(path), {name: x.read() for name, x in open_gguf(path).tensors.items()}
    prefix = header.metadata["general.architecture"]
    metadata = dict(header.metadata) | {f"{prefix}.{key}": value for key, value in values.items()}
    f32 = TYPES[IDS["F32"]]
    out = {name: gguf.Outgoing(tuple(x.shape), f32, lambda x=x: packed(x, f32)) for name, x in tensors.items()}
    gguf.write(path, {key: value for key, value in metadata.items() if value is not None}, out)


def test_layers_that_guess_several_tokens_are_not_read(tmp_path: Path) -> None:
    """A layer more in GGUF and in a folder, as released files of GLM-4.5 have it."""
    model, _ = written(tmp_path / "x.gguf", wide("GLM-4.5", first_k_dense_replace=1))
    changed(tmp_path / "x.gguf", nextn_predict_layers=1)
    opened = open_gguf(tmp_path / "x.gguf")
    assert opened.config.n_layer == 2 and not any("blk.2." in name for name in opened.tensors)
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in read_ours(opened) if "blocks" in name)

    theirs = make(EVERY["GLM-4.5"])
    theirs.save_pretrained(tmp_path / "hf")  # type: ignore[operator]
    first = logits(fathom.load(tmp_path / "hf", device="cpu")[0], IDS_OF_TEXT)
    file = tmp_path / "hf" / "model.safetensors"
    tensors = {name: x.read().clone() for name, x in open_safetensors(file).items()}
    more = {name.replace("layers.2", "layers.3"): x.clone() for name, x in tensors.items() if "layers.2" in name}
    write_tensors(file, tensors | more | {"model.layers.3.eh_proj.weight": torch.ones(24, 48)})
    assert torch.equal(logits(fathom.load(tmp_path / "hf", device="cpu")[0], IDS_OF_TEXT), first)


@pytest.mark.parametrize(
    "name, values, says",
    [
        ("Mixtral", {"expert_gating_func": 2}, "llama.expert_gating_func is 2; expected None or 0 or 1"),
        ("Mixtral", {"expert_weights_scale": 2.5}, "llama.expert_weights_scale is 2.5; expected None or 0.0 or 1.0"),
        ("Qwen3-MoE", {"expert_weights_norm": False}, "qwen3moe.expert_weights_norm is False; expected True or none"),
        ("Qwen2-MoE", {"expert_used_count": 9}, "mlp has 5 experts and uses 9"),
        ("Qwen3-MoE", {"expert_count": None}, "expert_count is missing"),
        ("Qwen3-MoE", {"leading_dense_block_count": 1}, "leading_dense_block_count is 1, which changes"),
        ("GLM-4.5", {"expert_gating_func": 1}, "glm4moe.expert_gating_func is 1; expected None or 0 or 2"),
        ("GLM-4.5", {"expert_group_count": 4}, "glm4moe.expert_group_count is 4; expected None or 0 or 1"),
        ("GLM-4.5", {"leading_dense_block_count": 3}, "expected some of 3 layers"),
        ("Granite MoE", {"expert_shared_count": 1}, "granitemoe.expert_shared_count is 1, which changes"),
    ],
)
def test_a_key_that_changes_the_mixture_is_refused(tmp_path: Path, name: str, values: Any, says: str) -> None:
    written(tmp_path / "x.gguf", config_of(name))
    with pytest.raises(FathomError, match=says):
        changed(tmp_path / "x.gguf", **values)
        open_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("Mixtral, a window", {}, "layers=.* llama.cpp's llama has .* alone"),
        ("Qwen3-MoE, shares", {}, "mlp.renormalise=False, and llama.cpp's qwen3moe has True alone"),
        ("Qwen3-MoE, dense layers", {}, "mlp.dense=.1, 3., and llama.cpp's qwen3moe has experts in all layers alone"),
        ("Qwen3-MoE", {"attention_bias": True}, "bias=qkv,out, and llama.cpp's qwen3moe has biases of off alone"),
        ("Qwen2-MoE", {"tie_word_embeddings": True}, "tie_embeddings=True, and llama.cpp's qwen2moe has False alone"),
        ("Qwen2-MoE", {"head_dim": 8}, "head_dim=8, and llama.cpp's qwen2moe has d_model / n_head = 4 alone"),
        ("OLMoE", {}, "n_kv_head=2, and llama.cpp's olmoe has 6 alone"),
        ("Phi-3.5-MoE", {}, "no format 'gguf' of phimoe models"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(name: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says):
        to_gguf(from_hf(EVERY[name] | change, "config.json")[1])


def test_experts_are_one_part_of_what_is_reported(tmp_path: Path) -> None:
    model = model_of(config_of("Mixtral"))
    written = write_model(model, None, "gguf", tmp_path / "x.gguf", "q8_0")
    tensors = {part.name: part.tensors for part in written.parts}
    assert tensors["blocks.N.mlp.experts.M.up.weight"] == 10 and len(tensors) < 20
