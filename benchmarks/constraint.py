"""What constrained decoding costs: the vocabulary, compiling a schema, and the mask of each token.

    python benchmarks/constraint.py TOKENIZER...

TOKENIZER: a model, or a tokenizer's own file or folder; bytes without one. Random tokens among those that are allowed
stand for a model, on one thread.
"""

import random
import statistics
import sys
import time

import torch

from fathom.formats.tokenizer import load_tokenizer
from fathom.generation.constraint import Vocabulary, of_schema
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.protocol import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 5},
        "address": {"type": "object", "properties": {"street": {"type": "string", "maxLength": 40}},
                    "required": ["street"], "additionalProperties": False},
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}  # fmt: skip
TEXTS = 20


def measure(name: str, tokenizer: Tokenizer) -> str:
    """A row of the table."""
    began = time.perf_counter()
    words = Vocabulary(tokenizer, tokenizer.vocab_size)
    made = time.perf_counter() - began
    compiled, masks, choose = list[float](), list[float](), random.Random(0)
    for _ in range(TEXTS):
        began = time.perf_counter()
        text = of_schema(words, SCHEMA).start()
        compiled.append(time.perf_counter() - began)
        for _ in range(300):
            began = time.perf_counter()
            mask = text.mask()
            took = time.perf_counter() - began
            allowed = mask.nonzero()[:, 0].tolist()
            token = choose.choice(allowed)
            if token in tokenizer.special.end_ids:
                break
            began = time.perf_counter()
            text.accept(token)
            masks.append(took + time.perf_counter() - began)
            if text.finished:
                break
    middle, slowest = statistics.median(masks) * 1e3, statistics.quantiles(masks, n=100)[-1] * 1e3
    compiling, size = statistics.median(compiled) * 1e3, f"{tokenizer.vocab_size:,}"
    return f"| {name} | {size} | {made:.2f} s | {compiling:.1f} ms | {middle:.2f} ms | {slowest:.2f} ms |"


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    print("| vocabulary | tokens | made once | a schema | a token, median | p99 |\n|---|---|---|---|---|---|")
    found: dict[str, Tokenizer] = {"bytes": ByteTokenizer()}
    found |= {path.rstrip("/").rsplit("/", 1)[-1]: load_tokenizer(path) for path in paths}
    for name, tokenizer in found.items():
        print(measure(name, tokenizer))


if __name__ == "__main__":
    main(sys.argv[1:])
