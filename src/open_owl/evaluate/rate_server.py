"""Serves the page where answers are rated, until it is told to stop."""

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

SECONDS_TO_CLOSE = 3


def serve_page(app: FastAPI, listener: socket.socket, on_start: Callable[[str], object]) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        on_start: told the page's address once it answers.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=SECONDS_TO_CLOSE
    )
    _Server(config, on_start).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], object]):
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
