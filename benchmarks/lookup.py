"""Prompt lookup beside plain decoding: `python benchmarks/lookup.py TOKENIZER TEXT [--dtype bf16] [--plain]`.

A LLaMA of 110M parameters with random weights says what a script tells it: every pass costs what it costs, and after
it the logit of the script's next token is raised above all. So the time is the model's and the repeats are those of a
real text: a module of Python's with two names changed, written after the module itself, and prose (TEXT), which hardly
repeats. Third, the model's own greedy text, unscripted. Both ways in turn, medians; one JSON line each.
TOKENIZER: a file such as LLaMA 2's tokenizer.model.
"""

import argparse
import bisect
import inspect
import json
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fathom.backend.inference import quicken
from fathom.generate.generate import Stream, stream
from fathom.model.presets import LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.tokenizer.load import load
from fathom.tokenizer.protocol import Tokenizer

SHAPE = replace(LLAMA2_7B, d_model=768, n_layer=12, n_head=12, d_ff=2048, context_length=4096)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RENAMED = {r"\blo\b": "low", r"\bhi\b": "high"}


def edited() -> tuple[str, str]:
    """A module, and the same with two of its names changed."""
    source = inspect.getsource(bisect)
    changed = source
    for old, new in RENAMED.items():
        changed = re.sub(old, new, changed)
    return source + "\n# The same with lo and hi spelled out:\n", changed


class Scripted:
    """Makes `model` say `script`, a text of ids, whatever it reads, at what it costs."""

    def __init__(self, model: Transformer, script: Sequence[int]) -> None:
        self.script, self.end, self.hidden = torch.tensor([*script, 0]), 0, model.hidden
        model.hidden = self.read  # type: ignore[method-assign]
        self.hook = model.unembed.register_forward_hook(self.say)
        self.model = model

    def read(self, ids: Tensor, cache: Any = None) -> Tensor:
        hidden = self.hidden(ids, cache)
        self.end = cache.length
        return hidden

    def say(self, unembed: nn.Module, _: Any, logits: Tensor) -> Tensor:  # (n, V) -> (n, V)
        coming = self.script[self.end - len(logits) + 1 : self.end + 1]
        logits[torch.arange(len(logits)), coming] += 1e4
        return logits

    def remove(self) -> None:
        del self.model.hidden
        self.hook.remove()


def compared(model: Transformer, tokenizer: Tokenizer, prompt: list[int], new: int, repeat: int) -> dict[str, Any]:
    """Tokens per second of both ways, in turn, and what was kept."""
    rates: dict[str, list[float]] = {"off": [], "lookup": []}
    texts, running = set(), {}
    for _ in range(repeat):
        for way in rates:
            running[way] = stream(model, tokenizer, [prompt], max_new_tokens=new, temperature=0, speculate=way)
            texts.add(running[way].collect()[0].tokens)
            rates[way].append(running[way].facts.decode_rate)
    plain, lookup = (statistics.median(rates[way]) for way in rates)
    return {"plain": round(plain, 1), "lookup": round(lookup, 1), "ratio": round(lookup / plain, 2)} | told(
        running["lookup"], len(texts) == 1
    )


def told(running: Stream, same: bool) -> dict[str, Any]:
    facts = running.facts
    return {
        "same_text": same,
        "new_tokens": facts.decode_tokens + 1,
        "proposed": facts.proposed,
        "accepted": facts.accepted,
        "tokens_a_pass": round(facts.decode_tokens / facts.passes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--plain", action="store_true", help="without native code")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    tokenizer = load(chosen.tokenizer)
    model = Transformer(SHAPE).to(DTYPES[chosen.dtype]).eval()
    model = model if chosen.plain else quicken(model)
    prose = tokenizer.encode(chosen.text.read_text(encoding="utf-8")[:20_000])
    source, changed = (tokenizer.encode(text) for text in edited())
    about = {
        "dtype": chosen.dtype,
        "native": not chosen.plain,
        "threads": chosen.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }

    def measure(work: str, prompt: list[int], script: list[int]) -> None:
        scripted = Scripted(model, prompt + script) if script else None
        new = min(chosen.new, len(script)) if script else chosen.new
        print(json.dumps({"work": work, **compared(model, tokenizer, prompt, new, chosen.repeat), **about}), flush=True)
        if scripted:
            scripted.remove()

    measure("a module with two names changed", source, changed)
    measure("prose", prose[:1000], prose[1000:])
    measure("the model's own greedy text", prose[:100], [])


if __name__ == "__main__":
    main()
