"""Parquet files, here, in object stores and on the Hugging Face Hub, read row by row with constant memory."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .conversation import Refused
from .rows import TAR, files_in
from .storage import DataFile, RemoteFile, file_size, is_remote, open_file, remote_files

PARQUET = ".parquet"
HUB = "hf://"

_ROWS_AT_ONCE = 32
_READ_AHEAD_BYTES = 4 << 20
# Where the Hub keeps the Parquet files that it makes of data sets in other formats.
_CONVERTED_REVISION = "refs%2Fconvert%2Fparquet"
_SPLIT = re.compile(r"(?:^|[/_.-])(train|training|validation|valid|val|dev|testing|test|eval)(?=$|[/_.-])")


@dataclass(frozen=True)
class HubFile:
    """A file that fsspec opens: `hf://datasets/OWNER/NAME/FILE`."""

    url: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> RemoteFile:
        """Where pictures would lie that a row only names; reading one is refused."""
        return RemoteFile(self.url.rsplit("/", 1)[0])

    def __str__(self) -> str:
        return self.url


ParquetFile = DataFile | HubFile


def is_parquet(path: str) -> bool:
    """Whether a source has to be converted: it names Parquet files, or is on the Hub.

    Raises:
        ValueError: a folder holds Parquet and other data files, of which only one kind would be read.
    """
    if is_remote(path) or path.endswith(PARQUET):
        return path.endswith(PARQUET)
    folder = Path(path).expanduser()
    if "://" in path or not folder.is_dir():
        return "://" in path
    # What img2dataset writes beside each tar is a table of its rows, which are in the tar.
    tables = [file for file in sorted(folder.glob("*" + PARQUET)) if not file.with_suffix(TAR).exists()]
    others = files_in(folder)
    if tables and others:
        patterns = f"{path}/*{PARQUET}, {path}/*{others[0].suffix}"
        raise ValueError(
            f"{path} holds Parquet ({tables[0].name}) and other data files ({others[0].name}); "
            f"name each kind as a source of its own, by a pattern: {patterns}"
        )
    return bool(tables)


def parquet_files(path: str) -> list[ParquetFile]:
    """The files of a source: itself, those in a folder, those that match a pattern, or a Hub data set's.

    Of a Hub data set with several splits these are the files of `train`; another split is named by a pattern
    (`hf://datasets/OWNER/NAME/**/test-*.parquet`).

    Raises:
        ValueError: there is none; or a Hub data set has several configurations, with their names.
    """
    if "://" in path and not is_remote(path):
        return list(_hub_files(path))
    if is_remote(path):
        files: list[ParquetFile] = [*remote_files(path, (PARQUET,))]
    else:
        root = Path(path).expanduser()
        pattern = root.relative_to(root.anchor).as_posix()
        found = root.glob("*" + PARQUET) if root.is_dir() else Path(root.anchor).glob(pattern)
        files = [root] if root.is_file() else [*sorted(found)]  # the name of a file may look like a pattern
    if not files:
        raise ValueError(f"{path} holds no {PARQUET} file")
    return files


def identity(file: ParquetFile) -> str:
    """What changes when the file does: where it is, its size, and its tag or time of change."""
    if isinstance(file, Path):
        status = file.stat()
        return f"{file.absolute()} {status.st_size} {status.st_mtime_ns}"
    if isinstance(file, RemoteFile):
        return f"{file} {file.info()}"
    filesystem, path = _fsspec(file.url)
    info = {name: str(value) for name, value in filesystem.info(path).items() if name != "last_commit"}
    return f"{file} {hashlib.sha256(repr(sorted(info.items())).encode()).hexdigest()}"


def size_of(file: ParquetFile) -> int:
    """In bytes."""
    if isinstance(file, HubFile):
        filesystem, path = _fsspec(file.url)
        return int(filesystem.info(path)["size"])
    return file_size(file)


def columns_of(file: ParquetFile) -> dict[str, bool]:
    """A file's columns, and whether each holds bytes, however deep; none of a file that cannot be read."""
    import pyarrow
    from pyarrow import parquet

    try:
        with _opened(file) as stream:
            return {column.name: "binary" in str(column.type) for column in parquet.read_schema(stream)}
    except (pyarrow.ArrowException, OSError, ValueError):
        return {}


def parquet_rows(file: ParquetFile) -> Iterator[tuple[int, float, dict[str, Any] | Refused]]:
    """Each row's number, from 1, the share of the file up to it, and its columns.

    Of what cannot be read, the first number comes with a `Refused`; the next row group is tried then.

    Memory holds a few times the file's largest page, whatever the size of the file. (Writers count pages in
    rows, 1,024 by default: of pictures of 100 KB a page has 100 MB.)
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with _opened(file) as stream:
            reader = parquet.ParquetFile(
                stream, pre_buffer=False, buffer_size=_READ_AHEAD_BYTES, page_checksum_verification=True
            )
            total = max(1, reader.metadata.num_rows)
            for group in range(reader.num_row_groups):
                end = number + reader.metadata.row_group(group).num_rows
                try:
                    for batch in reader.iter_batches(_ROWS_AT_ONCE, row_groups=[group], use_threads=False):
                        for row in batch.to_pylist():
                            number += 1
                            yield number, number / total, row
                except (pyarrow.ArrowException, OSError, ValueError) as error:
                    what = f"{end - number} rows cannot be read"
                    broken = _broken(what, error, f"{file.name}:{number + 1}")
                    missing = range(number + 1, end + 1)
                    for number in missing:  # each is a row that is refused
                        yield number, number / total, broken
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield number + 1, 1.0, _broken("the Parquet file cannot be read", error, file.name)


def _broken(what: str, error: Exception, place: str) -> Refused:
    return Refused("broken_parquet", f"{what} ({str(error).strip()[:200]})", place)


def _opened(file: ParquetFile) -> BinaryIO:
    if not isinstance(file, HubFile):
        return open_file(file)
    filesystem, path = _fsspec(file.url)
    return filesystem.open(path, "rb", block_size=_READ_AHEAD_BYTES)


def _fsspec(url: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(url)


def _hub_files(path: str) -> Iterator[HubFile]:
    filesystem, root = _fsspec(path)
    has_pattern = any(sign in root for sign in "*?[")
    if has_pattern or root.endswith(PARQUET):
        names = sorted(filesystem.glob(root))
    else:
        names = sorted(filesystem.glob(f"{root}/**/*{PARQUET}"))
        if not names and path.startswith(HUB) and "@" not in path:
            owner, name, *below = path.removeprefix(f"{HUB}datasets/").rstrip("/").split("/")
            converted = "/".join(["datasets", owner, f"{name}@{_CONVERTED_REVISION}", *below])
            names = sorted(filesystem.glob(f"{converted}/**/*{PARQUET}"))
        names = _one_configuration(_train_split(names), path)
    if not names:
        raise ValueError(f"{path} holds no {PARQUET} file; is the name right, and can you read it?")
    yield from (HubFile(filesystem.unstrip_protocol(name)) for name in names)


def _train_split(names: list[str]) -> list[str]:
    splits = [found[-1] if (found := _SPLIT.findall(name)) else None for name in names]
    if len(set(splits)) < 2:
        return names
    train = [name for name, split in zip(names, splits, strict=True) if split in ("train", "training")]
    return train or names


def _one_configuration(names: list[str], path: str) -> list[str]:
    folders = sorted({name.rpartition("/")[0] for name in names})
    if len(folders) > 1:
        shown = ", ".join(folders[:20]) + (" ..." if len(folders) > 20 else "")
        raise ValueError(
            f"{path} holds several configurations: {shown}; name one of these folders, "
            f"or take all by a pattern: {path}/**/*{PARQUET}"
        )
    return names
