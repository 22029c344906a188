"""What the cache and grouped queries save: `python benchmarks/cache.py [--threads 2]`.

A model of GPT-2's shape with random weights computes one more token, with the cache and without it, at several
lengths; then a wider one with fewer and fewer heads of keys and values. Medians of several runs; one JSON line each.
"""

import argparse
import json
from dataclasses import replace

import torch
from measure import machine, median_seconds

from fathom.anatomy.cost import cache_bytes, n_parameters
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer

LENGTHS = (64, 256, 1023)
GROUPED = replace(LLAMA2_7B, d_model=512, n_layer=8, n_head=32, head_dim=64, d_ff=1024, vocab_size=1024)
BATCH, CONTEXT = 4, 4096


@torch.no_grad()
def next_token(config: ModelConfig, length: int, repeat: int) -> dict[str, float]:
    """The time of one more token after `length`, with the cache and recomputed."""
    model = Transformer(config).eval()
    ids = torch.randint(config.vocab_size, (1, length + 1))
    cache = KVCache(config, 1, length + 1)
    model(ids[:, :-1], cache)

    def step() -> None:
        model(ids[:, -1:], cache)
        cache.rewind(cache.length - 1)

    cached = median_seconds(step, repeat)
    recomputed = median_seconds(lambda: model.unembed(model.hidden(ids)[:, -1]), max(3, repeat // 4))
    return {
        "length": length,
        "cached_ms": round(1e3 * cached, 2),
        "recomputed_ms": round(1e3 * recomputed, 2),
        "ratio": round(recomputed / cached, 1),
    }


@torch.no_grad()
def grouped(n_kv_head: int, repeat: int) -> dict[str, float]:
    """One step of BATCH texts of CONTEXT tokens with so many heads of keys and values, in bf16."""
    config = replace(GROUPED, n_kv_head=n_kv_head, context_length=CONTEXT)
    model = Transformer(config).to(torch.bfloat16).eval()
    cache = KVCache(config, BATCH, CONTEXT, dtype=torch.bfloat16)
    cache.advance(CONTEXT - 1)  # its contents do not change the time

    def step() -> None:
        model(torch.zeros(BATCH, 1, dtype=torch.long), cache)
        cache.rewind(cache.length - 1)

    return {
        "n_kv_head": n_kv_head,
        "cache_mib": cache_bytes(config, BATCH, CONTEXT, 2) / 2**20,
        "step_ms": round(1e3 * median_seconds(step, repeat), 1),
        "parameters": n_parameters(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    call = parser.parse_args()
    torch.set_num_threads(call.threads)
    torch.manual_seed(0)
    here = machine(call.threads)
    for length in LENGTHS:
        print(json.dumps({"work": "one more token, GPT-2, fp32", **next_token(GPT2, length, call.repeat), **here}))
    for n_kv_head in (32, 8, 1):
        print(json.dumps({"work": "a step of 4 x 4,096 tokens, bf16", **grouped(n_kv_head, call.repeat), **here}))


if __name__ == "__main__":
    main()
