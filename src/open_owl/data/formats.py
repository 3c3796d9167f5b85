"""Reading a row of any known format as a `Conversation`.

docs/data.md shows a row of each. A reader takes the row, its media and its place, and raises `Refused` for
whatever it cannot read rightly; nothing is guessed and nothing becomes a different row.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .conversation import Conversation, Image, Part, Refused, Text, Turn, Video, conversation_of, text_parts
from .media import (
    PICTURE_EXTENSIONS,
    UNREADABLE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    MediaSource,
    Sample,
    image_of,
    list_of,
    members_with,
    video_of,
    videos_in,
)

Format = Literal["conversations", "messages", "alpaca", "baize", "released", "self_instruct", "captions"]

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("function_call", "observation", "tool", "tool_calls", "function"), "tool"),
}


_CAPTION_MEMBERS = ("txt", "caption")
_RELEASED_TURN = re.compile(r"^(Human|AI):", re.MULTILINE)


class CaptionSettings(BaseModel):
    """How a pair of picture and caption becomes a conversation.

    `prompts`: what the user says beside the picture, one of them drawn for each row; null lets the user show
    the picture and say nothing. `choose`: which caption, where a row has several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: list[str] | None = Field(default=None, min_length=1)
    choose: Literal["first", "any"] = "first"


def detect_format(row: Any, place: str, media: MediaSource = Path()) -> Format:
    """Which format a row has, by its keys, or by a caption that lies beside it in a WebDataset sample.

    Raises:
        Refused: `bad_row` where it is no JSON object, `unknown_format` naming the keys that were found.
    """
    if not isinstance(row, dict):
        raise Refused("bad_row", f"the row is a {type(row).__name__}, not a JSON object", place)
    keys = row.keys()
    if "conversations" in keys:
        return "conversations"
    if "messages" in keys:
        return "messages"
    if {"instruction", "instances"} <= keys:
        return "self_instruct"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    if "[|Human|]" in str(row.get("input")):
        return "baize"
    if is_released_text(row.get("text")):
        return "released"
    if keys & {"caption", "captions"} or (
        isinstance(media, Mapping) and not media.keys().isdisjoint(_CAPTION_MEMBERS)
    ):
        return "captions"
    found = ", ".join(sorted(map(str, keys))) or "no keys"
    raise Refused("unknown_format", f"no known format has these keys: {found}", place, "see docs/data.md")


def is_released_text(text: Any) -> bool:
    """Whether this is a dialogue of the released format, and no caption."""
    return isinstance(text, str) and _RELEASED_TURN.search(text) is not None


def read_row(
    row: Any,
    format: Format | None,
    media: MediaSource,
    place: str,
    captions: CaptionSettings | None = None,
    draw: int = 0,
) -> Conversation:
    """Read one row.

    Args:
        row: what the JSON holds; an empty object for a WebDataset sample without JSON.
        format: null to tell it from the row's keys.
        media: the folder that names in the row are relative to, or the members of the WebDataset sample.
        place: where the row is, for messages ("captions.jsonl:817").
        captions: how caption pairs become conversations.
        draw: where there are alternatives (captions, prompts), another number makes another choice; the same
            number and place always the same.

    Raises:
        Refused: with a reason to count by.
    """
    format = format or detect_format(row, place, media)
    if not isinstance(row, dict):
        raise Refused("bad_row", f"the row is a {type(row).__name__}, not a JSON object", place)
    media = Sample(media) if isinstance(media, Mapping) else media
    if format == "captions":
        return _captions(row, media, place, captions or CaptionSettings(), draw)
    if format == "self_instruct":
        return _self_instruct(row, media, place, draw)
    readers: dict[str, Callable[[dict, MediaSource, str], Conversation]] = {
        "conversations": _conversations,
        "messages": _messages,
        "alpaca": _alpaca,
        "baize": _baize,
        "released": _released,
    }
    return readers[format](row, media, place)


def _conversations(row: dict, media: MediaSource, place: str) -> Conversation:
    """LLaVA, ShareGPT, Vicuna: `conversations` of `from` and `value`, pictures in `image` or `images`."""
    said = [(m.get("from", m.get("role")), m.get("value", m.get("content"))) for m in _objects(row, place)]
    return _from_placeholders(said, row, media, place)


def _messages(row: dict, media: MediaSource, place: str) -> Conversation:
    """OpenAI and Hugging Face `messages`: content is text with placeholders, or parts with their media."""
    messages = _objects(row, place)
    if any(m.get("tool_calls") or m.get("function_call") for m in messages):
        raise _tool_turns(place)
    if any(isinstance(m.get("content"), list) for m in messages):
        return _from_parts(messages, row, media, place)
    return _from_placeholders([(m.get("role"), m.get("content")) for m in messages], row, media, place)


def _alpaca(row: dict, media: MediaSource, place: str) -> Conversation:
    """`instruction`, `input` (may be empty), `output`; `history` and `system` as LLaMA-Factory has them."""
    question = "\n".join(filter(None, (_text(row, key, place) for key in ("instruction", "input"))))
    said: list[tuple[Any, Any]] = []
    for pair in list_of(row.get("history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("bad_row", "`history` is not a list of pairs", place)
        said += [("user", pair[0]), ("assistant", pair[1])]
    said += [("user", question), ("assistant", _text(row, "output", place))]
    if _has_media(row) or any(_members_of(media)):
        return _from_placeholders([("system", row.get("system")), *said], row, media, place)
    turns = [
        Turn(_turn_role(role, place), text_parts(_string(text, "history", place))) for role, text in said
    ]
    return conversation_of(_text(row, "system", place), turns, place)


def _baize(row: dict, media: MediaSource, place: str) -> Conversation:
    """`input` with [|Human|] and [|AI|] before each turn; what stands before the first is left out."""
    _refuse_media(row, media, "baize", place)
    turns = _marked_turns(_text(row, "input", place), r"\[\|(Human|AI)\|\]")[1]
    return conversation_of(None, [Turn(role, text_parts(text)) for role, text in turns], place)


def _released(row: dict, media: MediaSource, place: str) -> Conversation:
    """The released jsonl: `text` with lines that begin `Human:` and `AI:`; before them, the system's."""
    system, turns = _marked_turns(_text(row, "text", place), r"(?:^|(?<=\n))(Human|AI):")
    said: list[tuple[Any, Any]] = [("system", system)] if system else []
    return _from_placeholders([*said, *turns], row, media, place)


def _self_instruct(row: dict, media: MediaSource, place: str, draw: int) -> Conversation:
    """`instruction` and `instances` of `input` and `output`, one of which is taken."""
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not all(isinstance(i, dict) for i in instances):
        raise Refused("bad_row", "`instances` is not a list of objects", place)
    instance = instances[draw % len(instances)]
    for part in (row, instance):
        _refuse_media(part, media, "self_instruct", place)
    return _alpaca({"instruction": row.get("instruction"), **instance}, {}, place)


def _captions(row: dict, media: MediaSource, place: str, how: CaptionSettings, draw: int) -> Conversation:
    """A picture and its caption or captions, from a JSON row or a WebDataset sample."""
    texts = list_of(row.get("captions")) or list_of(row.get("caption"))
    texts = [_string(text, "a caption", place) for text in texts] or [_caption_member(media, place)]
    if not any(text.strip() for text in texts):
        raise Refused("no_caption", "there is no caption", place)
    texts = [text for text in texts if text.strip()]
    caption = texts[0] if how.choose == "first" else _choose(texts, place, draw)
    prompt = _choose(how.prompts, f"{place} prompt", draw) if how.prompts else ""
    question = (_pair_media(row, media, place), *text_parts(prompt))
    return conversation_of(None, [Turn("user", question), Turn("assistant", text_parts(caption))], place)


def _caption_member(media: MediaSource, place: str) -> str:
    if not isinstance(media, Mapping):
        return ""
    data = next((media[name] for name in _CAPTION_MEMBERS if name in media), b"")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("bad_text", f"the caption is not UTF-8 ({error})", place) from error


def _pair_media(row: dict, media: MediaSource, place: str) -> Part:
    """The one picture, or video, of a caption pair."""
    images, videos = _members_of(media)
    members = images + videos
    for key in ("image", "image_path", "file_name", "video"):
        if row.get(key) and not members:
            reader = video_of if key == "video" else image_of
            given = videos_in(row[key]) if key == "video" else list_of(row[key])
            members = [reader(one, media, place) for one in given]
    if len(members) != 1:
        raise Refused("image_count", f"{len(members)} pictures for one caption", place)
    return members[0]


def _from_placeholders(
    said: list[tuple[Any, Any]], row: dict, media: MediaSource, place: str
) -> Conversation:
    """Turns whose text says `<image>` and `<video>` where the row's pictures and videos belong, in order."""
    images, videos = _media_of(row, media, place) if _has_media(row) else _members_of(media)
    # `<video>` is a word of HTML too: it holds a place only where the row has videos.
    pattern = r"(<image>|<\|video\|>|<video>)" if videos else r"(<image>|<\|video\|>)"
    system, rest = _split_system([(role, _string(text, "a turn", place)) for role, text in said], place)
    asked = "\n".join(text for role, text in rest if role == "user")
    places = [piece for piece in re.split(pattern, asked) if re.fullmatch(pattern, piece)]
    _check_count(len(images), places.count("<image>"), "image", place)
    _check_count(len(videos), len(places) - places.count("<image>"), "video", place)
    turns = []
    for role, text in rest:
        parts: list[Part] = []
        for piece in re.split(pattern, text) if role == "user" else [text]:
            if role == "user" and re.fullmatch(pattern, piece):
                parts.append((images if piece == "<image>" else videos).pop(0))
            else:
                parts += text_parts(piece)
        turns.append(Turn(role, tuple(parts)))
    return conversation_of(system, turns, place)


def _from_parts(messages: list[dict], row: dict, media: MediaSource, place: str) -> Conversation:
    """Messages whose content is a list of parts; pictures and videos stand where they belong."""
    said: list[tuple[Any, Any]] = [
        (m.get("role"), tuple(_parts(m.get("content"), media, place))) for m in messages
    ]
    system, rest = _split_system(said, place)
    if any(not isinstance(p, Text) for role, parts in rest if role == "assistant" for p in parts):
        raise Refused("media_in_answer", "an answer holds a picture or video", place)
    _refuse_media_without_part([part for _, parts in rest for part in parts], row, media, place)
    system_text = "\n".join(p.text for p in system if isinstance(p, Text)) if system else None
    return conversation_of(system_text, [Turn(role, parts) for role, parts in rest], place)


def _refuse_media_without_part(parts: list[Part], row: dict, media: MediaSource, place: str) -> None:
    """Whatever the row names, or lies beside it in the tar, must be shown by one of the parts."""
    shown = _sources(parts)
    images, videos = (
        [*named, *members]
        for named, members in zip(_media_of(row, media, place), _members_of(media), strict=True)
    )
    for kind, given in (("image", images), ("video", videos)):
        count = sum(source not in shown for source in _sources(given))
        if count:
            detail = f"{count} {kind}s that no part of the messages shows"
            raise Refused(f"{kind}_count", detail, place, f"give each {kind} a part, or drop it")


def _sources(parts: list[Part]) -> list[Any]:
    """What each picture and video would be opened from; of a video that is frames, each of them."""
    found: list[Any] = [part.source for part in parts if not isinstance(part, Text)]
    return [one for source in found for one in (source if isinstance(source, list) else [source])]


def _parts(content: Any, media: MediaSource, place: str) -> list[Part]:
    parts: list[Part] = []
    for part in list_of(content):
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text"):
            parts += text_parts(_text(part, "text", place))
        elif kind in ("image", "image_url", "input_image"):
            parts.append(image_of(part, media, place))
        elif kind in ("video", "video_url"):
            parts.append(video_of(part.get("video") if kind == "video" else part, media, place))
        else:
            raise Refused("bad_row", f"content part of type {kind!r}", place, "use text, image or video")
    return parts


def _split_system(said: list[tuple[Any, Any]], place: str) -> tuple[Any, list[tuple[Any, Any]]]:
    """The system's words, which may stand only first, and the other turns with their roles made plain."""
    roles = [_role(role, place) for role, _ in said]
    if "tool" in roles:
        raise _tool_turns(place)
    if "system" in roles[1:]:
        raise Refused("turn_order", f"a system turn stands at place {roles.index('system', 1) + 1}", place)
    rest = [(role, text) for role, (_, text) in zip(roles, said, strict=True)]
    return (rest[0][1], rest[1:]) if roles[:1] == ["system"] else (None, rest)


def _role(name: Any, place: str) -> str:
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Refused("bad_role", f"a turn has the role {name!r}", place, "use human and gpt")
    return role


def _turn_role(name: Any, place: str) -> Literal["user", "assistant"]:
    return "assistant" if _role(name, place) == "assistant" else "user"


def _tool_turns(place: str) -> Refused:
    return Refused("tool_turns", "there are calls of tools, which no template here can show", place)


def _objects(row: dict, place: str) -> list[dict]:
    """The list of turns, each an object."""
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Refused("bad_row", "the turns are not a list of objects", place)
    return [{"role": "system", "content": row["system"]}, *turns] if row.get("system") else turns


def _marked_turns(text: str, pattern: str) -> tuple[str, list[tuple[Literal["user", "assistant"], str]]]:
    """What stands before the first marker, and the turns that markers `Human` and `AI` begin."""
    before, *pieces = re.split(pattern, text)
    turns = zip(pieces[::2], pieces[1::2], strict=True)
    return before.strip(), [("user" if who == "Human" else "assistant", said) for who, said in turns]


def _field(row: dict, *keys: str) -> list[Any]:
    return [one for key in keys for one in list_of(row.get(key))]


def _has_media(row: dict) -> bool:
    return bool(_field(row, "image", "images", "video", "videos"))


def _media_of(row: dict, media: MediaSource, place: str) -> tuple[list[Part], list[Part]]:
    """The pictures and videos that a row names."""
    images: list[Part] = [image_of(one, media, place) for one in _field(row, "image", "images")]
    given = [*videos_in(row.get("video")), *list_of(row.get("videos"))]
    return images, [video_of(one, media, place) for one in given]


def _members_of(media: MediaSource) -> tuple[list[Part], list[Part]]:
    """The pictures and videos of a tar sample."""
    found = members_with(PICTURE_EXTENSIONS, media) or members_with(UNREADABLE_EXTENSIONS, media)
    images: list[Part] = [Image(data) for data in found]
    return images, [Video(data) for data in members_with(VIDEO_EXTENSIONS, media)]


def _refuse_media(row: dict, media: MediaSource, format: Format, place: str) -> None:
    """For formats that have no way to say where a picture belongs."""
    if _has_media(row) or any(_members_of(media)):
        detail = f"a picture or video in a row of `{format}`, which is for text alone"
        raise Refused("media_in_text", detail, place, "write the row as `conversations`")


def _check_count(given: int, places: int, kind: str, place: str) -> None:
    if given != places:
        detail = f"{given} {kind}s but {places} <{kind}> placeholders"
        one = {"image": "an image", "video": "a video"}[kind]
        more = "add a placeholder or drop" if given > places else "drop a placeholder or add"
        raise Refused(f"{kind}_count", detail, place, f"{more} {one}")


def _text(row: dict, key: str, place: str) -> str:
    """A field that is text; nothing is the empty text."""
    return _string(row.get(key), f"`{key}`", place)


def _string(value: Any, what: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused("bad_row", f"{what} is a {type(value).__name__}, not text", place)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Refused("bad_text", f"{what} holds half a character (a lone surrogate)", place)
    return value


def _choose(options: list[str], place: str, draw: int) -> str:
    """One of the options, by place and draw alone, so that every run and every machine takes the same."""
    digest = hashlib.sha256(f"{place} {draw}".encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]
