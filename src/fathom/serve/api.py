"""The routes of the API: OpenAI's, and those for tokens and scores. Each reads its request, hands it to the engine, and
answers in OpenAI's shape."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException as Refused
from starlette.types import Receive, Scope, Send

from fathom import __version__
from fathom.errors import FathomError, near
from fathom.generation.constraint import spelling
from fathom.generation.generate import prompt_ids
from fathom.serve import prompts, schema
from fathom.serve.answers import Answering, Choice, Spelling
from fathom.serve.calls import Convention
from fathom.serve.failures import Failure, Fault, of
from fathom.serve.metrics import Metrics
from fathom.serve.schema import Chat, Complete, Detokenize, Generation, Score, Tokenize
from fathom.serve.served import Served
from fathom.serve.strict import read_json
from fathom.serve.worker import Job, Worker
from fathom.tokenizer.typed import uniform

T = TypeVar("T")
Log = Callable[[str], None]
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problems} for status in (400, 401, 403, 404, 405, 413, 415, 429, 500, 503)
}
STREAMED = {**FAILURES, 200: {"content": {"text/event-stream": {}}}}
BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Complete,
    "/tokenize": Tokenize,
    "/detokenize": Detokenize,
    "/v1/score": Score,
}


class StrictRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except FathomError as problem:
            raise HTTPException(400, str(problem)) from None


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class Events(StreamingResponse):
    """Server-sent events. end: called when the last is sent, or nobody listens any more."""

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


class Left(Exception):
    """Nobody waits for the answer any more."""


class Api:
    """What the routes share: the model, the worker, and two threads that read prompts and compile grammars."""

    def __init__(self, served: Served, worker: Worker, log: Log) -> None:
        self.served, self.worker, self.log = served, worker, log
        self.metrics = Metrics(lambda: worker.engine.figures)
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="prompts")
        special = served.tokenizer.special
        marks = {id: text for text, id in special.names.items() if not served.tokenizer.decode_bytes([id])}
        ends = served.with_turns.special.end_ids
        marks = {id: text for id, text in marks.items() if id not in ends}
        self.bytes_of, self.ends, self.marks = spelling(served.tokenizer), ends, marks

    async def aside(self, function: Callable[..., T], *given: Any) -> T:
        """The function's result, computed in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *given)

    async def answer(self, request: Request, asked: Generation) -> Response:
        """A request for text, whole or streamed."""
        adapter = self.served.adapter(asked.model)
        job = self.worker.enter(asked.count)  # who is too many is told before their prompt is read
        try:
            requests, tokens, logprobs, convention = await self.aside(self.prepare, asked, adapter)
        except BaseException:
            self.worker.cancel(job)
            raise
        self.worker.submit(job, requests)
        chat = isinstance(asked, Chat)
        symbols = convention.symbols() if convention else []
        marks = {id: text for id, text in self.marks.items() if text in symbols}
        spelled = Spelling(self.bytes_of, self.ends, marks)
        choices = [Choice(place, spelled, chat, logprobs, convention) for place in range(job.count)]
        answering = Answering(job, choices, asked.model, tokens, chat)
        if not asked.stream:
            try:
                return JSONResponse(await unless_left(request, answering.whole()))
            finally:
                self.end(request, answering)
        try:
            first = await unless_left(request, anext(job))
        except BaseException:
            self.end(request, answering)
            raise
        return Events(answering.events(first, asked.usage_wanted), lambda: self.end(request, answering))

    def prepare(self, asked: Generation, adapter: str | None) -> tuple[list[Any], int, bool, Convention | None]:
        """(requests to the engine, tokens of the prompts, whether logprobs are shown, how calls are told apart)."""
        served, given = self.served, prompts.options(self.served, asked)
        if isinstance(asked, Chat):
            texts, logprobs, top = [prompts.chat_ids(served, asked)], bool(asked.logprobs), asked.top_logprobs or 0
            if top and not logprobs:
                raise Failure("top_logprobs is given without logprobs; set logprobs to true", param="top_logprobs")
        else:
            assert isinstance(asked, Complete)
            texts, logprobs, top = prompts.text_ids(served, asked), asked.logprobs is not None, asked.logprobs or 0
        for ids in texts:
            served.room(ids)
        grammar = prompts.grammar_of(served, asked)
        requests = []
        for place, ids in enumerate(texts):
            begin = place * (asked.n or 1)
            masks = [grammar.start() if grammar else None for _ in range(asked.n or 1)]
            requests += served.requests(ids, {**given, "top": top}, adapter, masks, begin)
        return requests, sum(map(len, texts)), logprobs, prompts.listening(served, asked)

    def end(self, request: Request, answering: Answering) -> None:
        """Free what is left of a job, count it, and write its line."""
        job = answering.job
        self.worker.cancel(job)
        self.metrics.observe(job)
        self.log(line(request, answering, job))

    def count(self, path: str, status: int) -> None:
        """An answer, for the metrics: by its route, so that no path of a stranger becomes a name."""
        known = path in BODIES or path in ("/v1/models", "/health", "/metrics")
        self.metrics.requests.labels(path if known else "other", str(status)).inc()

    async def score(self, asked: Score) -> dict[str, Any]:
        served = self.served
        adapter = served.adapter(asked.model)
        if (asked.text is None) == (asked.tokens is None):
            raise Failure("expected either text or tokens", param="text")
        ids = await self.aside(prompt_ids, served.tokenizer, asked.tokens or asked.text or "", served.vocab_size)
        if len(ids) > served.context:
            said = f"the text has {len(ids):,} tokens and the context is {served.context:,}; send a shorter one"
            raise Failure(said, param="text", code="context_length_exceeded")
        found = await self.worker.read(served.score(ids, adapter))
        return {
            "model": asked.model or served.name,
            "tokens": ids,
            "pieces": self.pieces(ids),
            "logprobs": [None, *found],
            "total": sum(found),
            "mean": sum(found) / len(found) if found else None,
        }

    def pieces(self, ids: list[int]) -> list[str]:
        return [text.decode("utf-8", "replace") for text in self.served.tokenizer.token_bytes(ids)]

    def tokenize(self, asked: Tokenize) -> dict[str, Any]:
        tokenizer, text = self.served.tokenizer, uniform(asked.text)
        ids = (tokenizer.prefix if asked.add_special else []) + tokenizer.encode(text)
        pieces = self.pieces(ids)
        return {"tokens": ids, "pieces": pieces, "count": len(ids), "max_model_len": self.served.context}

    def cards(self) -> list[dict[str, Any]]:
        served = self.served
        shared = {"object": "model", "created": served.created, "owned_by": "fathom"}
        return [{"id": name, **shared, "card": served.card(name)} for name in served.names]


async def unless_left(request: Request, answer: Awaitable[T]) -> T:
    """The answer. Left: the client has gone before it came."""
    work, left = asyncio.ensure_future(answer), asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Left
        return work.result()
    finally:
        left.cancel()
        work.cancel()


async def gone(request: Request) -> None:
    """Return once the client has."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def line(request: Request, answering: Answering, job: Job) -> str:
    """What happened to a request, without a word of it."""
    seconds = time.monotonic() - job.began
    whole = all(choice.finish for choice in answering.choices)
    first = f"first after {job.first - job.began:.3f} s" if job.first else "none came"
    rate = f", {(job.tokens - 1) / (job.last - job.first):,.1f} tokens/s" if job.last > job.first else ""
    return (
        f"{request.url.path} {answering.model}: prompt {answering.prompt_tokens:,} ({job.reused:,} reused),"
        f" new {job.tokens:,}, {first}{rate}, {seconds:.3f} s{'' if whole else ', not to its end'}"
    )


def add_failures(app: FastAPI) -> None:
    """Every mistake in OpenAI's shape."""

    def told(failure: Failure) -> JSONResponse:
        return JSONResponse(failure.body(), failure.status, failure.headers)

    @app.exception_handler(FathomError)
    async def one_line(_: Request, error: FathomError) -> JSONResponse:
        return told(of(error))

    @app.exception_handler(Left)
    async def nobody(_: Request, error: Left) -> JSONResponse:
        return told(Failure("the client has gone", 499))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        routes = {path for route in app.routes if (path := getattr(route, "path", ""))}
        said = str(error.detail)
        if error.status_code == 404:
            said = f"there is no {request.url.path[:200]!r}{near(request.url.path[:200], routes, then='routes')} are "
            said += ", ".join(sorted(routes))
        return told(Failure(said, error.status_code))

    @app.exception_handler(RequestValidationError)
    async def named_field(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][1:]]
        param = ".".join(where) or None
        said = f"{param or 'the body'}: {first['msg']}"
        if first["type"] == "extra_forbidden" and len(where) == 1:
            known = schema.names(BODIES[request.url.path])
            said = f"unknown field {where[0]!r:.80}{near(where[0][:80], known, then='fields')} are {', '.join(known)}"
        return told(Failure(said, 413 if first["type"] == "string_too_long" else 400, param))

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> JSONResponse:
        return told(Fault(error))


def application(served: Served, worker: Worker, log: Log) -> FastAPI:
    """The API of a model."""
    app = FastAPI(title="Fathom", version=__version__, docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    api = Api(served, worker, log)
    app.state.api = api
    add_failures(app)

    @app.post("/v1/chat/completions", response_model=schema.Answer, responses=STREAMED)
    async def chat(request: Request, asked: Chat) -> Response:
        return await api.answer(request, asked)

    @app.post("/v1/completions", response_model=schema.Answer, responses=STREAMED)
    async def complete(request: Request, asked: Complete) -> Response:
        return await api.answer(request, asked)

    @app.post("/v1/score", response_model=schema.Scored, responses=FAILURES)
    async def score(asked: Score) -> dict[str, Any]:
        return await api.score(asked)

    @app.post("/tokenize", response_model=schema.Tokenized, responses=FAILURES)
    async def tokenize(asked: Tokenize) -> dict[str, Any]:
        served.adapter(asked.model)
        return await api.aside(api.tokenize, asked)

    @app.post("/detokenize", response_model=schema.Detokenized, responses=FAILURES)
    async def detokenize(asked: Detokenize) -> dict[str, str]:
        served.adapter(asked.model)
        return {"text": await api.aside(served.tokenizer.decode, asked.tokens)}

    @app.get("/v1/models", response_model=schema.Cards, responses=FAILURES)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": api.cards()}

    @app.get("/v1/models/{name:path}", response_model=schema.Card, responses=FAILURES)
    async def model(name: str) -> dict[str, Any]:
        served.adapter(name)
        return next(card for card in api.cards() if card["id"] == name)

    @app.get("/health", response_model=schema.Health, responses=FAILURES)
    async def health() -> dict[str, str]:
        return {"status": "stopping" if worker.stopping else "ok"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=FAILURES)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(api.metrics.text(), media_type="text/plain; version=0.0.4")

    return app
