"""A program of its own that decodes what strangers sent, one file after another, away from the server.

`media_decoders.Decoders` starts it. It must start fast, so it loads the two files of `open_owl.model` that
decode from where they lie: importing the package would load torch. It answers with JSON and plain pixels,
never with pickles: a decoder that a file has taken over must not get further than this process.

On stdin, for each job: a line of JSON (kind, size, max_pixels, num_frames, fps), then `size` bytes.
On stdout: a line `{"ready": true}` at the start; for each job a line of JSON, `sizes` of the pictures or
`reason` and `message`; then the pictures' RGB bytes.
"""

import importlib
import json
import math
import os
import resource
import sys
import types
from pathlib import Path
from typing import Any

MODEL_FILES = Path(__file__).parents[1] / "model"


def load(name: str) -> Any:
    """`open_owl.model.<name>`, by way of a package that is only a folder."""
    package = types.ModuleType("model_files")
    package.__path__ = [str(MODEL_FILES)]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{name}")


def decode(job: dict[str, Any], data: bytes) -> list[Any]:
    """The file's pictures, RGB. Raises ImageError, VideoError, ModuleNotFoundError or MemoryError."""
    if job["kind"] == "image":
        return [load("images_mplug_owl").open_image(data, job["max_pixels"])]
    open_video = load("video_mplug_owl").open_video
    return open_video(data, job["num_frames"], job["max_pixels"] // job["num_frames"], job["fps"])


def refusal(error: Exception) -> dict[str, str]:
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return {"reason": "too_large", "message": "decoding the file takes more memory than is allowed"}
    if isinstance(error, ModuleNotFoundError):
        return {"reason": "no_video_decoder", "message": f"this server cannot decode videos: {error}"}
    return {"reason": getattr(error, "reason", "decoder_failed"), "message": str(error)[:500]}


def limit_memory(memory_bytes: int) -> None:
    """No more address space than that, no file written, no core dumped; for good."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    if sys.platform != "darwin":  # which refuses to limit it
        limits[resource.RLIMIT_AS] = memory_bytes
    for which, value in limits.items():
        value = _at_most(resource.getrlimit(which)[1], value)
        resource.setrlimit(which, (value, value))


def limit_seconds(seconds: float) -> None:
    """Processor time for one job, from now on; the server ends the process sooner, unless it has died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = _at_most(hard, math.ceil(used.ru_utime + used.ru_stime + seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _at_most(hard: int, value: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def main() -> None:
    settings = json.loads(sys.argv[1])
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    load("images_mplug_owl")
    answers.write(b'{"ready": true}\n')
    answers.flush()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what the decoders print belongs neither among the answers nor in the server's log
        os.dup2(silence, stream)
    limit_memory(settings["memory_bytes"])
    while line := jobs.readline():
        job = json.loads(line)
        data = jobs.read(job["size"])
        limit_seconds(settings["decode_seconds"])
        try:
            pictures = decode(job, data)
            answer: dict[str, Any] = {"sizes": [picture.size for picture in pictures]}
        except Exception as error:
            pictures, answer = [], refusal(error)
        answers.write(json.dumps(answer).encode() + b"\n")
        for picture in pictures:
            answers.write(picture.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
