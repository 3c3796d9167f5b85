"""A web server on loopback that answers as it is told, byte by byte, and a name service that says so."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# What to send for a path: all at once, or piece by piece with a pause between.
Answers = dict[str, bytes | list[bytes]]


@dataclass
class Web:
    """Where the server listens, and the requests that came, head by head."""

    port: int
    heads: list[str] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [head.split()[1] for head in self.heads]


def ok(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A whole answer; `length` is the Content-Length that it claims."""
    claimed = len(body) if length is None else length
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {claimed}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


@asynccontextmanager
async def serving(
    answers: Answers | Callable[[int], Answers],
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    pause: float = 0.05,
) -> AsyncIterator[Web]:
    """The server, while the block runs. `answers` may depend on the port."""
    web = Web(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                web.heads.append(head.decode())
                known = answers(web.port) if callable(answers) else answers
                answer = known[web.paths[-1]]
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await writer.drain()
                    if not isinstance(answer, bytes):
                        await asyncio.sleep(pause)
                if b"Content-Length" not in (answer if isinstance(answer, bytes) else answer[0]):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    if tls is not None:
        tls.sni_callback = lambda _, name, __: web.server_names.append(name)
    server = await asyncio.start_server(handle, host, 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()


def names(**addresses: str | list[str]) -> Callable:
    """A resolver: host (dots as underscores) -> address; where a list is given, one after another each time.

    Its `asked` are the hosts that were looked up.
    """

    async def resolve(host: str, port: int) -> list[str]:
        resolve.asked.append(host)
        found = addresses[host.replace(".", "_").replace("-", "_")]
        return [found] if isinstance(found, str) else [found.pop(0)]

    resolve.asked = []
    return resolve
