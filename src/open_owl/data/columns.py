"""A row of Parquet columns becomes a row of a format that `formats.py` reads, and its pictures apart.

Parquet has one type a column, so the layouts differ from JSON's: pictures are structs of `bytes` and `path`
(Hugging Face's Image feature) or plain bytes, and fields that a message does not use are null.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .conversation import Refused, check_file
from .formats import is_released_text
from .media import list_of
from .storage import DataFile

# Names that data sets give to the same thing, in order of preference; the first is what `formats.py` reads.
_IMAGE_COLUMNS = ("image", "images", "jpg", "jpeg", "png", "webp", "img", "picture", "pictures")
_VIDEO_COLUMNS = ("video", "videos", "mp4")
_CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "TEXT", "alt_text", "sentences")
# How files begin, and the extension that their member gets. What begins otherwise is refused when it is read.
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)

Members = dict[str, bytes]


def media_columns(names: list[str]) -> list[str]:
    """Those of a file's columns that hold pictures or videos."""
    return [name for name in names if name in (*_IMAGE_COLUMNS, *_VIDEO_COLUMNS)]


def converted_row(
    columns: Mapping[str, Any], key: str, folder: DataFile, place: str
) -> tuple[dict[str, Any], Members]:
    """A JSON row, and the members that lie beside it in the tar under `key`, by extension.

    Args:
        columns: one row; null fields count as absent.
        folder: what pictures that are only named are relative to.

    Raises:
        Refused: a picture has neither bytes nor a file; messages and pictures do not match in number.
    """
    row = {name: value for name, value in columns.items() if value is not None}
    members: Members = {}
    images = _taken(row, _IMAGE_COLUMNS, members, key, folder, place, kind="image")
    videos = _taken(row, _VIDEO_COLUMNS, members, key, folder, place, kind="video")
    row = _without_bytes(row)
    for name in ("conversations", "messages"):
        if isinstance(row.get(name), str):
            row[name] = _turns_in_text(row[name], place)
    if "texts" in row and not row.keys() & {"conversations", "messages"}:
        row = {**row, "messages": _dialogue(row.pop("texts"), images, place)}
    elif _has_parts(row.get("messages")):
        row["messages"] = _filled_parts(row["messages"], list(images), place)
    else:
        row |= {"images": images} if images else {}
    if not row.keys() & {"conversations", "messages", "caption", "captions", "instruction", "input"}:
        _name_caption(row, bool(images or videos))
    return row | ({"videos": videos} if videos else {}), members


def _taken(
    row: dict[str, Any],
    names: tuple[str, ...],
    members: Members,
    key: str,
    folder: DataFile,
    place: str,
    kind: str,
) -> list[str]:
    """Moves the media of these columns from the row to the members; the names that they have there."""
    taken: list[str] = []
    for name in names:
        for value in list_of(row.pop(name, None)):
            data = _bytes_of(value, folder, place, kind)
            extension = f"{len(members)}.{_extension(data, value, kind)}"
            members[extension] = data
            taken.append(f"{key}.{extension}")
    return taken


def _bytes_of(value: Any, folder: DataFile, place: str, kind: str) -> bytes:
    if isinstance(value, bytes):
        return value
    path = value
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        path = value.get("path")
    if not isinstance(path, str) or not path:
        raise Refused("bad_media", f"the {kind} has neither bytes nor a path", place)
    if path.startswith(("http://", "https://")):
        raise Refused("remote_media", f"the {kind} is at {path}", place, "download it and name the file")
    file = folder / path.removeprefix("file://")
    if isinstance(file, Path):
        check_file(file, kind, place)
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Refused(f"{kind}_missing", f"{kind} {file} cannot be read ({error})", place) from error


def _extension(data: bytes, value: Any, kind: str) -> str:
    for magic, extension in _MAGIC:
        if data.startswith(magic):
            return extension
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    path = value.get("path") if isinstance(value, dict) else value
    named = Path(path).suffix[1:].lower() if isinstance(path, str) else ""
    if named.isalnum():
        return named
    return "mp4" if kind == "video" else "avif" if data[4:8] == b"ftyp" else "jpg"


def _without_bytes(value: Any) -> Any:
    """Nulls and what JSON cannot hold are left out; dates and numbers of other kinds become text."""
    if isinstance(value, dict):
        return {
            str(name): _without_bytes(one)
            for name, one in value.items()
            if one is not None and not isinstance(one, bytes)
        }
    if isinstance(value, list | tuple):
        return [_without_bytes(one) for one in value if not isinstance(one, bytes)]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _turns_in_text(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused("bad_json", f"the turns are text, and no JSON ({error})", place) from error


def _dialogue(texts: Any, images: list[str], place: str) -> list[dict[str, Any]]:
    """`texts` of `user` and `assistant`, as the Cauldron and FineVision have them; pictures come first."""
    if not isinstance(texts, list) or not all(isinstance(text, dict) for text in texts):
        raise Refused("bad_row", "`texts` is not a list of objects", place)
    pictures = [{"type": "image", "image": image} for image in images]
    messages: list[dict[str, Any]] = []
    for text in texts:
        question = [] if messages else pictures
        question = [*question, {"type": "text", "text": str(text.get("user") or "")}]
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": str(text.get("assistant") or "")})
    return messages


def _has_parts(messages: Any) -> bool:
    return isinstance(messages, list) and any(
        isinstance(message, dict) and isinstance(message.get("content"), list) for message in messages
    )


def _filled_parts(messages: list[Any], images: list[str], place: str) -> list[Any]:
    """Parts that say only that a picture stands there (or its `index`) get the row's pictures, in order."""
    parts = [
        part
        for message in messages
        if isinstance(message, dict)
        for part in list_of(message.get("content"))
        if isinstance(part, dict) and part.get("type") == "image"
    ]
    empty = [part for part in parts if not any(part.get(name) for name in ("image", "path", "url"))]
    order = [part.get("index", number) for number, part in enumerate(empty)]
    if sorted(map(str, order)) != sorted(map(str, range(len(images)))):
        detail = f"{len(images)} images but {len(empty)} image parts"
        raise Refused("image_count", detail, place, "let each picture have its part")
    for number, part in zip(order, empty, strict=True):
        part["image"] = images[int(number)]
    return messages


def _name_caption(row: dict[str, Any], has_media: bool) -> None:
    """The column that holds the caption of a picture gets the name that the format has for it.

    A dialogue of the released format keeps its own.
    """
    if is_released_text(row.get("text")):
        return
    name = next((name for name in _CAPTION_COLUMNS if name in row), None)
    if has_media and name is not None:
        value = row.pop(name)
        row["captions" if isinstance(value, list) else "caption"] = value
