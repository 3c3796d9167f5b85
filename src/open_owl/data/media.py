"""Where the pictures and videos of a row are: in a folder, in the row itself, or beside it in a tar."""

import re
from collections.abc import Mapping
from typing import Any

from open_owl import data_uri

from .conversation import Image, Refused, Video
from .storage import DataFile, RemoteFile, is_remote, local_or_remote

# What a name in a row refers to: files below a folder, or the members of a WebDataset sample by extension.
MediaSource = DataFile | Mapping[str, bytes]

_STILLS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "jp2", "avif")
PICTURE_EXTENSIONS = (*_STILLS, "gif")
# Pictures too, though they cannot be opened: a row must not lose its only one without a word.
UNREADABLE_EXTENSIONS = ("heic", "heif")
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov", "avi")


class Sample(dict[str, bytes]):
    """The members of a WebDataset sample by extension, while one row is read.

    named: by which name the row has asked for each, so that two names do not become one picture.
    """

    def __init__(self, members: Mapping[str, bytes]):
        super().__init__(members)
        self.named: dict[str, str] = {}


def folder_of(file: DataFile, media_folder: str | None) -> DataFile:
    """What the names in a file's rows are relative to."""
    return file.parent if media_folder is None else local_or_remote(media_folder)


def image_of(reference: Any, media: MediaSource, place: str) -> Image:
    """The picture that a row names: a path, a `file:` or `data:` URI, or a mapping that holds one of these.

    Raises:
        Refused: `remote_media` for http(s), `bad_media` for what is no reference at all, `image_missing` for
            a name that the tar does not hold. A file is looked for only when the picture is opened.
    """
    return Image(_source(reference, media, place, kind="image"))


def video_of(reference: Any, media: MediaSource, place: str) -> Video:
    """The video that a row names, as `image_of`; or the list of its frames."""
    if isinstance(reference, list):
        frames: Any = [image_of(frame, media, place).source for frame in reference]
        return Video(frames)
    return Video(_source(reference, media, place, kind="video"))


def videos_in(field: Any) -> list[Any]:
    """The videos that a row's `video` names: one, or a list; a list of pictures is one video's frames."""
    given = list_of(field)
    if given and all(isinstance(one, str) and _is_still(one) for one in given):
        return [given]
    return given


def _is_still(name: str) -> bool:
    return name.lower().rpartition(".")[2] in (*_STILLS, *UNREADABLE_EXTENSIONS) or name.startswith(
        "data:image/"
    )


def list_of(value: Any) -> list[Any]:
    """A field that holds nothing, one thing or a list of things."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def members_with(extensions: tuple[str, ...], media: MediaSource) -> list[bytes]:
    """A tar sample's members with one of these extensions (`jpg`, or `2.jpg`, `10.jpg`), in order of name,
    numbers by their value."""
    if not isinstance(media, Mapping):
        return []
    names = sorted(media, key=_with_padded_numbers)
    return [media[name] for name in names if name.lower().rsplit(".", 1)[-1] in extensions]


def _with_padded_numbers(name: str) -> str:
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name)


def _source(reference: Any, media: MediaSource, place: str, kind: str) -> DataFile | bytes:
    if isinstance(reference, dict):
        for key in ("url", "path", "image", "video", "image_url", "video_url"):
            if reference.get(key):
                return _source(reference[key], media, place, kind)
    if not isinstance(reference, str) or not reference:
        detail = f"the {kind} is given as {_shown(reference)}"
        raise Refused("bad_media", detail, place, "give a path or a data URI")
    if reference.startswith("data:"):
        return _data_uri(reference, place)
    if reference.startswith(("http://", "https://")):
        raise Refused("remote_media", f"the {kind} is at {reference}", place, "download it and name the file")
    if is_remote(reference):
        return RemoteFile(reference)
    name = reference.removeprefix("file://")
    if not isinstance(media, Mapping):
        return media / name
    return _member(name, media, place, kind)


def _member(name: str, media: Mapping[str, bytes], place: str, kind: str) -> bytes:
    """A sample's member by name: `0007.jpg`, `images/0007.jpg` and `jpg` all mean the member `jpg`."""
    base = name.rsplit("/", 1)[-1].lower()
    extension = next((one for one in (base.split(".", 1)[-1], base) if one in media), None)
    if extension is None:
        detail = f"{kind} {name!r} is not in the sample, which holds {', '.join(sorted(media))}"
        raise Refused(f"{kind}_missing", detail, place)
    named = media.named.setdefault(extension, name) if isinstance(media, Sample) else name
    if named.lower() != name.lower():
        detail = f"{named!r} and {name!r} would both be the member {extension} of the sample"
        raise Refused(f"{kind}_missing", detail, place, "name the members as the tar does")
    return media[extension]


def _data_uri(uri: str, place: str) -> bytes:
    try:
        return data_uri.decoded(uri)
    except ValueError as error:
        raise Refused("bad_media", str(error), place) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
