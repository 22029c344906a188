"""Make what the pages quote equal to the source that runs: `python docs/refresh.py`.

A quote is a line `<!-- source: src/fathom/model/attention.py:attend -->` and the python block under it. A line
`<!-- families: hf tensors -->` stands above a table of all families, `<!-- families: published choices -->`
above one of published models; README lists the families. Under `<!-- path -->` are the pages before and after this one;
their order is that of the numbered rows in docs/README.md.
"""

import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.families.family import Family

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- families: (?P<format>\w+) (?P<what>\w+) -->\n\n)(?:\|.*\n)*\n?")
QUOTE = re.compile(r"(<!-- source: (?P<path>[\w/.]+)(?::(?P<name>[\w.]+))? -->\n```python\n)(?P<code>.*?)(?=```)", re.S)


LISTED = re.compile(r"(\[families\]\(docs/families.md\) open:\n).*?(?=\n\n)", re.S)  # in README
PATH = re.compile(r"(<!-- path -->\n).*\n")
ROW = re.compile(r"^\| \d+ \| \[(?P<title>[^\]]+)\]\((?P<page>[\w-]+\.md)\)", re.M)


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


def refreshed(text: str, page: str) -> str:
    """A page with its quotes and tables as the source is now, and its links to the pages before and after it."""
    text = TABLE.sub(lambda table: table[1] + families_table(table["format"], table["what"]) + "\n", text)
    text = LISTED.sub(lambda start: f"{start[1]}{titles()}", text)
    text = PATH.sub(lambda mark: mark[1] + neighbours(page), text)
    return QUOTE.sub(lambda quote: quote[1] + source(quote["path"], quote["name"]), text)


def neighbours(page: str) -> str:
    """Links to the page before, to the start, and to the page after."""
    rows = [(row["page"], row["title"]) for row in ROW.finditer((ROOT / "docs/README.md").read_text(encoding="utf-8"))]
    if page not in dict(rows):
        raise ValueError(f"docs/{page} is in no numbered row of docs/README.md")
    place = [name for name, _ in rows].index(page)
    links = ["[Start here](README.md)"]
    if place:
        links.insert(0, f"[← {rows[place - 1][1]}]({rows[place - 1][0]})")
    if place + 1 < len(rows):
        links.append(f"[{rows[place + 1][1]} →]({rows[place + 1][0]})")
    return " · ".join(links) + "\n"


def families_table(format: str, what: str) -> str:
    """What every family calls our parts (`tensors`) or the fields of our config (`keys`) in a format; or `all ids`."""
    from fathom.families.registry import families  # here: quotes need no torch

    if format == "published":
        return published(what)
    if what == "ids":
        return markdown([("family", "in config.json", "in GGUF", "in transformers"), *map(ids, families().values())])
    known = [family for family in families().values() if format in family.columns]
    cells = {family.title: getattr(family.columns[format], what) for family in known}
    titles: dict[str, list[str]] = {}  # families that call everything the same share a column
    for title in cells:
        first = next(other for other in cells if cells[other] == cells[title])
        titles.setdefault(first, []).append(title)
    rows = [[code(name), *(code(cells[first].get(name, "")) for first in titles)] for name in merged(cells.values())]
    return markdown([["ours", *map(", ".join, titles.values())], *rows])


def titles() -> str:
    """All families, as a sentence ends."""
    from fathom.families.registry import families

    every = ", ".join(sorted((family.title for family in families().values()), key=str.lower))
    return textwrap.fill(f"{every}.", 120, break_on_hyphens=False)


def published(what: str) -> str:
    """The models of published.json: their `choices` or their `sizes`, in words of ModelConfig."""
    from fathom.anatomy.words import CHOICES, SIZES, declared, in_line
    from fathom.families.registry import from_hf

    models = json.loads((ROOT / "docs/published.json").read_text(encoding="utf-8"))
    words = {name: declared(from_hf(model["config"], name)[1]) for name, model in models.items()}
    names = [name for name in (CHOICES if what == "choices" else SIZES) if any(name in own for own in words.values())]
    rows = [[name, *(code(in_line(own[key])) if key in own else "" for key in names)] for name, own in words.items()]
    if what == "choices":
        return markdown([["model", *map(code, names)], *rows])
    counts = [f"{model['parameters']:,}" for model in models.values()]
    return markdown([["model", "parameters", *map(code, names)], *([x, n, *y] for (x, *y), n in zip(rows, counts))])


def merged(columns: Iterable[Iterable[str]]) -> list[str]:
    """All names once, each after the one that it follows in its column."""
    order: list[str] = []
    for column in columns:
        at = 0
        for name in column:
            if name not in order:
                order.insert(at, name)
            at = order.index(name) + 1
    return order


def ids(family: "Family") -> list[str]:
    """What files and transformers call a family."""
    called = [", ".join(family.columns[f].ids) if f in family.columns else "" for f in ("hf", "gguf")]
    written = f", written as `{family.written_as}`" if family.written_as else ""
    return [family.title + written, *map(code, called), code(family.classes[1])]


def code(cell: object) -> str:
    """A cell in type of fixed width; nothing stays nothing."""
    return f"`{cell}`".replace("|", "\\|") if str(cell) else ""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def main() -> None:
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        old = page.read_text(encoding="utf-8")
        if (new := refreshed(old, page.name)) != old:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(ROOT)} is as the source is now\n")


if __name__ == "__main__":
    main()
