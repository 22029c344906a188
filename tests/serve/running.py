"""A real server at a free port: in a thread of the test, with a tiny model of bytes, or as a process."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import uvicorn

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.model.transformer import Transformer
from fathom.serve import server as servers
from fathom.serve.connection import Connection
from fathom.serve.guard import MOST_HEAD
from fathom.serve.place import Place
from fathom.serve.served import Served
from fathom.serve.server import House, house
from fathom.serve.shelf import Shelf
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.protocol import Special, Tokenizer
from tests.architectures import LLAMA, model_of

MARKS = {"<|im_start|>": 0xFE, "<|im_end|>": 0xFD}  # bytes that are in no text
KEY = "a key of the tests"


def byte_tokenizer(chat: bool = True) -> Tokenizer:
    """Bytes, with ChatML's two special tokens."""
    tokenizer = ByteTokenizer()
    tokenizer.special = Special(eos=0xFD, names=MARKS) if chat else Special(eos=0xFD)
    return tokenizer


def tiny(seed: int = 0, context: int = 512) -> Transformer:
    torch.manual_seed(seed)
    return model_of(replace(LLAMA, vocab_size=256, context_length=context)).eval()


def served(chat: bool = True, adapters: tuple[str, ...] = (), context: int = 512, tokens: int = 1 << 14) -> Served:
    """A tiny random model called tiny, and adapters on it that change every answer."""
    model = tiny(context=context)
    for place, name in enumerate(adapters):
        lora.add(model, LoraOptions(rank=2), name, seed=place)
        for part in lora.wrapped(model, name).values():
            torch.nn.init.normal_(part.adapters[name].b, std=0.5)
    return Served("tiny", model.requires_grad_(False), byte_tokenizer(chat), tokens, dict(zip(adapters, adapters)))


@dataclass
class Running:
    """A server: where it listens, and what it is made of."""

    port: int
    house: House
    server: servers.Server
    lines: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self) -> Any:
        assert self.house.worker is not None
        return self.house.worker.engine


@contextmanager
def running(
    model: Served | None = None, before: Callable[[House], None] = lambda made: None, **place: Any
) -> Iterator[Running]:
    """The server while the block runs. before: called with what it is made of. place: fields of Place."""
    lines: list[str] = []
    here = Place("127.0.0.1", 0, "", **place)
    listening = here.bound()
    here.listen(listening)  # whoever calls before the thread is up waits
    port = listening.getsockname()[1]
    made = house(Shelf({}), model or served(), here, port, lines.append)
    before(made)
    config = uvicorn.Config(
        made.app,
        log_level="critical",
        h11_max_incomplete_event_size=MOST_HEAD,
        http=Connection,
        ws="none",
        lifespan="off",
    )
    server = servers.Server(config)
    server.worker = made.worker
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Running(port, made, server, lines)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def process(*served: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`fathom serve` of these arguments at a free port, and the port."""
    call = [sys.executable, "-m", "fathom", "serve", *served, "--port", "0", "--no-open"]
    made = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert made.stdout is not None
        first = made.stdout.readline()
        found = re.search(r":(\d+)/v1 as ", first)
        assert found, first
        yield made, int(found[1])
    finally:
        made.kill()
        made.wait()
