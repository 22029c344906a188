"""The page's script, style and formulas, as they were built from web/."""

import json
from pathlib import Path
from typing import Any

from fathom.errors import FathomError

BUILT = Path(__file__).with_name("built")


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


def formulas() -> dict[str, Any]:
    """The formula of each panel, as [tag, attributes or 0, ...children]; none where the page was not built."""
    file = BUILT / "formulas.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
