"""Continuations side by side: `python benchmarks/engine.py [--shape 110M] [--quantize int4] [--threads 2]`.

rows: tokens per second of 1, 4 and 16 continuations together, beside `stream` for the first. turn: seconds to the first
token of a prompt of 1,500 tokens, and of the same with an answer and 30 more. chat: the same of a conversation, and how
many tokens its second turn has and reuses. pages: bytes that texts of 20 to 2,000 tokens keep in pages, and in one
cache of padded rows. Random weights, greedy, medians; one JSON line.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from measure import machine

from fathom.anatomy.cost import cache_bytes
from fathom.backend.inference import prepare_for_inference
from fathom.backend.pages import page_bytes, pages_for
from fathom.bench.shapes import SHAPES, random_model
from fathom.generation.chat import Conversation
from fathom.generation.engine import Engine
from fathom.generation.generate import stream
from fathom.generation.options import GenerateOptions
from fathom.generation.paged import Paged
from fathom.generation.slots import Request
from fathom.model.transformer import Transformer
from fathom.quant.schemes import scheme_named
from fathom.tokenizer.characters import ByteTokenizer

BYTES = ByteTokenizer()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT = tuple(range(20))


def ask(ids: Sequence[int], new: int) -> Request:
    return Request(tuple(ids), GenerateOptions(temperature=0, max_new_tokens=new, past_context="stop"))


def rate(model: Transformer, rows: int, new: int) -> float:
    """Tokens per second once all rows are written."""
    engine = Engine(model, BYTES, Paged(model, rows * (new + 48)))
    for row in range(rows):
        engine.add(ask([*PROMPT, row], new))
    while len(engine.step()) < rows:
        pass
    first, start = engine.figures.new_tokens, time.perf_counter()
    while engine.figures.rows == rows:
        engine.step()
    return (engine.figures.new_tokens - first) / (time.perf_counter() - start)


def alone(model: Transformer, new: int) -> float:
    """The same of `stream`."""
    running = stream(model, BYTES, [PROMPT], temperature=0, max_new_tokens=new)
    running.collect()
    return running.stats.decode_rate


def turn(model: Transformer) -> tuple[float, float, int]:
    """Seconds to the first token of a first and of a second turn, and how many tokens of that one were reused."""
    engine, seconds = Engine(model, BYTES, Paged(model, 4096)), []
    text = [random.Random(1).randrange(256) for _ in range(1500)]
    for _ in range(2):
        slot = engine.add(ask(text, 16))
        start, events = time.perf_counter(), []
        while not events:
            events = engine.step()
        seconds.append(time.perf_counter() - start)
        while not engine.idle:
            engine.step()
        text = [*slot.ids, *range(30)]
    return seconds[0], seconds[1], slot.reused


def chat(model: Transformer) -> tuple[float, float, int, int]:
    """Seconds to the first token of a first and of a second turn of a conversation; how many tokens the second has, and
    how many of them were reused."""
    said = Conversation(model, BYTES, GenerateOptions(temperature=0, max_new_tokens=16, past_context="stop"))
    seconds = []
    for question in ("x" * 1480, "y" * 20):
        start = time.perf_counter()
        answer = said.say(question)
        next(answer)
        seconds.append(time.perf_counter() - start)
        list(answer)
    return seconds[0], seconds[1], answer.stats.prompt_tokens, answer.stats.reused_tokens


def kept(model: Transformer) -> tuple[int, int]:
    """Bytes of 64 texts in pages, and in a cache with room for the longest in each row."""
    order, dtype = random.Random(2), model.embed.weight.dtype
    lengths = [order.randrange(20, 2001) for _ in range(64)]
    in_pages = sum(map(pages_for, lengths)) * page_bytes(model.config, dtype)
    return in_pages, cache_bytes(model.config, 64, max(lengths), dtype.itemsize)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="110M", choices=[*SHAPES])
    parser.add_argument("--dtype", default="fp32", choices=[*DTYPES])
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = replace(SHAPES[given.shape], context_length=2048)
    scheme = None if given.quantize is None else scheme_named(given.quantize)
    model = prepare_for_inference(random_model(config, DTYPES[given.dtype], scheme=scheme))
    found: dict[str, Any] = {"stream": [], 1: [], 4: [], 16: []}
    turns, chats = [], []
    for _ in range(given.repeat):
        found["stream"].append(alone(model, given.new))
        for rows in (1, 4, 16):
            found[rows].append(rate(model, rows, given.new))
        turns.append(turn(model))
        chats.append(chat(model))
    rates = {str(name): round(statistics.median(rates), 1) for name, rates in found.items()}
    first, second = (round(statistics.median(column), 4) for column in list(zip(*turns))[:2])
    pages, padded = kept(model)
    chat_first, chat_second = (round(statistics.median(column), 4) for column in list(zip(*chats))[:2])
    print(json.dumps({
        **vars(given), "one_by_one": Paged(model, 16).one_by_one, "tokens_per_second": rates,
        "first_turn": first, "second_turn": second, "reused": turns[0][2],
        "chat": [chat_first, chat_second, *chats[0][2:]], "bytes_in_pages": pages,
        "bytes_padded": padded, "machine": machine(given.threads),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
