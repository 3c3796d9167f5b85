"""Runs the application until it is told to stop, and then until the last answer is out."""

import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from open_owl.generate.engine import Engine

from .logs import event, log
from .middleware import Traffic

SECONDS_TO_CLOSE = 5  # for connections that stay open with nothing in flight, as a web page's do


def bind(host: str, port: int) -> socket.socket:
    """Takes the address, without listening yet: whoever asks before the model is loaded is told at once.

    Raises:
        OSError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return listener


def run(app: FastAPI, engine: Engine, listener: socket.socket, max_seconds_to_drain: float) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what is in flight. A second signal ends it at once.

    Args:
        max_seconds_to_drain: for clients that do not read what they asked for.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=SECONDS_TO_CLOSE,
    )
    DrainingServer(config, app.state.traffic, engine, max_seconds_to_drain).run([listener])


class DrainingServer(uvicorn.Server):
    """While it drains, new requests get 503 instead of a closed door, and running ones their answers."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic, engine: Engine, max_seconds_to_drain: float):
        super().__init__(config)
        self.traffic = traffic
        self.engine = engine
        self.max_seconds_to_drain = max_seconds_to_drain
        self._drain_until = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.traffic.draining:
            self.should_exit = self.force_exit = True
        self.traffic.draining = True
        self._drain_until = time.monotonic() + self.max_seconds_to_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            event("serving", url=f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")

    async def on_tick(self, counter: int) -> bool:
        if self.traffic.draining and (self._is_idle() or time.monotonic() > self._drain_until):
            log.info("drained", extra={"fields": {"in_flight": self.traffic.in_flight}})
            self.should_exit = True
        return await super().on_tick(counter)

    def _is_idle(self) -> bool:
        stats = self.engine.stats()  # a page beside the API asks the engine too
        return self.traffic.in_flight == 0 and stats.running == 0 and stats.waiting == 0
