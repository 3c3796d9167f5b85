"""How the next token of an answer is chosen, and what ends the answer."""

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
    seed: same seed, same answer, whatever else is answered at the time; None draws anew each time.
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

    def __post_init__(self) -> None:
        """Raises ValueError, naming the setting, for values that mean nothing."""
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
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
        self.is_plain = sampling.is_greedy and sampling.repetition_penalty == 1
        self._said = list(prompt) if sampling.repetition_penalty != 1 else []
        self._warpers = _warpers(sampling)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: torch.Tensor) -> int:
        """logits [vocabulary] float32 on the CPU -> the next token."""
        if self.is_plain:
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
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    return warpers
