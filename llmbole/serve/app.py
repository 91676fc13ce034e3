"""The HTTP application over one recommender."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from llmbole import __version__
from llmbole.data.convert.report import DataError
from llmbole.inference.recommender import Query, Recommender
from llmbole.serve.limits import Gate, Limits
from llmbole.serve.schema import Answer, BodyError, Health, Info, Item, Problem, Refusal, Request, read
from llmbole.serve.worker import Worker
from llmbole.settings import SettingsError

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal} for status in (400, 408, 413, 415, 422, 429, 500)
}
REQUEST_BODY = {"required": True, "content": {"application/json": {"schema": Request.model_json_schema()}}}


def make_app(recommender: Recommender, limits: Limits | None = None) -> FastAPI:
    """The application.

    Args:
        recommender: The open run; the application's own thread asks it.
        limits: How much the service takes on.

    Returns:
        `POST /recommend`, `GET /health` and `GET /info`.
    """
    worker = Worker(recommender)

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    title = f"llmbole: {recommender.finished.model}"
    app = FastAPI(title=title, version=__version__, lifespan=working, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, limits=limits or Limits())
    _add_errors(app)

    @app.get("/health")
    async def health() -> Health:
        return Health(status="ok")

    @app.get("/info")
    async def info() -> Info:
        return _info(recommender)

    @app.post("/recommend", responses=REFUSALS, openapi_extra={"requestBody": REQUEST_BODY})
    async def recommend(request: HttpRequest) -> Answer:
        asked = read(request.headers.get("content-type"), await request.body())
        query = _query(recommender, asked)
        found = await asyncio.wrap_future(worker.ask(query))
        return Answer(items=[Item(**vars(each)) for each in found])

    return app


def _info(recommender: Recommender) -> Info:
    finished = recommender.finished
    return Info(
        model=finished.model,
        dataset=str(finished.settings["dataset"]["name"]),
        protocol=str(finished.settings["protocol"]["name"]),
        record=finished.record.id if finished.record is not None else None,
        users=len(recommender.people.ids),
        items=len(recommender.items),
        accepts_history=recommender.scorer.history_alone is None,
    )


class _FieldError(ValueError):
    """A request that the data or the method rule out."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _query(recommender: Recommender, asked: Request) -> Query:
    """What a request asks of the recommender; unknown ids are a _FieldError that names the field."""
    if asked.candidates is not None:
        _check(recommender, "candidates", asked.candidates)
    more: dict[str, Any] = {"k": asked.k, "items": asked.candidates, "with_seen": not asked.exclude_seen}
    if asked.user is not None:
        try:
            return recommender.query(asked.user, **more)
        except DataError as error:
            raise _FieldError("user", str(error)) from None
    assert asked.history is not None  # the schema wants one of both
    _check(recommender, "history", asked.history)
    try:
        return recommender.query_history(asked.history, **more)
    except (DataError, SettingsError) as error:
        raise _FieldError("history", str(error)) from None


def _check(recommender: Recommender, field: str, items: list[str]) -> None:
    for place, item in enumerate(items):
        if item not in recommender.items:
            raise _FieldError(f"{field}.{place}", f"the data set has no item {item!r}")
    if field == "candidates" and len(set(items)) < len(items):
        raise _FieldError(field, "an item stands twice; give each once")


def _refusal(status: int, found: list[Problem], headers: Any = None) -> JSONResponse:  # noqa: ANN401 - a mapping
    return JSONResponse(Refusal(problems=found).model_dump(), status_code=status, headers=headers)


def _add_errors(app: FastAPI) -> None:
    """Every error as problems with the field named, and none with a traceback."""

    @app.exception_handler(BodyError)
    async def malformed(request: HttpRequest, error: BodyError) -> JSONResponse:
        return _refusal(error.status, error.found)

    @app.exception_handler(_FieldError)
    async def ruled_out(request: HttpRequest, error: _FieldError) -> JSONResponse:
        return _refusal(422, [Problem(field=error.field, message=str(error))])

    @app.exception_handler(SettingsError)
    async def not_possible(request: HttpRequest, error: SettingsError) -> JSONResponse:
        return _refusal(422, [Problem(field="", message=str(error))])

    @app.exception_handler(HTTPException)
    async def no_such_thing(request: HttpRequest, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, [Problem(field="", message=str(error.detail))], error.headers)

    @app.exception_handler(Exception)
    async def failed(request: HttpRequest, error: Exception) -> JSONResponse:
        return _refusal(500, [Problem(field="", message="the service failed; its log says why")])
