"""How calls end: exit codes, one line on stderr, JSON on the last line of stdout, nothing else there."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fathom.cli.main import explain, main, verbs
from fathom.cli.train import read_call
from fathom.errors import Diverged, FathomError
from fathom.families.registry import families
from fathom.native import build
from fathom.training.presets import PRESETS

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 40
SMALL = ["--max-iters", "3", "--model.d-model", "16", "--model.n-layer", "1", "--model.n-head", "2"]
SMALL += ["--block-size", "16", "--eval-interval", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT)
    assert main(["train", "--data", str(folder / "text.txt"), "-o", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (FathomError("a\nb"), 2, "a b"),
        (Diverged("loss is nan"), 1, "nan"),
        (OSError(28, "No space left on device", "x.bin"), 2, "x.bin: no space left"),
        (MemoryError(), 2, "memory"),
        (KeyError("k"), 2, "bug"),
    ],
)
def test_every_error_has_a_line_and_a_code(error: Exception, code: int, word: str) -> None:
    line, found = explain(error)
    assert (found, "\n" in line) == (code, False)
    assert word in line


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FathomError):
        main(["generate", "nowhere", "--debug"])


def test_train_as_json(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["train", "--data", str(run.parent / "text.txt"), "--out-dir", str(tmp_path / "r"), *SMALL, "--json"]
    assert main(call) == 0
    out = capfd.readouterr().out
    result = json.loads(out)
    assert (result["step"], out.count("\n")) == (3, 1)


@pytest.mark.parametrize("samples", ["1", "3"])
def test_generate_writes_prompt_and_continuation(run: Path, samples: str, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["generate", str(run), "-p", "It was", "-n", "8", "--seed", "1", "--num-samples", samples]
    assert main(call) == 0
    first = capfd.readouterr().out
    assert first.count("It was") >= int(samples)
    assert main(call) == 0
    assert capfd.readouterr().out == first
    assert main([*call, "--json"]) == 0
    completions = json.loads(capfd.readouterr().out)["completions"]
    assert [len(c["tokens"]) for c in completions] == [8] * int(samples)
    assert all(c["text"] in first for c in completions)


def test_greedy_is_the_same_without_a_cache(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["generate", str(run), "-p", "It was", "-n", "40", "-t", "0"]
    main(call)
    first = capfd.readouterr().out
    main([*call, "--no-cache"])
    assert capfd.readouterr().out == first


def test_the_prompt_can_come_from_stdin_or_a_file(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.txt").write_text("the worst", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the best")))
    main(["generate", str(run), "-p", "-", "-n", "2"])
    assert capfd.readouterr().out.startswith("the best")
    main(["generate", str(run), "-p", f"FILE:{tmp_path / 'p.txt'}", "-n", "2", "--no-echo"])
    assert not capfd.readouterr().out.startswith("the worst")


def test_underscores_are_dashes(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run), "-p", "It", "--max_new_tokens", "2", "--top_k", "3"]) == 0


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_is_what_is_trained(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`presets NAME > my.yaml; train -c my.yaml` is `train NAME`."""
    assert main(["presets", name]) == 0
    (tmp_path / "my.yaml").write_text(capfd.readouterr().out)
    call = {"files": [tmp_path / "my.yaml"], "resume": False, "overwrite": False, "grad_accumulation": None}
    call |= {"seed": None, "device": None, "dtype": None, "out_dir": None}
    recipe, folder, _ = read_call(None, call)
    meant, _, _ = read_call(name, call | {"files": []})
    assert (recipe.config(300), recipe.options(), folder.name) == (meant.config(300), meant.options(), "my")


def test_presets_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert set(rows) == set(PRESETS) and rows["demo"]["choices"] == {"position": "rope", "norm": "rms", "mlp": "swiglu"}


def test_families_in_words_of_the_config(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--families", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert set(rows) == {family.title for family in families().values()}
    assert rows["Qwen3"] == {"position": "rope", "norm": "rms", "mlp": "swiglu", "qk_norm": "on"}
    assert main(["presets", "--families"]) == 0
    shown = capfd.readouterr().out
    assert "residual=sandwich" in shown and "layers=by model" in shown


def test_what_is_said_last_wins(tmp_path: Path) -> None:
    """defaults < preset < YAML < command line."""
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "c.yaml").write_text("train:\n  momentum: 0.8\n  clip: 0.7\n")
    call = ["train", "shakespeare-cpu", "-c", str(tmp_path / "c.yaml"), "--data", str(tmp_path / "text.txt"), *SMALL]
    assert main([*call, "--train.clip", "0.6", "-o", str(tmp_path / "run")]) == 0
    train = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]
    assert (train["clip"], train["momentum"], train["batch_size"], train["val_fraction"]) == (0.6, 0.8, 24, 0.1)


def test_overwrite_replaces_and_an_existing_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    call = ["train", "--data", str(tmp_path / "text.txt"), "-o", str(tmp_path / "run"), *SMALL]
    assert [main(call), main(call), main([*call, "--overwrite"])] == [0, 2, 0]


def test_every_verb_has_the_common_options_and_help_without_torch() -> None:
    code = (
        "import sys; from fathom.cli.main import main; main(['train', '--help-all']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--json", "--seed", "--device", "--dtype", "--debug", "--max-iters", "--context-length"):
        assert option in done.stdout
    assert verbs.name == "verbs"


def test_a_port_that_cannot_be_is_refused_before_anything_is_loaded() -> None:
    code = (
        "import sys; from fathom.cli.main import main; code = main(['serve', 'gone', '--port', '99999']); "
        "assert code == 2 and 'torch' not in sys.modules and 'fastapi' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "--port is 99999" in done.stderr


def test_output_into_a_closed_pipe_is_no_error(run: Path) -> None:
    call = f"{sys.executable} -m fathom generate {run} -p It -n 200 | head -c 1"
    plain = {**os.environ, "FATHOM_NATIVE": "off"}  # nothing is to be compiled first, which would be a line more
    done = subprocess.run(["bash", "-o", "pipefail", "-c", call], capture_output=True, text=True, env=plain)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)  # the line that says the device


def test_compiling_is_announced(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """When it happens, and only then."""
    assert main(["generate", str(run), "-p", "It", "-n", "2"]) == 0
    capfd.readouterr()
    assert main(["generate", str(run), "-p", "It", "-n", "2"]) == 0
    assert "compiling" not in capfd.readouterr().err
    build.listeners[0]("panels")
    assert capfd.readouterr().err == "compiling native code for this machine (panels): once, and kept\n"


def test_a_prompt_on_stdin_that_is_not_text_is_one_line(run: Path) -> None:
    call = [sys.executable, "-m", "fathom", "generate", str(run), "-p", "-"]
    done = subprocess.run(call, input=b"caf\xe9", capture_output=True)
    assert done.returncode == 2
    assert b"stdin is not UTF-8 at byte 3" in done.stderr


def test_a_damaged_best_checkpoint_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for step, marks in ((2, 0), (3, 1)):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        if not folder.exists():
            shutil.copytree(tmp_path / "run" / "checkpoints" / "step-00000003", folder)
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= marks
        (folder / "model.safetensors").write_bytes(bytes(data))
    done = subprocess.run(
        [sys.executable, "-m", "fathom", "generate", str(tmp_path / "run"), "-n", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr.startswith("fathom: fell back")
    assert "UserWarning" not in done.stderr
