"""How the next token of an answer is chosen, and what ends the answer."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

DEFAULT_NEW_TOKENS = 512
MAX_LOGPROBS = 20
# Below this, scores divided by the temperature leave float32; drawing is then the likeliest token anyway.
LEAST_TEMPERATURE = 0.01
REALS = ("temperature", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Sampling:
    """What an answer is drawn by; the names are those of transformers' and OpenAI's interfaces.

    max_new_tokens: the longest answer, in tokens; less where the LLM's positions end.
    temperature: 0 (or below 0.01) for the likeliest token at each step; else tokens are drawn, the higher the
        wilder.
    top_k: draw among so many likeliest tokens only (0: all).
    top_p: draw only among the likeliest tokens that have this share of the probability together.
    min_p: draw only among tokens with at least this share of the likeliest token's probability.
    repetition_penalty: above 1 makes tokens of the prompt and the answer less likely.
    seed: same seed, same answer, in float32 whatever else is answered at the time (in bfloat16 on a GPU,
        steps of another batch size may round otherwise); None draws anew each time.
    stop: texts, or one, before which the answer ends. stop_ids: tokens at which it ends, beside the model's.
    logprobs: with how many of the likeliest alternatives each token's log-probability is told; None: not.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken at each step."""
        return self.temperature < LEAST_TEMPERATURE

    @property
    def is_plain(self) -> bool:
        """Whether that is the likeliest by the model alone."""
        return self.is_greedy and self.repetition_penalty == 1

    def __post_init__(self) -> None:
        """Raises ValueError, naming the setting, for values that mean nothing."""
        self._convert()
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; an answer has at least 1 token")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; use 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; use 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; use above 0, up to 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; use 0 to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; use above 0 (1: none)")
        if any(not text for text in self.stop):
            raise ValueError("a stop text is empty; leave it out")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ValueError(f"logprobs is {self.logprobs}; use 0 to {MAX_LOGPROBS}")

    def _convert(self) -> None:
        """Every number in its own type, which transformers insists on; a form sends 2 for 2.0."""
        numbers: dict[str, Any] = {name: _real(name, getattr(self, name)) for name in REALS}
        for name in ("max_new_tokens", "top_k"):
            numbers[name] = _whole(name, getattr(self, name))
        for name in ("seed", "logprobs"):
            value = getattr(self, name)
            numbers[name] = None if value is None else _whole(name, value)
        stop = (self.stop,) if isinstance(self.stop, str) else _members("stop", self.stop)
        if wrong := [text for text in stop if not isinstance(text, str)]:
            raise ValueError(f"stop has {wrong[0]!r}; use texts")
        ids = tuple(_whole("stop_ids", token) for token in _members("stop_ids", self.stop_ids))
        for name, value in {**numbers, "stop": stop, "stop_ids": ids}.items():
            object.__setattr__(self, name, value)


def _real(name: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} is {value!r}; use a number")


def _whole(name: str, value: Any) -> int:
    """Also of 5.0; not by way of a float where it is an integer already, which may be a large seed."""
    try:
        return operator.index(value)
    except TypeError:
        number = _real(name, value)
    if not number.is_integer():
        raise ValueError(f"{name} is {value!r}; use a whole number")
    return int(number)


def _members(name: str, value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}; use a list") from error


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer: the bytes it adds to the text, its log-probability, and the likeliest ones there.

    A token may be half a character: only the bytes of several are text.
    """

    bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()

    @property
    def text(self) -> str:
        return self.bytes.decode("utf-8", "replace")


class Chooser:
    """Chooses the tokens of one answer.

    Args:
        prompt: its ids, words only (a slot of a picture stands for no word).
    """

    def __init__(self, sampling: Sampling, prompt: list[int]):
        self.sampling = sampling
        self._said = list(prompt) if sampling.repetition_penalty != 1 else []
        self._warpers = _warpers(sampling)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: torch.Tensor) -> int:
        """logits [vocabulary] float32 on the CPU -> the next token."""
        if self.sampling.is_plain:
            return int(logits.argmax())
        ids: Any = torch.tensor([self._said], dtype=torch.long)
        scores: Any = self._warpers(ids, logits[None].clone())
        if self.sampling.is_greedy:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        if self.sampling.repetition_penalty != 1:
            self._said.append(token)
        return token


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """transformers' own, in the order in which its `generate` applies them."""
    warpers = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        warpers.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.is_greedy:
        return warpers
    if sampling.temperature != 1:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    return warpers
