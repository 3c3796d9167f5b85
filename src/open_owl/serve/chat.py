"""`POST /v1/chat/completions`: from the request to the engine, and from the engine's thread to the client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse

from open_owl.generate.answer import Answer, Piece
from open_owl.generate.engine import Engine
from open_owl.generate.sampling import Sampling

from .completion import Completion, finish_reason, sent_event
from .conversation import (
    Fetched,
    Files,
    read_conversation,
    refuse_too_many,
    refuse_unsupported,
    remote_urls,
    samplings,
    shows_media,
)
from .errors import ApiError, api_error, no_such_model
from .logs import log, shown
from .media import MediaReader
from .metrics import Metrics
from .middleware import Exchange
from .protocol import ChatRequest
from .reading import read_chat_request
from .settings import ServeSettings

T = TypeVar("T")
CLIENT_GONE = 499  # nobody reads it but the log


class ChatService:
    """Answers chat requests.

    Args:
        media: opens pictures and videos.
        metrics: counts how answers end, and how long the first word takes.
    """

    def __init__(self, engine: Engine, settings: ServeSettings, media: MediaReader, metrics: Metrics):
        self.engine = engine
        self.settings = settings
        self.media = media
        self.metrics = metrics

    async def complete(self, http: Request) -> Response:
        """The response to a request. Raises ApiError or EngineFull where there is none."""
        exchange: Exchange = http.state.exchange
        try:
            answers, completion, is_stream = await self._begin(http, exchange)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        turn = Turn(answers, completion, exchange, self.metrics, self.settings.log_content)
        return TurnStream(turn) if is_stream else await turn.whole(http)

    async def _begin(self, http: Request, exchange: Exchange) -> tuple[list[Answer], Completion, bool]:
        """The answers, how they are told, and whether as a stream.

        Of the request nothing else is left: its pictures would lie in memory as long as an answer takes.
        """
        request, files = await self._read(http, exchange)
        async with contextlib.AsyncExitStack() as held:
            if shows_media(request):
                opening = self._open(request, files, exchange, held)
                messages = await _unless_left(http, opening)
            else:
                messages = await read_conversation(request, self.media, files, {})
            left = max(0.0, self.settings.seconds_per_request - exchange.seconds)
            answers = await self._submit(messages, samplings(request, self.settings.max_new_tokens), left)
        completion = Completion(
            self.settings.model_name,
            with_logprobs=bool(request.logprobs),
            with_usage=bool(request.stream_options and request.stream_options.include_usage),
        )
        return answers, completion, bool(request.stream)

    async def _read(self, http: Request, exchange: Exchange) -> tuple[ChatRequest, Files]:
        """The request and the files that came with it, none of them opened."""
        seconds = self.settings.seconds_per_request
        try:
            async with asyncio.timeout(seconds - exchange.seconds):
                request, files = await read_chat_request(http, self.settings.max_body_bytes)
        except TimeoutError:
            raise ApiError(408, f"the request was not read whole within {seconds:g} s") from None
        if self.settings.log_content:
            exchange.fields["messages"] = shown(request.messages)
        refuse_unsupported(request)
        self.check_model(request.model)
        return request, files

    async def _open(
        self, request: ChatRequest, files: Files, exchange: Exchange, held: contextlib.AsyncExitStack
    ) -> list[dict[str, Any]]:
        """Messages with what they show; `held` is left when that is let go."""
        seconds = self.settings.seconds_per_request
        fetched: Fetched = {}
        self.engine.refuse_if_full()
        refuse_too_many(request, self.media)
        try:
            async with asyncio.timeout(seconds - exchange.seconds):
                if urls := remote_urls(request, self.media):
                    await held.enter_async_context(self.media.fetching())
                    fetched = await self.media.fetch(urls)
                await held.enter_async_context(self.media.opening())
                return await read_conversation(request, self.media, files, fetched)
        except TimeoutError:
            told = f"the server did not come to open all pictures and videos within {seconds:g} s; ask again"
            raise ApiError(503, told, "timeout", headers={"Retry-After": "5"}) from None

    def check_model(self, name: str | None) -> None:
        """Raises ApiError for any name but the served one's; a request may leave it out."""
        served = self.settings.model_name
        if name not in (None, served):
            raise no_such_model(str(name), served)

    async def _submit(
        self, messages: list[dict[str, Any]], choices: list[Sampling], seconds: float
    ) -> list[Answer]:
        """An answer a choice, all or none.

        In a thread, since tokenising takes a while. A client that leaves meanwhile leaves no answer behind.
        """
        answers: list[Answer] = []

        def submit() -> None:
            for sampling in choices:
                answers.append(self.engine.submit(messages, sampling, timeout=seconds))

        try:
            await run_in_threadpool(submit)
        except BaseException as error:
            for answer in answers:
                answer.cancel()
            if isinstance(error, ValueError):
                raise ApiError(400, str(error), param="messages") from error
            raise
        return answers


class Turn:
    """The answers to one request on their way to the client."""

    def __init__(
        self,
        answers: list[Answer],
        completion: Completion,
        exchange: Exchange,
        metrics: Metrics,
        log_content: bool,
    ):
        self.answers = answers
        self.completion = completion
        self.exchange = exchange
        self.metrics = metrics
        self.log_content = log_content

    async def whole(self, http: Request) -> Response:
        """All answers in one response. They are given up at once where the client leaves."""
        try:
            await _unless_left(http, self._wait())
            whole = self.completion.whole(self.answers)
            return Response(whole.model_dump_json(), media_type=JSONResponse.media_type)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        finally:
            self.close()

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events, an error among them where one comes up on the way, and `[DONE]`."""
        completion, answers = self.completion, self.answers
        try:
            for index in range(len(answers)):
                yield completion.first(index)
            async for index, piece in self._pieces():
                if piece is None:
                    yield completion.last(index, finish_reason(answers[index], answers))
                else:
                    yield completion.piece(index, piece)
            if completion.with_usage:
                yield completion.usage(answers)
        except Exception as error:
            told = api_error(error)
            if told.status == 500:
                log.exception("error", extra={"fields": {"request_id": self.exchange.request_id}})
            yield sent_event(JSONResponse(told.body()).body.decode())  # pyright: ignore[reportAttributeAccessIssue]
        yield sent_event("[DONE]")

    def close(self) -> None:
        """Frees the places of answers that nobody will read; notes for log and metrics how all ended."""
        reasons = []
        for answer in self.answers:
            answer.cancel()
            reason = "error" if answer.error else (answer.finish_reason or "cancelled")
            self.metrics.answers.labels(reason).inc()
            reasons.append(reason)
        fields = self.exchange.fields
        fields["finish_reasons"] = reasons
        fields["prompt_tokens"] = self.answers[0].usage.prompt_tokens
        fields["cached_tokens"] = self.answers[0].usage.cached_tokens
        fields["completion_tokens"] = sum(answer.usage.completion_tokens for answer in self.answers)
        if self.log_content:
            fields["answers"] = [answer.text for answer in self.answers]

    async def _wait(self) -> None:
        async for _ in self._pieces():
            pass

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece | None]]:
        """(which answer, its next piece or None at its end), as they come from the engine's thread."""
        arrived: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for index, answer in enumerate(self.answers):
            answer.listen(_forward(loop, arrived, index))
        running, is_first = len(self.answers), True
        while running:
            index, piece = await arrived.get()
            if piece is None:
                running -= 1
            elif is_first:
                is_first = False
                self.exchange.fields["seconds_to_first_token"] = round(self.exchange.seconds, 4)
                self.metrics.first_token.observe(self.exchange.seconds)
            yield index, piece


def _forward(loop: asyncio.AbstractEventLoop, arrived: asyncio.Queue, index: int):
    """A listener that hands pieces over from the engine's thread to the loop's."""

    def listener(piece: Piece | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the client's connection with it
            loop.call_soon_threadsafe(arrived.put_nowait, (index, piece))

    return listener


async def _unless_left(http: Request, doing: Coroutine[Any, Any, T]) -> T:
    """What it returns. Where the client leaves first it is stopped, and ClientDisconnect raised."""
    gone, done = asyncio.ensure_future(_left(http)), asyncio.ensure_future(doing)
    try:
        await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return done.result()
    finally:
        gone.cancel()
        done.cancel()
        await asyncio.wait({gone, done})


async def _left(http: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


class TurnStream(StreamingResponse):
    """Starlette stops the stream when the client leaves, even before its first event was asked for."""

    def __init__(self, turn: Turn):
        super().__init__(turn.events(), media_type="text/event-stream", headers=STREAM_HEADERS)
        self.turn = turn

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.turn.close()


# Proxies must neither keep the stream back nor keep a copy.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
