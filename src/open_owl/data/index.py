"""The cache of indexes: where each row of a data file lies, so that energon can jump to it.

Nothing is written beside the user's files. A folder in the cache stands for one JSON file or one list of
tars; its name is a digest of path, size, time of change and the first and last bytes, so that a changed file
gets a new folder. It holds links to the files (a JSON array is converted to lines), the offsets in energon's
form, and `meta.json`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .conversation import Refused
from .rows import ARRAY, read_array, tar_end, tar_samples

_SAMPLED_BYTES = 1 << 20
_VERSION = "1"  # of the folder's layout


@dataclass(frozen=True)
class Index:
    """One indexed dataset.

    path: what energon opens: a .jsonl file, or a folder of tars.
    files: the user's files, in the order of their shards.
    rows: how many rows there are.
    broken: what of the files could not be read, as messages by reason.
    row_numbers: the line of each row where lines are missing (blank ones); else rows are counted from 1.
    """

    path: Path
    files: tuple[Path, ...]
    rows: int
    broken: tuple[tuple[str, str], ...]
    row_numbers: tuple[int, ...] | None

    def place(self, shard: str, key: str) -> str:
        """Where a sample is, in the user's words: `captions.jsonl:817`, `train-00000.tar:000123`."""
        if self.path.suffix != ".jsonl":
            return f"{self.files[int(Path(shard).stem)].name}:{key.rsplit('/', 1)[-1]}"
        number = self.row_numbers[int(key)] if self.row_numbers else int(key) + 1
        return f"{self.files[0].name}:{number}"


def cache_folder() -> Path:
    """`OPEN_OWL_CACHE`, or `~/.cache/open_owl`."""
    return Path(os.environ.get("OPEN_OWL_CACHE") or Path.home() / ".cache" / "open_owl")


def index_json(file: Path) -> Index:
    """Index a .jsonl file, or convert a .json array to lines and index these."""
    return _indexed([file], "rows.jsonl", _build_array if file.suffix == ARRAY else _build_lines)


def index_tars(files: Sequence[Path]) -> Index:
    """Index WebDataset tars as one dataset. Keys may repeat from tar to tar."""
    return _indexed(list(files), "", _build_tars)


def _indexed(files: list[Path], name: str, build: Callable[[list[Path], Path], dict]) -> Index:
    files = [file.resolve() for file in files]
    folder = cache_folder() / "data" / _fingerprint(files)
    if not (folder / "meta.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
        try:
            meta = build(files, building)
            (building / "meta.json").write_text(json.dumps(meta))
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    meta = json.loads((folder / "meta.json").read_text())
    numbers = tuple(meta["row_numbers"]) if meta.get("row_numbers") else None
    kept = tuple(files[i] for i in meta.get("files", range(len(files))))
    broken = tuple((reason, message) for reason, message in meta["broken"])
    return Index(folder / name, kept, meta["rows"], broken, numbers)


def _move_into_place(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:
        if not (folder / "meta.json").is_file():  # unless another process has just built the same
            raise


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256(_VERSION.encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLED_BYTES))
            stream.seek(max(0, status.st_size - _SAMPLED_BYTES))
            digest.update(stream.read(_SAMPLED_BYTES))
    return digest.hexdigest()[:32]


def _build_lines(files: list[Path], folder: Path) -> dict:
    (folder / "rows.jsonl").symlink_to(files[0])
    offsets: list[int] = []
    numbers: list[int] = []
    position = 0
    with files[0].open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                offsets.append(position)
                numbers.append(number)
            position += len(line)
    _write_offsets(folder / "rows.jsonl.idx", [*offsets, position])
    gaps = numbers != list(range(1, len(numbers) + 1))
    return {"rows": len(offsets), "broken": [], "row_numbers": numbers if gaps else None}


def _build_array(files: list[Path], folder: Path) -> dict:
    offsets = [0]
    broken: list[tuple[str, str]] = []
    try:
        rows = read_array(files[0])
    except Refused as refused:
        rows, broken = [], [(refused.reason, str(refused))]
    with (folder / "rows.jsonl").open("wb") as stream:
        for row in rows:
            offsets.append(offsets[-1] + stream.write(json.dumps(row).encode() + b"\n"))
    _write_offsets(folder / "rows.jsonl.idx", offsets)
    return {"rows": len(rows), "broken": broken}


def _build_tars(files: list[Path], folder: Path) -> dict:
    counts: dict[str, int] = {}
    broken: list[tuple[str, str]] = []
    kept: list[int] = []
    for number, file in enumerate(files):
        samples = []
        try:
            for sample in tar_samples(file):
                samples.append(sample)
        except Refused as refused:
            broken.append((refused.reason, str(refused)))
        if not samples:
            continue
        name = f"{len(kept):05d}.tar"
        (folder / name).symlink_to(file)
        _write_offsets(folder / f"{name}.idx", [*(s.offset for s in samples), tar_end(file, samples)])
        counts[name] = len(samples)
        kept.append(number)
    settings = folder / ".nv-meta"
    settings.mkdir()
    (settings / ".info.json").write_text(json.dumps({"shard_counts": counts}))
    (settings / "split.json").write_text(json.dumps({"split_parts": {"train": list(counts)}}))
    return {"rows": sum(counts.values()), "broken": broken, "files": kept}


def _write_offsets(file: Path, offsets: list[int]) -> None:
    """energon's index: where each row begins and, last, where the rows end, as 64-bit numbers."""
    np.asarray(offsets, dtype="<u8").tofile(file)
