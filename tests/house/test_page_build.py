"""The page is built with the package: again when its sources change, never half, and a failure is one line."""

import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fathom.errors import FathomError
from fathom.glass import bundle
from tests.house.source import ROOT

NPM = "#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\necho 'npm error no network' >&2\necho '    at x' >&2\nexit 1\n"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build backend in a copy of web/ without libraries; Node.js is only a name, and npm fails."""
    pytest.importorskip("setuptools", "77")
    shutil.copytree(ROOT / "web", tmp_path / "web", ignore=shutil.ignore_patterns("node_modules", "stories"))
    (tmp_path / "bin").mkdir()
    for name, text in (("npm", NPM), ("node", "#!/bin/sh\necho v20.1.0\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.syspath_prepend(str(tmp_path / "web"))
    for name in ("build_backend", "page_build"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module("build_backend")
    monkeypatch.setattr(bundle, "BUILT", found.BUILT)
    return found


def test_a_wheel_or_sdist_is_not_built_without_the_page(backend: ModuleType, tmp_path: Path) -> None:
    for build in (backend.build_wheel, backend.build_sdist):
        with pytest.raises(SystemExit) as stopped:
            build(str(tmp_path))
        said = "the page of web/ could not be built: npm could not install its libraries: no network"
        assert stopped.value.code == said and not list(tmp_path.glob("*.whl"))


def test_an_editable_install_goes_on_and_the_page_says_why_it_is_not_there(backend: ModuleType) -> None:
    backend.attempt()
    with pytest.raises(FathomError, match=r"page\.js is missing \(npm could not install its libraries: no network\)"):
        bundle.bundle()


def test_what_is_made_of_these_sources_is_not_made_again(backend: ModuleType) -> None:
    page = sys.modules["page_build"]
    page.BUILT.mkdir(parents=True)
    for name in page.FILES:
        (page.BUILT / name).write_text(f"/* {page.stamp()} */\n")
    backend.demand()  # without npm
    assert page.needed() == []
    with (page.WEB / "src" / "main.tsx").open("a") as source:
        source.write("// changed\n")
    with pytest.raises(SystemExit):
        backend.demand()
