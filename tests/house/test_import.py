"""Help is at hand at once: neither `import fathom` nor `fathom --help` loads torch."""

import subprocess
import sys

import pytest

HELP = "from fathom.cli.main import main; code = main(['--help']); assert code == 0, code"
CALLS = {
    "import": "import fathom",
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


def test_importing_says_nothing() -> None:
    """Not the package, not its biggest part: no text, no warning."""
    code = "import fathom.training.train, fathom.generation.generate, fathom.formats.load"
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fathom", "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
