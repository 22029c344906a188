"""The bundle is small, names nobody else's address, and has the licence of every library in it."""

import gzip
import json
import re

from fathom.glass.bundle import BUILT
from tests.house.source import ROOT

MOST = 70_000  # bytes of script and style, gzipped: the frame and thirteen panels; their texts come with the data


def test_the_bundle_is_small_and_complete(browser: object) -> None:
    script, style, licences = ((BUILT / name).read_bytes() for name in ("page.js", "page.css", "licences.txt"))
    assert len(gzip.compress(script, 9)) + len(gzip.compress(style, 9)) <= MOST
    addresses = {found.decode() for found in re.findall(rb"https?://[\w.-]+", script + style)}
    assert addresses <= {"http://www.w3.org"}  # names of namespaces
    wanted = json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert not [
        name for name in wanted if name not in {"esbuild", "katex", "terser"} and f"{name} ".encode() not in licences
    ]
