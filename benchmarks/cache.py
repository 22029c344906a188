"""What the cache and grouped queries are worth: `python benchmarks/cache.py [--threads 2]`.

A model of GPT-2's width with random weights reads a text and writes one token more, with the cache and without it, at
several lengths; then once more with fewer heads of keys and values. Medians of several runs; one JSON line each.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.cost import cache_bytes, n_parameters
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer

LENGTHS = (64, 256, 1023)
GROUPED = replace(LLAMA2_7B, d_model=512, n_layer=8, n_head=32, head_dim=64, d_ff=1024, vocab_size=1024)
BATCH, CONTEXT = 4, 4096


def median_ms(call: Callable[[], object], repeat: int) -> float:
    """Milliseconds of a call, the median after one to warm up."""
    call()
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


@torch.no_grad()
def next_token(config: ModelConfig, length: int, repeat: int) -> dict[str, float]:
    """The time of one more token after `length`, kept and recomputed."""
    model = Transformer(config).eval()
    ids = torch.randint(config.vocab_size, (1, length + 1))
    cache = KVCache(config, 1, length + 1)
    model(ids[:, :-1], cache)

    def step() -> None:
        model(ids[:, -1:], cache)
        cache.length -= 1

    kept, anew = (
        median_ms(step, repeat),
        median_ms(lambda: model.unembed(model.hidden(ids)[:, -1]), max(3, repeat // 4)),
    )
    return {
        "length": length,
        "cached_ms": round(kept, 2),
        "recomputed_ms": round(anew, 2),
        "ratio": round(anew / kept, 1),
    }


@torch.no_grad()
def grouped(groups: int, repeat: int) -> dict[str, float]:
    """One step of BATCH texts of CONTEXT tokens with so many heads of keys and values, in bf16."""
    config = replace(GROUPED, n_kv_head=groups, context_length=CONTEXT)
    model = Transformer(config).to(torch.bfloat16).eval()
    cache = KVCache(config, BATCH, CONTEXT, dtype=torch.bfloat16)
    cache.length = CONTEXT - 1  # what stands in it does not change the time

    def step() -> None:
        model(torch.zeros(BATCH, 1, dtype=torch.long), cache)
        cache.length -= 1

    mib = cache_bytes(config, BATCH, CONTEXT, 2) / 2**20
    return {
        "n_kv_head": groups,
        "cache_mib": mib,
        "step_ms": round(median_ms(step, repeat), 1),
        "parameters": n_parameters(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": chosen.threads,
        "torch": torch.__version__,
    }
    for length in LENGTHS:
        print(json.dumps({"work": "one more token, GPT-2, fp32", **next_token(GPT2, length, chosen.repeat), **machine}))
    for groups in (32, 8, 1):
        print(json.dumps({"work": "a step of 4 x 4,096 tokens, bf16", **grouped(groups, chosen.repeat), **machine}))


if __name__ == "__main__":
    main()
