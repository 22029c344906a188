"""Folders of Hugging Face against transformers: theirs read by us, ours read by them, equal to the last logit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.formats.convert import read_ours
from fathom.formats.huggingface import open_huggingface, read_ends, write_huggingface
from fathom.formats.llama2c import open_llama2c
from fathom.formats.safetensors_file import read_tensors, write_tensors
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.presets import GPT2 as PRESET_GPT2
from fathom.model.presets import LLAMA2_7B
from fathom.model.transformer import Transformer
from tests.formats.hf import GPT2, LLAMA, VARIANTS, make
from tests.mutants import survive

IDS = torch.randint(61, (1, 256), generator=torch.Generator().manual_seed(1))
SMALL = {"vocab_size": 61, "context_length": 256, "d_model": 24, "n_layer": 2, "d_ff": 40, "n_head": 6}
OURS: dict[str, ModelConfig] = {
    "gpt2": replace(PRESET_GPT2, **SMALL | {"d_ff": None}),
    "gpt2, untied": replace(PRESET_GPT2, **SMALL, tie_embeddings=False, norm_eps=1e-3),
    "llama": replace(LLAMA2_7B, **SMALL),
    "head_dim, tied": replace(LLAMA2_7B, **SMALL, n_kv_head=2, head_dim=8, tie_embeddings=True, rope=Rotary(theta=5e5)),
    "biases, llama3": replace(
        LLAMA2_7B,
        **SMALL,
        bias=True,
        rope=Rotary(scaling=RopeScaling(kind="llama3", factor=8.0, original_context_length=64, high_freq_factor=3.0)),
    ),
    "linear": replace(LLAMA2_7B, **SMALL, rope=Rotary(scaling=RopeScaling(kind="linear", factor=3.0))),
    "yarn": replace(
        LLAMA2_7B, **SMALL, rope=Rotary(scaling=RopeScaling(kind="yarn", factor=4.0, original_context_length=64))
    ),
}


def load(path: Path) -> Transformer:
    opened = open_huggingface(path)
    state = dict(read_ours(opened))
    model = Transformer(opened.config).eval()
    model.load_state_dict(state, strict=False)
    return model


def difference(ours: Transformer, theirs: nn.Module) -> float:
    with torch.no_grad():
        return float((ours(IDS) - theirs(IDS).logits).abs().max())


@pytest.mark.parametrize("shard", ["5GB", "15KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saved_gives_its_logits(tmp_path: Path, variant: str, shard: str) -> None:
    theirs = make(VARIANTS[variant])
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 if shard == "5GB" else len(list(tmp_path.glob("*"))) > 4
    assert difference(load(tmp_path), theirs) <= 1e-5


@pytest.mark.parametrize("variant", ["llama3", "yarn", "linear", "theta"])
def test_the_words_of_version_4_mean_the_same(tmp_path: Path, variant: str) -> None:
    theirs = make(VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(VARIANTS[variant]))  # rope_theta and rope_scaling at its top
    assert difference(load(tmp_path), theirs) <= 1e-5


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 12_000], ids=["single", "sharded"])
@pytest.mark.parametrize("name", OURS)
def test_what_we_wrote_gives_our_logits_in_transformers(tmp_path: Path, name: str, shard_bytes: int) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    ours = random(OURS[name])
    write_huggingface(tmp_path / "out", ours.config, ours.state_dict(), None, shard_bytes)
    sizes = [file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) == 1 if shard_bytes > 1 << 20 else len(sizes) > 2 and max(sizes) < 27_000
    theirs, report = library.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()) and difference(ours, theirs.eval()) <= 1e-5
    back = open_huggingface(tmp_path / "out")
    assert back.config.resolved() == ours.config
    found = dict(read_ours(back))
    assert all(torch.equal(found[n], x) for n, x in ours.state_dict().items() if n in found)
    assert len(found) == len(ours.state_dict()) - ours.config.tie_embeddings


def test_a_trained_model_tells_the_same_story_there(tmp_path: Path, shared_data: Path) -> None:
    """Model and tokenizer as their own classes find them: no word of ours besides the folder."""
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    opened = open_llama2c(shared_data / "stories260K" / "stories260K.bin")
    ours, tokenizer = Transformer(opened.config).eval(), opened.tokenizer()
    assert tokenizer is not None
    ours.load_state_dict(dict(read_ours(opened)), strict=False)
    write_huggingface(tmp_path / "out", ours.config, ours.state_dict(), tokenizer)
    model = library.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    words = library.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = words("Once upon a time", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == [1, *tokenizer.encode("Once upon a time")]
    story = model.generate(ids, do_sample=False, max_new_tokens=64)[0].tolist()
    told = ids[0].tolist()
    while len(told) < len(story):
        with torch.no_grad():
            told.append(int(ours(torch.tensor([told]))[0, -1].argmax()))
    assert told == story and words.decode(told, skip_special_tokens=True) == tokenizer.decode(told[1:])
    assert "there was a little girl named Lily" in tokenizer.decode(told[1:])
    back = open_huggingface(tmp_path / "out").tokenizer()
    assert back is not None and (back.bos, back.special.end_ids) == (1, {2})
    assert back.encode("a café 🙂") == tokenizer.encode("a café 🙂")


def random(config: ModelConfig) -> Transformer:
    model = Transformer(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.3)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_stay_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    ours = random(OURS["llama"]).to(dtype)
    write_huggingface(tmp_path / "out", ours.config, ours.state_dict(), None)
    assert library.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == dtype
    tensors = open_huggingface(tmp_path / "out").tensors
    assert {stored.read().dtype for stored in tensors.values()} == {dtype}


def test_the_first_gpt2_files(tmp_path: Path) -> None:
    """Names without their first word, masks among the weights, positions called n_ctx."""
    theirs = make(GPT2)
    stored: dict[str, Tensor] = {k.removeprefix("transformer."): v for k, v in theirs.state_dict().items()}
    del stored["lm_head.weight"]
    masks = {"h.0.attn.bias": torch.ones(1, 1, 256, 256, dtype=torch.uint8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    write_tensors(tmp_path / "model.safetensors", stored | masks)
    said = {k: v for k, v in GPT2.items() if k != "n_positions"} | {"n_ctx": 256}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert difference(load(tmp_path), theirs) <= 1e-5


def test_one_file_with_its_config_beside_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert open_huggingface(folder).tensors.keys() == open_huggingface(folder / "mine.safetensors").tensors.keys()


def test_pickled_weights_where_there_are_no_others(tmp_path: Path) -> None:
    theirs = make(LLAMA)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert difference(load(tmp_path), theirs) <= 1e-5
    assert open_huggingface(tmp_path).format == "Hugging Face, pickled, 1 file"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A LLaMA as we write it."""
    model = random(OURS["llama"])
    write_huggingface(tmp_path / "llama", model.config, model.state_dict(), None)
    return tmp_path / "llama"


def edit(file: Path, change: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_a_tensor_that_is_written_to_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    opened = open_huggingface(folder)
    opened.tensors["model.norm.weight"].read().fill_(7.0)
    assert (folder / "model.safetensors").read_bytes() == before


def test_what_the_files_say_of_themselves(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: other\n")
    edit(folder / "generation_config.json", {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 5, 99]})
    edit(folder / "config.json", {"_name_or_path": "some/model", "eos_token_id": 7, "vocab_size": 61})
    assert open_huggingface(folder).metadata == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
        "torch_dtype": "float32",
        "_name_or_path": "some/model",
        "generation": {"temperature": 0.6, "top_p": 0.9},
        "licence": "apache-2.0",
    }


@pytest.mark.parametrize(
    "generation, config, ends",
    [(2, 2, [2]), ([3, 5], 2, [3, 5, 2]), (None, None, []), ([2, 61, -1], None, [2]), (None, [4, 4], [4])],
)
def test_ids_that_end_a_text(folder: Path, generation: Any, config: Any, ends: list[int]) -> None:
    assert read_ends(folder, {"eos_token_id": config}, {"eos_token_id": generation}, 61) == ends


@pytest.mark.parametrize("value", ["2", True, [2, None], {"id": 2}, 1 << 70, 2.0])
def test_ids_that_are_none(folder: Path, value: Any) -> None:
    edit(folder / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(FathomError, match=r"generation_config\.json: eos_token_id is .*; expected a token id"):
        open_huggingface(folder)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"num_hidden_layers": 1 << 30}, "n_layer=1073741824 and .* parameters; the file has 21 tensors"),
        ({"hidden_size": 1 << 20, "vocab_size": 1 << 30}, "not of one model"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight' is missing"),
        ({"intermediate_size": 41}, r"'model.layers.0.mlp.gate_proj.weight' is \(40, 24\); the config expects \(41,"),
    ],
)
def test_config_and_weights_that_disagree(folder: Path, change: dict[str, Any], says: str) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(FathomError, match=says):
        load(folder)


def test_whole_numbers_without_scales_are_named(folder: Path) -> None:
    write_tensors(folder / "model.safetensors", {"model.norm.weight": torch.ones(24).to(torch.int8)})
    with pytest.raises(FathomError, match=r"'model\.norm\.weight' is I8; supported are F64, F32, F16, BF16 and F8"):
        open_huggingface(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats_are_read_as_fp32(folder: Path, dtype: torch.dtype) -> None:
    stored = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {name: x.to(dtype) for name, x in stored.items()})
    for name, stored_as in open_huggingface(folder).tensors.items():
        expected = stored[name].to(dtype).float()
        assert torch.equal(stored_as.read(), expected) and torch.equal(stored_as.rows(1, 3), expected[1:3])
    assert load(folder)(IDS).isfinite().all()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FathomError, match=name):
        open_huggingface(folder)


def test_several_files_without_an_index(folder: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FathomError, match=r"2 safetensors files, none of them model\.safetensors"):
        open_huggingface(folder)


def test_a_folder_that_holds_files_is_not_written_to(tmp_path: Path) -> None:
    model = random(OURS["gpt2"])
    (tmp_path / "out").mkdir()
    write_huggingface(tmp_path / "out", model.config, model.state_dict(), None)
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(FathomError, match="exists and is not empty"):
        write_huggingface(tmp_path / "out", model.config, model.state_dict(), None)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random(OURS["gpt2"])

    def full(path: Path, tensors: object) -> None:
        raise FathomError(f"{path} cannot be written: no space left on device")

    monkeypatch.setattr("fathom.formats.huggingface.write_tensors", full)
    with pytest.raises(FathomError, match="no space left"):
        write_huggingface(tmp_path / "out", model.config, model.state_dict(), None)
    assert not list(tmp_path.iterdir())


FILES = ["config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"]


def survives(tmp_path: Path, name: str, count: int) -> None:
    model = Transformer(replace(OURS["biases, llama3"], vocab_size=13, d_model=12, d_ff=8, n_layer=1))
    write_huggingface(tmp_path / "m", model.config, model.state_dict(), None, 2_000 if "index" in name else 1 << 40)

    def read(path: Path) -> None:
        opened = open_huggingface(path.parent)
        for _, tensor in read_ours(opened):
            tensor.sum()

    survive(read, tmp_path / "m" / name, count)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    survives(tmp_path, name, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files(tmp_path: Path, name: str) -> None:
    survives(tmp_path, name, 10_000)
