"""An answer while it is made: what the one who asked holds of it."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

from .sampling import TokenLogprob

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


class EngineFull(RuntimeError):
    """The queue is full; `retry_after` seconds is when to ask again."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} conversations wait already; ask again in {retry_after:.0f} s")
        self.waiting = waiting
        self.retry_after = retry_after

    def __reduce__(self):
        return type(self), (self.waiting, self.retry_after)


class EngineClosed(RuntimeError):
    """The engine was closed before it had made what was asked for."""


@dataclass(frozen=True)
class Piece:
    """New text of an answer, and where log-probabilities were asked for, the tokens that it came from."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass
class Usage:
    """Tokens: of the prompt (each visual token counts), of those already known from before, of the answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Answer:
    """An answer that the engine is making.

    Iterating gives its pieces as they come; `result` waits for the whole. The pieces joined are the text,
    without white space around it. An error inside the engine is raised where the pieces are read.

    usage, finish_reason: whole once the answer has ended. ids: the tokens said so far, without the one that
        ended it.
    """

    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason | None = None
    error: BaseException | None = None
    pieces: list[Piece] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queue: SimpleQueue[Piece | None] = SimpleQueue()
        self._ended = threading.Event()
        self._cancelled = threading.Event()
        self._listener: Callable[[Piece | None], None] = self._queue.put
        self._lock = threading.Lock()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def text(self) -> str:
        """What has been said so far."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> list[TokenLogprob]:
        """Its tokens, where log-probabilities were asked for."""
        return [token for piece in self.pieces for token in piece.tokens]

    def cancel(self) -> None:
        """The engine frees the answer's place at its next step; what was said stays."""
        self._cancelled.set()

    def listen(self, listener: Callable[[Piece | None], None]) -> None:
        """Hand every piece to `listener` from the engine's thread, and None at the end; instead of iterating.

        Pieces that were there before are handed over first, from this thread.
        """
        with self._lock:
            while not self._queue.empty():
                listener(self._queue.get())
            self._listener = listener

    def __iter__(self) -> Iterator[Piece]:
        """The pieces; leaving the loop early cancels the answer."""
        try:
            while not (self.has_ended and self._queue.empty()):
                if (piece := self._queue.get()) is not None:
                    yield piece
        finally:
            self.cancel()
        if self.error is not None:
            raise self.error

    def result(self, timeout: float | None = None) -> str:
        """The whole text. Raises TimeoutError after `timeout` seconds, or what went wrong."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        if self.error is not None:
            raise self.error
        return self.text

    def whole(self) -> str:
        """`result` where nobody else reads it. Raises EngineClosed where it was ended before it was whole."""
        try:
            text = self.result()
        except BaseException:  # Ctrl-C while waiting, say: it would be made to its end for nobody
            self.cancel()
            raise
        if self.finish_reason == "cancelled":
            raise EngineClosed("the engine was closed before the answer was whole")
        return text

    def add(self, piece: Piece) -> None:
        """For the engine: a new piece."""
        with self._lock:
            self.pieces.append(piece)
            self._hand_over(piece)

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """For the engine: nothing more comes."""
        with self._lock:
            if self._ended.is_set():
                return
            self.finish_reason, self.error = reason, error
            self._ended.set()
            self._hand_over(None)

    def _hand_over(self, piece: Piece | None) -> None:
        """A listener that fails is its own affair: other answers are made in this thread too."""
        try:
            self._listener(piece)
        except Exception:
            logger.exception("a listener failed")
