"""Downloads from a real server on this machine: once, checked, complete or not there."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fathom.data.corpus import SHAKESPEARE, Remote, cache_folder, fetch
from fathom.errors import FathomError

CONTENT = b"To be, or not to be\n" * 1000


class Server(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/good": CONTENT, "/short": CONTENT[:-1], "/long": CONTENT * 2}[self.path.removesuffix("?cut")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:500] if self.path.endswith("?cut") else body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked = []
    with HTTPServer(("127.0.0.1", 0), Server) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def remote(url: str) -> Remote:
    return Remote("play", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_it_is_fetched_once_and_then_read_from_the_cache(server: str, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    for _ in range(3):
        assert fetch(remote(f"{server}/good"), cache).read_bytes() == CONTENT
    assert Server.asked == ["/good"]
    assert [path.name for path in cache.iterdir()] == ["play.txt"]


def test_a_damaged_cache_is_fetched_again(server: str, tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_bytes(CONTENT[:100])
    assert fetch(remote(f"{server}/good"), tmp_path).read_bytes() == CONTENT
    assert Server.asked == ["/good"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/short", "19999 bytes with sha256.*expected 20000"),
        ("/long", "sha256"),
        ("/missing", "could not be downloaded.*Not Found"),
        ("/good?cut", "could not be downloaded|sha256"),
    ],
)
def test_what_is_not_the_file_is_not_kept(path: str, said: str, server: str, tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=said) as error:
        fetch(remote(server + path), tmp_path)
    assert "--data FILE" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Server) as http:
        url = f"http://127.0.0.1:{http.server_port}/good"  # a port where nobody listens once it is closed
    with pytest.raises(FathomError, match=r"without a network, pass a text file with --data FILE.*play\.txt") as error:
        fetch(remote(url), tmp_path)
    assert "\n" not in str(error.value)


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FATHOM_CACHE")
    assert cache_folder().name.lower() in ("fathom", "cache")


def test_shakespeare_is_https_and_the_file_everyone_trains_on(shared_data: Path) -> None:
    content = (shared_data / "tinyshakespeare.txt").read_bytes()
    assert SHAKESPEARE.url.startswith("https://")
    assert SHAKESPEARE.size == len(content)
    assert SHAKESPEARE.sha256 == hashlib.sha256(content).hexdigest()
