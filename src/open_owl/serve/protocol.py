"""What goes over the wire: OpenAI's chat completions, and what others have added to them.

Requests are read strictly (a string is no number). Fields that are not named here are kept in `model_extra`:
`conversation.refuse_unsupported` knows those that would change the answer.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from open_owl.generate.sampling import MAX_LOGPROBS

MAX_CHOICES = 16
MAX_STOPS = 4

FinishReason = Literal["stop", "length"]


class Schema(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class MediaUrl(Schema):
    """`detail` is read and means nothing here: the model sees every picture at one size."""

    url: str
    detail: str | None = None


def _as_media_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Media = Annotated[MediaUrl, BeforeValidator(_as_media_url, json_schema_input_type=str | MediaUrl)]


class Part(Schema):
    """One of: text; image_url or video_url; image or video with a `url` or, in a form, a `file`."""

    type: str = Field(examples=["text", "image_url", "video_url", "image", "video"])
    text: str | None = None
    image_url: Media | None = None
    video_url: Media | None = None
    url: str | None = None
    file: str | None = Field(None, description="The name of a file sent in the same form.")


class Message(Schema):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Part], FailFast(), BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])
    ]


class StreamOptions(Schema):
    include_usage: bool | None = None


class ChatRequest(Schema):
    """What is left out is as in `open_owl.generate.sampling.Sampling`: the likeliest token at each step."""

    model: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1: all tokens.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(max_length=MAX_STOPS),
            BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Body(BaseModel):
    """What the server says."""


class TopLogprob(Body):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Body):
    content: list[TokenLogprobs]
    refusal: None = None


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(Body):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class Delta(Body):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Body):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class PromptTokensDetails(Body):
    cached_tokens: int


class TokenUsage(Body):
    """Each visual token of a picture or video counts as one token of the prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatCompletion(Body):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage


class ChatCompletionChunk(Body):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None


class ModelCard(Body):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Body):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorDetail(Body):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Body):
    error: ErrorDetail


class Health(Body):
    status: Literal["ok", "draining"]


class Version(Body):
    version: str
