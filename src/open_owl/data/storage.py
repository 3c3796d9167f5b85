"""Data files here and in object stores, read through multi-storage-client (which energon brings).

`s3://`, `gs://`, `ais://` and, for profiles of one's own, `msc://` name remote files. They are read by
ranges of bytes and never copied whole to disk.
"""

import fnmatch
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_REMOTE = re.compile(r"^(s3|gs|ais|msc)://")
# Each request to a store costs tens of milliseconds whatever its size; so much is asked for at once.
READ_AHEAD_BYTES = 4 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file in an object store, with the few things that data files are asked for by `Path`."""

    url: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> "RemoteFile":
        return RemoteFile(self.url.rsplit("/", 1)[0])

    def __truediv__(self, name: str) -> "RemoteFile":
        return RemoteFile(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    def read_range(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on. Raises OSError."""
        from multistorageclient.types import Range

        client, path = _client(self.url)
        return _asked(lambda: client.read(path, byte_range=Range(offset, size)), self.url)

    def read_bytes(self) -> bytes:
        client, path = _client(self.url)
        return _asked(lambda: client.read(path), self.url)

    def info(self) -> tuple[int, str]:
        """Size in bytes, and what changes with the content (the store's tag, or the time of change)."""
        client, path = _client(self.url)
        found = _asked(lambda: client.info(path), self.url)
        return found.content_length, found.etag or str(found.last_modified)


DataFile = Path | RemoteFile


def is_remote(path: str | Path | RemoteFile) -> bool:
    return isinstance(path, RemoteFile) or _REMOTE.match(str(path)) is not None


def local_or_remote(path: str) -> DataFile:
    return RemoteFile(path) if is_remote(path) else Path(path).expanduser()


def open_file(file: DataFile) -> BinaryIO:
    """The file's bytes, to be read and sought in. Raises OSError."""
    if isinstance(file, Path):
        return file.open("rb")
    return io.BufferedReader(_Ranges(file), READ_AHEAD_BYTES)  # pyright: ignore[reportReturnType]


def file_size(file: DataFile) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.info()[0]


def remote_files(url: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The file that a URL names, those directly below a prefix, or those that match a pattern (`a/x-*.tar`).

    Raises:
        ValueError: there is none; or the store cannot be reached, with what it said.
    """
    folder, _, last = url.rstrip("/").rpartition("/")
    try:
        if any(sign in last for sign in "*?["):
            return [file for file in _listed(folder) if fnmatch.fnmatchcase(file.name, last)]
        if url.endswith(suffixes):
            RemoteFile(url).info()
            return [RemoteFile(url)]
        return [file for file in _listed(url.rstrip("/")) if file.name.endswith(suffixes)]
    except OSError as error:
        raise ValueError(f"{url} cannot be read: {error}") from error


def _listed(folder: str) -> list[RemoteFile]:
    client, path = _client(folder)
    found = _asked(lambda: list(client.list(path=path, include_directories=True)), folder)
    names = [one.key.rsplit("/", 1)[-1] for one in found if one.type == "file"]
    return [RemoteFile(f"{folder}/{name}") for name in sorted(names)]


def _client(url: str) -> tuple[Any, str]:
    import multistorageclient

    return _asked(lambda: multistorageclient.resolve_storage_client(url), url)


def _asked(ask: Any, url: str) -> Any:
    """What a store answers; every way in which it fails becomes an OSError that names the file."""
    try:
        return ask()
    except OSError:
        raise
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{url} is in an object store ({error}): pip install 'open-owl[s3]'", name=error.name
        ) from error
    except Exception as error:  # each provider raises what its own client library does
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error


class _Ranges(io.RawIOBase):
    """A remote file as an unbuffered stream."""

    def __init__(self, file: RemoteFile):
        self._file = file
        self._size = file.info()[0]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._file.read_range(self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
