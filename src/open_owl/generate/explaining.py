"""Where in its pictures each word of an answer comes from: what happens to it as parts of them are hidden.

Occlusion (Zeiler and Fergus 2014, section 4.2): a square of a picture is painted over with the picture's mean
colour, and the log-probabilities of the answer's words are read again; square after square, over the whole
picture. It takes a fixed number of passes through the model, whatever the answer's length, and nothing of the
LLM but its logits. docs/explain.md has what it was chosen over, and by which measure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .answer_words import AnswerWord, words_of
from .looking import Box, attention_maps, place, seen_box
from .machine import device_of, release_helpers
from .messages import Messages, Question, read_messages
from .owl import Owl
from .prompt import tensors_of, tokens_of
from .sampling import DEFAULT_NEW_TOKENS, Sampling

CELLS = 8  # of a map, in each direction
HIDDEN = 2  # cells on each side of the square that hides a part
TOKENS_AT_ONCE = 2048  # of rows that go through the model together, each with another part hidden
MOST_TOLD = 1000  # times that a word becomes less likely; more is told as "over"
WORTH_TELLING = 0.05  # nats; less is told as no change


@dataclass(frozen=True)
class WordSource:
    """A word of an answer, and where it comes from.

    text: with its punctuation.
    falls: [images, rows, columns] float32: by how much the word's log-probability falls (nats) where that
        cell of that picture is hidden, mean over the squares that hide it; negative where it rises.
    logprob: of the word's tokens together, after the prompt and the words before.
    gain: its logprob less the one with all pictures hidden. Near or below 0 the word owes them nothing.
    """

    text: str
    falls: torch.Tensor
    logprob: float
    gain: float

    @property
    def fall(self) -> float:
        """The largest of `falls`."""
        return float(self.falls.max())

    @property
    def maps(self) -> torch.Tensor:
        """[images, rows, columns]: where the word falls, each cell's share; 1 over all pictures together.

        The sum over one picture is that picture's share. All 0 where the word falls nowhere.
        """
        falls = self.falls.clamp(min=0)
        return falls / falls.sum().clamp(min=torch.finfo(falls.dtype).tiny)

    @property
    def strength(self) -> torch.Tensor:
        """[images, rows, columns] from 0 to 1, for drawing: 1 where the word falls most, and at least by
        half of its probability, so that a word that no picture gives stays dark."""
        falls = self.falls.clamp(min=0)
        return falls / max(self.fall, math.log(2))


@dataclass(frozen=True)
class Explanation:
    """An answer and what of its pictures it comes from.

    answer: as `Owl.chat` gives it; a given answer as the tokenizer reads it.
    images: the pictures of the conversation in their order, upright RGB.
    boxes: the part of each that the model saw, which its maps cover: (left, top, right, bottom) in pixels.
    queries: [images, queries, rows, columns]: where each of the abstractor's queries looked
        (`attention_maps`), each summing to 1; the same whatever is asked.
    words: of the answer, in their order.
    """

    answer: str
    images: list[Image.Image]
    boxes: list[Box]
    queries: torch.Tensor
    words: list[WordSource]

    def source(self, word: WordSource) -> str:
        """In words, where most of a word comes from: "top left", with its picture where there are several."""
        if word.fall < WORTH_TELLING:
            return "no single place"
        best = int(word.falls.amax((1, 2)).argmax())
        where = place(word.falls[best], self.images[best].size, self.boxes[best])
        if len(self.images) == 1:
            return where
        return f"picture {best + 1} ({word.maps[best].sum():.0%} of it), {where}"

    def in_words(self, word: WordSource) -> str:
        """All that is known of a word's source: "top left; hidden there, 3.2 times less likely; all hidden,
        12 times less likely"."""
        there = "" if word.fall < WORTH_TELLING else f"hidden there, {likelihood(-word.fall)}; "
        return f"{self.source(word)}; {there}all hidden, {likelihood(-word.gain)}"


def likelihood(nats: float) -> str:
    """A change of a log-probability in words: "12 times less likely"."""
    if abs(nats) < WORTH_TELLING:
        return "as likely"
    direction = "likelier" if nats > 0 else "less likely"
    if abs(nats) > math.log(MOST_TOLD):
        return f"over {MOST_TOLD:,} times {direction}"
    factor = math.exp(abs(nats))
    return f"{factor:.0f} times {direction}" if factor >= 10 else f"{factor:.2g} times {direction}"


def explain(
    owl: Owl, messages: Messages, answer: str | None = None, max_new_tokens: int = DEFAULT_NEW_TOKENS
) -> Explanation:
    """Answers a conversation about pictures and tells where in them each word of the answer comes from.

    Every picture costs 81 passes through encoder, abstractor and LLM, whatever the number of words.

    Args:
        messages: as `Owl.chat` takes them, with one picture or several anywhere among them.
        answer: explain this one in place of the likeliest.

    Raises:
        ValueError: messages that cannot be read, hold a video or no picture; no word to explain; more than
            the LLM has positions for.
    """
    question = read_messages(messages, owl.processor.num_frames)
    _refuse_unless_pictures(question)
    if answer is None:
        made = owl.engine.submit(messages, Sampling(max_new_tokens))
        shown, ids = made.result(), list(made.ids)
    else:
        shown = None
        ids = tokens_of(answer, owl.processor)
    words = words_of(owl.processor.tokenizer, ids, shown)
    if not words:
        raise ValueError("the answer has no word to explain; ask something else, or give an answer")
    try:
        told = _Told(owl, question, ids)
        sources = told.sources(words)
        queries = attention_maps(owl.model, told.pixels).cpu()
    finally:
        release_helpers()
    image_processor: Any = owl.processor.image_processor
    boxes = [seen_box(image_processor, *image.size) for image in question.images]
    text = " ".join(word.text for word in words) if shown is None else shown
    return Explanation(text, question.images, boxes, queries, sources)


def _refuse_unless_pictures(question: Question) -> None:
    if question.videos:
        raise ValueError(
            "videos are not explained, as the abstractor reads all their frames at once; "
            "show a frame of it as a picture"
        )
    if not question.images:
        raise ValueError("there is no picture to look into; show one with the question")


class _Told:
    """A prompt with its answer after it, as the model reads both at once."""

    def __init__(self, owl: Owl, question: Question, answer: list[int]):
        self.model = owl.model
        device = device_of(self.model)
        inputs = tensors_of(question, owl.processor)
        self.pixels: torch.Tensor = inputs["pixel_values"].to(device)
        self.answer = torch.tensor(answer, device=device)
        self.ids = torch.cat([inputs["input_ids"].to(device), self.answer[None]], dim=1)
        limit = owl.engine.max_positions
        if self.ids.shape[1] > limit:
            raise ValueError(
                f"conversation and answer have {self.ids.shape[1]} tokens and the LLM {limit} positions; "
                "explain a shorter answer, or leave out the first messages"
            )

    @torch.inference_mode()
    def sources(self, words: Sequence[AnswerWord]) -> list[WordSource]:
        """Where each word comes from."""
        core = self.model.model
        blank = self.pixels.mean((-2, -1), keepdim=True).expand_as(self.pixels)
        embeds = core._embed(self.ids, self.pixels, None)[0]  # [1, length, hidden]
        whole = self._logprobs(embeds, words)[0]
        gains = whole - self._logprobs(core._embed(self.ids, blank, None)[0], words)[0]
        falls = torch.stack(
            [self._falls(embeds, number, whole, words) for number in range(len(self.pixels))], dim=1
        )
        return [
            WordSource(word.text, own.cpu(), float(logprob), float(gain))
            for word, own, logprob, gain in zip(words, falls, whole, gains, strict=True)
        ]

    def _falls(
        self, embeds: torch.Tensor, number: int, whole: torch.Tensor, words: Sequence[AnswerWord]
    ) -> torch.Tensor:
        """By how much words fall from `whole` where a picture's parts are hidden: [words, rows, columns]."""
        picture = self.pixels[number]
        slots = self.model.config.num_image_tokens
        start = int((self.ids[0] == self.model.config.image_token_id).nonzero()[number * slots])
        squares = hiding_squares().to(picture.device)  # [squares, rows, columns]
        found = []
        for some in squares.split(max(1, TOKENS_AT_ONCE // self.ids.shape[1])):
            tokens: Any = self.model.get_image_features(hide(picture, some)).pooler_output
            rows = embeds.repeat(len(some), 1, 1)
            rows[:, start : start + slots] = tokens.to(rows.dtype)
            found.append(whole - self._logprobs(rows, words))
        falls = torch.einsum("sw,src->wrc", torch.cat(found), squares.float())
        return falls / squares.float().sum(0)

    def _logprobs(self, embeds: torch.Tensor, words: Sequence[AnswerWord]) -> torch.Tensor:
        """[rows, length, hidden] -> of each word's tokens together [rows, words] float32."""
        length = len(self.answer)
        logits = self.model(inputs_embeds=embeds, logits_to_keep=length + 1).logits[:, :-1].float()
        said = logits.gather(2, self.answer.expand(len(embeds), length)[..., None])[..., 0]
        logprobs = said - logits.logsumexp(-1)
        return torch.stack([logprobs[:, list(word.tokens)].sum(1) for word in words], dim=1)


def hiding_squares() -> torch.Tensor:
    """Which cells each square hides: [squares, CELLS, CELLS] of bool, at every place, cut at the borders."""
    first = torch.arange(1 - HIDDEN, CELLS)[:, None]
    cell = torch.arange(CELLS)
    along = (cell >= first) & (cell < first + HIDDEN)  # [places, cells]
    return (along[:, None, :, None] & along[None, :, None, :]).flatten(0, 1)


def hide(picture: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """A picture once for each square, which is painted over with the picture's mean colour.

    picture [channels, height, width], squares [squares, rows, columns] of bool ->
    [squares, channels, height, width]
    """
    height, width = picture.shape[-2:]
    rows = torch.arange(height, device=picture.device) * squares.shape[1] // height
    columns = torch.arange(width, device=picture.device) * squares.shape[2] // width
    is_hidden = squares[:, rows][:, :, columns][:, None]  # [squares, 1, height, width]
    return torch.where(is_hidden, picture.mean((-2, -1), keepdim=True), picture)
