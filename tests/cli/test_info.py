"""`fathom info --as-config`: what it prints is what `fathom train -c` builds."""

import json
from pathlib import Path

import pytest

import fathom
from fathom.cli.main import main
from fathom.formats.detect import open_model
from fathom.tokenizer.characters import ByteTokenizer
from fathom.training.presets import PRESETS, Recipe, read
from tests.cli.models import model_folder
from tests.families.test_variants import LLAMA, MODERN
from tests.formats.hf import make


def printed(model: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> Recipe:
    """The recipe in what the verb prints, and what train takes it for."""
    assert main(["info", model, "--as-config"]) == 0
    file = folder / "printed.yaml"
    file.write_text(capfd.readouterr().out, encoding="utf-8")
    return read(file, Recipe())


@pytest.mark.parametrize("format", ["run", "hf", "model.gguf"])
def test_a_model_is_built_again(format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = model_folder(tmp_path / "run", ByteTokenizer())
    if format != "run":
        model = fathom.export(fathom.load(model)[0], tmp_path / format, format.rpartition(".")[2]).path
    recipe = printed(str(model), tmp_path, capfd)
    assert recipe.config(1).resolved() == open_model(model).config.resolved()


@pytest.mark.parametrize("name", ["Phi-3, longrope", "Gemma 2", "SmolLM3"])
def test_a_published_model_is_built_again(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(LLAMA | MODERN[name]).save_pretrained(tmp_path / "hf")  # type: ignore[operator]
    recipe = printed(str(tmp_path / "hf"), tmp_path, capfd)
    assert recipe.config(1).resolved() == open_model(tmp_path / "hf").config.resolved()


@pytest.mark.parametrize("name", ["demo", "gpt2", "rung-gqa"])
def test_a_preset_is_its_own_config(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert printed(name, tmp_path, capfd).config(9).resolved() == PRESETS[name].config(9).resolved()


def test_as_json_and_with_every_field_on_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "gpt2", "--as-config", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)["model"]
    assert main(["info", "gpt2", "--as-config"]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[0].startswith("# preset gpt2") and shown[1] == "model:"
    assert [line.split(":")[0].strip() for line in shown[2:]] == list(values)
    assert "  bias: [qkv, out, mlp, norm]" in shown
