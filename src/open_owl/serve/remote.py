"""Fetching what a stranger's URL names, without being led to where only this machine can go.

A name is resolved once, all its addresses must be public, and the connection is made to one of those very
addresses: what the name resolves to a moment later (DNS rebinding) does not matter. Host header and
certificate still go by the name. Redirects are followed by hand, each checked like the first URL.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore2
import httpx2

from .media_policy import MediaPolicy, MediaRefused

Resolve = Callable[[str, int], Awaitable[list[str]]]

DOWNLOADS_AT_ONCE = 64  # all that the requests may fetch at once (`media`), so that none waits for another's
SECONDS_TO_CONNECT = 4  # to one address: a dead one must not use up the time of the next
REDIRECTS = (301, 302, 303, 307, 308)

# Everything in IANA's special-purpose registries that is not for the public internet. Spelled out, since what
# `ipaddress` calls global differs between versions of Python.
NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, at an address that looks public
        "169.254.0.0/16",  # link-local, the clouds' metadata among them
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# Of IPv6 only what is assigned to the public internet, without the ranges there that carry an IPv4 address
# (6to4, Teredo) or are not routed. IPv4-mapped and -compatible addresses, fc00::/7, fe80::/10 lie outside.
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_V6 = [
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how an IPv6-only network reaches IPv4 addresses

# Hosts that some resolvers take for an IPv4 address: 2130706433, 0x7f.1, 127.1, 0177.0.0.1
_LAST_LABEL_IS_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in NOT_PUBLIC_V4)
    if parsed in NAT64:
        return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed in PUBLIC_V6 and not any(parsed in network for network in NOT_PUBLIC_V6)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which to try them. Raises OSError or UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Downloader:
    """Fetches files by URL under a policy.

    Args:
        resolve: host and port -> addresses.
        is_public: whether an address may be connected to.
        ssl_context: the certificates to trust; the system's where left out.
    """

    def __init__(
        self,
        policy: MediaPolicy,
        resolve: Resolve = resolve,
        is_public: Callable[[str], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ):
        self._policy = policy
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        self._backend = _PinnedBackend(resolve, is_public)
        self._places = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """The file's bytes.

        Raises:
            MediaRefused: `bad_url`, `scheme_refused`, `port_refused`, `address_refused`, `unreachable`,
                `timed_out`, `too_many_redirects`, `http_status`, `encoded` or `too_large`.
        """
        limit = self._policy.max_seconds
        async with self._places:
            try:
                async with asyncio.timeout(limit):
                    return await self._follow(_parsed(url))
            except TimeoutError as error:
                raise MediaRefused("timed_out", f"{_shown(url)} is not here after {limit:g} s") from error
            except (
                httpcore2.NetworkError,
                httpcore2.ProtocolError,
                httpcore2.TimeoutException,
            ) as error:
                raise MediaRefused("unreachable", f"{_shown(url)} cannot be fetched: {error}") from error

    async def _follow(self, url: httpx2.URL) -> bytes:
        async with httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context, network_backend=self._backend
        ) as pool:
            for _ in range(self._policy.max_redirects + 1):
                self._check(url)
                target = httpcore2.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                )
                async with pool.stream("GET", target, headers=_headers(url)) as response:
                    location = _header(response, b"location")
                    if response.status not in REDIRECTS or location is None:
                        return await self._body(response, url)
                url = _parsed(location, url)
        limit = self._policy.max_redirects
        raise MediaRefused("too_many_redirects", f"the URL leads through more than {limit} redirects")

    def _check(self, url: httpx2.URL) -> None:
        """Refuse what is wrong with a URL as written; addresses are checked when they are connected to."""
        if url.scheme not in ("http", "https"):
            raise MediaRefused("scheme_refused", f"{_shown(url)} is not an http or https URL")
        host = url.raw_host.decode("ascii")
        if url.userinfo or not host:
            raise MediaRefused("bad_url", f"{_shown(url)} has no host, or a user name in it; leave that out")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        if port not in self._policy.allowed_ports:
            allowed = ", ".join(map(str, self._policy.allowed_ports))
            raise MediaRefused("port_refused", f"{_shown(url)} names port {port}; allowed are {allowed}")
        if _is_odd(host):
            raise _not_public(host)

    async def _body(self, response: httpcore2.Response, url: httpx2.URL) -> bytes:
        """At most `max_bytes`, counted as they come: a server may say anything of its answer's length."""
        if response.status != 200:
            raise MediaRefused("http_status", f"{_shown(url)} answers with status {response.status}")
        encoding = _header(response, b"content-encoding")
        if encoding not in (None, "", "identity"):
            # Nothing is unpacked, so that a few bytes cannot become many.
            raise MediaRefused(
                "encoded", f"{_shown(url)} is sent {encoding!r}-encoded, which was not asked for"
            )
        limit, received = self._policy.max_bytes, bytearray()
        async for chunk in response.aiter_stream():
            received += chunk
            if len(received) > limit:
                raise MediaRefused("too_large", f"{_shown(url)} has more than {limit:,} bytes")
        return bytes(received)


class _PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only; each connection resolves its host once."""

    def __init__(self, resolve: Resolve, is_public: Callable[[str], bool]):
        self._resolve, self._is_public = resolve, is_public
        self._tcp: Any = httpcore2.AnyIOBackend()  # typed as a class that may be absent

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._addresses(host, port)
        for address in addresses[:-1]:
            try:
                return await self._tcp.connect_tcp(address, port, SECONDS_TO_CONNECT)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._tcp.connect_tcp(addresses[-1], port)

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise _not_public(host) from error
        if not addresses or not all(map(self._is_public, addresses)):
            raise _not_public(host)
        return addresses


def _not_public(host: str) -> MediaRefused:
    """One answer for names that do not exist and for private ones: which of them do is nobody's business."""
    return MediaRefused("address_refused", f"{host!r} has no address on the public internet")


def _is_odd(host: str) -> bool:
    """Hosts that mean this machine, or an address written so that a check may read it otherwise."""
    if host == "localhost" or host.endswith((".", ".localhost")):
        return True
    if _LAST_LABEL_IS_NUMBER.search(host):
        try:
            return str(ipaddress.IPv4Address(host)) != host
        except ValueError:
            return True
    return False


def _parsed(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        return httpx2.URL(url) if base is None else base.join(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise MediaRefused("bad_url", f"{_shown(url)} is no URL that can be fetched: {error}") from error


def _headers(url: httpx2.URL) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.netloc),
        (b"User-Agent", b"open-owl"),
        (b"Accept", b"image/*, video/*"),
        (b"Accept-Encoding", b"identity"),
    ]


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    found = (value for key, value in response.headers if key.lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("utf-8", "replace").strip()


def _shown(url: str | httpx2.URL) -> str:
    """A URL in a message: short, and without a query, which may hold a key."""
    text = str(url).partition("?")[0]
    return repr(text if len(text) <= 120 else text[:117] + "...")
