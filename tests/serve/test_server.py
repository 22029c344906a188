"""`fathom serve` as a process: what it says at the start, what it would do, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.serve.place import Place
from tests.serve.running import process

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")


N = 8  # continuations of a stream: 20 streams are as many as a server takes
CAT = ("demo:copycat", "--alias", "cat")


def stream(port: int) -> socket.socket:
    body = json.dumps({"model": "cat", "prompt": "the cat ", "stream": True, "n": N}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    made = socket.create_connection(("127.0.0.1", port))
    made.settimeout(60)
    made.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_sigterm_lets_streams_end(count: int) -> None:
    with process(*CAT) as (server, port):
        streams = [stream(port) for _ in range(count)]
        texts = [one.recv(50) for one in streams]
        server.send_signal(signal.SIGTERM)

        def read(place: int) -> None:
            while more := streams[place].recv(65536):
                texts[place] += more

        threads = [threading.Thread(target=read, args=(place,)) for place in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(b"data: [DONE]\n\n" in text and text.endswith(b"0\r\n\r\n") for text in texts)
        assert all(
            text.count(b'"finish_reason": "length"') + text.count(b'"finish_reason": "stop"') == N for text in texts
        )
        assert server.wait(30) in (0, -signal.SIGTERM)


def test_check_says_what_would_be_served_and_listens_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "demo:copycat", "--port", "0", "--check", "--max-tokens-in-flight", "256"]) == 0
    out, err = capsys.readouterr()
    assert "/v1/chat/completions" in out.splitlines() and "/metrics" in out.splitlines()
    assert "pages: 16 of 16 tokens" in err and "256 tokens in flight" in err and "parameters" in err


def test_a_port_in_use_is_one_line_before_a_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "no/model/is/here", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


def test_of_two_that_start_at_once_the_second_says_that_the_port_is_in_use() -> None:
    with Place("127.0.0.1", 0).bound() as first:
        port = first.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))  # nobody waits while a model is read
        here = Place("127.0.0.1", port)
        with here.bound() as second:
            here.listen(first)
            with pytest.raises(FathomError, match=f"port {port} of 127.0.0.1 cannot be used"):
                here.listen(second)


def test_it_starts_without_what_only_pages_need() -> None:
    code = "import sys, fathom.serve.server, fathom.serve.served\n"
    code += "print({'matplotlib', 'fathom.glass.panels'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr
