"""Examples of the little world as data files: JSON lines of `messages`, with pictures beside them.

What the quickstart trains on is read back through the same stream as anybody's own data.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .conversations import Example
from .drawing import draw


def write_rows(path: Path, examples: Iterable[Example]) -> Path:
    """Writes one row an example to `path` (.jsonl), and the pictures into a folder named after it.

    The file appears when it is whole.
    """
    pictures = path.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as lines:
        for number, example in enumerate(examples):
            files = []
            for side, scene in enumerate(example.scenes):
                file = pictures / f"{number:06d}-{side}.png"
                draw(scene).save(file, compress_level=1)
                files.append(f"{pictures.name}/{file.name}")
            lines.write(json.dumps({"messages": messages_of(example, files)}) + "\n")
    return unfinished.replace(path)


def messages_of(example: Example, pictures: Iterable[Any]) -> list[dict[str, Any]]:
    """The conversation as chat messages; `pictures` (paths or PIL images) stand before the first question."""
    parts: list[dict[str, Any]] = [{"type": "image", "path": picture} for picture in pictures]
    messages: list[dict[str, Any]] = []
    for question, answer in example.talk:
        parts.append({"type": "text", "text": question})
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        parts = []
    return messages
