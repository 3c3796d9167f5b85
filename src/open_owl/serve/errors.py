"""Errors as OpenAI's interface tells them: a status, and {"error": {message, type, param, code}}."""

import math

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from open_owl.generate.answer import EngineFull

CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "unavailable",
}
TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: the HTTP status.
        message: what was wrong, where, and what to do.
        code: a short stable word for programs; where left out, the status's.
        param: the field that is wrong, e.g. `messages.0.content.1`.
        headers: more headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or CODES.get(status)
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error object."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def api_error(error: BaseException) -> ApiError:
    """Any error as one that a client may see; of a defect it tells nothing but that there is one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFull):
        seconds = str(max(1, math.ceil(error.retry_after)))
        return ApiError(429, str(error), headers={"Retry-After": seconds})
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    return ApiError(500, "something went wrong inside the server; its log has the error by X-Request-Id")


def invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a request's JSON."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the request is not JSON: {first['msg']}", code="invalid_json")
    param = ".".join(map(str, first["loc"]))
    return ApiError(422, f"{param}: {first['msg']}" if param else first["msg"], param=param or None)


def no_such_model(name: str, served: str) -> ApiError:
    message = f"there is no model {name!r} here; this is {served!r}"
    return ApiError(404, message, "model_not_found", "model")


async def show(_: Request, error: Exception) -> JSONResponse:
    """An exception handler."""
    return api_error(error).response()
