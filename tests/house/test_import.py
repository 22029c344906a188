"""Help and headers of files are at hand at once: nothing that only reads them loads torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import fathom
from fathom.tokenizer.characters import ByteTokenizer
from tests.cli.models import model_folder

HELP = "from fathom.cli.main import main; code = main(['--help']); assert code == 0, code"
CALLS = {
    "import": "import fathom",
    "families": "from fathom.families.registry import families; assert families()",
    "help": HELP,
    "version": HELP.replace("--help", "--version"),
    "verb help": HELP.replace("'--help'", "'generate', '--help'"),
}
HEAVY = {"torch", "numpy", "tokenizers", "matplotlib", "huggingface_hub"}


@pytest.mark.parametrize("call", CALLS)
def test_torch_is_not_loaded(call: str) -> None:
    code = f"{CALLS[call]}\nimport sys\nprint('loaded', *({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"


FORMATS = {
    "run": "",
    "hf": "hf",
    "gguf": "model.gguf",
    "llama2c": "model.bin",
}  # Meta's files say by numbers what is tied


@pytest.mark.parametrize("format", FORMATS)
def test_headers_are_read_without_torch(format: str, tmp_path: Path) -> None:
    """`fathom info` of a model in every format, in full and as a config, and the list of presets."""
    model = model_folder(tmp_path / "run", ByteTokenizer())
    path = model if format == "run" else fathom.export(fathom.load(model)[0], tmp_path / FORMATS[format], format).path
    code = (
        f"import sys\nfrom fathom.cli.main import main\nassert main(['info', {str(path)!r}]) == main(['presets']) == 0"
        f"\nassert main(['info', {str(path)!r}, '--as-config']) == 0"
    )
    code += "\nprint('loaded', *({'torch', 'matplotlib', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "parameters:" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"


def test_importing_says_nothing() -> None:
    """Not the package, not its biggest part: no text, no warning."""
    code = "import fathom.training.train, fathom.generation.generate, fathom.formats.load"
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fathom", "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
