"""A conversation as the engine takes it: ids with slots, and what stands in each slot."""

import re
import threading
from dataclasses import dataclass

import numpy as np
from jinja2 import TemplateError
from transformers import BatchFeature

from open_owl.model import MplugOwlProcessor

from .messages import Messages, Question, read_messages
from .visual import Medium, VisualTokens

# Whether special tokens in a text count as such is a switch of the tokenizer itself, not of a call: of two
# threads that tokenise at once, one would have its words read with the other's switch.
TOKENIZING = threading.Lock()


@dataclass
class Prompt:
    """ids [length], a slot's id where a visual token stands; content [length], what is there (`Region`)."""

    ids: np.ndarray
    content: np.ndarray
    media: list[Medium]

    def words(self) -> list[int]:
        """Its ids without the slots."""
        return self.ids[self.content >= 0].tolist()

    def extended(self, ids: list[int]) -> "Prompt":
        """The same with `ids` of words after it."""
        more = np.array(ids, np.int64)
        return Prompt(np.concatenate([self.ids, more]), np.concatenate([self.content, more]), self.media)


def read_prompt(
    messages: Messages, processor: MplugOwlProcessor, visual: VisualTokens, longest_text: int | None = None
) -> Prompt:
    """The prompt of a conversation, as training has it, up to where the answer begins.

    Args:
        longest_text: characters of all messages together beyond which they are not even tokenised.

    Raises:
        ValueError: what is wrong with the messages, and in which.
    """
    question = read_messages(messages, processor.num_frames)
    _refuse_long_text(question, longest_text)
    text = render(question, processor)
    media = _media(question, text, processor)
    with TOKENIZING:
        special = needs_special_tokens(text, processor)
        tokens = processor.tokenize_literally(processor.expand_media(text), special)
    ids = np.array(tokens, np.int64)
    content, slots = ids.copy(), processor.num_image_tokens
    slot_positions = np.flatnonzero((ids == processor.image_token_id) | (ids == processor.video_token_id))
    assert len(slot_positions) == len(media) * slots, "the template lost or made up a picture"
    for index, medium in enumerate(media):
        medium.start = int(slot_positions[index * slots])
        content[medium.start : medium.start + slots] = visual.content(medium)
        visual.prepare(medium)
    return Prompt(ids, content, media)


def tensors_of(question: Question, processor: MplugOwlProcessor) -> BatchFeature:
    """The prompt of a conversation as the model itself takes it: ids with slots, and pixels."""
    text = render(question, processor)
    with TOKENIZING:
        return processor(
            text=[text],
            images=question.images or None,
            videos=question.videos or None,
            add_special_tokens=needs_special_tokens(text, processor),
            return_tensors="pt",
        )


def tokens_of(answer: str, processor: MplugOwlProcessor) -> list[int]:
    """An answer's own words: a `</s>` in it is text, as it is in a user's."""
    with TOKENIZING:
        return processor.tokenize_literally(processor.protect(answer))


def too_long(length: int, whose: str, positions: int) -> ValueError:
    return ValueError(
        f"the conversation has {length} tokens and {whose} {positions} positions; begin a new one, "
        "or leave out its first messages"
    )


def longest_token(processor: MplugOwlProcessor) -> int:
    """Characters that a position can stand for at most."""
    return max(map(len, processor.tokenizer.get_vocab()))


def _refuse_long_text(question: Question, longest: int | None) -> None:
    """Before the text is tokenised, which takes seconds of a very long one, and others wait for it."""
    length = sum(len(part.get("text", "")) for message in question.messages for part in message["content"])
    if longest is not None and length > longest:
        raise ValueError(
            f"the conversation has {length:,} characters, more than fit into the LLM's positions (at most "
            f"{longest:,}); begin a new one, or leave out its first messages"
        )


def needs_special_tokens(text: str, processor: MplugOwlProcessor) -> bool:
    """Whether the tokenizer is to put its own before a rendered text: some templates write them."""
    bos = processor.tokenizer.bos_token
    return bos is None or not text.startswith(bos)


def _media(question: Question, text: str, processor: MplugOwlProcessor) -> list[Medium]:
    """Pictures and videos in the order of their placeholders in the text."""
    images, videos = iter(question.images), iter(question.videos)
    placeholder = "|".join(re.escape(token) for token in (processor.image_token, processor.video_token))
    media = []
    for match in re.finditer(placeholder, text):
        is_image = match[0] == processor.image_token
        media.append(
            Medium("image", [next(images)], 0) if is_image else Medium("video", list(next(videos)), 0)
        )
    return media


def render(question: Question, processor: MplugOwlProcessor) -> str:
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
    return render(Question([folded, *rest]), processor)


def _protected(part: dict[str, str], processor: MplugOwlProcessor) -> dict[str, str]:
    return {**part, "text": processor.protect(part["text"])} if part["type"] == "text" else part
