"""Answers of the engine -> OpenAI's chat completions, whole or in chunks."""

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from open_owl.generate.answer import Answer, Piece
from open_owl.generate.sampling import TokenLogprob

from .errors import ApiError
from .protocol import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Logprobs,
    PromptTokensDetails,
    TokenLogprobs,
    TokenUsage,
    TopLogprob,
)

LEAST_LOGPROB = -9999.0  # JSON knows no infinity


@dataclass(frozen=True)
class Completion:
    """What all chunks of a completion have in common.

    with_logprobs: told with every token.
    with_usage: a last chunk tells the usage; in all others it is null.
    """

    model: str
    with_logprobs: bool = False
    with_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer]) -> ChatCompletion:
        """Raises what `finish_reasons` raises."""
        reasons = finish_reasons(answers)
        choices = [
            Choice(
                index=index,
                message=AssistantMessage(role="assistant", content=answer.text),
                logprobs=self._logprobs(answer.pieces),
                finish_reason=reason,
            )
            for index, (answer, reason) in enumerate(zip(answers, reasons, strict=True))
        ]
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage(answers),
        )

    def first(self, index: int) -> bytes:
        """Who speaks."""
        return self._chunk([self._choice(index, Delta(role="assistant", content=""))])

    def piece(self, index: int, piece: Piece) -> bytes:
        return self._chunk([self._choice(index, Delta(content=piece.text), self._logprobs([piece]))])

    def last(self, index: int, reason: FinishReason) -> bytes:
        return self._chunk([self._choice(index, Delta(), reason=reason)])

    def usage(self, answers: Sequence[Answer]) -> bytes:
        return self._chunk([], usage(answers))

    def _choice(
        self, index: int, delta: Delta, logprobs: Logprobs | None = None, reason: FinishReason | None = None
    ) -> ChunkChoice:
        return ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)

    def _chunk(self, choices: list[ChunkChoice], tokens: TokenUsage | None = None) -> bytes:
        chunk = ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **({"usage": tokens} if self.with_usage else {}),
        )
        return sent_event(chunk.model_dump_json(exclude_unset=True))

    def _logprobs(self, pieces: Sequence[Piece]) -> Logprobs | None:
        if not self.with_logprobs:
            return None
        return Logprobs(content=[_logprob(token) for piece in pieces for token in piece.tokens], refusal=None)


def sent_event(data: str) -> bytes:
    """One server-sent event; JSON has no line breaks that would split it."""
    return f"data: {data}\n\n".encode()


def finish_reasons(answers: Sequence[Answer]) -> list[FinishReason]:
    """`finish_reason` of all answers to a request."""
    return [finish_reason(answer, answers) for answer in answers]


def finish_reason(answer: Answer, beside: Sequence[Answer]) -> FinishReason:
    """Why an answer ended that did.

    One that time cut short ended for its length, like one cut by max_tokens; also one that was not begun,
    if others `beside` it were, since those are worth having. Raises what went wrong, or ApiError where there
    is no answer.
    """
    if answer.error is not None:
        raise answer.error
    if answer.finish_reason in ("stop", "length"):
        return answer.finish_reason
    if answer.finish_reason == "timeout":
        if any(one.usage.completion_tokens for one in (answer, *beside)):
            return "length"
        raise ApiError(503, "the server was too busy to begin an answer in time; ask again", "timeout")
    raise ApiError(503, "the server is stopping; ask again", "draining", headers={"Retry-After": "5"})


def usage(answers: Sequence[Answer]) -> TokenUsage:
    """The prompt counts once, however many answers it got."""
    prompt = answers[0].usage.prompt_tokens
    completion = sum(answer.usage.completion_tokens for answer in answers)
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=answers[0].usage.cached_tokens),
    )


def _logprob(token: TokenLogprob) -> TokenLogprobs:
    top = [TopLogprob(**_described(one)) for one in token.top]
    return TokenLogprobs(**_described(token), top_logprobs=top)


def _described(token: TokenLogprob) -> dict:
    value = token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
    return {"token": token.text, "logprob": max(value, LEAST_LOGPROB), "bytes": list(token.bytes)}
