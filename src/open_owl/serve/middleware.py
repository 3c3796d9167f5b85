"""What surrounds every request: its id, its line in the log, its count; the key, the limit, the drain."""

import asyncio
import base64
import binascii
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .logs import event, log
from .metrics import Metrics

CHAT = "/v1/chat/completions"
COUNTED = (CHAT, "/v1/models", "/health", "/metrics", "/version")  # any other path counts as "other"
OPEN_TO_ALL = "/health"
OPEN_WHILE_DRAINING = ("/health", "/metrics")
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Exchange:
    """One request and its response; `fields` are written to the log at its end."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    status: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.monotonic() - self.started


@dataclass
class Traffic:
    """in_flight: requests whose response has not ended; draining: only those are still served."""

    in_flight: int = 0
    draining: bool = False


class Observed:
    """Gives every request an id, answers defects with an error object, and logs and counts what happened."""

    def __init__(self, app: ASGIApp, metrics: Metrics, traffic: Traffic):
        self.app = app
        self.metrics = metrics
        self.traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(_request_id(Headers(scope=scope)))
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = exchange.request_id
            await send(message)

        self.traffic.in_flight += scope["path"].startswith("/v1/")
        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not self.traffic.draining:
                raise
            # The server has stopped and cuts what is open still, such as a web page's: that is no error.
        except Exception:
            log.exception("error", extra={"fields": {"request_id": exchange.request_id}})
            if exchange.status is not None:
                raise  # too late for an error object; uvicorn cuts the connection
            await ApiError(500, DEFECT).response()(scope, receive, send_with_id)
        finally:
            self.traffic.in_flight -= scope["path"].startswith("/v1/")
            self._note(scope, exchange)

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        path = scope["path"]
        known = next((known for known in COUNTED if path == known or path.startswith(f"{known}/")), "other")
        self.metrics.requests.labels(known, str(exchange.status)).inc()
        if path == CHAT:
            self.metrics.request_seconds.observe(exchange.seconds)
        if path in OPEN_WHILE_DRAINING and exchange.status == 200:
            return  # asked every few seconds
        event(
            "request",
            request_id=exchange.request_id,
            method=scope["method"],
            path=path,
            status=exchange.status,
            client=(scope.get("client") or [None])[0],
            seconds=round(exchange.seconds, 4),
            **exchange.fields,
        )


DEFECT = "something went wrong inside the server; its log has the error by X-Request-Id"


def _request_id(headers: Headers) -> str:
    """The client's own where it is fit for a log and a header; else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class Guard:
    """Lets through who has the key, while the server takes requests, and no more of a body than it reads."""

    def __init__(self, app: ASGIApp, traffic: Traffic, api_key: str | None, max_body_bytes: int):
        self.app = app
        self.traffic = traffic
        self.api_key = api_key
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _check(self, path: str, headers: Headers) -> None:
        if path != OPEN_TO_ALL and self.api_key is not None and not _has_key(headers, self.api_key):
            # Browsers ask for a user and a password on seeing `Basic`: any user, and the key.
            raise ApiError(
                401,
                "the API key is missing or wrong; send `Authorization: Bearer KEY`",
                headers={"WWW-Authenticate": 'Bearer, Basic realm="open-owl"'},
            )
        if self.traffic.draining and path not in OPEN_WHILE_DRAINING:
            raise ApiError(
                503,
                "the server is stopping and takes no new requests; ask another, or again later",
                "draining",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.max_body_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """`receive`, counting: a body in chunks does not say its length.

        Starlette's RequestBodyLimitMiddleware answers in plain text; here every error is an error object.
        """
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request has more than the {self.max_body_bytes} bytes that are read here")


def _has_key(headers: Headers, key: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    given = given.strip()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(given.encode(), key.encode())
