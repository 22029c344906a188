"""Make the source that the pages quote equal to the source that runs: `python docs/refresh.py`.

A quote is a line `<!-- source: fathom/model/attention.py:attend -->` and the python block under it.
"""

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r"(<!-- source: (?P<path>[\w/.]+)(?::(?P<name>[\w.]+))? -->\n```python\n)(?P<code>.*?)(?=```)", re.S)


def source(path: str, name: str | None) -> str:
    """A whole file, or what has this name in it: a function, a class, a method as Class.method, a constant."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if name is None:
        return text
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next((child for child in getattr(node, "body", []) if part in names(child)), ast.Pass())
    if isinstance(node, ast.Pass):
        raise ValueError(f"{path} has no {name}")
    start = min(n.lineno for n in [node, *getattr(node, "decorator_list", [])])
    return textwrap.dedent("\n".join(text.splitlines()[start - 1 : node.end_lineno])) + "\n"


def names(node: ast.AST) -> list[str]:
    """What a statement defines."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def refreshed(text: str) -> str:
    """A page with every quote as the source is now."""
    return QUOTE.sub(lambda quote: quote[1] + source(quote["path"], quote["name"]), text)


def main() -> None:
    for page in sorted(ROOT.glob("docs/**/*.md")):
        old = page.read_text(encoding="utf-8")
        if (new := refreshed(old)) != old:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(ROOT)} quotes the source anew\n")


if __name__ == "__main__":
    main()
