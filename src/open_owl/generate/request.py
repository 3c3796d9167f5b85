"""One conversation on its way through the engine: what it has computed, said and still waits for."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from open_owl.model import MplugOwlProcessor

from .answer import Answer, FinishReason, Piece
from .ending import ShownText
from .memory import Region
from .prompt import Prompt
from .sampling import Chooser, Sampling, TokenLogprob
from .token_text import TextOfTokens, token_bytes


@dataclass(frozen=True)
class Likelihood:
    """How likely the model finds an answer: the log-probability of its tokens together, how many they are,
    and whether each is the likeliest at its place (the model would say just this)."""

    logprob: float
    tokens: int
    is_greedy: bool


class Request:
    """A conversation that is to be answered, or (`scored`) the last tokens of one that are to be judged.

    Args:
        room: positions that it needs of the memory.
        ends: tokens that end an answer; markers: texts that do.
    """

    def __init__(
        self, prompt: Prompt, room: int, sampling: Sampling, ends: set[int], markers: list[str],
        processor: MplugOwlProcessor, deadline: float | None = None, scored: int = 0,
    ):  # fmt: skip
        self.prompt, self.room, self.sampling, self.scored = prompt, room, sampling, scored
        self.limit = min(sampling.max_new_tokens, room - len(prompt.ids))
        self.deadline = deadline
        self.answer = Answer()
        self.answer.usage.prompt_tokens = len(prompt.ids)
        self.region: Region | None = None
        self.known = 0  # positions whose keys and values are there
        self.embeds: torch.Tensor | None = None  # of the prompt's positions from `known` on
        self.last = -1  # the token to run next, while the answer is made
        self.said = self.answer.ids
        self.started = time.monotonic()
        self.likelihood = Likelihood(0.0, 0, True)
        self._ends = ends | set(sampling.stop_ids)
        self._shown = ShownText([*markers, *sampling.stop])
        self._tokenizer = processor.tokenizer
        self._text = TextOfTokens(processor.tokenizer)
        self._untold: list[TokenLogprob] = []
        self._chooser: Chooser | None = None

    @property
    def is_prefilling(self) -> bool:
        return self.known < len(self.prompt.ids)

    @property
    def chooser(self) -> Chooser:
        """Made when the first token is chosen: a generator is a large thing to wait with."""
        if self._chooser is None:
            self._chooser = Chooser(self.sampling, self.prompt.words())
        return self._chooser

    def content(self) -> np.ndarray:
        """What stands in its region so far."""
        if self.known <= len(self.prompt.content):
            return self.prompt.content[: self.known]
        return np.concatenate([self.prompt.content, self.said[: self.known - len(self.prompt.content)]])

    def say(self, token: int, logprob: TokenLogprob | None) -> FinishReason | None:
        """The next token of the answer; why the answer has ended with it, if it has."""
        self.answer.usage.completion_tokens += 1
        if token in self._ends:
            return "stop"
        self.said.append(token)
        self.last = token
        if logprob is not None:
            self._untold.append(logprob)
        if text := self._text.add(token):
            self._tell(self._shown.add(text))
        if self._shown.has_ended:
            return "stop"
        return "length" if len(self.said) >= self.limit else None

    def _tell(self, text: str, is_last: bool = False) -> None:
        """Hand over new text with the tokens since the last; at the end those too that have no text."""
        if text or (is_last and self._untold):
            self.answer.add(Piece(text, tuple(self._untold)))
            self._untold = []

    def logprob_of(self, token: int, logits: torch.Tensor) -> TokenLogprob | None:
        """logits [vocabulary] -> what is told of the token, if anything is asked for."""
        if self.sampling.logprobs is None:
            return None
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(self.sampling.logprobs, len(logprobs)))
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = tuple(TokenLogprob(token_bytes(self._tokenizer, one), value) for one, value in likeliest)
        return TokenLogprob(token_bytes(self._tokenizer, token), float(logprobs[token]), top)

    def judge(self, logits: torch.Tensor, first: int) -> None:
        """logits [positions, vocabulary] at `first` and after: of the scored tokens that follow them."""
        targets = torch.from_numpy(self.prompt.ids[first + 1 : first + 1 + len(logits)])
        logprobs = logits.log_softmax(-1)
        chosen = logprobs[torch.arange(len(targets)), targets]
        before = self.likelihood
        self.likelihood = Likelihood(
            before.logprob + float(chosen.double().sum()),
            before.tokens + len(targets),
            before.is_greedy and bool((logprobs.argmax(-1) == targets).all()),
        )

    def overdue(self) -> FinishReason | None:
        """Why the answer is to end now although it is not complete."""
        if self.answer.is_cancelled:
            return "cancelled"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "timeout"
        return None

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """Nothing more comes; what was held back until more is known is told."""
        if error is None:
            self._tell(self._shown.finish(), is_last=True)
        self.answer.end(reason, error)
