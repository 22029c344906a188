"""Prompt lookup beside plain decoding: `python benchmarks/lookup.py TOKENIZER TEXT [--dtype bf16] [--plain]`.

A LLaMA of 110M parameters with random weights is made to write a given script: every pass costs what it costs, then the
logit of the script's next token is raised above all others. So the time is the model's and the repetitions are those of
a real text: a module of Python's library followed by the same with two names changed, and prose (TEXT), which hardly
repeats itself. The third work is the model's own greedy text. Plain and lookup in turn, medians; one JSON line each.
"""

import argparse
import bisect
import inspect
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import machine
from torch import Tensor, nn

from fathom.backend.inference import prepare_for_inference
from fathom.bench.shapes import SHAPES
from fathom.generation.generate import stream
from fathom.model.transformer import Transformer
from fathom.tokenizer.load import load
from fathom.tokenizer.protocol import Tokenizer

CONFIG = replace(SHAPES["110M"], context_length=4096)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RENAMED = {r"\blo\b": "low", r"\bhi\b": "high"}


def module_and_edit() -> tuple[str, str]:
    """The source of a module, and the same with two of its names changed."""
    source = inspect.getsource(bisect)
    edited = source
    for old, new in RENAMED.items():
        edited = re.sub(old, new, edited)
    return source + "\n# The same with lo and hi spelled out:\n", edited


class Scripted:
    """Makes `model` predict `script`, a list of ids, at every position, whatever it reads, at its usual cost."""

    def __init__(self, model: Transformer, script: Sequence[int]) -> None:
        self.script, self.end, self.hidden = torch.tensor([*script, 0]), 0, model.hidden
        model.hidden = self.forward  # type: ignore[method-assign]
        self.hook = model.unembed.register_forward_hook(self.raise_next)
        self.model = model

    def forward(self, ids: Tensor, cache: Any = None) -> Tensor:
        hidden = self.hidden(ids, cache)
        self.end = cache.length
        return hidden

    def raise_next(self, unembed: nn.Module, _: Any, logits: Tensor) -> Tensor:  # (n, V) -> (n, V)
        following = self.script[self.end - len(logits) + 1 : self.end + 1]
        logits[torch.arange(len(logits)), following] += 1e4
        return logits

    def remove(self) -> None:
        del self.model.hidden
        self.hook.remove()


def compare(model: Transformer, tokenizer: Tokenizer, prompt: list[int], new: int, repeat: int) -> dict[str, Any]:
    """Tokens per second of both ways, in turn, and how many proposals were accepted."""
    rates: dict[str, list[float]] = {"off": [], "lookup": []}
    texts = set()
    for _ in range(repeat):
        for way in rates:  # lookup last, so that `running` is a stream with proposals
            running = stream(model, tokenizer, [prompt], max_new_tokens=new, temperature=0, speculate=way)
            texts.add(running.collect()[0].tokens)
            rates[way].append(running.stats.decode_rate)
    plain, lookup = (statistics.median(rates[way]) for way in rates)
    stats = running.stats
    return {
        "plain": round(plain, 1),
        "lookup": round(lookup, 1),
        "ratio": round(lookup / plain, 2),
        "same_text": len(texts) == 1,
        "new_tokens": stats.decode_tokens + 1,
        "proposed": stats.proposed,
        "accepted": stats.accepted,
        "tokens_a_pass": round(stats.decode_tokens / stats.passes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, help="a file such as LLaMA 2's tokenizer.model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--plain", action="store_true", help="without native code")
    call = parser.parse_args()
    torch.set_num_threads(call.threads)
    torch.manual_seed(0)
    tokenizer = load(call.tokenizer)
    model = Transformer(CONFIG).to(DTYPES[call.dtype]).eval()
    model = model if call.plain else prepare_for_inference(model)
    prose = tokenizer.encode(call.text.read_text(encoding="utf-8")[:20_000])
    source, edited = (tokenizer.encode(text) for text in module_and_edit())
    settings = {"dtype": call.dtype, "native": not call.plain, **machine(call.threads)}

    def measure(work: str, prompt: list[int], script: list[int]) -> None:
        scripted = Scripted(model, prompt + script) if script else None
        new = min(call.new, len(script)) if script else call.new
        print(json.dumps({"work": work, **compare(model, tokenizer, prompt, new, call.repeat), **settings}), flush=True)
        if scripted:
            scripted.remove()

    measure("a module with two names changed", source, edited)
    measure("prose", prose[:1000], prose[1000:])
    measure("the model's own greedy text", prose[:100], [])


if __name__ == "__main__":
    main()
