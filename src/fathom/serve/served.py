"""The model that the API answers with: its names, its adapters, its engine, and what a request asks of it."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fathom.adapters import lora
from fathom.adapters.load import adapter_names, load
from fathom.anatomy.cost import cache_bytes, n_parameters
from fathom.backend.inference import InferenceModel, cache_for, prepare_for_inference
from fathom.errors import FathomError, near
from fathom.generation.constraint import Constraint
from fathom.generation.engine import Engine
from fathom.generation.paged import Paged
from fathom.generation.recommended import recommended, with_recommended
from fathom.generation.slots import Request
from fathom.machine import free_memory
from fathom.model.transformer import Transformer
from fathom.quant.model import scheme_of
from fathom.serve.failures import Failure
from fathom.serve.shelf import Place
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.turns import with_template

ROWS = 64  # continuations that are written side by side
CHUNK = 128  # tokens of a prompt between two steps of the others
SHARE = 4  # of the memory that is free, the part that pages may take
PAGE = 16  # tokens of a page


@dataclass(eq=False)
class Served:
    """A model with its tokenizer as the API knows them. adapters: their names here, and those in the model."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    tokens: int  # that may be in flight
    adapters: Mapping[str, str] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.with_turns = with_template(self.tokenizer)
        self.vocab_size = min(self.tokenizer.vocab_size, self.model.config.vocab_size)
        self.context = self.model.config.context_length
        self.settings, self.unknown = recommended(self.tokenizer.special.generation)

    @property
    def names(self) -> list[str]:
        return [self.name, *self.adapters]

    def engine(self) -> Engine:
        """The engine that writes with this model. Its pages are taken now."""
        choose = partial(lora.per_row, self.model) if self.adapters else None
        reader = Paged(self.model, self.tokens, chunk=CHUNK)
        return Engine(self.model, self.with_turns, reader, rows=ROWS, choose_adapters=choose)

    def adapter(self, name: str | None) -> str | None:
        """The adapter that a model's name means; None: the model itself. Failure: nothing is called so."""
        if name is None or name == self.name:
            return None
        if name not in self.adapters:
            said = f"no model is called {name!r:.100}{near(name[:100], self.names, then='served')} are "
            raise Failure(said + ", ".join(self.names), 404, "model", "model_not_found")
        return self.adapters[name]

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens may follow a prompt. Failure: it is too long."""
        most = min(self.context, self.tokens)
        if len(ids) > most:
            what = "the context is" if most == self.context else "the server holds"
            said = f"the prompt has {len(ids):,} tokens and {what} {most:,}; send a shorter one"
            raise Failure(said, 400, "messages" if most == self.context else None, "context_length_exceeded")
        return most - len(ids) + (most == self.context)

    def requests(
        self,
        ids: Sequence[int],
        asked: Mapping[str, Any],
        adapter: str | None,
        constraints: Sequence[Constraint | None],
        begin: int = 0,
    ) -> list[Request]:
        """A request to the engine for each of the constraints, one for each continuation. asked: fields of
        GenerateOptions, and `top`. begin: the index of the first."""
        given = {name: value for name, value in asked.items() if name != "top"}
        given |= {"stop": (*given.get("stop", ()), *self.settings.get("stop", ())), "past_context": "stop"}
        given["max_new_tokens"] = max(1, min(self.room(ids), given.get("max_new_tokens") or self.context))
        options = with_recommended(given, {name: self.settings[name] for name in self.settings if name != "stop"})
        return [
            Request(tuple(ids), options, adapter, constraint, index, asked.get("top", 0))
            for index, constraint in enumerate(constraints, begin)
        ]

    def score(self, ids: Sequence[int], adapter: str | None) -> Iterator[list[float] | None]:
        """None after each chunk that is read; at last ln of the probability of every token but the first."""
        device, found = self.model.embed.weight.device, list[float]()
        cache = cache_for(self.model, 1, len(ids))
        cache.horizon = len(ids)
        for start in range(0, len(ids) - 1, CHUNK):
            chunk = torch.tensor([ids[start : min(start + CHUNK, len(ids) - 1)]], device=device)  # (1, t)
            after = torch.tensor([ids[start + 1 : start + 1 + chunk.shape[1]]], device=device)  # (1, t)
            with torch.no_grad(), self.choosing(adapter):
                logits = self.model.unembed(self.model.hidden(chunk, cache))[..., : self.vocab_size].float()
                found += logits.log_softmax(-1).gather(2, after[..., None]).flatten().tolist()
            yield None
        if not all(map(math.isfinite, found)):
            raise FathomError("the model's logits are not finite; its weights are damaged or its dtype is too narrow")
        yield found

    def choosing(self, adapter: str | None) -> Any:
        """The model with this adapter, or with none."""
        return lora.per_row(self.model, [adapter]) if self.adapters else torch.no_grad()

    def card(self, name: str) -> dict[str, Any]:
        """What a model of this name is, as JSON values."""
        config = self.model.config
        return {
            "parameters": n_parameters(config),
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "n_layer": config.n_layer,
            "d_model": config.d_model,
            "quantization": scheme_of(self.model) or str(self.model.embed.weight.dtype).removeprefix("torch."),
            "base": None if name == self.name else self.name,
            "adapters": list(self.adapters) if name == self.name else [],
        }

    def describe(self) -> list[str]:
        """What serving this means, in lines."""
        each = per_token(self.model)
        how = f", {self.model.status}" if isinstance(self.model, InferenceModel) else ""
        card = self.card(self.name)
        lines = [f"model {self.name}: {card['parameters']:,} parameters, {card['quantization']}{how}"]
        lines += [f"adapter {name}" for name in self.adapters]
        lines.append(
            f"pages: {math.ceil(self.tokens / PAGE):,} of {PAGE} tokens, {self.tokens * each / 2**20:,.1f} MiB for"
            f" {self.tokens:,} tokens in flight; context {self.context:,}"
        )
        if self.unknown:
            lines.append(f"the model's generation settings that are not followed: {', '.join(self.unknown)}")
        return lines


def per_token(model: Transformer) -> int:
    """Bytes that a token takes in the cache."""
    return cache_bytes(model.config, 1, 1, model.embed.weight.dtype.itemsize)


def budget(model: Transformer, asked: int | None) -> int:
    """Tokens in flight: as asked, else a context for every row as far as a quarter of the free memory goes.
    FathomError: there is no memory for what was asked."""
    each, free, context = per_token(model), free_memory(model.embed.weight.device), model.config.context_length
    if asked is not None:
        if free is not None and asked * each > free:
            raise FathomError(
                f"--max-tokens-in-flight {asked:,} needs {asked * each / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB"
                f" are free; give at most {free // max(each, 1):,}"
            )
        return asked
    fits = ROWS * context if free is None or not each else free // SHARE // each
    return max(min(ROWS * context, fits), min(context, 2048), PAGE)


def open_served(place: Place, name: str, adapters: Mapping[str, str], tokens: int | None = None) -> Served | None:
    """The model of a place under a name, prepared for inference, with adapters as rows of one engine; None: it has no
    tokenizer. FathomError: it cannot be read, an adapter is another model's, or there is no memory."""
    folders = [Path(folder) for folder in adapters.values()]
    network, tokenizer = load(place.path, quantize=place.quantize, adapter=folders or None)
    if tokenizer is None:
        return None
    inside = dict(zip(adapters, adapter_names(folders)))
    network = prepare_for_inference(network.eval())
    return Served(name, network, tokenizer, budget(network, tokens), inside)
