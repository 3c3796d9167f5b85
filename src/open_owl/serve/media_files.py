"""Bytes out of a data URI, or out of a file below the one folder that may be read."""

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from open_owl.data_uri import decoded

from .media_policy import MediaPolicy, MediaRefused


def decode_data_uri(uri: str, max_bytes: int) -> bytes:
    """What a base64 data URI holds; the type it claims is not looked at.

    Raises:
        MediaRefused: `bad_data_uri` or `too_large`.
    """
    payload = uri[uri.find(",") + 1 :]
    if len(payload) // 4 * 3 > max_bytes + 2:  # before it is decoded; the padding stands for up to 2 bytes
        raise MediaRefused("too_large", f"the data URI holds more than {max_bytes:,} bytes")
    try:
        data = decoded(uri)
    except ValueError as error:
        raise MediaRefused("bad_data_uri", str(error)) from error
    if len(data) > max_bytes:
        raise MediaRefused("too_large", f"the data URI holds more than {max_bytes:,} bytes")
    return data


def read_local(reference: str, policy: MediaPolicy) -> bytes:
    """A file's bytes.

    Args:
        reference: a `file:` URI or a path; a relative path is one below `local_root`.

    Raises:
        MediaRefused: `local_not_allowed`, `outside_local_root`, `file_missing`, `not_a_file`, `bad_url` or
            `too_large`.
    """
    if policy.local_root is None:
        raise MediaRefused(
            "local_not_allowed", "this server reads no files by name; send the file itself, as a data URI"
        )
    root = os.path.realpath(policy.local_root)
    try:
        real = Path(os.path.realpath(os.path.join(root, _path_in(reference))))
    except ValueError as error:  # a NUL character, half a surrogate pair
        raise MediaRefused("bad_url", f"{_shown(reference)} is no path: {error}") from error
    if not real.is_relative_to(root):
        # The same answer whether or not there is such a file.
        raise MediaRefused("outside_local_root", f"{_shown(reference)} lies outside what may be read")
    try:
        with os.fdopen(_open_below(root, real.relative_to(root).parts, reference), "rb") as file:
            data = file.read(policy.max_bytes + 1)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise MediaRefused("file_missing", f"{_shown(reference)} cannot be read: {problem}") from error
    if len(data) > policy.max_bytes:
        raise MediaRefused("too_large", f"{_shown(reference)} has more than {policy.max_bytes:,} bytes")
    return data


def _path_in(reference: str) -> str:
    """The path that a `file:` URI or a path names. Raises ValueError."""
    if not reference.lower().startswith("file:"):
        return reference
    parts = urlsplit(reference)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"it lies on another machine, {parts.netloc}")
    return unquote(parts.path, errors="surrogateescape")


def _shown(reference: str) -> str:
    return repr(reference[:120])


def _open_below(root: str, parts: tuple[str, ...], reference: str) -> int:
    """A regular file's descriptor, opened folder by folder and through no symbolic link.

    The path has been resolved; a link that is there now was put there since, to lead elsewhere.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
        name = parts[-1] if parts else "."
        _refuse_unless_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), reference)
        # Looked at before, since opening alone sets some devices off; and again after, not blocking, since it
        # may have been swapped between.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _refuse_unless_regular(os.fstat(file), reference)
    except MediaRefused:
        os.close(file)
        raise
    return file


def _refuse_unless_regular(status: os.stat_result, reference: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise MediaRefused("not_a_file", f"{_shown(reference)} is no regular file")
