"""Raw rows out of data files: JSON arrays, JSON lines, and WebDataset tars."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conversation import Refused

TAR, LINES, ARRAY = ".tar", ".jsonl", ".json"

# A member's key is its name up to the first dot of the last path component, as in WebDataset and energon.
_MEMBER_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META_MEMBER = re.compile(r"__[^/]*__($|/)")


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
class TarSample:
    """Where one sample lies in a tar: its key, the byte where its first header begins, its members."""

    key: str
    offset: int
    members: dict[str, tarfile.TarInfo]


def data_files(path: str | Path) -> list[Path]:
    """The data files that a path means: itself, those in a folder (not below), or those a pattern matches.

    Raises:
        ValueError: nothing is there, or something that is no data file.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        files = [file for kind in (TAR, LINES, ARRAY) for file in sorted(root.glob("*" + kind))]
        if not files:
            raise ValueError(f"{path} holds no {TAR}, {LINES} or {ARRAY} file")
        return files
    if root.is_file():
        files = [root]
    else:
        pattern = root.relative_to(root.anchor).as_posix()
        files = sorted(Path(root.anchor).glob(pattern)) if root.name else []
    if not files:
        raise ValueError(f"{path} does not exist")
    for file in files:
        if file.suffix not in (TAR, LINES, ARRAY):
            hint = (
                "unpack it first"
                if file.suffix in (".gz", ".zst", ".zip", ".xz")
                else "convert it to JSON lines"
            )
            raise ValueError(f"{file} is no {TAR}, {LINES} or {ARRAY} file; {hint}")
    return files


def raw_rows(file: Path) -> Iterator[RawRow | Refused]:
    """Every row of a data file in order; what of the file itself cannot be read comes as a `Refused`."""
    reader = {TAR: _tar_rows, LINES: _line_rows, ARRAY: _array_rows}[file.suffix]
    try:
        yield from reader(file)
    except Refused as refused:
        yield refused
    except OSError as error:
        yield Refused("unreadable_file", f"the file cannot be read ({error.strerror or error})", file.name)


def parse_json(data: bytes, place: str) -> Any:
    """Refused as `bad_json` with the column where the error is."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        detail = f"the JSON is broken ({error.msg} at line {error.lineno}, column {error.colno})"
        raise Refused("bad_json", detail, place) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number of too many digits; too deep
        raise Refused("bad_json", f"the JSON is broken ({error})", place) from error


def read_array(file: Path) -> list[Any]:
    """A JSON file that holds a list of rows; Refused otherwise."""
    rows = parse_json(file.read_bytes(), file.name)
    if not isinstance(rows, list):
        detail = f"the file holds a {type(rows).__name__}, not a list of rows"
        raise Refused(
            "bad_json", detail, file.name, "write a JSON list, or one object a line in a .jsonl file"
        )
    return rows


def tar_samples(file: Path) -> Iterator[TarSample]:
    """Where the samples of a tar lie, in order, without reading their contents.

    Raises:
        Refused: `broken_tar`, after the whole samples before the break.
    """
    sample: TarSample | None = None
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                name = _MEMBER_NAME.match(member.name)
                if not member.isreg() or name is None or _META_MEMBER.match(member.name):
                    continue
                key, extension = name[1], name[2].lower()
                if sample is not None and (key != sample.key or extension in sample.members):
                    yield sample
                    sample = None
                sample = sample or TarSample(key, member.offset, {})
                sample.members[extension] = member
            _check_end(file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        where = f"in or after sample {sample.key}" if sample else "at its beginning"
        raise Refused("broken_tar", f"the tar is broken {where} ({error})", file.name) from error
    if sample is not None:
        yield sample


def tar_end(file: Path, samples: list[TarSample]) -> int:
    """The byte after the last sample's last member."""
    if not samples:
        return 0
    last = max(member.offset_data + member.size for member in samples[-1].members.values())
    return min(-(-last // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, file.stat().st_size)


def _check_end(file: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end of the archive; the true end is zeros or nothing."""
    with file.open("rb") as stream:
        stream.seek(offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {offset}")


def _tar_rows(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as stream:
        for sample in tar_samples(file):
            members = {}
            for extension, member in sample.members.items():
                stream.seek(member.offset_data)
                members[extension] = stream.read(member.size)
            yield RawRow(f"{file.name}:{sample.key}", members.pop("json", None), members)


def _line_rows(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield RawRow(f"{file.name}:{number}", line)


def _array_rows(file: Path) -> Iterator[RawRow]:
    for number, row in enumerate(read_array(file), start=1):
        yield RawRow(f"{file.name}:{number}", json.dumps(row).encode())
