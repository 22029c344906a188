"""fathom merge, generate --adapter: one model that says what base and adapter say."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.adapters.merge import merge
from fathom.adapters.options import LoraOptions
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.formats.detect import open_model
from fathom.formats.export import write_model
from fathom.formats.load import load as load_model
from fathom.tokenizer.characters import ByteTokenizer
from tests.adapters.models import adapter_folder, base_folder
from tests.architectures import LLAMA, ids_for, model_of
from tests.cli.models import model_folder

Files = tuple[Path, Path]


def hashes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    base, model = base_folder(tmp_path / "base", "llama")
    return base, adapter_folder(tmp_path / "adapter", model, LoraOptions(rank=3), base)


@pytest.fixture
def run(tmp_path: Path) -> Files:
    """A run with a tokenizer of bytes."""
    base = model_folder(tmp_path / "run", ByteTokenizer())
    model = load_model(base, device="cpu")[0]
    return base, adapter_folder(tmp_path / "of run", model, LoraOptions(rank=2, dora=True), base)


@torch.no_grad()
def test_merged_is_base_and_adapter(files: Files, tmp_path: Path) -> None:
    base, adapter = files
    before = hashes(base)
    done = merge(base, adapter, tmp_path / "out", device="cpu")
    assert (done.format, done.dtype, done.packed, done.untied) == ("hf", "float32", None, False)
    assert done.max_difference < 1e-5 and abs(done.kl) < 1e-9 and done.effect > 1e-2
    unmerged, merged = (
        fathom.load(base, device="cpu", adapter=adapter)[0],
        fathom.load(tmp_path / "out", device="cpu")[0],
    )
    ids = ids_for(unmerged.config)
    assert (unmerged(ids) - merged(ids)).abs().max() < 1e-5
    assert hashes(base) == before


@torch.no_grad()
def test_scaled(files: Files, tmp_path: Path) -> None:
    base, adapter = files
    full, half, none = (merge(base, adapter, tmp_path / str(x), x, device="cpu") for x in (1.0, 0.5, 0.0))
    assert full.effect > half.effect > none.effect == 0.0
    assert all(
        torch.equal(x, load_model(base, device="cpu")[0].state_dict()[name])
        for name, x in load_model(none.path, device="cpu")[0].state_dict().items()
    )


@pytest.mark.parametrize("dtype, most", [("fp32", 1e-5), ("bf16", 0.2), ("fp16", 0.02)])
def test_dtypes(files: Files, tmp_path: Path, dtype: str, most: float) -> None:
    done = merge(*files, tmp_path / "out", dtype=dtype, device="cpu")
    kinds = {tensor.kind for tensor in open_model(done.path).tensors.values()}
    assert kinds == {{"fp32": "F32", "bf16": "BF16", "fp16": "F16"}[dtype]}
    assert done.max_difference < most and (dtype == "fp32" or done.max_difference > 1e-5)


def test_a_base_of_16_bits_stays_one(files: Files, tmp_path: Path) -> None:
    base, adapter = files
    write_model(load_model(base, "bf16", "cpu")[0], None, "hf", tmp_path / "narrow")
    assert merge(tmp_path / "narrow", adapter, tmp_path / "out", device="cpu").dtype == "bfloat16"


@pytest.mark.filterwarnings("error")
def test_into_a_quantised_base(tmp_path: Path) -> None:
    """Into the very weights that it was trained on, unpacked; in 16 bits; and what that changes is reported."""
    base, _ = base_folder(tmp_path / "base", "llama")
    model = load_model(base, device="cpu", quantize="nf4")[0]
    adapter = adapter_folder(tmp_path / "adapter", model, LoraOptions(rank=3), base)
    done = merge(base, adapter, tmp_path / "out", device="cpu")
    assert (done.packed, done.dtype) == ("nf4", "bfloat16")
    assert 1e-4 < done.max_difference < 0.2 and 1e-9 < done.kl < 1e-2
    exact = merge(base, adapter, tmp_path / "exact", dtype="fp32", device="cpu")
    assert exact.max_difference < 1e-5
    ids = ids_for(model.config)
    assert (load_model(exact.path, device="cpu")[0](ids) - model(ids)).abs().max() < 1e-5


def test_a_quantised_file(tmp_path: Path) -> None:
    """Its numbers are taken as they are unpacked; what is written has 16 bits."""
    sizes = replace(LLAMA, n_layer=1, d_model=32, n_head=4, head_dim=8, d_ff=64)
    packed = tmp_path / "x.gguf"
    write_model(model_of(sizes, std=0.2), None, "gguf", packed, "q8_0")
    model = load_model(packed, device="cpu")[0]
    adapter = adapter_folder(tmp_path / "adapter", model, LoraOptions(rank=2), packed)
    done = merge(packed, adapter, tmp_path / "out", device="cpu")
    assert done.dtype == "bfloat16" and 1e-4 < done.max_difference < 0.2


def test_tied_matrices_part(tmp_path: Path) -> None:
    base, model = base_folder(tmp_path / "base", "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = adapter_folder(tmp_path / "adapter", model, LoraOptions(rank=2, targets=("embed",)), base)
    done = merge(base, adapter, tmp_path / "out", device="cpu")
    assert done.untied and done.max_difference < 1e-5
    assert not open_model(done.path).config.tie_embeddings


def test_a_run_becomes_a_run(run: Files, tmp_path: Path) -> None:
    base, adapter = run
    done = merge(base, adapter, tmp_path / "out", device="cpu")
    assert done.format == "run" and done.max_difference < 1e-4
    _, tokenizer = fathom.load(done.path)
    assert tokenizer is not None and tokenizer.decode(tokenizer.encode("né")) == "né"


def test_what_cannot_be_merged(files: Files, tmp_path: Path) -> None:
    base, adapter = files
    with pytest.raises(FathomError, match="scale is nan; expected a finite number"):
        merge(base, adapter, tmp_path / "out", float("nan"), device="cpu")
    for scale, dtype in ((1e39, "fp32"), (1e6, "fp16")):
        with pytest.raises(FathomError, match="has infinite numbers; use a smaller scale"):
            merge(base, adapter, tmp_path / "out", scale, dtype, "cpu")
    with pytest.raises(FathomError, match="exists"):
        merge(base, adapter, base, device="cpu")
    with pytest.raises(FathomError, match="dtype is 'fp8'"):
        merge(base, adapter, tmp_path / "out", dtype="fp8")
    with pytest.raises(FathomError, match="holds no adapter_config"):
        merge(base, base, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_verb(run: Files, tmp_path: Path, capsys: Any) -> None:
    base, adapter = map(str, run)
    out = str(tmp_path / "merged")
    assert main(["merge", base, adapter, "-o", out, "--device", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["max_difference"] < 1e-4
    assert "merged against unmerged" in shown.err
    texts = []
    for call in ([base, "--adapter", adapter], [out], [base]):
        assert main(["generate", *call, "-p", "Once", "-n", "12", "-t", "0", "--device", "cpu"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert main(["merge", base, adapter, "-o", out]) == 2
    assert main(["merge", base, adapter, "-o", out + "2", "--scale", "much"]) == 2
    assert main(["generate", base, "--adapter", str(tmp_path / "nowhere")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and "nowhere does not exist" in lines[-1]
