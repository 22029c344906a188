"""Peak memory and time of building a tokenizer from a text and encoding the text into token files.

The text is generated: words by Zipf's law out of a million, so that the vocabulary keeps growing as in real text.
Each tokenizer runs in a process of its own, whose peak resident memory the kernel reports. One JSON line each.

usage: python benchmarks/tokenize_memory.py MEGABYTES [--tokenizers char,byte,bpe:32000]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPECS = ("char", "byte", "bpe:32000")
ENDS = np.array([" ", " ", " ", " ", " ", " ", ", ", ". ", ".\n", "\n\n"])


def write_text(path: Path, megabytes: int) -> None:
    random = np.random.default_rng(0)
    syllables = np.array([c + v for c in "bcdfghjklmnprstvwzéß" for v in ("a", "e", "i", "o", "u", "en", "er", "ié")])
    lengths = random.integers(1, 6, 1_000_000)
    letters = iter(syllables[random.integers(0, len(syllables), int(lengths.sum()))].tolist())
    words = np.array(["".join(next(letters) for _ in range(n)) for n in lengths], dtype=object)
    written = 0
    with path.open("wb") as file:
        while written < megabytes * 1_000_000:
            ranks = (len(words) ** random.random(100_000)).astype(np.int64)  # density 1 / rank
            text = "".join((words[ranks % len(words)] + ENDS[random.integers(0, len(ENDS), len(ranks))]).tolist())
            written += file.write(text.encode("utf-8"))


def measure(spec: str, text: Path) -> None:
    from fathom.data.corpus import resolve
    from fathom.data.token_file import tokenize
    from fathom.tokenizer.load import make

    corpus, started = resolve(str(text)), time.perf_counter()
    tokenizer = make(spec, corpus.chunks())
    built = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        prepared = tokenize(corpus, tokenizer, Path(folder))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss: bytes there, KiB elsewhere
    result = {
        "tokenizer": spec,
        "megabytes": round(corpus.size / 1e6),
        "vocab_size": tokenizer.vocab_size,
        "tokens": prepared.n_train + prepared.n_val,
        "build_seconds": round(built - started, 1),
        "tokenize_seconds": round(time.perf_counter() - built, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", type=int, nargs="?", default=1000)
    parser.add_argument("--tokenizers", default=",".join(SPECS), help="comma-separated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fathom-tokenize-") as folder:
        text = Path(folder) / "text.txt"
        child(f"write_text(Path({str(text)!r}), {options.megabytes})")
        for spec in options.tokenizers.split(","):
            child(f"measure({spec!r}, Path({str(text)!r}))")


def child(call: str) -> None:
    """Call a function of this file in a process of its own. This one stays small: a child inherits its peak."""
    code = f"from pathlib import Path; from tokenize_memory import *; {call}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


if __name__ == "__main__":
    main()
