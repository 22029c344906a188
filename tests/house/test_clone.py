"""`import fathom` gives the package beside and inside a clone's folder, which is called fathom too."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.source import PACKAGE, ROOT

INSTALL = "import setuptools.build_meta as build; build.build_editable({!r})"
CHECK = "import sys, site; site.addsitedir({!r}); import fathom; print(fathom.__file__)"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clone, and the folder of an editable install of it, as `pip install -e` makes it."""
    pytest.importorskip("setuptools", "77")
    folder, site = tmp_path_factory.mktemp("work") / "fathom", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, folder / "src" / "fathom", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run([sys.executable, "-c", INSTALL.format(str(site))], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return folder, site


@pytest.mark.parametrize("inside", [False, True])
def test_the_package_is_found_from_where_the_clone_is(clone: tuple[Path, Path], inside: bool) -> None:
    folder, site = clone
    command = [sys.executable, "-S", "-c", CHECK.format(str(site))]  # -S: no other installation
    done = subprocess.run(
        command, cwd=folder if inside else folder.parent, capture_output=True, text=True, env={"PYTHONPATH": ""}
    )
    found = done.stdout.splitlines()
    assert found and Path(found[0]) == folder / "src" / "fathom" / "__init__.py", done.stderr or found
