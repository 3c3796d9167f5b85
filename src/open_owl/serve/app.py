"""The server's routes; what they do is in the files beside this one."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from open_owl.generate.answer import EngineFull
from open_owl.generate.engine import Engine

from .chat import ChatService
from .errors import ApiError, no_such_model, show
from .media import MediaReader
from .metrics import Metrics
from .middleware import CHAT, Guard, Observed, Traffic
from .protocol import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    ErrorBody,
    Health,
    ModelCard,
    ModelList,
    Version,
)
from .settings import ServeSettings

SCHEMAS = "#/components/schemas/{model}"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)
}
CHAT_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": SCHEMAS.format(model="ChatRequest")}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["request"],
                "properties": {"request": {"type": "string", "description": "A ChatRequest as JSON."}},
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
    },
}


def create_app(engine: Engine, settings: ServeSettings, media: MediaReader) -> FastAPI:
    """The server as an ASGI application; `app.state.traffic` says what is in flight.

    The media reader is closed with it, the engine is not.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await media.close()

    metrics, traffic = Metrics(engine), Traffic()
    app = FastAPI(title="OpenOwl", version=version("open-owl"), lifespan=lifespan, redoc_url=None)
    app.state.traffic = traffic
    _add_chat(app, ChatService(engine, settings, media, metrics))
    _add_models(app, settings.model_name)
    _add_operations(app, metrics, traffic)
    _describe_requests(app)
    for kind in (ApiError, EngineFull, HTTPException):
        app.add_exception_handler(kind, show)
    # The last one added sees a request first.
    app.add_middleware(
        Guard, traffic=traffic, api_key=settings.api_key, max_body_bytes=settings.max_body_bytes
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Observed, metrics=metrics, traffic=traffic)
    return app


def _add_chat(app: FastAPI, service: ChatService) -> None:
    stream = {"schema": {"$ref": SCHEMAS.format(model="ChatCompletionChunk")}}
    responses = {200: {"model": ChatCompletion, "content": {"text/event-stream": stream}}, **ERRORS}

    @app.post(CHAT, responses=responses, openapi_extra={"requestBody": CHAT_BODY}, tags=["chat"])
    async def create_chat_completion(request: Request) -> Response:
        """Answers a conversation; in server-sent events where `stream` is true."""
        return await service.complete(request)


def _add_models(app: FastAPI, name: str) -> None:
    card = ModelCard(id=name, object="model", created=int(time.time()), owned_by="open-owl")

    @app.get("/v1/models", tags=["models"])
    async def list_models() -> ModelList:
        return ModelList(object="list", data=[card])

    @app.get("/v1/models/{model:path}", responses={404: {"model": ErrorBody}}, tags=["models"])
    async def get_model(model: str) -> ModelCard:
        if model != name:
            raise no_such_model(model, served=name)
        return card


def _add_operations(app: FastAPI, metrics: Metrics, traffic: Traffic) -> None:
    @app.get("/health", response_model=Health, responses={503: {"model": Health}}, tags=["operations"])
    async def health() -> Response:
        """503 while the server finishes its last answers, so that a proxy asks another."""
        status = "draining" if traffic.draining else "ok"
        return JSONResponse({"status": status}, 503 if traffic.draining else 200)

    @app.get("/metrics", response_class=Response, tags=["operations"])
    async def read_metrics() -> Response:
        """Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/version", tags=["operations"])
    async def read_version() -> Version:
        return Version(version=version("open-owl"))


def _describe_requests(app: FastAPI) -> None:
    """Adds to the OpenAPI page what routes read by themselves, which FastAPI does not see."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate().setdefault("components", {}).setdefault("schemas", {})
            for model in (ChatRequest, ChatCompletionChunk):
                described = model.model_json_schema(ref_template=SCHEMAS)
                schemas.update(described.pop("$defs", {}))
                schemas[model.__name__] = described
        return app.openapi_schema or {}

    app.openapi = openapi
