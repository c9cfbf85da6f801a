"""Pictures from URLs: of public addresses alone, also behind names and redirects."""

import asyncio
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from service.errors import BadUrl, TooLarge, TooMany
from service.http import fetching
from service.http.fetching import Fetcher, FetchLimits, is_public
from service.settings import Settings
from tests.support.api import Api, start_api
from tests.support.random_adapters import add_version
from training.data import Sample

OPEN = FetchLimits(allowed=True, private=True, seconds=2.5, size=50_000)
GUARDED = FetchLimits(allowed=True, private=False, seconds=2.0, size=50_000)
BODY = b"a picture's bytes"


@dataclass
class Site:
    """A real web server, and the requests that came to it."""

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Host

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


class Patient(ThreadingHTTPServer):
    """Lets more connections wait than five."""

    request_queue_size = 64


@pytest.fixture
def site(samples: list[Sample]) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["host"]))
            what, _, rest = self.path[1:].partition("/")
            if what == "to":
                self.send_response(302)
                self.send_header("Location", rest)
                self.end_headers()
                return
            if what == "missing":
                self.send_error(404)
                return
            body = {"photo": samples[0].data, "large": bytes(100_000)}.get(what, BODY)
            self.send_response(200)
            if what == "packed":
                self.send_header("Content-Encoding", "gzip")
            if what != "large":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if what == "slow":
                self.wfile.write(body[:1])
                time.sleep(6)
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = Patient(("127.0.0.1", 0), Handler)
    found = Site(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def fetch(limits: FetchLimits, url: str) -> bytes:
    return asyncio.run(Fetcher(limits).fetch("tenant", url))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:0:53aa:64c:0:0:80ff:fefe",
        "2001:db8::1",
    ],
)
def test_an_address_of_no_open_network_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::6810:84e5", "64:ff9b::8.8.8.8"]
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "169.254.169.254",
        "0.0.0.0",
        "①②⑦.⓪.⓪.①",
    ],
)
def test_nothing_is_asked_of_this_machine_or_its_network(site: Site, host: str) -> None:
    with pytest.raises(BadUrl):
        fetch(GUARDED, site.url("/photo", host))
    assert not site.asked


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A DNS of the test's own: each question for a name takes the next of its answers."""
    answers: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: object, **named: object) -> list[object]:
        """An answer may name several addresses, with spaces between."""
        hosts = answers[host].pop(0).split() if host in answers else [host]
        found = [real(one, port, *rest, **named) for one in hosts]  # type: ignore[arg-type]
        return [address for some in found for address in some]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers


@pytest.fixture
def public_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The same server, as if its one address were of the open internet."""
    real = fetching.is_public
    monkeypatch.setattr(fetching, "is_public", lambda a: str(a) == "127.0.0.1" or real(a))
    return site


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "127.0.0.2", "::1", "10.0.0.1", "127.0.0.1 10.0.0.1"]
)
def test_a_name_that_resolves_to_a_private_address_is_refused(
    public_site: Site, names: dict[str, list[str]], address: str
) -> None:
    names["pictures.example"] = [address]
    with pytest.raises(BadUrl, match="cannot be used") as caught:
        fetch(GUARDED, public_site.url("/photo", "pictures.example"))
    assert "not at a public address" in caught.value.problems[0].reason


def test_a_name_is_resolved_once_and_asked_for_by_its_name(
    public_site: Site, names: dict[str, list[str]]
) -> None:
    names["pictures.example"] = ["127.0.0.1"]  # a second question would be an error
    assert fetch(GUARDED, public_site.url("/file", "pictures.example")) == BODY
    assert public_site.asked == [("/file", f"pictures.example:{public_site.port}")]


def test_the_next_address_of_a_host_is_asked_where_the_first_takes_no_connection(
    site: Site, names: dict[str, list[str]]
) -> None:
    names["pictures.example"] = ["::1 127.0.0.1"]  # the site listens on the second alone
    assert fetch(OPEN, site.url("/file", "pictures.example")) == BODY


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.2/",
        "http://[::1]/",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
    ],
)
def test_a_redirect_is_judged_as_the_first_url(public_site: Site, target: str) -> None:
    with pytest.raises(BadUrl):
        fetch(GUARDED, public_site.url(f"/to/{target}"))
    assert len(public_site.asked) == 1


def test_a_redirect_to_a_name_that_resolves_to_a_private_address_is_refused(
    public_site: Site, names: dict[str, list[str]]
) -> None:
    names["rebound.example"] = ["169.254.169.254"]
    with pytest.raises(BadUrl):
        fetch(GUARDED, public_site.url("/to/http://rebound.example/"))


@pytest.fixture
def secure_site(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """A real HTTPS server with a certificate for pictures.example, and who trusts it."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=pictures.example"
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    name = ["-addext", "subjectAltName=DNS:pictures.example"]
    subprocess.run([*command.split(), *name, *files], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, ssl.create_default_context(cafile=tmp_path / "certificate")
    server.shutdown()
    server.server_close()


def test_a_certificate_is_checked_against_the_name_not_the_address(
    secure_site: tuple[int, ssl.SSLContext],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, trusting = secure_site
    names |= {name: ["127.0.0.1"] * 2 for name in ("pictures.example", "other.example")}
    with pytest.raises(BadUrl):  # nobody that this machine trusts has signed it
        fetch(OPEN, f"https://pictures.example:{port}/")
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: trusting)
    assert fetch(OPEN, f"https://pictures.example:{port}/") == BODY
    with pytest.raises(BadUrl):
        fetch(OPEN, f"https://other.example:{port}/")


def test_three_redirects_are_followed_and_a_fourth_is_not(site: Site) -> None:
    assert fetch(OPEN, site.url("/to//to//to//file")) == BODY
    with pytest.raises(BadUrl):
        fetch(OPEN, site.url("/to//to//to//to//file"))


@pytest.mark.parametrize(
    ("path", "error"),
    [("large", TooLarge), ("slow", BadUrl), ("packed", BadUrl), ("missing", BadUrl)],
)
def test_what_is_too_large_too_slow_packed_or_missing_is_refused(
    site: Site, path: str, error: type[RMAdapterError]
) -> None:
    started = time.monotonic()
    with pytest.raises(error):
        fetch(OPEN, site.url(f"/{path}"))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photo.jpg",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:1/",
        "http://a b/",
        "http://" + "a" * 64 + ".example/",
        "http://example.invalid/",
        "http://x/" + "y" * 3000,
        "data:image/png;base64,AA==",
    ],
    ids=lambda url: url[:30],
)
def test_what_is_no_usable_url_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        fetch(OPEN, url)


def test_one_tenant_waits_for_few_urls_at_once(site: Site) -> None:
    async def many() -> list[object]:
        fetcher = Fetcher(OPEN)
        calls = [fetcher.fetch("tenant", site.url("/slow")) for _ in range(12)]
        other = fetcher.fetch("other", site.url("/file"))
        return list(await asyncio.gather(*calls, other, return_exceptions=True))

    answers = asyncio.run(many())
    assert sum(isinstance(answer, TooMany) for answer in answers) == 4
    assert answers[-1] == BODY


@pytest.fixture
def fetching_api(settings: Settings, clip: FrozenCLIP) -> Iterator[Api]:
    own = {"fetch_urls": True, "fetch_private": True}
    yield from start_api(settings.model_copy(update=own), clip)


def test_a_picture_is_classified_by_its_url(
    fetching_api: Api, site: Site, clip: FrozenCLIP, samples: list[Sample]
) -> None:
    client, records = fetching_api.new_tenant(), fetching_api.components.records
    add_version(records, clip, client.tenant, "flowers", 1)
    records.adapters.publish(client.tenant, "flowers", 1)
    path = "/customvision/v3.0/Prediction/p/classify/iterations/flowers/"
    answers = [
        client.http.post(path + "url", json={"Url": site.url("/to//photo")}),
        client.http.post(path + "URL/NoStore", json={"url": site.url("/photo")}),
        client.http.post(path + "image", content=samples[0].data),
    ]
    tags = [[(p["tagName"], p["probability"]) for p in a.json()["predictions"]] for a in answers]
    for one in tags[:2]:
        assert dict(one) == pytest.approx(dict(tags[2]), abs=1e-5)
    broken = client.http.post(path + "url", json={"Url": site.url("/missing")})
    assert (broken.status_code, broken.json()["code"]) == (400, "BadRequestImageUrl")
    assert "404" in broken.json()["message"]
