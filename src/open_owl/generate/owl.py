"""A model that one can talk to."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from queue import SimpleQueue
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import BatchFeature, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

from .ending import AnswerEnded, closing_token, turn_marker, until_marker
from .messages import Messages, Question, read_messages

DEFAULT_NEW_TOKENS = 512


class Owl:
    """A model and its processor, answering conversations; `open_owl.load` makes one of a checkpoint.

    Messages are as OpenAI and Hugging Face write them (`read_messages`). A string is a user's own words: a
    literal `<image>` in it is text. All answers come without white space around them.

    Options of all three ways to ask:
        max_new_tokens: the longest answer, in tokens; less where the LLM's positions end.
        temperature: 0 for the likeliest token at each step; else tokens are drawn, the higher the wilder.
        top_p: draw only among the likeliest tokens that have this share of the probability together.
    """

    def __init__(self, model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor):
        self.model = model.eval()
        self.processor = processor
        self._ends = sorted({closing_token(processor), *_ids(model.generation_config.eos_token_id)})
        self._marker = turn_marker(processor)

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> str:
        """The answer to a conversation.

        Raises:
            ValueError: messages that cannot be read, or more of them than the LLM has positions for.
        """
        return self.chat_many([messages], max_new_tokens, temperature, top_p)[0]

    def chat_many(
        self,
        conversations: Sequence[Messages],
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[str]:
        """The answers to several conversations, computed as one batch; each is what `chat` would answer."""
        if not conversations:
            return []
        inputs = self._inputs(conversations)
        options = self._options(inputs, max_new_tokens, temperature, top_p)
        ids = self._generate(inputs, self._ending(inputs), options)
        answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return ["".join(until_marker([self._decode(answer)], self._marker)) for answer in answers]

    def stream(
        self,
        messages: Messages,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Iterator[str]:
        """The answer in pieces as it is made; joined they are what `chat` answers.

        Closing the iterator stops the model.

        Raises:
            ValueError: as `chat`, before the first piece.
        """
        inputs = self._inputs([messages])
        return self._stream(inputs, self._options(inputs, max_new_tokens, temperature, top_p))

    def _stream(self, inputs: BatchFeature, options: dict[str, Any]) -> Iterator[str]:
        tokens, ending = _TokenQueue(), self._ending(inputs)
        with ThreadPoolExecutor(1) as pool:
            generation = pool.submit(self._generate, inputs, ending, options, tokens)
            generation.add_done_callback(lambda _: tokens.end())  # after an error too
            try:
                yield from until_marker(self._decode_pieces(tokens), self._marker)
            finally:
                ending.stop()
            generation.result()

    def _inputs(self, conversations: Sequence[Messages]) -> BatchFeature:
        """ids and mask [conversations, longest], padded on the left, and the pixels of all in order."""
        processor = self.processor
        questions = [read_messages(messages, processor.num_frames) for messages in conversations]
        texts = [_render(question, processor) for question in questions]
        bos = processor.tokenizer.bos_token
        inputs = processor(
            text=texts,
            images=list(chain.from_iterable(question.images for question in questions)) or None,
            videos=list(chain.from_iterable(question.videos for question in questions)) or None,
            padding=True,
            padding_side="left",
            add_special_tokens=bos is None or not texts[0].startswith(bos),
            return_tensors="pt",
        )
        return inputs.to(self.model.device)

    def _options(
        self, inputs: BatchFeature, max_new_tokens: int, temperature: float, top_p: float
    ) -> dict[str, Any]:
        """What transformers' `generate` is told beside the inputs."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer has at least 1 token")
        if temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(
                f"temperature {temperature} and top_p {top_p}; use 0 or more, and above 0 up to 1"
            )
        length = inputs["input_ids"].shape[1]
        positions = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if positions is not None and length >= positions:
            raise ValueError(
                f"the conversation has {length} tokens and the LLM {positions} positions; begin a new one, "
                f"or leave out its first messages"
            )
        room = max_new_tokens if positions is None else positions - length
        likeliest = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        return {
            "max_new_tokens": min(max_new_tokens, room),
            "eos_token_id": self._ends,
            "pad_token_id": self.processor.tokenizer.pad_token_id,
            **(drawn if temperature else likeliest),
        }

    def _ending(self, inputs: BatchFeature) -> AnswerEnded:
        return AnswerEnded(self.processor, self._marker, inputs["input_ids"].shape[1])

    def _generate(
        self,
        inputs: BatchFeature,
        ending: AnswerEnded,
        options: dict[str, Any],
        streamer: BaseStreamer | None = None,
    ) -> torch.Tensor:
        """ids [conversations, prompt + answer]."""
        criteria = StoppingCriteriaList([ending])
        # pyright takes `generate`'s protocol for a class that has every field of every model.
        return self.model.generate(**inputs, **options, stopping_criteria=criteria, streamer=streamer)  # pyright: ignore[reportAttributeAccessIssue]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.processor.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _decode_pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The new text after each token; half a character waits for its other half."""
        ids: list[int] = []
        shown = text = ""
        for token in tokens:
            ids.append(token)
            text = self._decode(ids)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
        yield text[len(shown) :]


class _TokenQueue(BaseStreamer):
    """Carries the answer's tokens from the thread that generates to the one that shows."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:  # generate begins with it
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            self._queue.put(token)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[int]:
        while (token := self._queue.get()) is not None:
            yield token


def _render(question: Question, processor: MplugOwlProcessor) -> str:
    """The prompt as training has it, up to where the answer begins."""
    messages = [
        {**message, "content": [_protected(part, processor) for part in message["content"]]}
        for message in question.messages
    ]
    try:
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        if messages[0]["role"] != "system":
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
    # Some templates know no system role: its words then stand before the first question, as in training.
    system, first, *rest = question.messages
    folded = {"role": "user", "content": [*system["content"], *first["content"]]}
    return _render(Question([folded, *rest]), processor)


def _protected(part: dict[str, str], processor: MplugOwlProcessor) -> dict[str, str]:
    return {**part, "text": processor.protect(part["text"])} if part["type"] == "text" else part


def _ids(value: int | Sequence[int] | None) -> list[int]:
    """`generation_config` holds one id, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
