import asyncio
import datetime
import ipaddress
import ssl
import time

import pytest
from tests.serve.little_web import names, ok, redirect, serving

from open_owl.serve.media_policy import MediaPolicy, MediaRefused
from open_owl.serve.remote import Downloader, is_public

LOOPBACK = {"127.0.0.1"}.__contains__  # "public" where a test serves on loopback

PRIVATE = {
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.9.10",
    "loopback v6": "::1",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "unspecified v6": "::",
    "private 10": "10.0.0.5",
    "private 172.16": "172.16.0.1",
    "private 172.31": "172.31.255.254",
    "private 192.168": "192.168.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "services of Azure": "168.63.129.16",
    "metadata v6": "fd00:ec2::254",
    "unique local v6": "fc00::1",
    "link-local v6": "fe80::1",
    "link-local v6 with a zone": "fe80::1%eth0",
    "site-local v6": "fec0::1",
    "multicast": "224.0.0.1",
    "multicast v6": "ff02::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "documentation v6": "2001:db8::1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:a9fe:a9fe",
    "IPv4-mapped, even of a public one": "::ffff:8.8.8.8",
    "IPv4-compatible": "::127.0.0.1",
    "6to4 of a private one": "2002:7f00:1::",
    "NAT64 of loopback": "64:ff9b::7f00:1",
    "NAT64 of metadata": "64:ff9b::169.254.169.254",
    "NAT64, local prefix": "64:ff9b:1::a00:1",
    "Teredo": "2001:0:7f00:1::",
}
ODD_HOSTS = {
    "decimal": "2130706433",
    "hex": "0x7f000001",
    "hex, dotted": "0x7f.0.0.1",
    "hex at the end": "127.0.0.0x1",
    "octal": "0177.0.0.1",
    "octal, whole": "017700000001",
    "short form": "127.1",
    "shorter form": "0",
    "trailing dot": "127.0.0.1.",
    "name with a trailing dot": "pictures.example.",
    "full-width digits": "１２７.0.0.1",  # noqa: RUF001
    "circled digits": "①②⑦.0.0.1",
    "ideographic full stops": "127。0。0。1",
    "localhost": "localhost",
    "localhost in capitals": "LOCALHOST",
    "localhost with a dot": "localhost.",
    "below localhost": "pictures.localhost",
    "percent-encoded": "127%2e0%2e0%2e1",
}


def fetch(url, resolve, is_public=LOOPBACK, ssl_context=None, **policy) -> bytes:
    return asyncio.run(fetching(url, resolve, is_public, ssl_context, **policy))


async def fetching(url, resolve, is_public=LOOPBACK, ssl_context=None, **policy) -> bytes:
    downloader = Downloader(MediaPolicy(allow_remote=True, **policy), resolve, is_public, ssl_context)
    return await downloader.fetch(url)


async def from_web(answers, path: str = "/a.png", **policy) -> bytes:
    """What the little web serves at pictures.example."""
    async with serving(answers) as web:
        url = f"http://pictures.example:{web.port}{path}"
        resolve = names(pictures_example="127.0.0.1")
        return await fetching(url, resolve, allowed_ports=(web.port,), **policy)


def refused(call) -> str:
    with pytest.raises(MediaRefused) as info:
        call()
    return info.value.reason


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_a_name_that_resolves_to_a_private_address_is_refused(address) -> None:
    resolve = names(pictures_example=address)
    assert refused(lambda: fetch("http://pictures.example/a", resolve, is_public)) == "address_refused"
    assert resolve.asked == ["pictures.example"]


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_a_private_address_as_the_host_is_refused(address) -> None:
    host = f"[{address}]" if ":" in address else address
    given = MediaPolicy(allow_remote=True)
    reason = refused(lambda: asyncio.run(Downloader(given).fetch(f"http://{host}/latest/meta-data/")))
    assert reason in ("address_refused", "bad_url")  # a zone is no part of a URL


@pytest.mark.parametrize("host", ODD_HOSTS.values(), ids=ODD_HOSTS)
def test_an_odd_way_to_write_a_host_is_refused_whatever_a_resolver_makes_of_it(host) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if "%" in host:
            raise OSError("no such host")
        return [host if host == "127.0.0.1" else "8.8.8.8"]

    reason = refused(lambda: fetch(f"http://{host}/a", resolve, is_public))
    assert reason in ("address_refused", "bad_url")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address) -> None:
    assert is_public(address)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"]

    assert refused(lambda: fetch("http://pictures.example/a", resolve, is_public)) == "address_refused"


def test_a_name_that_does_not_exist_and_one_that_is_private_get_the_same_answer() -> None:
    async def missing(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    answers = []
    for resolve in (missing, names(inside_example="10.0.0.1")):
        with pytest.raises(MediaRefused) as info:
            fetch("http://inside.example/a", resolve, is_public)
        answers.append(str(info.value))
    assert answers[0] == answers[1]


def test_a_file_is_fetched_and_the_host_asked_for_by_name() -> None:
    async def check() -> None:
        async with serving({"/a.png?size=2": ok(b"pixels")}) as web:
            url = f"http://Pictures.example:{web.port}/a.png?size=2#part"
            resolve = names(pictures_example="127.0.0.1")
            assert await fetching(url, resolve, allowed_ports=(web.port,)) == b"pixels"
        assert f"Host: pictures.example:{web.port}\r\n" in web.heads[0]
        assert "Accept-Encoding: identity\r\n" in web.heads[0]

    asyncio.run(check())


def test_a_dead_address_is_passed_over() -> None:
    async def check() -> bytes:
        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

        async with serving({"/a": ok(b"pixels")}) as web:
            url = f"http://pictures.example:{web.port}/a"
            return await fetching(url, resolve, lambda _: True, allowed_ports=(web.port,))

    assert asyncio.run(check()) == b"pixels"


def test_a_rebound_name_is_connected_to_at_the_address_that_was_checked() -> None:
    async def check() -> None:
        async with serving({"/a": ok(b"public")}) as web:
            url = f"http://pictures.example:{web.port}/a"
            resolve = names(pictures_example=["127.0.0.1", "10.0.0.1"])
            assert await fetching(url, resolve, allowed_ports=(web.port,)) == b"public"
        assert resolve.asked == ["pictures.example"]

    asyncio.run(check())


def test_a_name_rebound_between_redirects_is_refused() -> None:
    async def check() -> None:
        # Closing after the first answer, the server makes the next request need a new connection.
        answers = {
            "/a": b"HTTP/1.1 302 Found\r\nLocation: /b\r\nConnection: close\r\n\r\n",
            "/b": ok(b"private"),
        }
        async with serving(answers) as web:
            url = f"http://pictures.example:{web.port}/a"
            resolve = names(pictures_example=["127.0.0.1", "10.0.0.1"])
            await fetching(url, resolve, allowed_ports=(web.port,))

    assert refused(lambda: asyncio.run(check())) == "address_refused"


def test_redirects_are_followed_relative_to_where_they_come_from() -> None:
    answers = {"/x/a.png": redirect("../y/b.png"), "/y/b.png": redirect("/c.png"), "/c.png": ok(b"pixels")}
    assert asyncio.run(from_web(answers, "/x/a.png")) == b"pixels"


REDIRECTS = {
    "private address": ("http://10.0.0.1/", "address_refused"),
    "metadata": ("http://169.254.169.254/latest/meta-data/", "address_refused"),
    "loopback by name": ("http://localhost/", "address_refused"),
    "protocol-relative": ("//127.1/", "address_refused"),
    "file": ("file:///etc/passwd", "scheme_refused"),
    "gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "scheme_refused"),
    "data": ("data:image/png;base64,AAAA", "scheme_refused"),
    "odd port": ("http://pictures.example:6379/", "port_refused"),
    "user name": ("http://pictures.example@127.0.0.1/", "bad_url"),
    "no URL": ("http://[::1", "bad_url"),
}


@pytest.mark.parametrize(("location", "reason"), REDIRECTS.values(), ids=REDIRECTS)
def test_a_redirect_is_checked_like_the_first_url(location, reason) -> None:
    async def check() -> None:
        async with serving({"/a.png": redirect(location)}) as web:
            url = f"http://pictures.example:{web.port}/a.png"
            resolve = names(pictures_example="127.0.0.1", **{"10_0_0_1": "10.0.0.1"})
            resolve = _numbers_too(resolve)
            await fetching(url, resolve, allowed_ports=(web.port, 80))

    assert refused(lambda: asyncio.run(check())) == reason


def _numbers_too(resolve):
    async def known(host: str, port: int) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return await resolve(host, port)

    return known


def test_too_many_redirects_are_refused() -> None:
    answers = {f"/{number}": redirect(f"/{number + 1}") for number in range(5)} | {"/5": ok(b"pixels")}
    assert asyncio.run(from_web(answers, "/2", max_redirects=3)) == b"pixels"
    assert refused(lambda: asyncio.run(from_web(answers, "/1", max_redirects=3))) == "too_many_redirects"
    assert refused(lambda: asyncio.run(from_web({"/a.png": redirect("/a.png")}))) == "too_many_redirects"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:password@pictures.example/a", "bad_url"),
        ("http://pictures.example\\@127.0.0.1/a", "bad_url"),
        ("http:///a", "bad_url"),
        ("http://pictures.example:22/a", "port_refused"),
        ("https://pictures.example:8443/a", "port_refused"),
        ("http://pictures.example:http/a", "bad_url"),
        ("http://pictures.example/a\r\nHost: inside", "bad_url"),
        ("ftp://pictures.example/a", "scheme_refused"),
        ("http://pictures.example/\ud800", "bad_url"),
        ("http://" + "a" * 70_000, "bad_url"),
        ("http://xn--a/", "address_refused"),
    ],
)
def test_a_url_that_is_wrong_as_written_is_refused(url, reason) -> None:
    async def missing(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    assert refused(lambda: fetch(url, missing, is_public)) == reason


@pytest.mark.parametrize("length", [None, 10], ids=["a true length", "a length that is too small"])
def test_more_bytes_than_allowed_are_not_read(length) -> None:
    answers = {"/a.png": ok(bytes(5000), length=length)}
    if length is None:
        assert refused(lambda: asyncio.run(from_web(answers, max_bytes=4999))) == "too_large"
    else:
        assert len(asyncio.run(from_web(answers, max_bytes=4999))) == length


def test_an_endless_body_without_a_length_is_cut_off_at_the_limit() -> None:
    endless = [b"HTTP/1.1 200 OK\r\n\r\n"] + [bytes(1000)] * 1000
    started = time.perf_counter()
    assert refused(lambda: asyncio.run(from_web({"/a.png": endless}, max_bytes=1500))) == "too_large"
    assert time.perf_counter() - started < 5


def test_chunks_are_counted_too() -> None:
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n"
    )
    assert refused(lambda: asyncio.run(from_web({"/a.png": chunks}, max_bytes=999))) == "too_large"
    assert len(asyncio.run(from_web({"/a.png": chunks}, max_bytes=1000))) == 1000


def test_a_slow_drip_is_cut_off_at_the_time_limit() -> None:
    drip = [ok(b"", length=1000)] + [b"x"] * 1000
    started = time.perf_counter()
    assert refused(lambda: asyncio.run(from_web({"/a.png": drip}, max_seconds=0.3))) == "timed_out"
    assert time.perf_counter() - started < 3


def test_slow_headers_count_towards_the_time_limit() -> None:
    drip = [b"HTTP/1.1 200 OK\r\n"] + [b"X-A: b\r\n"] * 1000
    assert refused(lambda: asyncio.run(from_web({"/a.png": drip}, max_seconds=0.3))) == "timed_out"


def test_a_slow_name_service_counts_towards_the_time_limit() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    assert refused(lambda: fetch("http://pictures.example/a", never, max_seconds=0.1)) == "timed_out"


def test_a_compressed_body_is_not_unpacked() -> None:
    answers = {"/a.png": ok(b"\x1f\x8b bomb", "Content-Encoding: gzip")}
    assert refused(lambda: asyncio.run(from_web(answers))) == "encoded"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http_status"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", "http_status"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000, "unreachable"),
        (ok(b"short", length=100).replace(b"Content-Length", b"content-length"), "unreachable"),
    ],
    ids=["404", "304", "not HTTP", "endless header", "ends early"],
)
def test_what_is_no_good_answer_is_refused(answer, reason) -> None:
    assert refused(lambda: asyncio.run(from_web({"/a.png": answer}))) == reason


def test_nobody_listening_is_told() -> None:
    resolve = names(pictures_example="127.0.0.1")
    url = "http://pictures.example:1/a"
    assert refused(lambda: fetch(url, resolve, allowed_ports=(1,))) == "unreachable"


def test_a_message_holds_no_query() -> None:
    with pytest.raises(MediaRefused) as info:
        fetch("http://pictures.example:22/a?key=secret", names())
    assert "secret" not in str(info.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> str:
    """A file with key and certificate of pictures.example, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(secret + made.public_bytes(pem))
    return str(file)


@pytest.mark.parametrize(("host", "is_trusted"), [("pictures.example", True), ("other.example", False)])
def test_a_certificate_is_checked_against_the_name_at_the_pinned_address(
    certificate, host, is_trusted
) -> None:
    async def check() -> tuple[bytes, list[str | None]]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        trust = ssl.create_default_context(cafile=certificate)
        resolve = names(pictures_example="127.0.0.1", other_example="127.0.0.1")
        async with serving({"/a": ok(b"pixels")}, tls=tls) as web:
            url = f"https://{host}:{web.port}/a"
            body = await fetching(url, resolve, ssl_context=trust, allowed_ports=(web.port,))
        return body, web.server_names

    if is_trusted:
        assert asyncio.run(check()) == (b"pixels", ["pictures.example"])
    else:
        assert refused(lambda: asyncio.run(check())) == "unreachable"
