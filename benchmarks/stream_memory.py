"""Does the stream's memory grow with the data? Two million rows, half of them lines, half pictures in tars.

    python benchmarks/stream_memory.py                  # 2,000,000 rows, 2 workers; 4 GB of disk meanwhile
    python benchmarks/stream_memory.py --rows 20000     # a look

The rows are made in a temporary folder, which is removed at the end. Printed are the resident memory of this
process and of its workers (psutil's `rss`: pages that processes share are counted in each) and the rows read
a second, and at the end by how much the memory of the second half differs from that near the beginning.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from open_owl.chat_templates import HUMAN_AI
from open_owl.data.mixture import MixtureSettings
from open_owl.data.stream import Stream, open_mixture
from open_owl.model import MplugOwlProcessor

ROWS_PER_SHARD = 10_000
MEBIBYTE = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows in the sources")
    parser.add_argument("--read", type=int, help="how many of them are read [default: each once]")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where the temporary folder is made")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stream-memory-", dir=options.folder))
    os.environ["OPEN_OWL_CACHE"] = str(folder / "cache")
    try:
        started = time.perf_counter()
        write_lines(folder / "rows.jsonl", options.rows // 2)
        write_shards(folder / "shards", options.rows // 2)
        print(f"written in {time.perf_counter() - started:.0f} s")
        started = time.perf_counter()
        stream = open_stream(folder, options.workers)
        print(f"{stream.rows:,} rows indexed in {time.perf_counter() - started:.0f} s; {memory()}")
        read(stream, options.read or stream.rows)
    finally:
        shutil.rmtree(folder)


def write_lines(file: Path, rows: int) -> None:
    with file.open("w") as stream:
        for number in range(rows):
            stream.write(
                json.dumps({"instruction": f"question {number}", "input": "", "output": "An owl."}) + "\n"
            )
            if number % 1000 == 0:
                stream.write("\n")  # so that a row's number is not its line's


def write_shards(folder: Path, rows: int) -> None:
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "brown").save(picture, "JPEG")
    first = folder / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(min(rows, ROWS_PER_SHARD)):
            for extension, data in [("jpg", picture.getvalue()), ("txt", f"owl {number}".encode())]:
                info = tarfile.TarInfo(f"{number:09d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for number in range(1, rows // ROWS_PER_SHARD):
        shutil.copy(first, folder / f"{number:05d}.tar")


def open_stream(folder: Path, workers: int) -> Stream:
    sources = [{"path": str(path), "max_epochs": 1} for path in (folder / "rows.jsonl", folder / "shards")]
    settings = MixtureSettings.model_validate(
        {"sources": sources, "workers": workers, "chat_template": "plain"}
    )
    return open_mixture(settings, byte_processor(), max_tokens=400)


def byte_processor() -> MplugOwlProcessor:
    """One id a byte, three slots a picture of 8 x 8: reading shall be what costs."""
    special = ["<s>", "</s>", "<image>", "<|video|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    size = {"height": 8, "width": 8}
    images = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    return MplugOwlProcessor(images, tokenizer, chat_template=HUMAN_AI, num_image_tokens=3)


def read(stream: Stream, rows: int) -> None:
    """So many rows, in twenty parts."""
    parent: list[float] = []
    workers: list[float] = []
    for part in range(20):
        count = rows * (part + 1) // 20 - rows * part // 20
        started = time.perf_counter()
        taken, samples = 0, []
        while taken < count:
            taken += len(stream.take(min(count - taken, max(1, count // 10))))
            samples.append(resident())
        seconds = time.perf_counter() - started
        parent.append(statistics.mean(own for own, _ in samples))
        workers.append(statistics.mean(theirs for _, theirs in samples))
        print(
            f"{rows * (part + 1) // 20:>10,} rows, {count / seconds:6,.0f} a second; {memory()}", flush=True
        )
    for name, course in (("this process", parent), ("workers", workers)):
        early, late = statistics.mean(course[1:3]), statistics.mean(course[10:])
        print(
            f"{name}: {early:,.0f} MiB at 5-15%, {late:,.0f} MiB over the second half ({late - early:+,.1f})"
        )
    stream.close()


def resident() -> tuple[float, float]:
    """MiB of this process, and of its workers together."""
    process = psutil.Process()
    workers = sum(child.memory_info().rss for child in process.children())
    return process.memory_info().rss / MEBIBYTE, workers / MEBIBYTE


def memory() -> str:
    own, workers = resident()
    return f"{own:,.0f} MiB here, {workers:,.0f} MiB in workers"


if __name__ == "__main__":
    main()
