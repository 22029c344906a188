"""`fathom serve` beside llama.cpp's server on the same GGUF, one after the other: throughput, latency, memory.

    python benchmarks/serve.py MODEL.gguf [--peer benchmarks/peers/.venv/bin/python] [--threads N] [--new N]

Each server answers 1, 4, 16 and 64 requests at once, each with a prompt of its own and as many new tokens, greedily,
then 16 that share the first part of a long prompt, and a conversation: a prompt of some 1,500 tokens, and the same with
its answer and a few more. The peer is `llama-cpp-python[server]` in an environment of its
own; without one, Fathom is measured alone. Only the standard library asks, over one connection a request.
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

AT_ONCE = "1,4,16,64"
WORDS = [*"abcdefghijklmnopqrst"]
HISTORY = 1480  # words, most of them a token each
PATIENCE = 600  # seconds for a server to answer


def prompt(words: int, seed: int) -> str:
    """A text of words that no other seed begins with."""
    return " ".join([str(seed), *(WORDS[(seed * 7 + place * place) % len(WORDS)] for place in range(words))])


class Asked:
    """One streamed request: when its tokens came."""

    def __init__(self, url: str, model: str, text: str, new: int) -> None:
        body = {"model": model, "prompt": text, "max_tokens": new, "temperature": 0, "stream": True}
        self.request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        self.new, self.times, self.whole, self.text = new, list[float](), False, ""
        self.error = ""

    @property
    def tokens(self) -> int:
        """How many were written: as many as were asked for, unless the model ended the text. A server may send several
        in one piece, such as the bytes of a character."""
        return self.new if self.whole else len(self.times)

    def run(self) -> None:
        self.began = time.perf_counter()
        try:
            with urllib.request.urlopen(self.request, timeout=PATIENCE) as answer:
                for line in answer:
                    choices = json.loads(line[6:]).get("choices") if line.startswith(b"data: {") else None
                    if choices:
                        self.times.append(time.perf_counter())
                        self.whole = choices[0]["finish_reason"] == "length"
                        self.text += choices[0]["text"]
        except OSError as error:
            self.error = str(error)


def crowd(url: str, model: str, texts: Sequence[str], new: int) -> dict[str, float]:
    """The figures of requests that are asked at once."""
    asked = [Asked(url, model, text, new) for text in texts]
    threads = [threading.Thread(target=one.run, daemon=True) for one in asked]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed := [one.error or "no token came" for one in asked if one.error or not one.times]:
        raise SystemExit(f"{url}: {len(failed)} of {len(asked)} requests failed: {failed[0]}")
    took = max(one.times[-1] for one in asked) - began
    first = sorted(one.times[0] - one.began for one in asked)
    gaps = sorted(later - sooner for one in asked for sooner, later in pairwise(one.times)) or [0.0]
    return {
        "tokens/s": sum(one.tokens for one in asked) / took,
        "first, median": statistics.median(first),
        "between, median": statistics.median(gaps),
        "between, p99": gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
    }


def turns(url: str, model: str) -> tuple[float, float]:
    """Seconds to the first token of a first turn of some 1,500 tokens, and of the second."""
    first = Asked(url, model, said := prompt(HISTORY, 5), 16)
    first.run()
    second = Asked(url, model, f"{said}{first.text} {prompt(24, 6)}", 16)
    second.run()
    if not first.times or not second.times:
        raise SystemExit(f"{url}: a turn failed: {first.error or second.error or 'no token came'}")
    return first.times[0] - first.began, second.times[0] - second.began


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def resident(process: "subprocess.Popen[bytes]") -> float:
    """MiB of a process that are in memory, of its own and of files; NaN where the system does not say."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def measure(name: str, call: Sequence[str], port: int, given: argparse.Namespace) -> None:
    """Print a row for each load of one server, which is started and ended here."""
    url, new, began = f"http://127.0.0.1:{port}", given.new, time.perf_counter()
    quiet, threads = subprocess.DEVNULL, {"OMP_NUM_THREADS": str(given.threads)}
    server = subprocess.Popen(call, stdout=quiet, stderr=quiet, env={**os.environ, **threads}, preexec_fn=end_with_us)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
                    model = json.load(answer)["data"][0]["id"]
                break
            except OSError:
                if server.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise SystemExit(f"{name} did not start: {' '.join(call)}") from None
                time.sleep(0.05)
        start = time.perf_counter() - began
        crowd(url, model, [prompt(8, 999)], 4)
        for count in map(int, given.at_once.split(",")):
            figures = crowd(url, model, [prompt(64, 1000 * count + place) for place in range(count)], new)
            show(name, str(count), figures, resident(server))
        shared = prompt(256, 7)
        crowd(url, model, [shared], 4)
        figures = crowd(url, model, [f"{shared} {prompt(64, place)}" for place in range(16)], new)
        show(name, "16, shared", figures, resident(server))
        first, second = turns(url, model)
        said = f"second turn {second:.3f} s to the first token, {second / first:.3f} of the first's {first:.3f} s"
        print(f"{name}: started in {start:.1f} s; {said}", file=sys.stderr)
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def end_with_us() -> None:
    """In the new process: the kernel ends it when this one ends, however that ends. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def leave(*_: object) -> None:
    """Told to end: end what was begun first, as after Ctrl-C."""
    sys.exit(143)


def show(name: str, requests: str, figures: dict[str, float], mib: float) -> None:
    """A row of the table."""
    times = [f"{figures[name] * 1e3:,.1f} ms" for name in ("first, median", "between, median", "between, p99")]
    rate = f"{figures['tokens/s']:,.1f}"
    print(f"| {' | '.join([name, requests, rate, *times, f'{mib:,.0f}'])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--peer", default="benchmarks/peers/.venv/bin/python")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--at-once", default=AT_ONCE)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--quantize", default="keep")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, leave)
    print("| server | requests | tokens/s | first, median | between, median | between, p99 | MiB |\n|" + "---|" * 7)
    port = free_port()
    ours = [sys.executable, "-m", "fathom", "serve", given.model, "--port", str(port), "--no-open"]
    measure("fathom", [*ours, "--quantize", given.quantize], port, given)
    if Path(given.peer).exists():
        port = free_port()
        theirs = [given.peer, "-m", "llama_cpp.server", "--model", given.model, "--port", str(port)]
        theirs += ["--n_threads", str(given.threads), "--n_ctx", "2048"]
        theirs += ["--interrupt_requests", "false"]  # else a request cuts short the one before
        measure("llama.cpp", theirs, port, given)
    else:
        print(f"{given.peer} is not there: no peer", file=sys.stderr)


if __name__ == "__main__":
    main()
