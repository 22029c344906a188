"""Builds the package: setuptools, after the page of web/ was made (page_build.py).

A wheel or an sdist without the page is not built. An editable install goes on without it and keeps the reason, in
src/fathom/glass/built/failed.txt, for whoever asks for the page. An sdist holds the page, so that a wheel made from it
needs no Node.js.
"""

import sys
from typing import Any

from page_build import BUILT, Unbuilt, make, needed
from setuptools import build_meta
from setuptools.build_meta import prepare_metadata_for_build_editable as prepare_metadata_for_build_editable
from setuptools.build_meta import prepare_metadata_for_build_wheel as prepare_metadata_for_build_wheel


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    demand()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    demand()
    return build_meta.build_sdist(sdist_directory, config_settings)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    attempt()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *needed()]


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_sdist(config_settings), *needed()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *needed()]


def demand() -> None:
    """Makes the page; the build ends with one line where that fails."""
    try:
        make()
    except Unbuilt as error:
        raise SystemExit(f"the page of web/ could not be built: {error}") from None


def attempt() -> None:
    """Makes the page, or says in one line why not and goes on."""
    try:
        make()
    except Unbuilt as error:
        BUILT.mkdir(parents=True, exist_ok=True)
        (BUILT / "failed.txt").write_text(f"{error}\n", encoding="utf-8")
        print(f"the page of web/ could not be built, all else works: {error}", file=sys.stderr)
