"""A data set of the hub: its Parquet files are fetched one by one from a server of this test, and each is removed."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fathom.data.hub_dataset import is_dataset
from fathom.data.shards import open_shards
from tests.data.prepared import TEXTS, as_parquet

SHA = "0123456789abcdef0123456789abcdef01234567"
NAMES = {"data/train-00000-of-00002.parquet": TEXTS[:30], "data/train-00001-of-00002.parquet": TEXTS[30:]}
NAMES |= {"data/test-00000-of-00001.parquet": ["a test"], "README.md": []}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with one data set, and the paths that were asked for."""
    files = {"README.md": b"# texts"}
    for name, texts in NAMES.items():
        if texts:
            files[name] = as_parquet(tmp_path / "made.parquet", texts).read_bytes()
    asked = list[str]()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            if path.startswith("/api/datasets/org/texts"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self.answer(json.dumps({"id": "org/texts", "sha": SHA, "siblings": siblings}).encode())
            elif (name := path.removeprefix(f"/datasets/org/texts/resolve/{SHA}/")) in files:
                self.answer(files[name])
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_HEAD = do_GET

        def answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def prepare(address: str, place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(place / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "fathom", "prepare", *words, "--tokenizer", "byte", "-o", "tokens"]
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, timeout=120)


@pytest.mark.parametrize("keep", [False, True])
def test_a_data_set_is_fetched_file_by_file(keep: bool, hub: tuple[str, list[str]], tmp_path: Path) -> None:
    (place := tmp_path / "place").mkdir()
    done = prepare(hub[0], place, "org/texts", *(["--keep"] if keep else []))
    assert done.returncode == 0, done.stderr
    shards = open_shards(place / "tokens")
    assert shards.count("train")[1] + shards.count("val")[1] == len(TEXTS)
    assert len(shards.about.shards) == 1 and not [path for path in hub[1] if "test-00000" in path]
    assert bool([*place.rglob("*.parquet")]) == keep
    assert not [path for path in (place / "tokens").iterdir() if path.name.startswith(".")]
    again = prepare(hub[0], place, "org/texts", *(["--keep"] if keep else []))
    assert again.returncode == 0 and again.stdout == done.stdout


def test_no_such_data_set_and_no_network_are_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    for address, name, expected in (
        (hub[0], "org/other", "no file or folder, and no data set on the hub; check its spelling"),
        (hub[0], "org/texts/other", "no .parquet files to learn from, only .md, .parquet"),
        ("http://127.0.0.1:9", "org/texts", "the hub, which may have such a data set, cannot be reached"),
    ):
        done = prepare(address, tmp_path, name)
        assert done.returncode == 2 and expected in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("name", ["org/texts", "org/texts@v1", "org/texts/sub/folder", "org/texts@v1/sub"])
def test_names_of_data_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_dataset(name)
    (tmp_path / "org").mkdir()
    assert not is_dataset(name)  # a mistyped path


@pytest.mark.parametrize("name", ["texts", "texts.txt", "org/texts.jsonl", "../texts", "/org/texts", "org/a.jsonl.zst"])
def test_names_that_are_paths(name: str) -> None:
    assert not is_dataset(name)
