"""The server's log: a JSON object a line on standard error, without what is said unless that is asked for."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from .protocol import Message

log = logging.getLogger("open_owl.serve")

SHOWN_OF_A_URL = 60  # characters: a data URI is the whole picture


class JsonLines(logging.Formatter):
    """time, level, event, and the record's `fields` beside them."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def write_json_lines() -> None:
    """From now on the server's and uvicorn's log go to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("open_owl.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def event(name: str, **fields: Any) -> None:
    log.info(name, extra={"fields": fields})


def shown(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as they are written to the log: media by the beginning of their address."""
    return [{"role": message.role, "content": _parts(message)} for message in messages]


def _parts(message: Message) -> list[dict[str, Any]]:
    parts = []
    for part in message.content:
        addresses = [media.url for media in (part.image_url, part.video_url) if media]
        address = next(iter(addresses), part.url or part.file)
        fields = {"type": part.type, "text": part.text, "media": address and address[:SHOWN_OF_A_URL]}
        parts.append({name: value for name, value in fields.items() if value is not None})
    return parts
