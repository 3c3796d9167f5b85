"""Where an answer ends: by which tokens and words, in the ids and in the text that is shown."""

import secrets
from collections.abc import Iterable, Iterator

import torch
from transformers import StoppingCriteria

from open_owl.data.conversation import Text, Turn, conversation_of
from open_owl.data.encode import IGNORED, encode
from open_owl.model import MplugOwlProcessor

NO_LIMIT = 1_000_000


def closing_token(processor: MplugOwlProcessor) -> int:
    """The id that training puts at the end of an answer: of the turn by the template, or of the sequence."""
    turns = [Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),))]
    labels = encode(conversation_of(None, turns, "a conversation"), processor, NO_LIMIT).labels
    return int(labels[labels != IGNORED][-1])


def turn_marker(processor: MplugOwlProcessor) -> str | None:
    """The words by which the chat template begins the user's next turn (`\\nHuman:`), where words do it.

    A model that has not learned to close its answers would go on with a question of its own making. None
    where a control token begins the turn.
    """
    answer, question = secrets.token_hex(8), secrets.token_hex(8)
    said = [("user", "a"), ("assistant", answer), ("user", question)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    rendered = processor.apply_chat_template(messages, tokenize=False)
    between = rendered.partition(answer)[2].partition(question)[0]
    closing = processor.tokenizer.convert_ids_to_tokens(closing_token(processor))
    marker = between.partition(closing)[2] if closing in between else between
    is_words = marker.strip() and processor.protect(marker) == marker
    return marker.rstrip() if is_words else None


def until_marker(pieces: Iterable[str], marker: str | None) -> Iterator[str]:
    """Text in pieces, without white space around the whole, up to `marker`.

    What may be the beginning of the marker, or white space at the end, is held back until more is known.
    """
    held, begun = "", False
    for piece in pieces:
        held += piece
        if marker and marker in held:
            held = held.partition(marker)[0]
            break
        ready = len(held) - _held_back(held, marker or "")
        if held[:ready].strip():
            yield held[:ready] if begun else held[:ready].lstrip()
            held, begun = held[ready:], True
    last = held.rstrip() if begun else held.strip()
    if last:
        yield last


def _held_back(text: str, marker: str) -> int:
    """How many characters at the end of `text` cannot be shown yet."""
    longest = min(len(marker) - 1, len(text))
    begun = next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
    sure = text[: len(text) - begun].rstrip()
    return len(text) - len(sure)


class AnswerEnded(StoppingCriteria):
    """Rows whose answer holds the marker are done; all are, once `stop` was called."""

    def __init__(self, processor: MplugOwlProcessor, marker: str | None, prompt_length: int):
        self.tokenizer = processor.tokenizer
        self.marker = marker
        self.marker_tokens = len((marker or "").encode())  # at most: a token is a byte or more
        self.prompt_length = prompt_length
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        done = torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)
        if self.marker and not self.stopped:
            tails = input_ids[:, self.prompt_length :][:, -self.marker_tokens :].tolist()
            texts = [self.tokenizer.decode(tail, skip_special_tokens=True) for tail in tails]
            done |= torch.tensor([self.marker in text for text in texts], device=input_ids.device)
        return done  # pyright: ignore[reportReturnType]
