"""`fathom prepare` with one process and with two, beside the `tokenizers` library alone with two, on the same text.

    python benchmarks/prepare.py --megabytes 24 --rounds 3 [--tokenizer FILE]

The text: documents of Python's own library, shuffled and repeated, as JSON lines. The three take turns and the medians
count. The library alone: two processes with one thread each, the texts in memory, `encode_batch_fast` and the number of
ids, nothing read or written. Times of `fathom prepare` are those of the work, without the start of Python: what a text
of a few bytes takes is taken off, and given besides. Seconds of processors count too: of a machine that is busy they
alone say how much work it was.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from fathom.tokenizer.load import make, save

ALONE = """
import json, os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers
hf = tokenizers.Tokenizer.from_str(open(sys.argv[1], encoding="utf-8").read())
texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")][int(sys.argv[3])::2]
print("ready", flush=True)
sys.stdin.readline()
start, work = time.perf_counter(), time.process_time()
count = 0
for first in range(0, len(texts), 64):
    count += sum(len(one.ids) for one in hf.encode_batch_fast(texts[first : first + 64], add_special_tokens=False))
print(count, time.perf_counter() - start, time.process_time() - work, flush=True)
"""


def documents() -> list[str]:
    """The modules of Python's library, of a size as web pages have."""
    folder = Path(os.__file__).parent
    texts = [
        path.read_text("utf-8", "replace") for path in sorted(folder.rglob("*.py")) if "site-packages" not in str(path)
    ]
    pieces = [text[start : start + 8000] for text in texts for start in range(0, len(text), 8000)]
    return [piece for piece in pieces if piece.strip()]


def write_text(path: Path, megabytes: float) -> int:
    """The text in JSON lines; returns its bytes, without what JSON adds."""
    pieces, choose, n_bytes = documents(), random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while n_bytes < megabytes * 1e6:
            for piece in choose.sample(pieces, len(pieces)):
                file.write(json.dumps({"text": piece}) + "\n")
                n_bytes += len(piece.encode())
                if n_bytes >= megabytes * 1e6:
                    break
    return n_bytes


Times = tuple[float, float]  # seconds, and of processors


def processors() -> float:
    """Seconds of processors that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepared(text: Path, tokenizer: Path, workers: int) -> Times:
    """Of one call."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fathom", "prepare", str(text), "--tokenizer", str(tokenizer)]
        start, before = time.perf_counter(), processors()
        command += ["-o", f"{folder}/tokens", "--workers", str(workers), "--json"]
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - start, processors() - before


def alone(text: Path, library: Path) -> Times:
    """Of the library in two processes: of the slower one, and of both."""
    calls = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE, str(library), str(text), str(part)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for part in range(2)
    ]  # fmt: skip
    for call in calls:
        assert call.stdout and call.stdout.readline() == "ready\n"
    for call in calls:
        assert call.stdin
        call.stdin.write("go\n")
        call.stdin.flush()
    results = [call.communicate()[0].split() for call in calls]
    return max(float(seconds) for _, seconds, _ in results), sum(float(work) for _, _, work in results)


def measure(megabytes: float, rounds: int, tokenizer: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        text, small = Path(folder) / "text.jsonl", Path(folder) / "small.jsonl"
        n_bytes = write_text(text, megabytes)
        small.write_text('{"text": "a few bytes"}\n')
        made = make(tokenizer, documents())
        save(made, Path(folder) / "tokenizer.json")
        (Path(folder) / "library.json").write_text(json.dumps(made.to_json()["tokenizer"]), encoding="utf-8")
        own, library = Path(folder) / "tokenizer.json", Path(folder) / "library.json"
        times: dict[str, list[Times]] = {"start": [], "two": [], "alone": [], "one": []}
        for _ in range(rounds):
            for name, call in (
                ("start", lambda: prepared(small, own, 1)),
                ("two", lambda: prepared(text, own, 2)),
                ("alone", lambda: alone(text, library)),
                ("one", lambda: prepared(text, own, 1)),
            ):
                times[name].append(call())
                print(name, *(f"{seconds:.2f} s" for seconds in times[name][-1]), file=sys.stderr)
    (start, start_work), *rest = (
        (median(seconds for seconds, _ in pairs), median(work for _, work in pairs)) for pairs in times.values()
    )
    (two, two_work), (library_alone, library_work), (one, one_work) = rest
    two, one, one_work = two - start, one - start, one_work - start_work
    two_work -= start_work  # less than a second process's start: it counts as work
    return {
        "machine": processor(), "tokenizer": tokenizer, "megabytes": n_bytes / 1e6, "start": start,
        "MB/s": {name: n_bytes / 1e6 / s for name, s in (("one", one), ("two", two), ("the library", library_alone))},
        "two over one": one / two, "two over the library": library_alone / two,
        "MB for each second of a processor": {
            name: n_bytes / 1e6 / s for name, s in (("one", one_work), ("two", two_work), ("the library", library_work))
        },
        "one over the library, by processors": library_work / one_work,
        "times": times,
    }  # fmt: skip


def processor() -> str:
    """The processor, its number of cores and its widest instruction set."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    widest = next((word for word in ("avx512f", "avx2", "asimd") if word in info), platform.machine())
    return f"{name or platform.processor()}, {os.cpu_count()} cores, {widest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default="bpe:32000")
    options = parser.parse_args()
    print(json.dumps(measure(options.megabytes, options.rounds, options.tokenizer), indent=1))


if __name__ == "__main__":
    main()
