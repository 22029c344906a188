"""Prefill and decoding speed of llama.cpp, through the C functions that llama-cpp-python binds.

Prints one JSON line: tokens per second of a prompt of random tokens, read for the second time, and of NEW further
tokens one by one, the first few not counted. With "cpu" seconds are those of the processor, for a busy machine.

usage: python infer_llama_cpp.py FILE.gguf PROMPT NEW THREADS [cpu]
"""

import json
import random
import sys
import time
from collections.abc import Callable

import llama_cpp as llama

UNCOUNTED = 4


def main(path: str, prompt: int, new: int, threads: int, clock: Callable[[], float]) -> None:
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch = prompt + new, prompt
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)

    def seconds(tokens: list[int]) -> float:
        """Of one pass over tokens that follow those already in the cache."""
        ids = (llama.llama_token * len(tokens))(*tokens)
        began = clock()
        if code := llama.llama_decode(context, llama.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError(f"llama_decode returned {code}")
        llama.llama_synchronize(context)
        return clock() - began

    vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    ids = random.Random(0).choices(range(vocab_size), k=prompt)
    seconds(ids)
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    prefill = seconds(ids)
    steps = [seconds(ids[:1]) for _ in range(new)]
    decode = (new - UNCOUNTED) / sum(steps[UNCOUNTED:])
    print(json.dumps({"prefill_tok_s": prompt / prefill, "decode_tok_s": decode}))


if __name__ == "__main__":
    path, *counts = sys.argv[1:5]
    main(path, *map(int, counts), time.process_time if sys.argv[5:] == ["cpu"] else time.perf_counter)
