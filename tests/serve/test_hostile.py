"""What strangers send is refused or closed, nobody else waits, no file is read, and keys are asked for."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from fathom.errors import FathomError
from fathom.serve import connection
from fathom.serve.guard import OPEN, Keys, read_keys
from fathom.serve.place import Place
from tests.serve.running import KEY, Running, running

pytest.importorskip("fastapi")
TEXT = "/v1/completions"
GOOD = {"model": "tiny", "prompt": "Once", "max_tokens": 2}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "HEAD_SECONDS", 0.5)
        patch.setattr(connection, "BODY_SECONDS", 0.5)
        with running() as here:
            yield here


def raw(here: Running, *parts: bytes, wait: float = 0.0) -> bytes:
    """The answer to these bytes, b"" where the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", here.port)) as made:
        made.settimeout(20)
        answer = b""
        try:
            for part in parts:
                made.sendall(part)
                time.sleep(wait)
            while more := made.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def post(here: Running, body: bytes, *headers: str, length: str | None = None, path: str = TEXT) -> bytes:
    """A request as bytes."""
    own = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{here.port}", "Content-Type: application/json", *headers]
    own += [f"Content-Length: {len(body) if length is None else length}"] if length != "" else []
    return ("\r\n".join([*own, "Connection: close"]) + "\r\n\r\n").encode("latin-1") + body


def asked(**values: Any) -> bytes:
    return json.dumps({**GOOD, **values}).encode()


WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: null\r\n\r\n"
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/s.json"}}}
REMOTE = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "response_format": SCHEMA}
BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "10,000 deep lists": b"[" * 10_000 + b"]" * 10_000,
    "10,000 deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "200 deep in a field": asked(metadata=0).replace(b'"metadata": 0', b'"metadata": ' + b"[" * 200 + b"]" * 200),
    "NaN": asked(temperature=0).replace(b'"temperature": 0', b'"temperature": NaN'),
    "Infinity": asked(temperature=0).replace(b'"temperature": 0', b'"temperature": Infinity'),
    "1e400": asked(temperature=0).replace(b'"temperature": 0', b'"temperature": 1e400'),
    "an integer of 5,000 digits": asked(seed=0).replace(b'"seed": 0', b'"seed": ' + b"9" * 5000),
    "invalid UTF-8": asked(prompt="x").replace(b'"x"', b'"\xff\xfe"'),
    "half a surrogate": asked(prompt="x").replace(b'"x"', b'"\\ud800"'),
    "a null byte": asked(prompt="x").replace(b'"x"', b'"\x00"'),
    "an escaped null": asked(prompt="x").replace(b'"x"', b'"\\u0000"'),
    "a key twice": asked().replace(b'"prompt"', b'"prompt": "a", "prompt"'),
    "negative tokens": asked(max_tokens=-1),
    "negative n": asked(n=-3),
    "negative seed": asked(seed=-1),
    "negative top_k": asked(top_k=-1),
    "negative ids": asked(prompt=[-1]),
    "huge ids": asked(prompt=[2**63]),
    "temperature of text": asked(temperature="1"),
    "a bool for a number": asked(max_tokens=True),
    "no prompt": json.dumps({"model": "tiny"}).encode(),
    "a prompt of objects": asked(prompt=[{}]),
    "an empty stop": asked(stop=""),
    "many stops": asked(stop=["a"] * 1000),
    "a long stop": asked(stop="a" * 10_000),
    "many biases": asked(logit_bias={str(n): 1 for n in range(2000)}),
    "a bias for no token": asked(logit_bias={"x": 1}),
    "a path as a model": asked(model="../../etc/passwd"),
    "an address as a model": asked(model="http://127.0.0.1:1/"),
    "an endless grammar": asked(grammar="root ::= root"),
    "a long grammar": asked(grammar="a" * 300_000),
    "a remote schema": json.dumps(REMOTE).encode(),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_a_hostile_body_is_refused_and_others_are_served(server: Running, name: str) -> None:
    path = "/v1/chat/completions" if "schema" in name else TEXT
    answer = raw(server, post(server, BODIES[name], path=path))
    assert answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["message"]
    assert httpx.post(server.url + TEXT, json=GOOD, timeout=20).status_code == 200


def heads(here: Running) -> dict[str, tuple[bytes, ...]]:
    """Requests that are wrong before their body."""
    good, host = asked(), f"Host: 127.0.0.1:{here.port}\r\n".encode()
    chunk = b"%x\r\n%s\r\n" % (65536, b" " * 65536)
    chunked = post(here, b"", "Transfer-Encoding: chunked", length="")
    return {
        "a header of 1 MB": (b"GET /health HTTP/1.1\r\n" + host + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",),
        "10,000 headers": (b"GET /health HTTP/1.1\r\n" + host + b"X: a\r\n" * 10_000 + b"\r\n",),
        "a path of 1 MB": (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + host + b"\r\n",),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,),
        "nothing but lines": (b"\r\n" * 20_000,),
        "HTTP/9": (b"GET / HTTP/9.9\r\n" + host + b"\r\n",),
        "no host": (b"GET /health HTTP/1.1\r\n\r\n",),
        "two hosts": (b"GET /health HTTP/1.1\r\n" + host * 2 + b"\r\n",),
        "a null in a header": (b"GET /health HTTP/1.1\r\n" + host + b"X: a\x00b\r\n\r\n",),
        "two lengths": (post(here, good, "Content-Length: 5"),),
        "a negative length": (post(here, good, length="-5"),),
        "a length of text": (post(here, good, length="x"),),
        "a huge length": (post(here, good, length="9" * 30),),
        "2 MB and more": (post(here, b" " * ((2 << 20) + 1)),),
        "length and chunks": (post(here, good, "Transfer-Encoding: chunked"),),
        "a bomb of chunks": (chunked, *[chunk] * 40),
        "a chunk without a size": (chunked + b"zz\r\nabc\r\n",),
        "a chunk of 2^64": (chunked + b"ffffffffffffffffff\r\nabc\r\n",),
        "plain text": (post(here, good).replace(b"application/json", b"text/plain"),),
        "a form": (post(here, good).replace(b"application/json", b"multipart/form-data; boundary=x"),),
        "no type": (post(here, good).replace(b"Content-Type: application/json\r\n", b""),),
        "another origin": (post(here, good, "Origin: http://example.com"),),
        "a websocket": (
            b"GET /v1/models HTTP/1.1\r\n"
            + host
            + b"Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: null\r\n\r\n",
        ),
        "a proxy's request": (b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n",),
    }


def test_hostile_heads_are_refused_or_closed_and_others_are_served(server: Running) -> None:
    for name, parts in heads(server).items():
        answer = raw(server, *parts)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (name, answer[:200])
        assert httpx.get(server.url + "/health", timeout=5).status_code == 200, name


def test_who_is_slow_is_closed_and_nobody_waits_for_them(server: Running) -> None:
    began = time.monotonic()
    crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    for place, one in enumerate(crowd):
        whole = post(server, asked())
        one.sendall(whole[: 20 if place % 2 else len(whole) - 3])
        one.settimeout(20)
    assert httpx.post(server.url + TEXT, json=GOOD, timeout=20).status_code == 200
    for one in crowd:
        with suppress(ConnectionResetError):
            assert one.recv(100) == b""
        one.close()
    assert time.monotonic() - began < 20


HOSTS = ("example.com", "127.0.0.1", "127.0.0.1:1", "localhost.example.com:{port}", "0.0.0.0:{port}", "[::]:{port}",
         "127.0.0.1.example.com", "evil:{port}", "127.1:{port}", "", "127.0.0.1:{port}@example.com")  # fmt: skip
ORIGINS = ("http://example.com", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://localhost:{port}",
           "file://", "http://127.0.0.1:{port}.example.com", "http://[::1]:{port}")  # fmt: skip


def test_other_hosts_and_origins_are_refused(server: Running) -> None:
    for path in (TEXT, "/api/pass"):
        for host in HOSTS:
            own, other = f"Host: 127.0.0.1:{server.port}", f"Host: {host.format(port=server.port)}"
            answer = raw(server, post(server, asked(), path=path).replace(own.encode(), other.encode()))
            assert answer.startswith(b"HTTP/1.1 400"), (host, answer[:100])
        for origin in ORIGINS:
            answer = raw(server, post(server, asked(), f"Origin: {origin.format(port=server.port)}", path=path))
            assert answer.startswith(b"HTTP/1.1 403"), (origin, answer[:100])
    assert raw(server, post(server, asked(), f"Origin: http://127.0.0.1:{server.port}")).startswith(b"HTTP/1.1 200")


def test_every_route_needs_the_key_but_the_listed_few() -> None:
    with (
        running(keys=Keys([KEY, "another key of them"])) as here,
        httpx.Client(base_url=here.url, timeout=60) as client,
    ):
        assert OPEN == ("/health",) and client.get("/health").status_code == 200
        for path in [path for path in here.house.routes if path not in ("/", *OPEN)] + ["/openapi.json", "/v1/nothing"]:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                answer = client.request(method, path, headers=JSON)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (method, path)
        for wrong in (
            "Bearer",
            f"Bearer  {KEY}x",
            f"Basic {KEY}",
            f"Bearer {KEY[:-1]}",
            f"Bearer {KEY}x",
            KEY,
            "Bearer é",
        ):
            assert client.get("/v1/models", headers={"Authorization": wrong.encode()}).status_code == 401, wrong
        for right in (KEY, "another key of them"):
            assert client.get("/v1/models", headers={"Authorization": f"bearer {right}"}).status_code == 200
        assert client.post("/api/pass", json={}).status_code == 403  # the page's token
        assert KEY not in "".join(here.lines)


def test_elsewhere_than_on_this_machine_keys_are_needed_and_there_is_no_page(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(FathomError, match="--api-key-file with the keys"):
            Place(host, 8000).check()
    file = tmp_path / "keys"
    for text, line in (("", "no key"), ("# a note\n", "no key"), ("short\n", "short")):
        file.write_text(text)
        with pytest.raises(FathomError, match=line):
            read_keys(file)
    with pytest.raises(FathomError, match="cannot be read"):
        read_keys(tmp_path / "none")
    rules = Place("0.0.0.0", 8000, no_auth=True).rules(8000, "")
    from fathom.serve.guard import Guard

    guard = Guard(None, None, rules)
    assert all(guard.known(host, False) for host in ("127.0.0.1:8000", "192.0.2.7:9000", "[::1]:8000", "localhost:1"))
    assert not any(guard.known(host, False) for host in ("example.com:8000", "example.com", ""))
    assert guard.known("example.com:8000", True)


def test_names_like_paths_open_no_file(server: Running) -> None:
    words = ("/etc/passwd", "../../secret", "file:///etc/passwd", "C:\\Windows\\win.ini", "runs/demo", "tiny/../../x")
    opened: list[str] = []
    watching = [True]

    def watch(event: str, given: Any) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir", "socket.connect") and given:
            opened.append(str(given[0] if event != "socket.connect" else given[1]))

    sys.addaudithook(watch)
    try:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            for place in range(500):
                name = words[place % len(words)] + str(place)
                if place % 2:
                    status = client.post(TEXT, json={**GOOD, "model": name}).status_code
                else:
                    status = client.get(f"/v1/models/{name}").status_code
                assert status in (400, 404, 405), name
    finally:
        watching.clear()
    ours = str(Path(os.__file__).parent)
    found = [
        name
        for name in opened
        if not name.startswith((ours, "('127.0.0.1'")) and any(w.strip("/.") in name for w in words)
    ]
    assert not found
