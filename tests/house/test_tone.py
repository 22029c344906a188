"""No tracked file names a path of some machine, a temporary folder, a private address or a host that is not allowed."""

import re
from pathlib import Path

import pytest

from tests.house.source import name, tracked

MACHINE = {
    "an absolute path of some machine": r"(?<![\w.~$}])/(?:wor[k]|roo[t]|home|Users|opt|mnt)/[\w.]",
    "a folder of temporary files by name": r"/tm[p]/\w",
    "a private address": r"\b(?:10|192\.168|172\.16)\.\d+\.\d+\b(?!\.\d*\w)|\.interna[l]\b|\.exampl[e]\b(?!\.com)",
}
HOSTS = {"github.com", "arxiv.org", "www.apache.org", "huggingface.co", "raw.githubusercontent.com"}
HOSTS |= {"localhost", "127.0.0.1", "example.com", "www.w3.org", "doi.org", "aclanthology.org"}
HOSTS |= {
    "keepachangelog.com",
    "semver.org",
    "docs.python.org",
    "pytorch.org",
    "matplotlib.org",
    "purl.org",
    "creativecommons.org",
    "opencollective.com",  # whom libraries of web/package-lock.json ask to be supported through
}


def wrong(text: str) -> list[str]:
    """Paths, folders and addresses that do not belong in the text."""
    found = [f"{what}: {hit[0]}" for what, pattern in MACHINE.items() for hit in re.finditer(pattern, text)]
    hosts = {host.lower() for host in re.findall(r"https?://([\w.-]*\w)", text)}
    return found + [f"a host that is not in HOSTS: {host}" for host in sorted(hosts - HOSTS)]


@pytest.mark.parametrize("path", tracked(), ids=name)
def test_files_name_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "package-lock.json":  # versions with three parts are no addresses
        text = re.sub(r'(?<=": ")[\d<>=^~|. -]+(?=")', "", text)
    assert not wrong(text)
