"""The page's script, style and formulas, as they were built from web/."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fathom.errors import FathomError

HERE = Path(__file__).parent
BUILT = HERE / "built"
WEB = HERE.parents[2] / "web"  # the sources, in a checkout


def bundle() -> tuple[str, str]:
    """The script and the style sheet of the page. FathomError: they were not built, and what builds them."""
    files = [BUILT / "page.js", BUILT / "page.css", BUILT / "formulas.json"]
    if missing := [file.name for file in files if not file.is_file()]:
        kept = BUILT / "failed.txt"  # why not, of the last installation
        why = f" ({kept.read_text(encoding='utf-8').strip()})" if kept.is_file() else ""
        raise FathomError(
            f"the page was not built: {missing[0]} is missing{why}; pip install -e . builds it (with the network)"
        )
    script, style = (file.read_text(encoding="utf-8") for file in files[:2])
    return script, style


def outdated() -> str:
    """In a checkout, a line that says that the page is older than its sources; else ""."""
    script, licences = BUILT / "page.js", BUILT / "licences.txt"
    if not (WEB / "build.mjs").is_file() or not script.is_file():
        return ""
    folders = [WEB / "src", WEB / "tools", HERE / "prose"]
    sources = [path for one in folders for path in one.rglob("*") if path.is_file()]
    sources = sorted([*sources, WEB / "build.mjs", WEB / "package-lock.json"])
    if max(path.stat().st_mtime for path in sources) <= script.stat().st_mtime:
        return ""
    digest = hashlib.sha256()  # as web/page_build.py counts: what is newer may still be the same
    for path in sources:
        digest.update(f"{path.relative_to(WEB.parent).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    with licences.open(encoding="utf-8") as file:
        same = digest.hexdigest() in file.readline()
    return "" if same else "the page is older than its sources in web/; build it again: make page"


def formulas() -> dict[str, Any]:
    """The formula of each panel, as [tag, attributes or 0, ...children]; none where the page was not built."""
    file = BUILT / "formulas.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
