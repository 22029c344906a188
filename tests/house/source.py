"""The package as text, for the rules that read it."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fathom"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    """A path from the top of the repository, as pytest and errors show it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name(path))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@cache
def tracked() -> list[Path]:
    """Text files of the repository; outside of a git checkout (an unpacked sdist) the package, docs and tests."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / line for line in listed if line]
    except (OSError, subprocess.CalledProcessError):
        paths = [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*"), *ROOT.glob("*.md")]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:1024]]
