"""Indexes: where each row of a data file lies, so that any row can be read at once.

Nothing is written beside the user's files. A folder in the cache stands for one file; its name is a digest of
path, size, time of change and the first and last bytes, so that a changed file gets a new folder. It holds
`rows.idx` (three 64-bit numbers a row) and `meta.json`, and for a JSON array its rows as lines. The numbers
are read from disk a row at a time, so that memory does not grow with the data.
"""

import hashlib
import json
import os
import struct
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from .cache import built_once, cache_folder
from .conversation import Refused
from .rows import ARRAY, RawRow, Span, read_array, row_of, row_spans
from .storage import DataFile, RemoteFile

_SAMPLED_BYTES = 1 << 20
_VERSION = "2"  # of the folder's layout
_SPAN = struct.Struct("<3Q")
_BYTES_PER_ROW = _SPAN.size
# Well below the 1,024 that a process may usually have open.
_FILES_KEPT_OPEN = 256
_READ_AHEAD_BYTES = 1 << 20
_BLOCKS_KEPT = 64


@dataclass(frozen=True)
class FileIndex:
    """One indexed file.

    file: the user's.
    folder: its place in the cache.
    rows: how many rows there are.
    broken: what of the file could not be read, as messages by reason.
    content: a digest that is the same for a copy of the file elsewhere.
    """

    file: DataFile
    folder: Path
    rows: int
    broken: tuple[tuple[str, str], ...]
    content: str

    @property
    def lines(self) -> DataFile:
        """Where the rows lie: the file itself, or what a JSON array was converted to."""
        return self.folder / "rows.jsonl" if self.file.suffix == ARRAY else self.file


def index_file(file: DataFile) -> FileIndex:
    """Index a .jsonl, .json or .tar file, or find its index in the cache. Raises OSError."""
    # A link keeps its own name and folder: what it leads to in the Hub's cache has no suffix and no pictures.
    file = file.absolute() if isinstance(file, Path) else file
    key, content = _digests(file)
    folder = built_once(cache_folder() / "data" / key, lambda folder: _build(file, folder))
    meta = json.loads((folder / "meta.json").read_text())
    broken = tuple((reason, message) for reason, message in meta["broken"])
    return FileIndex(file, folder, meta["rows"], broken, content)


class IndexedRows:
    """The rows of several indexed files as one sequence, each read when it is asked for."""

    def __init__(self, indexes: Sequence[FileIndex], open_files: "OpenFiles"):
        self.indexes = tuple(index for index in indexes if index.rows)
        self._ends = list(accumulate(index.rows for index in self.indexes))
        self._open_files = open_files

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int) -> tuple[RawRow | Refused, DataFile]:
        """A row, counted from 0, and the user's file that it is from."""
        which = bisect_right(self._ends, number)
        index = self.indexes[which]
        try:
            return self._open_files.read(index, number - self._ends[which] + index.rows), index.file
        except OSError as error:
            detail = f"the file cannot be read ({error.strerror or error})"
            return Refused("unreadable_file", detail, index.file.name), index.file


class OpenFiles:
    """The files that a process holds open, those used longest ago being closed.

    They are read without a position that processes would share after a fork. Of remote files it holds a few
    blocks, so that rows that follow each other come with one request.
    """

    def __init__(self) -> None:
        self._descriptors: OrderedDict[Path, int] = OrderedDict()
        self._blocks: OrderedDict[tuple[RemoteFile, int], bytes] = OrderedDict()

    def read(self, index: FileIndex, number: int) -> RawRow | Refused:
        """Raises OSError."""
        numbers = self._local(index.folder / "rows.idx", number * _BYTES_PER_ROW, _BYTES_PER_ROW)
        rows = index.lines
        read = self._remote if isinstance(rows, RemoteFile) else self._local
        return row_of(index.file, Span(*_SPAN.unpack(numbers)), partial(read, rows))

    def _local(self, file: Path, begin: int, size: int) -> bytes:
        if file not in self._descriptors:
            if len(self._descriptors) == _FILES_KEPT_OPEN:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[file] = os.open(file, os.O_RDONLY)
        self._descriptors.move_to_end(file)
        return os.pread(self._descriptors[file], size, begin)

    def _remote(self, file: RemoteFile, begin: int, size: int) -> bytes:
        for (other, offset), block in self._blocks.items():
            if other == file and offset <= begin and begin + size <= offset + len(block):
                self._blocks.move_to_end((other, offset))
                return block[begin - offset : begin - offset + size]
        block = file.read_range(begin, max(size, _READ_AHEAD_BYTES))
        self._blocks[file, begin] = block
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block[:size]


def _digests(file: DataFile) -> tuple[str, str]:
    """The key of the file's folder in the cache, and a digest of its content."""
    if isinstance(file, RemoteFile):
        size, tag = file.info()
        content = f"{file.name}\0{size}\0{tag}".encode()
        where = str(file)
    else:
        status = file.stat()
        content = f"{file.name}\0{status.st_size}\0".encode()
        with file.open("rb") as stream:
            content += stream.read(_SAMPLED_BYTES)
            stream.seek(max(0, status.st_size - _SAMPLED_BYTES))
            content += stream.read(_SAMPLED_BYTES)
        where = f"{file}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(content).hexdigest()[:32]
    return hashlib.sha256(f"{_VERSION}\0{where}\0{digest}".encode()).hexdigest()[:32], digest


def _build(file: DataFile, folder: Path) -> None:
    broken: list[tuple[str, str]] = []
    rows = 0
    with (folder / "rows.idx").open("wb") as stream:
        try:
            spans = _array_spans(file, folder / "rows.jsonl") if file.suffix == ARRAY else row_spans(file)
            for span in spans:
                rows += 1
                stream.write(_SPAN.pack(span.begin, span.end, span.number))
        except Refused as refused:
            broken.append((refused.reason, str(refused)))
    (folder / "meta.json").write_text(json.dumps({"rows": rows, "broken": broken}))


def _array_spans(file: DataFile, lines: Path) -> Iterable[Span]:
    """Writes the rows of a JSON array as lines. Raises Refused."""
    rows: list[Any] = read_array(file)
    position = 0
    with lines.open("wb") as stream:
        for number, row in enumerate(rows, start=1):
            size = stream.write(json.dumps(row).encode() + b"\n")
            yield Span(position, position + size, number)
            position += size
