"""Loading from wherever a model lies: found by content, read once, converted on the way, refused in one line."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.fields import plain
from fathom.formats.config_file import write_config
from fathom.formats.detect import is_model, locate, open_model
from fathom.formats.export import WRITERS, write_model
from fathom.formats.load import load, read, with_rope_scaling
from fathom.formats.run import write_weights
from fathom.formats.tokenizer import load_tokenizer, require_tokenizer
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model
from fathom.quant.schemes import scheme_named
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import save

CONFIG = replace(LLAMA2_7B, vocab_size=256, context_length=32, d_model=32, n_layer=2, n_head=4, n_kv_head=2, d_ff=64)
FORMATS = ["run", *(name for name in WRITERS if name != "meta")]  # Meta's have no form for a vocabulary of bytes


def written(format: str, folder: Path, model: Transformer) -> Path:
    """The model and a tokenizer of bytes in a format."""
    path = folder / format
    if format != "run":
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = None if format.startswith("llama2c") or format == "meta" else ByteTokenizer()
        return write_model(model, tokenizer, format, path).path
    path.mkdir(parents=True)
    write_config(path / "config.yaml", {"model": plain(model.config)})
    write_weights(model, path / "model.safetensors")
    save(ByteTokenizer(), path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(1)
    return Transformer(CONFIG).eval()


@pytest.fixture(scope="module")
def files(model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("formats")
    return {format: written(format, folder / format, model) for format in [*FORMATS, "meta"]}


@pytest.mark.parametrize("format", [*FORMATS, "meta"])
def test_one_model_from_every_format_to_the_bit(format: str, files: dict[str, Path], model: Transformer) -> None:
    loaded, tokenizer = fathom.load(files[format], device="cpu")
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in model.state_dict().items())
    assert not loaded.training and (tokenizer is None) == (format in ("meta", "llama2c", "llama2c-v1"))


@pytest.mark.parametrize("format", [*FORMATS, "meta"])
@pytest.mark.parametrize("other", [*FORMATS, "meta"])
def test_every_directed_conversion_is_exact(
    format: str, other: str, files: dict[str, Path], model: Transformer, tmp_path: Path
) -> None:
    loaded, _ = load(files[format], device="cpu")
    again, _ = load(written(other, tmp_path, loaded), device="cpu")
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("format", [*FORMATS, "meta"])
def test_the_name_of_a_file_says_nothing(format: str, files: dict[str, Path], tmp_path: Path) -> None:
    place = files[format]
    renamed = tmp_path / "model.txt"
    (shutil.copytree if place.is_dir() else shutil.copy)(place, renamed)
    assert open_model(renamed).format == open_model(place).format
    assert is_model(renamed)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_dtypes_are_converted_on_the_way(dtype: str, files: dict[str, Path], model: Transformer) -> None:
    loaded, _ = load(files["hf"], dtype=dtype, device="cpu")
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert {p.dtype for p in loaded.parameters()} == {wanted}
    assert torch.equal(loaded.embed.weight, model.embed.weight.to(wanted))


def test_what_is_loaded_can_be_changed_and_the_file_stays(files: dict[str, Path]) -> None:
    before = (files["hf"] / "model.safetensors").read_bytes()
    loaded, _ = load(files["hf"], device="cpu")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert (files["hf"] / "model.safetensors").read_bytes() == before


def test_two_models_of_one_format_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(files["gguf"], tmp_path / "a.gguf")
    assert open_model(tmp_path).format == "GGUF v3"
    shutil.copy(files["gguf"], tmp_path / "b.gguf")
    with pytest.raises(FathomError, match=r"holds 2 models \(a.gguf, b.gguf\); give one of them, such as .*a.gguf"):
        open_model(tmp_path)


def test_of_several_formats_one_is_read_and_the_other_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    """As people have them: a GGUF file beside the weights it was made of, and Meta's files beside Hugging Face's."""
    folder = Path(shutil.copytree(files["hf"], tmp_path / "both"))
    shutil.copy(files["gguf"], folder / "x.gguf")
    with pytest.warns(UserWarning, match=r"config.json and x.gguf; config.json is read; the other is .*x.gguf"):
        assert open_model(folder).names == "hf"
    (folder / "model.safetensors").unlink()  # what is left of the other is a description
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_model(folder).names == "gguf"
    clone = Path(shutil.copytree(files["hf"], tmp_path / "clone"))
    shutil.copytree(files["meta"], clone, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match=r"config.json and params.json; config.json is read; .*consolidated.00.pth"):
        assert open_model(clone).names == "hf"
    assert open_model(clone / "consolidated.00.pth").names == "meta"
    (clone / "model.safetensors").unlink()
    assert open_model(clone).names == "meta"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "nowhere.gguf", "does not exist; give a run folder"),
        (lambda folder: folder, "holds no model in a supported format"),
        (lambda folder: (folder / "x").write_bytes(b"some text") and folder / "x", "holds no model"),
        (lambda folder: (folder / "x").write_bytes(b"") or folder / "x", "holds no model"),
        (lambda folder: (folder / "x.gguf").write_bytes(b"") or folder / "x.gguf", "x.gguf is empty"),
    ],
)
def test_no_model_is_one_line(make: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=says):
        open_model(make(tmp_path))  # type: ignore[operator]


def test_a_pipe_is_refused_and_not_waited_for(files: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files["hf"], tmp_path / "hf"))
    for pipe in (folder / "tokenizer.json", folder / "anything", tmp_path / "alone"):
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        with pytest.raises(FathomError, match=f"{pipe.name} is a pipe or a device"):
            open_model(pipe if pipe.parent == tmp_path else folder)
        with pytest.raises(FathomError, match="pipe"):
            load_tokenizer(pipe)
        pipe.unlink()


@pytest.mark.parametrize("text", ["{", "[]", ""])
@pytest.mark.parametrize(("format", "name"), [("hf", "config.json"), ("meta", "params.json")])
def test_a_damaged_configuration_is_named(
    text: str, format: str, name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(files[format], tmp_path / "it"))
    (folder / name).write_text(text)
    with pytest.raises(FathomError, match=rf"{name} (is not JSON|holds list)"):
        open_model(folder)


def test_large_tensors_are_converted_some_rows_at_a_time(
    files: dict[str, Path], model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = [write_model(model, ByteTokenizer(), "gguf", tmp_path / "q", "q8_0").path]
    packed.append(write_model(model, None, "llama2c", tmp_path / "b" / "m.bin", "q8_0").path)
    for path in [*packed, files["hf"], files["meta"]]:
        whole, _ = load(path, dtype="bf16", device="cpu")
        monkeypatch.setattr("fathom.formats.load.PIECE", 192)  # three rows of 32, the last piece shorter
        pieces, _ = load(path, dtype="bf16", device="cpu")
        monkeypatch.undo()
        assert all(torch.equal(x, pieces.state_dict()[name]) for name, x in whole.state_dict().items())


def test_a_name_is_the_hubs_unless_its_folder_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fathom.formats.hub.fetch", lambda name: Path(f"fetched/{name}"))
    (tmp_path / "runs" / "name").mkdir(parents=True)
    assert locate("gpt2") == Path("fetched/gpt2") and locate("org/name") == Path("fetched/org/name")
    for missing in ("runs/nam", "gpt2.gguf", str(tmp_path / "gpt2"), "./gpt2"):
        with pytest.raises(FathomError, match="does not exist"):
            locate(missing)
    with pytest.raises(FathomError, match="did you mean name"):
        locate("runs/nam")


def test_every_tensor_that_disagrees_with_the_config_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files["hf"], tmp_path / "hf"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(
        FathomError, match=r"'model.layers.0.mlp.gate_proj.weight' is \(64, 32\); the config expects \(48, 32\)"
    ):
        load(folder)


def test_a_tokenizer_of_another_size_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(files["run"], tmp_path / "run"))
    (folder / "tokenizer.json").write_text(json.dumps({"kind": "char", "characters": "abc"}))
    with pytest.raises(FathomError, match="the tokenizer has 3 tokens and the model 256"):
        load_tokenizer(folder)
    with pytest.warns(UserWarning, match="3 tokens and the model 256.*opens without a tokenizer"):
        assert load(folder)[1] is None


def test_a_model_without_a_tokenizer_says_so_when_text_is_wanted(files: dict[str, Path]) -> None:
    with pytest.raises(FathomError, match="a model and no tokenizer"):
        load_tokenizer(files["meta"])
    assert require_tokenizer(load_tokenizer(files["hf"]), "x").vocab_size == 256


def test_too_little_memory_is_said_before_anything_is_allocated(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fathom.formats.load.free_memory", lambda device: 1000)
    with pytest.raises(FathomError, match=r"needs 0.0 GiB as bfloat16 and 0.0 GiB are free on cpu; use a narrower"):
        load(files["hf"], dtype="bf16", device="cpu")
    load(files["hf"], device="cpu")  # as it lies on disk it needs none


@pytest.mark.parametrize(
    ("config", "scaling", "says"),
    [
        (CONFIG, "yarn", "expected KIND:FACTOR, such as yarn:4"),
        (CONFIG, "yern:4", "did you mean yarn"),
        (CONFIG, "yarn:1", "expected a factor above 1"),
        (replace(CONFIG, rope=Rotary(scaling=RopeScaling(kind="linear", factor=2.0))), "yarn:4", "has linear already"),
    ],
)
def test_rope_is_scaled_only_when_asked_and_only_once(config: ModelConfig, scaling: str, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        with_rope_scaling(config, scaling)


def test_scaled_rope_reads_longer_texts_and_learned_positions_cannot() -> None:
    longer = with_rope_scaling(CONFIG, "linear:4")
    assert (longer.context_length, longer.rope.scaling) == (
        128,
        RopeScaling(kind="linear", factor=4.0, original_context_length=32),
    )
    with pytest.raises(FathomError, match="needs position='rope'"):
        with_rope_scaling(GPT2, "linear:4").resolved()


def test_reading_takes_the_dtype_most_numbers_have(files: dict[str, Path], model: Transformer, tmp_path: Path) -> None:
    half = write_model(model, ByteTokenizer(), "gguf", tmp_path / "half", "f16").path  # its norms stay fp32
    assert {p.dtype for p in read(open_model(half)).parameters()} == {torch.float16}
    quantised = write_model(model, ByteTokenizer(), "gguf", tmp_path / "q8", "q8_0").path
    assert {p.dtype for p in read(open_model(quantised)).parameters()} == {torch.float32}


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
@pytest.mark.parametrize(
    "config", [CONFIG, replace(GPT2, vocab_size=256, context_length=32, d_model=64, n_layer=2, n_head=4)]
)
def test_quantising_on_the_way_is_quantising_afterwards(scheme: str, config: ModelConfig, tmp_path: Path) -> None:
    model = Transformer(config).eval()
    path = write_model(model, ByteTokenizer(), "hf", tmp_path / "out").path
    loaded, _ = load(path, device="cpu", quantize=scheme)
    quantize_model(model, scheme)
    assert loaded.state_dict().keys() - {"unembed.weight"} == model.state_dict().keys() - {"unembed.weight"}
    ids = torch.randint(256, (1, 32))
    assert torch.equal(loaded(ids), model(ids))


SMALL_GPT2 = replace(GPT2, vocab_size=256, context_length=32, d_model=64, n_layer=2, n_head=4)
WIDE = replace(CONFIG, d_model=64, d_ff=96)


@pytest.mark.parametrize("config", [WIDE, SMALL_GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(("kind", "scheme"), [("q8_0", "int8"), ("q4_0", "int4")])
def test_blocks_of_a_file_are_taken_over_as_they_lie(
    config: ModelConfig, kind: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of q and k reordered, q, k and v out of one matrix: to the bit what unpacking and packing anew gives."""
    path = write_model(Transformer(config), ByteTokenizer(), "gguf", tmp_path / "m.gguf", kind).path
    anew, _ = load(path, device="cpu")
    quantize_model(anew, scheme)
    monkeypatch.setattr(type(scheme_named(scheme)), "quantize", None)  # nothing is packed anew
    loaded, _ = load(path, device="cpu", quantize=scheme)
    mine, other = loaded.state_dict(), anew.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in mine.items())
    assert all(x.ndim == 0 or x.stride(-1) == 1 for x in mine.values())  # codes may lie in the file's blocks


@pytest.mark.parametrize(("kind", "scheme"), [("q8_0", "int4"), ("q4_0", "int8"), ("q8_0", "nf4"), ("f32", "int8")])
def test_other_blocks_are_packed_anew(kind: str, scheme: str, tmp_path: Path) -> None:
    path = write_model(Transformer(WIDE), ByteTokenizer(), "gguf", tmp_path / "m.gguf", kind).path
    anew, _ = load(path, device="cpu")
    quantize_model(anew, scheme)
    loaded, _ = load(path, device="cpu", quantize=scheme)
    assert all(torch.equal(x, anew.state_dict()[name]) for name, x in loaded.state_dict().items())


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = write_model(Transformer(WIDE), ByteTokenizer(), "gguf", tmp_path / "m.gguf", "q8_0").path
    opened = open_model(path)
    at = opened.tensors["blk.1.ffn_up.weight"].read  # a partial of path and place
    data = bytearray(path.read_bytes())
    data[at.args[1].offset : at.args[1].offset + 2] = b"\x00\x7c"  # type: ignore[attr-defined]  # infinity
    path.write_bytes(data)
    with pytest.raises(FathomError, match=r"blocks.1.mlp.up: found .* expected finite numbers"):
        load(path, device="cpu", quantize="int8")
