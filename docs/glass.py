"""Take the pictures of docs/glass again: `python docs/glass.py [PANEL …]` (needs Chromium).

Each is the page itself, of a model that comes with the package, in 128 colours so that it stays small.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent / "glass"
TEXT = "The class statement defines a class, and the class"
COPIED = "Xk7 Qp2 vR Lm9 Xk7 Qp2 vR Lm9"
SHOWN = {  # model and prompt: the panels that are shown with them
    ("demo:llama-gqa", TEXT): [
        "next-token",
        "microscope",
        "lens",
        "attribution",
        "positions",
        "generation",
        "groups",
        "packing",
        "cost",
        "runs",
    ],
    ("demo:copycat", COPIED): ["heads", "ablation"],
    ("demo:adapter", TEXT): ["lora"],
}
SIZE = (1280, 900)  # pixels


def take(wanted: list[str]) -> None:
    """The pictures of these panels, or of all."""
    for (model, prompt), every in SHOWN.items():
        panels = [panel for panel in every if panel in wanted or not wanted]
        if not panels:
            continue
        with tempfile.TemporaryDirectory() as place:
            call = [sys.executable, "-m", "fathom", "look", model, "-p", prompt, "--panels", ",".join(panels)]
            subprocess.run([*call, "-o", f"{place}/look.html", "--png", place], check=True)
            for panel in panels:
                picture = Image.open(f"{place}/{panel}.png").convert("RGB").crop((0, 0, *SIZE))
                picture.quantize(128).save(HERE / f"{panel}.png", optimize=True)


if __name__ == "__main__":
    take(sys.argv[1:])
