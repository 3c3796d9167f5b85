"""A chat request as it comes over the wire: JSON, or a form with JSON and files."""

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from .errors import ApiError, invalid
from .protocol import ChatRequest

MAX_FIELDS = 64


async def read_chat_request(http: Request, max_body_bytes: int) -> tuple[ChatRequest, dict[str, bytes]]:
    """The request, and the bytes of the files in its form, by field and by file name.

    Raises:
        ApiError: 400 for what is not JSON, 415 for another content type, 422 for a field that does not fit.
    """
    http = Request(http.scope, http.receive)  # one keeps what it has read, and the other one lives on
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return parse(await http.body()), {}
    if kind == "multipart/form-data":
        return await _read_form(http, max_body_bytes)
    raise ApiError(
        415, f"the content type is {kind or 'not given'}; send application/json or multipart/form-data"
    )


def parse(text: str | bytes) -> ChatRequest:
    """JSON -> the request. Raises ApiError with what is wrong first."""
    try:
        return ChatRequest.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error) from None


async def _read_form(http: Request, max_body_bytes: int) -> tuple[ChatRequest, dict[str, bytes]]:
    text: str | bytes | None = None
    files: dict[str, bytes] = {}
    # The body's limit holds for the whole; a field may take all of it.
    options = {"max_files": MAX_FIELDS, "max_fields": MAX_FIELDS, "max_part_size": max_body_bytes}
    async with http.form(**options) as form:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if name == "request":
                text = content
            elif isinstance(value, UploadFile) and isinstance(content, bytes):
                files[name] = content
                files.setdefault(value.filename or name, content)
    if text is None:
        message = "the form has no field `request`; put the chat request's JSON there"
        raise ApiError(400, message, param="request")
    return parse(text), files
