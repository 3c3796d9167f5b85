"""Raw rows out of data files: JSON arrays, JSON lines, and WebDataset tars."""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .conversation import Refused
from .storage import DataFile, is_remote, open_file, remote_files

TAR, LINES, ARRAY = ".tar", ".jsonl", ".json"
SUFFIXES = (TAR, LINES, ARRAY)

# A row is held in memory whole; nothing that a model is trained on comes near this.
MAX_ROW_BYTES = 1 << 30

# A member's key is its name up to the first dot of the last path component, as in WebDataset and energon.
_MEMBER_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META_MEMBER = re.compile(r"__[^/]*__($|/)")
_READ_AT_ONCE = 8 << 20
# A line longer than this is a row even if it were all white space.
_LONGEST_BLANK = 64


@dataclass(frozen=True)
class RawRow:
    """One row before it is understood: its JSON as bytes, or the members of a WebDataset sample."""

    place: str
    json: bytes | None
    members: Mapping[str, bytes] = field(default_factory=dict)

    def parse(self) -> Any:
        """The row's JSON; an empty object for a sample without. Refused as `bad_json`."""
        if self.json is None:
            return {}
        return parse_json(self.json, self.place)


@dataclass(frozen=True)
class Span:
    """Where a row lies in its file: from byte `begin` to byte `end`; `number` is its line, counted from 1."""

    begin: int
    end: int
    number: int


def data_files(path: str | Path) -> list[DataFile]:
    """The data files that a path means: itself, those in a folder (not below), or those a pattern matches.

    Raises:
        ValueError: nothing is there, or something that is no data file.
    """
    files: list[DataFile]
    if is_remote(path):
        files = [*remote_files(str(path), SUFFIXES)]
        if not files:
            hint = "Parquet in a store is named by its files (.../*.parquet)"
            raise ValueError(f"{path} holds no {TAR}, {LINES} or {ARRAY} file; {hint}")
        return [_known(file) for file in files]
    root = Path(path).expanduser()
    if root.is_dir():
        files = [*files_in(root)]
        if not files:
            raise ValueError(f"{path} holds no {TAR}, {LINES} or {ARRAY} file")
        return files
    if root.is_file():
        files = [root]
    else:
        pattern = root.relative_to(root.anchor).as_posix()
        files = [*sorted(Path(root.anchor).glob(pattern))] if root.name else []
    if not files:
        raise ValueError(f"{path} does not exist")
    return [_known(file) for file in files]


def files_in(folder: Path) -> list[Path]:
    """The data files in a folder, not below.

    img2dataset's count of what it downloaded, 00000_stats.json beside 00000.tar, is none.
    """
    files = [file for kind in SUFFIXES for file in sorted(folder.glob("*" + kind))]
    counts = {file.with_name(f"{file.stem}_stats{ARRAY}") for file in files if file.suffix == TAR}
    return [file for file in files if file not in counts]


def _known(file: DataFile) -> DataFile:
    if file.suffix in SUFFIXES:
        return file
    packed = file.suffix in (".gz", ".zst", ".zip", ".xz")
    hint = "unpack it first" if packed else "convert it to JSON lines"
    raise ValueError(f"{file} is no {TAR}, {LINES} or {ARRAY} file; {hint}")


def raw_rows(file: DataFile) -> Iterator[RawRow | Refused]:
    """Every row of a data file in order; what of the file itself cannot be read comes as a `Refused`."""
    try:
        if file.suffix == ARRAY:
            for number, row in enumerate(read_array(file), start=1):
                yield RawRow(f"{file.name}:{number}", json.dumps(row).encode())
            return
        with open_file(file) as stream:
            for span in row_spans(file):
                yield row_of(file, span, lambda begin, size: _read(stream, begin, size))
    except Refused as refused:
        yield refused
    except OSError as error:
        yield Refused("unreadable_file", f"the file cannot be read ({error.strerror or error})", file.name)


def row_spans(file: DataFile) -> Iterator[Span]:
    """Where the rows of a tar or a file of lines lie, without reading pictures.

    Raises:
        Refused: `broken_tar`, after the whole samples before the break.
    """
    return tar_spans(file) if file.suffix == TAR else line_spans(file)


def row_of(file: DataFile, span: Span, read: Callable[[int, int], bytes]) -> RawRow | Refused:
    """The row that lies in `span`; `read` is given an offset and a size. Raises OSError as `read` does."""
    size = span.end - span.begin
    if size > MAX_ROW_BYTES:
        return Refused("row_too_large", f"{size:,} bytes, the limit is {MAX_ROW_BYTES:,}", _place(file, span))
    data = read(span.begin, size)
    if len(data) != size:
        detail = f"{len(data):,} bytes where there were {size:,} when the file was indexed"
        return Refused("file_changed", detail, _place(file, span), "begin anew with the changed file")
    if file.suffix != TAR:
        return RawRow(_place(file, span), data)
    try:
        return _sample(file, data)
    except Refused as refused:
        return refused


def parse_json(data: bytes, place: str) -> Any:
    """Refused as `bad_json` with the column where the error is."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        detail = f"the JSON is broken ({error.msg} at line {error.lineno}, column {error.colno})"
        raise Refused("bad_json", detail, place) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number of too many digits; too deep
        raise Refused("bad_json", f"the JSON is broken ({error})", place) from error


def read_array(file: DataFile) -> list[Any]:
    """A JSON file that holds a list of rows; Refused otherwise."""
    rows = parse_json(file.read_bytes(), file.name)
    if not isinstance(rows, list):
        detail = f"the file holds a {type(rows).__name__}, not a list of rows"
        raise Refused(
            "bad_json", detail, file.name, "write a JSON list, or one object a line in a .jsonl file"
        )
    return rows


def line_spans(file: DataFile) -> Iterator[Span]:
    """Where the lines lie that are not blank."""
    begin, number, position, head = 0, 1, 0, b""  # of the line that is being read; `head` is how it begins
    with open_file(file) as stream:
        while chunk := stream.read(_READ_AT_ONCE):
            start = 0
            for newline in np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")).tolist():
                end = position + newline + 1
                text = head + chunk[start : min(newline + 1, start + _LONGEST_BLANK)]
                if end - begin > _LONGEST_BLANK or text.strip():
                    yield Span(begin, end, number)
                begin, number, start, head = end, number + 1, newline + 1, b""
            head = (head + chunk[start : start + _LONGEST_BLANK])[:_LONGEST_BLANK]
            position += len(chunk)
    if position > begin and (position - begin > _LONGEST_BLANK or head.strip()):
        yield Span(begin, position, number)


def tar_spans(file: DataFile) -> Iterator[Span]:
    """Where the samples of a tar lie, in order, without reading their contents.

    Raises:
        Refused: `broken_tar`, after the whole samples before the break.
    """
    key, extensions = "", set[str]()
    span: Span | None = None
    try:
        with open_file(file) as stream:
            for member, name, extension in _members(stream):
                if span is not None and (name != key or extension in extensions):
                    yield span
                    span = None
                if span is None:
                    key, extensions, span = name, set(), Span(member.offset, 0, 0)
                extensions.add(extension)
                span = Span(span.begin, member.offset_data + member.size, 0)
    except OSError:
        raise
    except Exception as error:  # tarfile stumbles over broken headers in many ways
        where = f"in or after sample {key}" if key else "at its beginning"
        raise Refused("broken_tar", f"the tar is broken {where} ({error})", file.name) from error
    if span is not None:
        yield span


def _sample(file: DataFile, data: bytes) -> RawRow:
    """The sample that a piece of a tar is. Raises Refused as `broken_tar`."""
    members: dict[str, bytes] = {}
    key = ""
    try:
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        for member, name, extension in _members(io.BytesIO(data + padding)):
            key = name
            members[extension] = data[member.offset_data : member.offset_data + member.size]
    except Exception as error:
        raise Refused("broken_tar", f"the sample is broken ({error})", f"{file.name}:{key}") from error
    return RawRow(f"{file.name}:{key}", members.pop("json", None), members)


def _members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """The files of a tar that belong to samples, each with its key and extension.

    Raises:
        tarfile.TarError, or whatever else tarfile raises at broken headers.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        position = -1
        while (member := tar.next()) is not None:
            # Or it keeps every header that it has ever read.
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            if member.size < 0 or tar.offset <= position:
                raise tarfile.ReadError(f"{member.name!r} is said to have {member.size} bytes")
            position = tar.offset
            name = _MEMBER_NAME.match(member.name)
            if not member.isreg() or name is None or _META_MEMBER.match(member.name):
                continue
            if member.issparse():  # a few bytes that stand for any number of zeros
                raise tarfile.ReadError(f"{member.name!r} is a sparse file")
            yield member, name[1], name[2].lower()
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"{member.name!r} is cut off")
        # tarfile takes a damaged header for the end of the archive; the true end is zeros or nothing.
        stream.seek(tar.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}")
        if block and len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it ends in the middle of a block, at byte {tar.offset + len(block)}")


def _read(stream: BinaryIO, begin: int, size: int) -> bytes:
    stream.seek(begin)
    return stream.read(size)


def _place(file: DataFile, span: Span) -> str:
    where = f"byte {span.begin}" if file.suffix == TAR else span.number
    return f"{file.name}:{where}"
