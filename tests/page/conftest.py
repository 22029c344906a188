"""A real browser on the page: what it draws, what it asks for, and what it says on its console."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from fathom.errors import FathomError
from fathom.glass.bundle import bundle
from fathom.glass.subject import Subject
from fathom.serve.app import application
from fathom.serve.place import Place as Where
from fathom.serve.shelf import Place, Shelf

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = "127.0.0.1"
TIMEOUT = 60_000  # milliseconds until what is waited for is missing: on a slow machine that has other things to do too


def missing(what: str) -> None:
    """Skips, or fails where the browser tests are asked for by FATHOM_BROWSER, as .ci/run does."""
    if os.environ.get("FATHOM_BROWSER"):
        pytest.fail(f"FATHOM_BROWSER is set, and {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium: the one that FATHOM_BROWSER names, or one on the path."""
    if find_spec("playwright") is None:
        missing("playwright is not installed; it is in the extra `dev`")
    api = import_module("playwright.sync_api")
    found = shutil.which(os.environ.get("FATHOM_BROWSER") or "") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("no Chromium was found; install it from the distribution's packages (apt install chromium)")
    try:
        bundle()
    except FathomError as error:
        missing(str(error))
    with api.sync_playwright() as play:
        # no sandbox of its own: it has none where everything runs as root, and nothing but our page is opened
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Tab:
    """A page in a window of its own, and all that it asked for and complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.route("**/*", lambda route: route.continue_() if local(route.request.url) else route.abort())

    @property
    def elsewhere(self) -> list[str]:
        return [url for url in self.asked if not local(url)]

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.drawn()
        return self.page

    def drawn(self) -> None:
        """Waits until the panel in sight has its data, or says why not."""
        self.page.wait_for_selector("main[data-panel][aria-busy=false]")


def local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:", "about:", f"http://{HERE}:"))


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-read"])
    context.set_default_timeout(TIMEOUT)
    tab = Tab(context.new_page())
    yield tab
    context.close()
    assert not tab.elsewhere
    assert not [said for said in tab.complaints if "Failed to load resource" not in said]  # an answer like 400 or 410


class Served:
    """A server of these models on a port of its own, in a thread; it can be stopped and started again."""

    def __init__(self, subjects: dict[str, Subject], prompt: str, runs: Path | None, ahead: bool) -> None:
        self.fills_ahead = ahead  # in its thread, in which no test looks into a model then
        self.shelf = Shelf({name: Place(name) for name in subjects}, runs)
        self.shelf.opened = subjects
        self.prompt, self.port = prompt, 0
        self.start()

    def start(self) -> None:
        here = Where(HERE, self.port)
        listening = here.bound()
        here.listen(listening)  # whoever calls before the thread is up waits
        self.port = listening.getsockname()[1]
        self.address = f"http://{HERE}:{self.port}/"
        app = application(self.shelf, frozenset({f"{HERE}:{self.port}"}), self.prompt)
        self.desk, self.starter = app.page.state.desk, app.page.state.starter  # type: ignore[attr-defined]
        if not self.fills_ahead:
            self.desk.most_ahead = 0
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, http="h11", ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        if self.starter is not None:
            self.starter.close()
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Starts servers, which end with the test."""
    running: list[Served] = []

    def start(subjects: dict[str, Subject], prompt: str = "", runs: Path | None = None, ahead: bool = False) -> Served:
        running.append(Served(subjects, prompt, runs, ahead))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds what keeps people out."""
    path = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        missing("axe-core is not installed; run npm ci in web/")
    return path.read_text(encoding="utf-8")
