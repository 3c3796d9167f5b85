"""Where an answer ends: by which tokens and words, and what of its text can be shown before that is known."""

import secrets
from collections.abc import Sequence

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


class ShownText:
    """Text as it may be shown while it comes: without white space around the whole, up to any of `markers`.

    What may be the beginning of a marker, or white space at the end, is held back until more is known.
    """

    def __init__(self, markers: Sequence[str]):
        self.markers = markers
        self.has_ended = False  # a marker was met
        self._held = ""
        self._begun = False

    def add(self, text: str) -> str:
        """What can be shown now that `text` has come."""
        if self.has_ended:
            return ""
        self._held += text
        if self._cut():
            return self.finish()
        ready = len(self._held) - self._held_back()
        if not self._held[:ready].strip():
            return ""
        shown = self._held[:ready] if self._begun else self._held[:ready].lstrip()
        self._held, self._begun = self._held[ready:], True
        return shown

    def finish(self) -> str:
        """The rest, when nothing more comes."""
        last = self._held.rstrip() if self._begun else self._held.strip()
        self._held = ""
        return last

    def _cut(self) -> bool:
        """Drop what comes from the first marker on, if there is one."""
        found = [self._held.index(marker) for marker in self.markers if marker in self._held]
        if found:
            self._held, self.has_ended = self._held[: min(found)], True
        return self.has_ended

    def _held_back(self) -> int:
        """How many characters at the end cannot be shown yet."""
        begun = max((_begun(self._held, marker) for marker in self.markers), default=0)
        sure = self._held[: len(self._held) - begun].rstrip()
        return len(self._held) - len(sure)


def _begun(text: str, marker: str) -> int:
    """How many characters at the end of `text` are the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
