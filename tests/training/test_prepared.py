"""A folder of `.parquet` and `.jsonl.zst` is prepared and trained on, without a copy; and everything that may be wrong
with prepared tokens is one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fathom
from fathom.cli.main import main
from fathom.data.shards import open_shards
from fathom.errors import FathomError
from fathom.tokenizer.load import load
from fathom.training.result import Result
from fathom.training.run import open_run
from tests.data.prepared import TEXTS, as_parquet, as_zstandard

SMALL = {"d_model": 16, "n_layer": 1, "n_head": 2, "context_length": 16}
OPTIONS = {"max_iters": 6, "eval_interval": 3, "device": "cpu", "dtype": "fp32", "batch_size": 4, "compile": "off"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared tokens of a folder of two files."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "texts").mkdir()
    as_parquet(folder / "texts" / "a.parquet", TEXTS[:40])
    as_zstandard(folder / "texts" / "b.jsonl.zst", TEXTS[40:])
    fathom.prepare(str(folder / "texts"), "bpe:300", folder / "tokens", workers=2, val_fraction=0.2)
    return folder


def train(place: Path, name: str, **changes: object) -> Result:
    return fathom.train(
        "llama-tiny", place / name, model=SMALL, **{**OPTIONS, "data": str(place / "tokens"), **changes}
    )


def test_a_folder_of_parquet_and_zstandard_is_prepared_and_trained_on(place: Path) -> None:
    result = train(place, "run")
    run = place / "run"
    assert result.validation_loss is not None and list((run / "data").iterdir()) == []  # nothing was copied
    assert load(run / "tokenizer.json").to_json() == load(place / "tokens" / "tokenizer.json").to_json()
    shards = open_shards(place / "tokens")
    facts = json.loads((run / "facts.json").read_text())
    assert (facts["n_train"], facts["n_val"]) == (shards.count("train")[0], shards.count("val")[0])
    spelled = shards.tokenizer().decode(shards.tokens("val")[:].tolist()).split("<|endoftext|>")
    assert len(spelled) == shards.count("val")[1] + 1 and spelled[-1] == "" and {*spelled[:-1]} < {*TEXTS}
    assert facts["val_characters"] == sum(map(len, spelled)) + shards.count("val")[1]  # a newline for each end
    assert fathom.generate(run, "the ", max_new_tokens=3)[0].text


def test_resumed_is_as_never_stopped(place: Path) -> None:
    constant = {"schedule": "constant", "warmup_steps": 0}
    whole = train(place, "whole", **constant)
    train(place, "halves", max_iters=3, **constant)
    resumed = fathom.train("llama-tiny", place / "halves", mode="resume", max_iters=6)
    assert resumed.validation_loss == whole.validation_loss


def test_a_model_is_fine_tuned_on_prepared_tokens(place: Path) -> None:
    train(place, "base")
    tokens = place / "tokens"
    result = fathom.finetune(place / "base", tokens, place / "lora", max_iters=2, train={"device": "cpu"})
    assert result.validation_loss is not None and list((place / "lora" / "data").iterdir()) == []
    with pytest.raises(FathomError, match="holds documents to validate on; leave it out"):
        fathom.finetune(place / "base", tokens, place / "x", max_iters=2, val_data=str(tokens))
    fathom.train("llama-tiny", place / "bytes", model=SMALL, **{**OPTIONS, "tokenizer": "byte", "max_iters": 1})
    with pytest.raises(FathomError, match="made with another tokenizer"):
        fathom.finetune(place / "bytes", tokens, place / "x", max_iters=2, train={"device": "cpu"})
    assert not (place / "x").exists()


@pytest.mark.parametrize("name", ["byte", "char", "bpe:301"])
def test_another_tokenizer_is_refused(name: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FathomError, match="made with"):
        train(place, "x", tokenizer=name)
    assert main(["train", "llama-tiny", "--data", str(place / "tokens"), "--tokenizer", name, "-o", "x"]) == 2
    assert "made with" in capfd.readouterr().err.splitlines()[-1]
    assert not (place / "x").exists()


def test_the_same_tokenizer_may_be_named(place: Path) -> None:
    for number, name in enumerate(("bpe:300", str(place / "tokens" / "tokenizer.json"), str(place / "tokens"))):
        assert train(place, f"named-{number}", tokenizer=name, max_iters=1).step == 1


def damaged(tokens: Path, kind: str) -> str:
    """Damage a copy of prepared tokens; what the line says."""
    file = tokens / "train-00000.npy"
    data = bytearray(file.read_bytes())
    match kind:
        case "missing":
            file.unlink()
            return r"train-00000.npy: cannot be read \(No such file or directory\), and the manifest lists it"
        case "short":
            file.write_bytes(data[:-2])
            return r"train-00000.npy: damaged: [\d,]+ bytes, expected [\d,]+"
        case "changed":
            data[-1] ^= 1
            file.write_bytes(data)
            return "train-00000.npy: damaged: it does not hold what was written; prepare the data again"
        case "header":
            data[20] ^= 1
            file.write_bytes(data)
            return "train-00000.npy: damaged"
        case "tokenizer":
            values = json.loads((tokens / "tokenizer.json").read_text())
            (tokens / "tokenizer.json").write_text(json.dumps(values | {"eos": 5}))
            return "made with another tokenizer"
        case "manifest":
            text = (tokens / "manifest.json").read_text()
            (tokens / "manifest.json").write_text(text.replace('"source": 0', '"source": 7'))
            return "sources and shards do not fit together"
        case "unfinished":
            (tokens / "manifest.json").unlink()
            return "manifest.json is missing: its tokens are not finished; run the same fathom prepare again to go on"
    raise AssertionError(kind)


KINDS = ["missing", "short", "changed", "header", "tokenizer", "manifest", "unfinished"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_line_before_anything_is_written(kind: str, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "tokens", tmp_path / "tokens")
    line = damaged(tmp_path / "tokens", kind)
    with pytest.raises(FathomError, match=line):
        train(place, "x", data=str(tmp_path / "tokens"))
    assert not (place / "x").exists()


def test_a_run_goes_on_with_its_own_tokens_only(place: Path, tmp_path: Path) -> None:
    tokens = shutil.copytree(place / "tokens", tmp_path / "tokens")
    train(tmp_path, "run", schedule="constant")

    def resume(steps: int) -> int:
        return fathom.train("llama-tiny", tmp_path / "run", mode="resume", max_iters=steps).step

    assert resume(7) == 7
    text = (tokens / "manifest.json").read_text()
    (tokens / "manifest.json").write_text(text.replace("0.2", "0.3"))
    with pytest.raises(FathomError, match="holds other tokens than those that this run began with"):
        resume(8)
    (tokens / "manifest.json").write_text(text)
    damaged(tokens, "changed")
    with pytest.raises(FathomError, match="does not hold what was written"):
        resume(8)
    shutil.rmtree(tokens)
    with pytest.raises(FathomError, match=r"manifest\.json is missing"):
        resume(8)


def test_without_held_out_documents_there_is_nothing_to_validate_on(place: Path, tmp_path: Path) -> None:
    notes: list[object] = []
    fathom.prepare(str(place / "texts"), "byte", tmp_path / "tokens", val_fraction=0, report=notes.append)
    with pytest.raises(FathomError, match="no documents are held out for validation; prepare them again with a larger"):
        train(tmp_path, "x")


def test_weights_are_shares_of_what_is_trained_on(place: Path, tmp_path: Path) -> None:
    as_parquet(tmp_path / "a.parquet", [text.lower() for text in TEXTS])
    as_zstandard(tmp_path / "b.jsonl.zst", [text.upper() for text in TEXTS[:9]])
    data = [f"{tmp_path}/a.parquet=1", f"{tmp_path}/b.jsonl.zst=3"]
    fathom.prepare(data, "byte", tmp_path / "tokens", val_fraction=0.2)
    train(tmp_path, "run", max_iters=2)
    batches = open_run(tmp_path / "run").batches()
    rows = torch.cat([batches.at(step) for step in range(50)]).numpy()
    texts = [bytes(row) for row in rows.astype(np.uint8)]
    lower, upper = (sum(text != fold(text) for text in texts) for fold in (bytes.upper, bytes.lower))
    assert abs(lower - 50) <= 8 and abs(upper - 150) <= 12  # a few windows hold no letters


def test_info_and_show_batch_know_prepared_tokens(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = str(place / "tokens")
    assert main(["info", tokens]) == 0
    shards, out = open_shards(tokens), capfd.readouterr().out
    assert f"{shards.count('train')[0]:,} tokens of {shards.count('train')[1]} documents to learn from" in out
    assert main(["info", tokens, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["val"]["tokens"] == shards.count("val")[0]
    assert main(["show-batch", tokens, "--data", tokens, "--count", "1", "--context-length", "9", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out.splitlines()[-1])["examples"][0]
    assert shown["ids"] == shards.tokens("train")[:9].tolist() and all(shown["trained"])
    train(place, "evaluated", max_iters=1)
    for call in (["eval", str(place / "evaluated")], ["tokenize", "x", "char"]):
        assert main([*call, "--data", tokens]) == 2
        assert "holds tokens and no text" in capfd.readouterr().err
