"""The engine: answers many conversations at once, each as it would be answered alone.

Conversations join and leave at every step (continuous batching; Orca, Yu et al. 2022). A step takes one token
of each that is being answered, and a piece of the prompts of those that are new, through the LLM together.
"""

import atexit
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

from .answer import Answer, EngineFull, FinishReason
from .decoder import Run
from .ending import closing_token, turn_marker
from .llm import open_decoder
from .machine import affordable_tokens, compute_alone, device_of, release_helpers, size_of_matrices
from .memory import Memory, common_prefix
from .messages import Messages
from .prompt import Prompt, longest_token, read_prompt, tokens_of, too_long
from .request import Likelihood, Request
from .sampling import Sampling
from .visual import VisualTokens
from .weights import Weights

PREFILLED_BESIDE = 256  # tokens of prompts a step while others are answered, so that those do not stall
PREFILLED_ALONE = 1024
POSITIONS = 4096  # of an LLM that does not say how many it has
WORTH_TWO_THREADS = 16 * 2**20  # bytes of the LLM's matrices; less lies in one core's cache
VISUAL_BYTES = 256 * 2**20
SECONDS_IDLE = 2.0  # after which the engine's thread ends; the next conversation begins a new one
GREEDY = Sampling()
WORTH_WAITING = 32  # positions that a conversation being read has in common with one that waits


_ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that the end of the process meets inside torch would take the process down with noise."""
    for engine in list(_ENGINES):
        engine.close()


@dataclass(frozen=True)
class EngineStats:
    """What the engine does now (running, waiting, positions of memory), and has done since it began."""

    running: int
    waiting: int
    kv_tokens_used: int
    kv_tokens: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    images_encoded: int
    images_known: int


class Engine:
    """Answers conversations; any thread may ask.

    Args:
        model: not to be trained while the engine has it: what it remembers is of these weights.
        weights: of the LLM; see `weights.choose`.
        kv_tokens: positions of all conversations together that there is memory for; None takes a quarter of
            the memory that is free. It is taken at once, and never more.
        max_running: conversations answered at once; max_waiting: those that wait for it.
    """

    def __init__(
        self,
        model: MplugOwlForConditionalGeneration,
        processor: MplugOwlProcessor,
        weights: Weights = "auto",
        kv_tokens: int | None = None,
        max_running: int = 64,
        max_waiting: int = 1024,
    ):
        self.model, self.processor, self.device = model.eval(), processor, device_of(model)
        self.max_running, self.max_waiting = max_running, max_waiting
        positions = getattr(model.config.text_config, "max_position_embeddings", None)
        self.max_positions: int = positions or POSITIONS
        self._is_small = self.device.type == "cpu" and size_of_matrices(model) < WORTH_TWO_THREADS
        self.longest_text = self.max_positions * longest_token(processor)
        self.decoder, self.weights = open_decoder(model, weights, self.max_positions, self.device)
        shapes = self.decoder.shapes()
        most = max_running * self.max_positions
        self.memory = Memory(shapes, kv_tokens or min(most, affordable_tokens(shapes, self.device)))
        self.visual = VisualTokens(model, processor, self.device, VISUAL_BYTES)
        self.ends = {closing_token(processor), *_ids(model.generation_config.eos_token_id)}
        marker = turn_marker(processor)
        self.markers = [marker] if marker else []
        self._running: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._done = {"prompt": 0, "cached": 0, "completion": 0}
        self._seconds = 1.0  # that an answer takes, lately
        _ENGINES.add(self)
        release_helpers()  # those of the thread that loaded and packed: another may ask

    def submit(self, messages: Messages, sampling: Sampling = GREEDY, timeout: float | None = None) -> Answer:
        """Begin an answer and return at once; it is made in the engine's thread.

        Args:
            timeout: seconds, waiting included, after which the answer ends as far as it is.

        Raises:
            ValueError: messages that cannot be read, or more of them than there are positions for.
            EngineFull: too many wait already.
        """
        self.refuse_if_full()  # before a picture is opened
        prompt = read_prompt(messages, self.processor, self.visual, self.longest_text)
        return self._enter(self._request(prompt, sampling, timeout)).answer

    def loglikelihood(self, messages: Messages, answer: str) -> Likelihood:
        """How likely the model finds `answer` to the conversation, without a closing token after it.

        Raises:
            ValueError: as `submit`; an answer of no token.
            EngineClosed: the engine was closed before.
        """
        ids = tokens_of(answer, self.processor)
        if not ids:
            raise ValueError("the answer to be judged is empty")
        prompt = read_prompt(messages, self.processor, self.visual, self.longest_text).extended(ids)
        request = self._enter(self._request(prompt, Sampling(max_new_tokens=1), None, scored=len(ids)))
        request.answer.whole()
        return request.likelihood

    def stats(self) -> EngineStats:
        done = self._done
        return EngineStats(
            len(self._running), len(self._waiting), self.memory.used, self.memory.tokens, done["prompt"],
            done["cached"], done["completion"], self.visual.encoded, self.visual.known,
        )  # fmt: skip

    def close(self, drain: bool = False) -> None:
        """End what runs and waits, or with `drain` finish it first; nothing new is taken."""
        with self._changed:
            self._closed = True
            if not drain:
                for request in [*self._running, *self._waiting]:
                    request.answer.cancel()
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _request(self, prompt: Prompt, sampling: Sampling, timeout: float | None, scored: int = 0) -> Request:
        length = len(prompt.ids)
        most = min(self.max_positions, self.memory.tokens)
        # What is judged needs no room after it.
        if length >= most + (scored > 0):
            whose = "the LLM" if most == self.max_positions else "the engine's memory"
            raise too_long(length, whose, most)
        room = length if scored else min(length + sampling.max_new_tokens, most)
        deadline = None if timeout is None else time.monotonic() + timeout
        return Request(prompt, room, sampling, self.ends, self.markers, self.processor, deadline, scored)

    def refuse_if_full(self) -> None:
        """Raises EngineFull where as many wait as may."""
        waiting = len(self._waiting)
        if waiting >= self.max_waiting:
            raise EngineFull(waiting, max(1.0, self._seconds * waiting / self.max_running))

    def _enter(self, request: Request) -> Request:
        release_helpers()  # whoever asks has computed pixels, and now waits
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self.refuse_if_full()
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="open-owl-engine", daemon=True)
                self._thread.start()
            self._changed.notify()
        return request

    def _work(self) -> None:
        """The engine's thread; it ends when nothing has come for a while, and holds nothing then."""
        if self._is_small:
            compute_alone()
        try:
            self._answer_all()
        except BaseException:
            with self._changed:  # what nobody foresaw: the next conversation begins a new thread
                self._thread = None
            raise

    def _answer_all(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    self._end_overdue()
                    self._admit()
                    if self._running:
                        self._step()
                except Exception as error:
                    self._fail(error)

    def _wait_for_work(self) -> bool:
        with self._changed:
            if not (self._running or self._waiting):
                self._changed.wait_for(lambda: self._waiting or self._closed, SECONDS_IDLE)
            if self._running or self._waiting:
                return True
            self._thread = None
            return False

    def _end_overdue(self) -> None:
        for request in [*self._running, *self._waiting]:
            if (reason := request.overdue()) is not None:
                self._end(request, reason)

    def _admit(self) -> None:
        """Give those that wait a place in the memory, in their order, as long as there is room."""
        admitted = []
        for request in list(self._waiting):
            if len(self._running) >= self.max_running:
                break
            if self._begins_like_one_being_read(request):
                continue
            region, known = self.memory.take(request.room, request.prompt.content)
            if region is None:
                break
            # At least one position is computed: the state after the last is not kept. Of what is judged, all.
            last = len(request.prompt.ids) - max(1, request.scored + 1 if request.scored else 1)
            request.region, request.known = region, min(known, max(last, 0))
            request.answer.usage.cached_tokens = request.known
            with self._changed:  # it is never in neither, so that `close` finds it
                self._waiting.remove(request)
                self._running.append(request)
            admitted.append(request)
            self._done["prompt"] += len(request.prompt.ids)
            self._done["cached"] += request.known
        try:
            self._embed(admitted)
        except Exception:  # no memory for a picture, say: nobody else is concerned
            self._embed_alone(admitted)

    def _embed_alone(self, requests: list[Request]) -> None:
        """One by one, so that only those are ended that cannot be."""
        for request in requests:
            try:
                self._embed([request])
            except Exception as error:
                self._end(request, "cancelled", error)

    def _begins_like_one_being_read(self, request: Request) -> bool:
        """Whether waiting a little saves it the reading of a beginning that another is reading now."""
        for other in self._running:
            if other.is_prefilling:
                common = common_prefix(other.prompt.content, request.prompt.content)
                if common - other.known > WORTH_WAITING:
                    return True
        return False

    def _embed(self, requests: list[Request]) -> None:
        """What the LLM reads of each prompt beyond what is known: [positions, hidden]."""
        slots = self.processor.num_image_tokens
        shown = [(r, m) for r in requests for m in r.prompt.media if m.start + slots > r.known]
        looks = self.visual.look([medium for _, medium in shown])
        for request in requests:
            prompt = request.prompt
            words = np.where(prompt.content < 0, 0, prompt.ids)[request.known :]
            request.embeds = self._words(words)
        for (request, medium), tokens in zip(shown, looks, strict=True):
            assert request.embeds is not None
            first = medium.start - request.known
            tokens = tokens[max(0, -first) :]
            first = max(0, first)
            request.embeds[first : first + len(tokens)] = tokens.to(request.embeds.dtype)
        for medium in (medium for request in requests for medium in request.prompt.media):
            medium.frames, medium.pixels, medium.tokens = [], None, None

    def _words(self, ids: Any) -> torch.Tensor:
        """Word embeddings [ids, hidden] that may be written to."""
        ids = torch.as_tensor(ids, device=self.device)
        return self.model.get_input_embeddings()(ids[None])[0].clone()

    def _step(self) -> None:
        """One pass through the LLM: a token of each answer, and as much of the prompts as may be."""
        answering = [request for request in self._running if not request.is_prefilling]
        # Also beside more answers than that, or nobody new would be read before some of them end.
        beside = max(PREFILLED_BESIDE // 4, PREFILLED_BESIDE - len(answering))
        reading = self._to_read(beside if answering else PREFILLED_ALONE)
        pieces = [self._words([request.last for request in answering])] if answering else []
        runs = [self._run(request, 1) for request in answering]
        for request, count in reading:
            assert request.embeds is not None
            pieces.append(request.embeds[:count])
            rest = request.embeds[count:]
            request.embeds = rest if len(rest) else None  # an empty view would keep the whole
            runs.append(self._run(request, count))
        requests = answering + [request for request, _ in reading]
        embeds = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        hidden = self.decoder.forward(embeds, runs, self.memory)
        for request, run in zip(requests, runs, strict=True):
            request.known += run.count
            assert request.region is not None
            if request.known <= len(request.prompt.content):
                request.region.content = request.prompt.content[: request.known]
        self._hear(requests, runs, hidden)

    def _run(self, request: Request, count: int) -> Run:
        assert request.region is not None
        return Run(request.region.offset, request.known, count)

    def _to_read(self, budget: int) -> list[tuple[Request, int]]:
        """Which prompts go on being read, and for how many tokens each; the first come first."""
        reading = []
        for request in self._running:
            if request.is_prefilling and budget > 0:
                count = min(len(request.prompt.ids) - request.known, budget)
                reading.append((request, count))
                budget -= count
        return reading

    def _hear(self, requests: list[Request], runs: list[Run], hidden: torch.Tensor) -> None:
        """What the hidden states [tokens, hidden] say: next tokens, or how likely given ones are."""
        rows, speaking, first = [], [], 0
        for request, run in zip(requests, runs, strict=True):
            if request.scored:
                try:
                    self._judge(request, run, hidden[first : first + run.count])
                except Exception as error:
                    self._end(request, "cancelled", error)
            elif not request.is_prefilling:
                rows.append(first + run.count - 1)
                speaking.append(request)
            first += run.count
        if not rows:
            return
        logits = self._logits(hidden if len(rows) == len(hidden) else hidden[rows])
        likeliest = logits.argmax(-1).tolist()
        if not all(request.sampling.is_plain and request.sampling.logprobs is None for request in speaking):
            logits = logits.cpu()
        for request, row, best in zip(speaking, logits, likeliest, strict=True):
            try:
                token = best if request.sampling.is_plain else request.chooser.choose(row)
                reason = request.say(token, request.logprob_of(token, row))
            except Exception as error:  # its logits are no numbers, say: nobody else's
                self._end(request, "cancelled", error)
                continue
            self._done["completion"] += 1
            if reason is not None:
                self._end(request, reason)

    def _judge(self, request: Request, run: Run, hidden: torch.Tensor) -> None:
        """hidden [count, hidden] of the run; the positions before scored tokens tell of them."""
        length = len(request.prompt.ids)
        first = max(run.start, length - request.scored - 1)
        last = min(run.start + run.count, length - 1)
        if last > first:
            request.judge(self._logits(hidden[first - run.start : last - run.start]).cpu(), first)
        if not request.is_prefilling:
            self._end(request, "stop")

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary] float32"""
        return self.model._head(hidden[None])[0].float()

    def _end(self, request: Request, reason: FinishReason, error: BaseException | None = None) -> None:
        with self._changed:
            if request in self._running:
                self._running.remove(request)
            elif request in self._waiting:
                self._waiting.remove(request)
        if request.region is not None:
            self.memory.release(request.region, request.content() if error is None else np.empty(0, np.int64))
            request.region = None
        self._seconds = 0.9 * self._seconds + 0.1 * (time.monotonic() - request.started)
        request.end(reason, error)

    def _fail(self, error: Exception) -> None:
        """A step went wrong: whoever was in it is told, the others go on waiting."""
        failed = list(self._running) or list(self._waiting)[:1]
        for request in failed:
            self._end(request, "cancelled", error)


def _ids(value: int | list[int] | None) -> list[int]:
    """`generation_config` holds one id, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
