"""Getting sources ready for the stream: Parquet becomes tars or JSON lines, once; files get an index.

A picture of Parquet becomes a member of the row's tar sample, unchanged. Of a file without pictures each row
becomes a line. Rows go through one by one, so memory does not grow with the source.
"""

import hashlib
import json
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .cache import built_once, cache_folder
from .columns import converted_row, media_columns
from .conversation import Refused
from .index import index_file
from .parquet import ParquetFile, columns_of, identity, is_parquet, parquet_files, parquet_rows, size_of
from .refusals import Refusals
from .rows import ARRAY, LINES, TAR, data_files
from .storage import DataFile, is_remote, local_or_remote

_SHARD_BYTES = 512 << 20
_SHARD_ROWS = 10_000
_SUMMARY = "prepared.meta"
_VERSION = "2"  # of what conversion makes of a row

Progress = Callable[[float], None]


@dataclass
class Prepared:
    """What came of a source.

    folder: where the converted files are; null where there was nothing to convert.
    rows: how many there are for the stream to read.
    refusals: what could not be converted or indexed.
    columns_left_out: those of Parquet that hold bytes which are no picture and no video.
    """

    folder: Path | None
    rows: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    columns_left_out: list[str] = field(default_factory=list)


def ready_files(path: str, media_folder: str | None = None) -> list[DataFile]:
    """The data files of a source; of Parquet those that it was, or now is, converted to in the cache."""
    return data_files(converted(path, media_folder)) if is_parquet(path) else data_files(path)


def what_was_refused(path: str, media_folder: str | None = None) -> Refusals:
    """What of a source's Parquet could not be converted."""
    if is_parquet(path):
        return _summary(converted(path, media_folder)).refusals
    folder = Path(path).expanduser()
    has_summary = not is_remote(path) and (folder / _SUMMARY).is_file()
    return _summary(folder).refusals if has_summary else Refusals()


def prepare(
    path: str,
    out: Path | None = None,
    media_folder: str | None = None,
    on_share: Progress = lambda share: None,
) -> Prepared:
    """Convert a Parquet source, or index one of another kind, so that training begins at once.

    Args:
        out: the folder to convert to, which may not exist yet; null for the cache.
        media_folder: what pictures that a row only names are relative to; null for the folder of the file.
        on_share: told which share of the source has been done, 0 to 1.

    Raises:
        ValueError: there is nothing to convert, `out` exists, or no row could be converted.
    """
    if is_parquet(path):
        if out is None:
            return _summary(converted(path, media_folder, on_share))
        if out.exists():
            raise ValueError(f"{out} exists; name a new folder, or remove this one first")
        folder = built_once(out, lambda folder: _convert(path, media_folder, folder, on_share))
        out.with_name(out.name + ".lock").unlink(missing_ok=True)
        return _summary(folder)
    if out is not None:
        raise ValueError(f"{path} is read as it is: only Parquet is converted; leave the output folder out")
    prepared = Prepared(None)
    files = data_files(path)
    for number, file in enumerate(files, start=1):
        index = index_file(file)
        prepared.rows += index.rows
        for reason, message in index.broken:
            prepared.refusals.add(reason, message, str(file))
        on_share(number / len(files))
    return prepared


def converted(path: str, media_folder: str | None, on_share: Progress = lambda share: None) -> Path:
    """The folder in the cache that holds a Parquet source as tars or lines."""
    identities = [identity(file) for file in parquet_files(path)]
    key = hashlib.sha256("\0".join([_VERSION, str(media_folder), *identities]).encode()).hexdigest()[:32]
    folder = cache_folder() / "converted" / key
    return built_once(folder, lambda folder: _convert(path, media_folder, folder, on_share))


def _convert(path: str, media_folder: str | None, folder: Path, on_share: Progress) -> None:
    files = parquet_files(path)
    kinds = {name: has_bytes for file in files for name, has_bytes in columns_of(file).items()}
    media = media_columns(list(kinds))
    if kinds.keys() & {"url", "URL"} and not media:
        raise ValueError(
            f"{path} names its pictures by web addresses; download them with img2dataset, "
            "which writes the tars that can be read here"
        )
    prepared = Prepared(folder)
    prepared.columns_left_out = sorted(
        name for name, has_bytes in kinds.items() if has_bytes and name not in media
    )
    shards = (_TarShards if media else _LineShards)(folder)
    for row in _rows(files, prepared.refusals, media_folder, on_share):
        shards.write(*row)
        prepared.rows += 1
    shards.close()
    if not prepared.rows:
        raise ValueError(f"{path}: no row could be converted\n{prepared.refusals.report()}")
    _write_summary(prepared, folder)


def _rows(
    files: Sequence[ParquetFile], refusals: Refusals, media_folder: str | None, on_share: Progress
) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
    """Key, JSON and members of each row that can be converted; the others are counted."""
    sizes = [size_of(file) for file in files]
    for which, file in enumerate(files):
        stem = file.name.split(".", 1)[0] or "rows"
        for number, share, columns in parquet_rows(file):
            key = f"{which:05d}-{stem}-{number:09d}"
            try:
                if isinstance(columns, Refused):
                    raise columns
                place = f"{file.name}:{number}"
                folder = file.parent if media_folder is None else local_or_remote(media_folder)
                row = converted_row(columns, key, folder, place)
                refusals.good()
                yield key, *row
            except Refused as refused:
                refusals.refuse(refused.reason, str(refused), str(file))
            on_share((sum(sizes[:which]) + share * sizes[which]) / max(1, sum(sizes)))


class _Shards(ABC):
    """Numbered files, a new one when one is full."""

    suffix = ""

    def __init__(self, folder: Path):
        self._folder = folder
        self._stream: BinaryIO | None = None
        self._count = 0
        self._rows = 0

    def write(self, key: str, row: dict[str, Any], members: dict[str, bytes]) -> None:
        stream = self._stream
        if stream is None or self._rows == _SHARD_ROWS or stream.tell() >= _SHARD_BYTES:
            self.close()
            stream = self._stream = (self._folder / f"{self._count:05d}{self.suffix}").open("wb")
            self._count += 1
            self._rows = 0
        self._write(stream, key, json.dumps(row).encode(), members)
        self._rows += 1

    @abstractmethod
    def _write(self, stream: BinaryIO, key: str, row: bytes, members: dict[str, bytes]) -> None:
        """One row with its pictures, in the file's form."""

    def close(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None


class _LineShards(_Shards):
    suffix = LINES

    def _write(self, stream: BinaryIO, key: str, row: bytes, members: dict[str, bytes]) -> None:
        stream.write(row + b"\n")


class _TarShards(_Shards):
    suffix = TAR

    def _write(self, stream: BinaryIO, key: str, row: bytes, members: dict[str, bytes]) -> None:
        for extension, data in {ARRAY[1:]: row, **members}.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            header = info.tobuf(tarfile.GNU_FORMAT)  # has room for a name of any length
            stream.write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))


def _write_summary(prepared: Prepared, folder: Path) -> None:
    refusals = prepared.refusals
    (folder / _SUMMARY).write_text(
        json.dumps(
            {
                "rows": prepared.rows,
                "columns_left_out": prepared.columns_left_out,
                "rows_read": refusals.rows,
                "by_reason": refusals.by_reason,
                "by_source": refusals.by_source,
                "examples": refusals.examples,
            }
        )
    )


def _summary(folder: Path) -> Prepared:
    meta = json.loads((folder / _SUMMARY).read_text())
    refusals = Refusals(rows=meta["rows_read"], examples=meta["examples"])
    refusals.by_reason.update(meta["by_reason"])
    refusals.by_source.update(meta["by_source"])
    return Prepared(folder, meta["rows"], refusals, meta["columns_left_out"])
