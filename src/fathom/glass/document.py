"""One HTML file that holds the page and its data: it opens from disk and asks nobody for anything.

Each view of a panel is a gzipped safetensors file in base64, in an inert script element; what the page shows beyond
them needs a running server, and it says so.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fathom.fields import plain
from fathom.glass.bundle import bundle
from fathom.glass.panel import Check, Panel, finite
from fathom.glass.panels import PANELS, is_wrong, key, payload, variants
from fathom.glass.passes import Pass
from fathom.glass.texts import explained, tour_of
from fathom.words import counted


@dataclass(frozen=True)
class Document:
    """A page and what it found: the failing checks of its panels, by panel."""

    html: str
    panels: Mapping[str, Panel]  # by "A/next-token?top_k=5": every view that the file holds
    on_purpose: frozenset[str] = frozenset()  # of those, the ones that show a mistake

    @property
    def failed(self) -> list[str]:
        """A line for each check that does not hold: of several views of a panel the worst, and how many there are."""
        found: dict[tuple[str, str, str], list[tuple[str, Check]]] = {}
        for name, panel in self.panels.items():
            for check in panel.checks:
                if name not in self.on_purpose and not check.ok:
                    found.setdefault((name.split("?")[0], check.id, check.says), []).append((name, check))
        lines = []
        for (panel_name, id, says), views in found.items():
            name, check = max(views, key=lambda view: float("inf") if math.isnan(off := view[1].residual) else off)
            what = f"{id}, {says}: off by {check.residual:.3g}, allowed {check.tolerance:.3g}"
            more = f" (in {counted(len(views), 'view')})" if len(views) > 1 else ""
            lines.append(f"{panel_name if more else name.rstrip('?')}: {what}{more}")
        return lines


def document(
    run: Pass, chosen: Iterable[str] = (), prompt: str = "", progress: Callable[[str, int, int], None] | None = None
) -> Document:
    """The page for one pass, and for the one beside it: all panels, or those of these ids.

    progress: called before each panel with its title, which of them it is from 1, and how many there are.
    """
    ids = list(chosen) or list(PANELS)
    sides = {"A": run} | ({"B": run.beside} if run.beside is not None else {})
    panels: dict[str, Panel] = {}
    blobs: dict[str, bytes] = {}
    on_purpose = set()
    every = [(side, one, id) for side, one in sides.items() for id in ids]
    for n, (side, one, id) in enumerate(every, 1):
        if progress is not None:
            progress(PANELS[id].title, n, len(every))
        for options in variants(id, one):
            name = f"{side}/{key(id, options)}"
            blobs[name], panels[name] = payload(id, one, plain(options))
            on_purpose |= {name} if is_wrong(options) else set()
    places = {name: f"d{n}" for n, name in enumerate(blobs)}
    values = {"live": False, "prompt": prompt, "seed": run.seed, "panels": places}
    values["sides"] = {side: one.side() for side, one in sides.items()}
    values |= {"about": explained(ids), "tour": tour_of(run, ["file"], ids)}
    html = page(run.subject.name, values, {places[name]: blob for name, blob in blobs.items()})
    return Document(html, panels, frozenset(on_purpose))


def page(title: str, values: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None, connect: str = "") -> str:
    """The HTML of the page. values: what its script finds in #fathom-document. connect: what it may ask, as a source of
    the content security policy; nothing where it is empty."""
    script, style = bundle()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect or repr('none')}; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(finite(values), ensure_ascii=False).replace("<", "\\u003c")  # no text of a token ends the element
    inert = "".join(
        f'<script type="text/plain" id="{name}">{base64.b64encode(gzip.compress(blob, 9, mtime=0)).decode()}</script>\n'
        for name, blob in (blobs or {}).items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escaped(title)} · Fathom</title><style>{style}</style></head>\n<body>'
        f'<div id="fathom"></div>\n<script type="application/json" id="fathom-document">{data}</script>\n{inert}'
        f"<script>{script}</script></body></html>\n"
    )


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
