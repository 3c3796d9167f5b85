"""A conversation becomes ids, labels and pixels.

The whole conversation is rendered once by the chat template, with a stand-in for each answer; the answers are
then put back as ids. So ids and labels are born together, and no text is searched for where an answer begins.
"""

import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jinja2 import TemplateError

from .conversation import Conversation, Refused, Text, Turn, Video

if TYPE_CHECKING:
    from open_owl.model import MplugOwlProcessor

IGNORED = -100

# The parts a line each and answers closed by the end-of-sequence token, without a word of conversation around
# them: a picture and its caption, as stage 1 of the paper shows them. The system's words are left out.
PLAIN_TEMPLATE = """\
{{- bos_token if bos_token else '' -}}
{%- for message in messages if message['role'] != 'system' -%}
{%- for part in message['content'] -%}
{{- {'image': '<image>', 'video': '<|video|>'}.get(part['type'], part['text']) -}}
{{- '\\n' if message['role'] == 'user' else '' -}}
{%- endfor -%}
{{- eos_token if message['role'] == 'assistant' else '' -}}
{%- endfor -%}
"""


@dataclass(frozen=True)
class EncodedConversation:
    """One row for the model.

    input_ids: [tokens], with `num_image_tokens` slots for each picture and video.
    labels: [tokens], the id where the model learns to say it, elsewhere -100. Not shifted.
    pixel_values: [pictures, 3, height, width] in the order of their slots, or None.
    pixel_values_videos: [videos, frames, 3, height, width], or None.
    place: where the row came from.
    source: the path of the source that it was drawn from; empty outside a mixture.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    place: str
    source: str = ""

    @property
    def supervised_tokens(self) -> int:
        """Tokens that count in the loss (the first token of a row is never predicted)."""
        return int((self.labels[1:] != IGNORED).sum())


def encode(
    conversation: Conversation,
    processor: "MplugOwlProcessor",
    max_tokens: int,
    chat_template: str | None = None,
) -> EncodedConversation:
    """Encode a conversation for training.

    Learned are the answers and what the template ends them with (an end-of-turn or end-of-sequence token;
    the tokenizer's own end of sequence where the template has none). Before each answer stands what
    `processor.apply_chat_template(..., add_generation_prompt=True)` ends with at inference, also where the
    template writes more before an answer that is given.

    A conversation that is too long loses whole pairs of question and answer, last first, with their pictures.

    Args:
        max_tokens: the most ids of a row, visual slots included.
        chat_template: Jinja; null for the processor's own.

    Raises:
        Refused: `too_long` where even the first pair does not fit; `template` where the chat template refuses
            the conversation; the reasons of a picture or video that cannot be opened.
    """
    conversation, ids, labels = _fitted(conversation, processor, max_tokens, chat_template)
    return EncodedConversation(
        input_ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        pixel_values=_pixels(conversation, processor),
        pixel_values_videos=_video_pixels(conversation, processor),
        place=conversation.place,
    )


def refuse_videos(conversation: Conversation) -> None:
    """For a model that reads none. Raises Refused: `no_videos`."""
    if conversation.videos:
        remedy = "show frames as pictures, or use an abstractor"
        raise Refused("no_videos", "a video for a linear projector", conversation.place, remedy)


def count_tokens(
    conversation: Conversation, processor: "MplugOwlProcessor", max_tokens: int | None = None
) -> int:
    """How many ids `encode` would give; Refused as by `encode`, but no picture is opened."""
    return len(_fitted(conversation, processor, max_tokens, chat_template=None)[1])


def _fitted(
    conversation: Conversation, processor: Any, max_tokens: int | None, chat_template: str | None
) -> tuple[Conversation, list[int], list[int]]:
    """The conversation shortened to `max_tokens`, its ids and labels."""
    ids, labels, ends = _ids_and_labels(conversation, processor, chat_template)
    while max_tokens is not None and len(ids) > max_tokens:
        pairs = min(sum(end <= max_tokens for end in ends), len(ends) - 1)
        if pairs == 0:
            detail = f"{ends[0]} tokens up to the first answer's end, the limit is {max_tokens}"
            raise Refused("too_long", detail, conversation.place, "raise max_tokens or shorten the row")
        conversation = conversation.first_pairs(pairs)
        ids, labels, ends = _ids_and_labels(conversation, processor, chat_template)
    return conversation, ids, labels


def _ids_and_labels(
    conversation: Conversation, processor: Any, chat_template: str | None
) -> tuple[list[int], list[int], list[int]]:
    """ids, labels, and the position after each answer's end."""
    prompts = _prompts(conversation, processor, chat_template)
    ids = _with_beginning(
        processor.tokenize_literally(processor.expand_media(prompts[0])), prompts[0], processor
    )
    labels = [IGNORED] * len(ids)
    ends: list[int] = []
    for answer, following in zip(conversation.answers, prompts[1:], strict=True):
        after = processor.tokenize_literally(processor.expand_media(following))
        closing = _closing_length(after, processor)
        if closing == 0:
            after, closing = [_end_of_sequence(processor.tokenizer), *after], 1
        learned = processor.tokenize_literally(processor.protect(answer)) + after[:closing]
        ids += learned + after[closing:]
        labels += learned + [IGNORED] * (len(after) - closing)
        ends.append(len(ids) - (len(after) - closing))
    return ids, labels, ends


def _prompts(conversation: Conversation, processor: Any, chat_template: str | None) -> list[str]:
    """The rendered text around the answers: one piece before the first, and one after each."""
    stand_in = f"ANSWER{secrets.token_hex(8)}"
    system = _message("system", conversation.system, processor)
    turns = [
        _message("assistant", stand_in, processor) if turn.role == "assistant" else _question(turn, processor)
        for turn in conversation.turns
    ]
    messages = [system, *turns] if conversation.system else turns
    try:
        rendered = processor.apply_chat_template(messages, chat_template=chat_template, tokenize=False)
    except TemplateError as error:
        if not conversation.system:
            raise Refused("template", f"the chat template says: {error}", conversation.place) from error
        # Some templates know no system role: its words then stand before the first question.
        first = Turn("user", (Text(conversation.system), *conversation.turns[0].parts))
        folded = Conversation(None, (first, *conversation.turns[1:]), conversation.place)
        return _prompts(folded, processor, chat_template)
    prompts = rendered.split(stand_in)
    if len(prompts) != len(conversation.answers) + 1:
        detail = f"the chat template shows {len(prompts) - 1} of {len(conversation.answers)} answers"
        raise Refused("template", detail, conversation.place)
    roles = tuple(message["role"] for message in messages)
    for number, difference in enumerate(_differences(processor, chat_template, roles)):
        if isinstance(difference, str):
            raise Refused("template", difference, conversation.place, "give a chat_template of your own")
        prompts[number] = prompts[number].removesuffix(difference.beyond) + difference.lacking
    return prompts


class Difference(NamedTuple):
    """What a template writes before an answer `beyond` what it asks for one with, and what is `lacking`."""

    beyond: str
    lacking: str


@lru_cache(maxsize=64)
def _differences(processor: Any, chat_template: str | None, roles: tuple[str, ...]) -> list[Difference | str]:
    """Of each answer; a sentence where the two have nothing in common.

    Qwen3's template writes an empty thought before the last answer, and asks for one without; a model that
    learned to answer after the thought would be asked where it has never answered.
    """
    marks = [f"MESSAGE{secrets.token_hex(8)}" for _ in roles]
    messages = [_message(role, mark, processor) for role, mark in zip(roles, marks, strict=True)]
    template = {"chat_template": chat_template, "tokenize": False}
    told = processor.apply_chat_template(messages, **template)
    found: list[Difference | str] = []
    for place, role in enumerate(roles):
        if role != "assistant":
            continue
        asked = processor.apply_chat_template(messages[:place], add_generation_prompt=True, **template)
        written = told.partition(marks[place])[0].rpartition(marks[place - 1])[2]
        wanted = asked.rpartition(marks[place - 1])[2]
        if written.startswith(wanted):
            found.append(Difference(written.removeprefix(wanted), ""))
        elif wanted.startswith(written):
            found.append(Difference("", wanted.removeprefix(written)))
        else:
            found.append(f"the chat template asks with {wanted!r}, but writes {written!r} before an answer")
    return found


def _message(role: str, text: str | None, processor: Any) -> dict:
    return {"role": role, "content": [{"type": "text", "text": processor.protect(text or "")}]}


def _question(turn: Turn, processor: Any) -> dict:
    content = []
    for part in turn.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": processor.protect(part.text)})
        else:
            content.append({"type": "video" if isinstance(part, Video) else "image"})
    return {"role": "user", "content": content}


def _with_beginning(ids: list[int], prompt: str, processor: Any) -> list[int]:
    """With the beginning-of-sequence token that the tokenizer puts, unless the template wrote it."""
    tokenizer = processor.tokenizer
    if tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token):
        return ids
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id, *ids] if begins else ids


def _closing_length(after: list[int], processor: Any) -> int:
    """How many ids after an answer end it: up to the first control token, if only white space precedes."""
    tokenizer = processor.tokenizer
    control = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    control.update(tokenizer.all_special_ids)
    control -= {processor.image_token_id, processor.video_token_id}
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        control.discard(tokenizer.bos_token_id)  # it begins what follows
    for number, token_id in enumerate(after):
        if token_id in control:
            return number + 1
        if tokenizer.decode([token_id]).strip():
            break
    return 0


def _end_of_sequence(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, and the chat template ends no answer")
    return tokenizer.eos_token_id


def _pixels(conversation: Conversation, processor: Any) -> torch.Tensor | None:
    pictures = [image.open(conversation.place) for image in conversation.images]
    if not pictures:
        return None
    return processor.image_processor(pictures, return_tensors="pt")["pixel_values"]


def _video_pixels(conversation: Conversation, processor: Any) -> torch.Tensor | None:
    videos = [video.open(processor.num_frames, conversation.place) for video in conversation.videos]
    if not videos:
        return None
    return processor(videos=videos, return_tensors="pt")["pixel_values_videos"]
