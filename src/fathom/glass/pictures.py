"""Pictures of the page's panels, taken by a browser that is there: Chromium or Chrome, without a window."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fathom.errors import FathomError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
WIDTH, HEIGHT = 1280, 900  # pixels
PATIENCE = 8000  # milliseconds of the page's own clock until the picture is taken
LIMIT = 60  # seconds for one picture


def pictures(page: Path, panels: Iterable[str], folder: Path) -> list[Path]:
    """A PNG of each panel, by its id, of a page that `fathom look` wrote. FathomError: there is no browser, or it
    made no picture."""
    found = check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [picture(found, page, id, folder / f"{id}.png") for id in panels]


def check_place(folder: Path) -> str:
    """The browser that will draw. FathomError: there is none, or the folder is a file."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FathomError(f"--png needs a browser: none of {', '.join(BROWSERS[:3])} is on the path; install Chromium")
    if taken := next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None):
        raise FathomError(f"--png is {folder}, but {taken} is a file; expected a folder, such as --png pictures")
    return found


def picture(browser: str, page: Path, id: str, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as profile:
        made = Path(profile) / "panel.png"
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-sync", f"--user-data-dir={profile}",
            f"--window-size={WIDTH},{HEIGHT}", f"--virtual-time-budget={PATIENCE}", f"--screenshot={made}",
        ]  # fmt: skip
        try:
            subprocess.run(
                [browser, *options, f"{page.resolve().as_uri()}#panel={id}"], capture_output=True, timeout=LIMIT
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise FathomError(f"{browser} did not draw {id} ({problem}); try again, or open {page}") from problem
        if not made.is_file():
            raise FathomError(f"{browser} made no picture of {id}; open {page} instead")
        shutil.move(made, path)
    return path
