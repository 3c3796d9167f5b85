"""A chat request -> the messages and the sampling that the engine takes; what it cannot do is refused."""

from collections.abc import Mapping
from typing import Any

from open_owl.generate.sampling import Sampling

from .errors import ApiError
from .media import MediaReader, MediaRefused
from .media_policy import pixels_of
from .protocol import ChatRequest, MediaUrl, Part

TEXT, IMAGES, VIDEOS = "text", ("image_url", "image"), ("video_url", "video")

Files = Mapping[str, bytes]
Fetched = Mapping[str, bytes | MediaRefused]


def refuse_unsupported(request: ChatRequest) -> None:
    """Raises ApiError for fields that would change the answer and cannot be followed; others are ignored."""
    asked: dict[str, Any] = request.model_extra or {}
    tool_choice = asked.get("tool_choice")
    harmless = {
        "tools": not asked.get("tools") or tool_choice == "none",
        "tool_choice": tool_choice in (None, "none", "auto"),
        "functions": not asked.get("functions"),
        "function_call": asked.get("function_call") in (None, "none", "auto"),
        "response_format": asked.get("response_format") in (None, {"type": "text"}),
        "modalities": asked.get("modalities") in (None, ["text"]),
        "audio": asked.get("audio") is None,
        "frequency_penalty": not asked.get("frequency_penalty"),
        "presence_penalty": not asked.get("presence_penalty"),
        "logit_bias": not asked.get("logit_bias"),
    }
    for name, is_harmless in harmless.items():
        if not is_harmless:
            instead = "; use repetition_penalty" if name.endswith("_penalty") else ""
            raise ApiError(
                400,
                f"{name} is not supported by this server{instead}; leave it out",
                "unsupported_parameter",
                name,
            )
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")


def samplings(request: ChatRequest, max_new_tokens: int) -> list[Sampling]:
    """One for each of the n answers; with a seed, each has a seed of its own.

    Args:
        max_new_tokens: where the request does not say.
    """
    # A share of 0 leaves the likeliest token alone: greedy, whatever the temperature.
    temperature = 0.0 if request.top_p == 0 else request.temperature or 0.0
    options: dict[str, Any] = {
        "max_new_tokens": request.max_completion_tokens or request.max_tokens or max_new_tokens,
        "temperature": temperature,
        "stop": tuple(request.stop or ()),
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
    }
    if request.top_k is not None:
        options["top_k"] = max(0, request.top_k)
    for name in ("top_p", "min_p", "repetition_penalty"):
        if getattr(request, name):
            options[name] = getattr(request, name)
    seeds = [None if request.seed is None else request.seed + index for index in range(request.n or 1)]
    return [Sampling(**options, seed=seed) for seed in seeds]


async def read_conversation(
    request: ChatRequest, media: MediaReader, files: Files, fetched: Fetched
) -> list[dict[str, Any]]:
    """Messages with their pictures and videos read.

    Args:
        files: sent along, by name; fetched: by URL.

    Raises:
        ApiError: a part that is not known, or media that is refused; `param` says which part.
    """
    messages, pixels = [], 0
    for number, message in enumerate(request.messages):
        content = []
        for place, part in enumerate(message.content):
            where = f"messages.{number}.content.{place}"
            content.append(await _read_part(part, where, media, files, fetched))
            pixels += pixels_of(content[-1])
            try:
                media.policy.refuse_too_large(pixels)
            except MediaRefused as error:
                raise _refused(error, where) from error
        messages.append({"role": message.role, "content": content})
    return messages


def shows_media(request: ChatRequest) -> bool:
    return any(part.type != TEXT for message in request.messages for part in message.content)


def remote_urls(request: ChatRequest, media: MediaReader) -> list[str]:
    """Those that are to be fetched before the conversation is read."""
    parts = (part for message in request.messages for part in message.content if part.type != TEXT)
    return [address for part in parts if (address := _address(part)) and media.is_remote(address)]


def _address(part: Part) -> str | None:
    """The URL, path or data URI that a picture or video is named by, if it is."""
    if part.type in ("image_url", "video_url"):
        named: MediaUrl | None = getattr(part, part.type)
        return None if named is None else named.url
    return part.url if part.file is None else None


def refuse_too_many(request: ChatRequest, media: MediaReader) -> None:
    """Before any is fetched or read. Raises ApiError."""
    types = [part.type for message in request.messages for part in message.content]
    images, videos = (sum(kind in kinds for kind in types) for kinds in (IMAGES, VIDEOS))
    try:
        media.policy.refuse_too_many(images, videos)
    except MediaRefused as error:
        raise ApiError(400, str(error), error.reason, "messages") from error


async def _read_part(
    part: Part, where: str, media: MediaReader, files: Files, fetched: Fetched
) -> dict[str, Any]:
    try:
        if part.type == TEXT:
            return {"type": "text", "text": _named(part.text, "text", where)}
        if part.type in IMAGES:
            return {"type": "image", "image": await media.read_image(_source(part, where, files, fetched))}
        if part.type in VIDEOS:
            return {"type": "video", "video": await media.read_video(_source(part, where, files, fetched))}
    except MediaRefused as error:
        raise _refused(error, where) from error
    known = ", ".join((TEXT, *IMAGES, *VIDEOS))
    raise ApiError(
        400, f"{where}: a part of type {part.type!r} is not supported; use {known}", "unsupported_part", where
    )


def _refused(error: MediaRefused, where: str) -> ApiError:
    return ApiError(400, f"{where}: {error}", error.reason, where)


def _source(part: Part, where: str, files: Files, fetched: Fetched) -> str | bytes:
    """What the part names: a path or data URI, or the bytes of a file sent along or fetched."""
    address = _address(part)
    if address is not None:
        found = fetched.get(address, address)
        if isinstance(found, MediaRefused):
            raise found
        return found
    if part.type in ("image_url", "video_url") or part.file is None:
        return _named(None, part.type if part.type.endswith("_url") else "url", where)
    if part.file not in files:
        sent = ", ".join(sorted(files)) or "none"
        raise ApiError(
            400, f"{where}: no file {part.file!r} was sent in the form (sent: {sent})", "missing_file", where
        )
    return files[part.file]


def _named(value: Any, field: str, where: str) -> Any:
    if value is None:
        raise ApiError(400, f"{where}: a part of this type needs `{field}`", param=f"{where}.{field}")
    return value
