"""A model that one can talk to."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

from .answer import Answer
from .ending import ShownText
from .engine import Engine
from .machine import release_helpers
from .messages import Messages, read_messages
from .prompt import tensors_of, too_long
from .request import Likelihood
from .sampling import DEFAULT_NEW_TOKENS, Sampling
from .weights import Weights


class Owl:
    """A model and its processor, answering conversations; `open_owl.load` makes one of a checkpoint.

    Messages are as OpenAI and Hugging Face write them (`read_messages`). A string is a user's own words: a
    literal `<image>` in it is text. All answers come without white space around them.

    Options of all three ways to ask are those of `Sampling`: max_new_tokens, temperature, top_p, seed, stop
    and more.

    Args:
        weights: of the LLM while it answers: "auto"; on a CPU "float32", "float16" or "int8" (packed); on a
            GPU "int8" or "nf4" (bitsandbytes).
        engine_options: of `Engine`, such as kv_tokens and max_running.
    """

    def __init__(
        self,
        model: MplugOwlForConditionalGeneration,
        processor: MplugOwlProcessor,
        weights: Weights = "auto",
        **engine_options: int | None,
    ):
        self.model = model.eval()
        self.processor = processor
        self._engine_options = {"weights": weights, **engine_options}
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """What makes the answers; begun, and its memory taken, when it is first needed."""
        with self._lock:  # several threads may be the first
            if self._engine is None:
                options: Any = self._engine_options
                self._engine = Engine(self.model, self.processor, **options)
            return self._engine

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **more,
    ) -> str:
        """The answer to a conversation.

        Raises:
            ValueError: messages that cannot be read, or more of them than the LLM has positions for.
            EngineClosed: the engine was closed before the answer was whole.
        """
        return self._ask(messages, max_new_tokens, temperature, top_p, more).whole()

    def chat_many(
        self,
        conversations: Sequence[Messages],
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **more,
    ) -> list[str]:
        """The answers to several conversations, made side by side; each is what `chat` would answer."""
        answers: list[Answer] = []
        try:
            for messages in conversations:
                self._make_room(answers)
                answers.append(self._ask(messages, max_new_tokens, temperature, top_p, more))
            return [answer.whole() for answer in answers]
        except BaseException:
            for answer in answers:
                answer.cancel()
            raise

    def stream(
        self,
        messages: Messages,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **more,
    ) -> Iterator[str]:
        """The answer in pieces as it is made; joined they are what `chat` answers.

        Closing the iterator stops the model.

        Raises:
            ValueError: as `chat`, before the first piece.
        """
        return TextStream(self._ask(messages, max_new_tokens, temperature, top_p, more))

    def beam_search(
        self, messages: Messages, num_beams: int = 4, max_new_tokens: int = DEFAULT_NEW_TOKENS
    ) -> str:
        """The likeliest answer that `num_beams` beams find, by transformers' own `generate`.

        Raises:
            ValueError: as `chat`.
        """
        longest = Sampling(max_new_tokens).max_new_tokens
        question = read_messages(messages, self.processor.num_frames)
        inputs = tensors_of(question, self.processor).to(self.engine.device)
        prompt = inputs["input_ids"].shape[1]
        if prompt >= self.engine.max_positions:
            raise too_long(prompt, "the LLM", self.engine.max_positions)
        # pyright takes `generate`'s protocol for a class that has every field of every model.
        ids = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **inputs,
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=min(longest, self.engine.max_positions - prompt),
            eos_token_id=sorted(self.engine.ends),
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        release_helpers()
        shown = ShownText(self.engine.markers)
        return (
            shown.add(self.processor.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True))
            + shown.finish()
        )

    def loglikelihood(self, messages: Messages, answer: str) -> Likelihood:
        """How likely the model finds `answer`: to choose among given ones."""
        return self.engine.loglikelihood(messages, answer)

    def _ask(self, messages: Messages, max_new_tokens: int, temperature: float, top_p: float, more) -> Answer:
        sampling = Sampling(max_new_tokens, temperature, top_p=top_p, **more)
        return self.engine.submit(messages, sampling)

    def _make_room(self, answers: list[Answer]) -> None:
        """Wait for the oldest rather than overfill the engine's queue, and with it memory with pictures."""
        at_once = max(1, self.engine.max_waiting // 2)
        if len(answers) >= at_once:
            answers[len(answers) - at_once].result()


class TextStream(Iterator[str]):
    """The pieces of an answer's text; closed, or dropped, before the end, the answer is not made further."""

    def __init__(self, answer: Answer):
        self._answer, self._pieces = answer, iter(answer)

    def __next__(self) -> str:
        return next(self._pieces).text

    def close(self) -> None:
        self._answer.cancel()

    def __del__(self) -> None:
        self.close()
