"""`fathom svd` and `fathom extract` as they are called: what they print and write, and one line for a mistake."""

import json
import re
from pathlib import Path

import pytest
import torch

from fathom.cli.main import main
from fathom.formats.safetensors_file import write_tensors
from tests.lab.conftest import small, written

Capture = pytest.CaptureFixture[str]


def test_svd_of_a_change(base: Path, tuned: Path, tmp_path: Path, capfd: Capture) -> None:
    page = tmp_path / "report.html"
    assert main(["svd", str(base), "--delta", str(tuned), "--only", "attn.q", "--report", str(page), "--json"]) == 0
    out, err = capfd.readouterr()
    printed, kept = json.loads(out.splitlines()[-1]), json.loads(page.with_suffix(".json").read_text())
    weights, change = printed["sections"]
    assert [m["name"] for m in change["measured"]] == ["blocks.0.attn.q.weight", "blocks.1.attn.q.weight"]
    for short, whole in zip(weights["measured"], kept["sections"][0]["measured"]):
        assert "values" not in short and len(whole.pop("values")) == 32 and whole == short
    assert "blocks.0.attn.q" in err and "90% of the energy" in err and page.read_text().startswith("<!doctype html>")


def test_svd_of_an_extracted_adapter(base: Path, tuned: Path, tmp_path: Path, capfd: Capture) -> None:
    folder = str(tmp_path / "adapter")
    assert main(["extract", str(base), str(tuned), "-r", "2", "-o", folder]) == 0
    assert "1 changed tensors have rank none: they are not in the adapter" in capfd.readouterr().out
    assert main(["svd", str(base), "--adapter", folder, "--delta", str(tuned), "--only", "blocks.0.*"]) == 0
    assert re.search(r"attn.q .* written .*°.*\n +read .*°", capfd.readouterr().out)


def test_loss_vs_rank(base: Path, words: Path, tmp_path: Path, capfd: Capture) -> None:
    page = tmp_path / "rank.html"
    call = ["--steps", "6", "--batch-size", "4", "--block-size", "16", "--ranks", "0,2", "--device", "cpu"]
    call += ["--loss-vs-rank", "--data", str(words), "--report", str(page), "--json", "--lr", "0.01"]
    assert main(["svd", str(base), *call]) == 0
    printed = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert printed == json.loads(page.with_suffix(".json").read_text()) and printed["tuned"] < printed["base"]
    assert [point["rank"] for point in printed["change"]] == [0, 2] and printed["options"]["learning_rate"] == 0.01
    assert f"{printed['lora'][0]['loss']:.4f}" in page.read_text()


@pytest.fixture
def place(base: Path, tuned: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files in it, in which the call is made."""
    monkeypatch.chdir(tmp_path)
    for name, there in (("base", base), ("tuned", tuned), ("words.txt", words)):
        Path(name).symlink_to(there)
    broken = small()
    with torch.no_grad():
        broken.blocks[1].attn.out.weight[3, 3] = torch.nan
    written(Path("broken"), broken)
    write_tensors(Path("wide.safetensors"), {"x": torch.ones(3, 4)})
    write_tensors(Path("high.safetensors"), {"x": torch.ones(4, 3)})
    write_tensors(Path("nan.safetensors"), {"x": torch.full((3, 4), torch.nan)})
    Path("cut.safetensors").write_bytes(Path("wide.safetensors").read_bytes()[:-4])
    Path("empty").mkdir()
    return tmp_path


TRAIN = ["svd", "base", "--loss-vs-rank", "--data", "words.txt", "--device", "cpu", "--block-size", "16"]
CALLS = [
    (["svd", "nowhere"], "nowhere"),
    (["svd", "empty"], "empty"),
    (["svd", "cut.safetensors"], "cut off"),
    (["svd", "nan.safetensors"], "'x': 12 of 12 numbers are not finite"),
    (["svd", "broken"], "'blocks.1.attn.out.weight': 1 of"),
    (["svd", "wide.safetensors", "--delta", "high.safetensors"], "'x' is (3, 4) in wide.safetensors and (4, 3)"),
    (["svd", "base", "--delta", "wide.safetensors"], "is in base alone"),
    (["svd", "base", "--delta", "broken"], "'blocks.1.attn.out.weight'"),
    (["svd", "base", "--only", "attn.z"], "attn.z"),
    (["svd", "base", "--adapter", "empty"], "adapter_config.json"),
    (["svd", "wide.safetensors", "--adapter", "empty"], "is a file of tensors, not a model"),
    (["svd", "base", "--delta", "tuned", "--delta", "tuned", "--delta", "tuned"], "3 changes"),
    (["svd", "base", "--report", "page.pdf"], ".html"),
    (["svd", "base", "--minutes", "3"], "--loss-vs-rank"),
    ([*TRAIN, "--delta", "tuned"], "--delta"),
    ([*TRAIN, "--ranks", "0,64"], "rank 64"),
    ([*TRAIN, "--ranks", "many"], "ranks"),
    ([*TRAIN, "--keep", "90"], "keep"),
    ([*TRAIN, "--minutes", "0"], "minutes"),
    ([*TRAIN[:-1], "64"], "context_length is 64"),
    ([*TRAIN, "--data", "missing.txt"], "missing.txt"),
    (["svd", "wide.safetensors", "--loss-vs-rank"], "config.json"),
    (["extract", "base", "tuned", "-r", "40", "-o", "out"], "rank 40 is larger than 'blocks.0.attn.q.weight'"),
    (["extract", "base", "base", "-o", "out"], "nothing to extract"),
    (["extract", "base", "broken", "-o", "out"], "not finite"),
    (["extract", "base", "wide.safetensors", "-o", "out"], "not a model"),
    (["extract", "base", "tuned", "--target", "attn.z", "-o", "out"], "attn.z"),
    (["extract", "base", "tuned", "-o", "words.txt"], "words.txt"),
]


@pytest.mark.parametrize(("call", "word"), CALLS, ids=[" ".join(call)[:60] for call, _ in CALLS])
def test_a_bad_call_ends_in_one_line(call: list[str], word: str, place: Path, capfd: Capture) -> None:
    before = sorted(place.rglob("*"))
    assert main(call) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.strip().splitlines() if not line.startswith("matrices ")]
    assert len(lines) == 1 and word in lines[0] and "bug" not in lines[0], err
    assert not out and sorted(place.rglob("*")) == before
