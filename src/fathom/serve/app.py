"""The routes of the page. What they answer is computed in fathom.glass; nothing here knows a panel."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from fathom.errors import FathomError
from fathom.glass.document import page
from fathom.glass.texts import explained, tour
from fathom.serve.desk import Desk, Gone, first_prompt
from fathom.serve.guard import App, Guard, Rules
from fathom.serve.runs import add_runs
from fathom.serve.shelf import Shelf
from fathom.serve.worker import InTurn

MOST_CHARACTERS = 100_000  # of a prompt


class Ask(BaseModel):
    """A prompt for a model, and for another beside it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    beside: str | None = None
    prompt: str = Field(max_length=MOST_CHARACTERS)
    seed: int = Field(0, ge=0, lt=2**63)


class Continue(BaseModel):
    """A pass to be continued; other fields are the options of fathom.glass.generation."""

    model_config = ConfigDict(extra="allow", strict=True)
    id: str = Field(alias="pass")
    side: str = "A"


def application(shelf: Shelf, hosts: frozenset[str], prompt: str = "") -> App:
    """The guarded page of these models, without the API. hosts: what the Host header may be."""
    token = secrets.token_urlsafe(32)
    return Guard(page_application(shelf, token, prompt), None, Rules(hosts, token))


def page_application(shelf: Shelf, token: str, prompt: str | None = "", turn: InTurn | None = None) -> FastAPI:
    """The page of these models. token: what its requests carry. prompt: what the page shows first; None: the first that
    the model can read. turn: shared with what else runs models."""
    desk = Desk(shelf, turn)
    app = FastAPI(title="Fathom", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk, app.state.token = desk, token

    @app.exception_handler(FathomError)
    async def one_line(_: Request, error: FathomError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 410 if isinstance(error, Gone) else 400)

    @app.exception_handler(RequestValidationError)
    async def named_field(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        status = 413 if first["type"] == "string_too_long" else 400
        return JSONResponse({"error": f"{where}: {first['msg']}"}, status)

    @app.get("/")
    async def home() -> HTMLResponse:
        shown = await desk.work(first_prompt, shelf.open, shelf.names()[0]) if prompt is None else prompt
        values = {"live": True, "token": token, "prompt": shown, "models": shelf.names(), "runs": bool(shelf.runs)}
        values |= {"about": explained(), "tour": tour()}
        return HTMLResponse(page("Fathom", values, connect="'self'"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/models")
    async def models() -> dict[str, Any]:
        return {"models": shelf.plain(), "runs_folder": shelf.runs is not None}

    @app.post("/api/pass")
    async def run(ask: Ask) -> dict[str, Any]:
        return await desk.show(ask.model, ask.beside, ask.prompt, ask.seed)

    @app.post("/api/generate")
    async def generate(ask: Continue) -> StreamingResponse:
        started = await desk.work(desk.generate, ask.id, ask.side, ask.model_extra or {})
        return streamed(desk.steps(started))

    @app.get("/api/tour")
    async def stops(request: Request) -> list[dict[str, Any]]:
        place = ["live", *["runs"] * (shelf.runs is not None)]
        return await desk.work(desk.tour, request.query_params.get("pass", ""), place)

    @app.get("/api/panel/{name}")
    async def panel(name: str, request: Request) -> Response:
        values = dict(request.query_params)
        id, side = values.pop("pass", ""), values.pop("side", "A")
        blob = await desk.work(desk.panel, name, id, side, values)
        return Response(blob, media_type="application/octet-stream")

    app.state.starter = add_runs(app, shelf.runs)
    return app


async def lines(items: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    """JSON values, one a line; a mistake on the way is the last line."""
    try:
        async for item in items:
            yield json.dumps(item).encode() + b"\n"
    except FathomError as error:
        yield json.dumps({"error": str(error)}).encode() + b"\n"


def streamed(items: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    return StreamingResponse(lines(items), media_type="application/x-ndjson")
