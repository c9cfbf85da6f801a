"""Fetches what a client names by its URL, from public addresses alone.

A URL is a way to let the server ask its own network: the metadata of a cloud's machine, a database,
a page of an administrator. So a host is resolved once, every address that it has must be public,
and the connection goes to that address, not to the name again: a second answer of the DNS changes
nothing. A redirect is a new URL, judged as the first. No proxy is used, for it would resolve anew.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx

from service import __version__
from service.errors import BadUrl, Problem, TooLarge, TooMany, Unavailable
from service.settings import Settings

_MOST_REDIRECTS, _MOST_ADDRESSES = 3, 4
_MOST, _MOST_OF_TENANT = 64, 8  # fetches at once: each holds a connection and a picture
_MOST_URL = 2048  # characters
_PORTS = 2**16
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": f"rmadapter/{__version__}", "Accept-Encoding": "identity"}
_TRANSLATED = (  # IPv6 networks whose addresses hold an IPv4 address in their last 32 bits
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("::/96"),
)
_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215; Python 3.11 calls it global
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What may be fetched."""

    allowed: bool  # whether anything is
    private: bool  # also from addresses that are not public
    seconds: float  # for all of it, with redirects
    size: int  # bytes

    @classmethod
    def of(cls, settings: Settings) -> "FetchLimits":
        """The limits that follow from the settings, for one picture."""
        return cls(
            settings.fetch_urls,
            settings.fetch_private,
            settings.fetch_seconds,
            settings.max_image_bytes,
        )


class Fetcher:
    """Fetches for the requests of one server; runs on one event loop."""

    def __init__(self, limits: FetchLimits) -> None:
        """Fetches nothing yet.

        Args:
            limits: what may be fetched.
        """
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._tls = httpx.create_ssl_context(trust_env=False) if limits.allowed else False

    async def fetch(self, tenant: str, url: str) -> bytes:
        """The bytes that a URL leads to.

        Args:
            tenant: who asks.
            url: http or https.

        Returns:
            The answer's body, as it was sent.

        Raises:
            BadUrl: fetching is off, the URL or one that it redirects to is no public one, its
                server does not answer in time, or not with a file.
            TooLarge: the body is over the limit.
            TooMany, Unavailable: as many as allowed are being fetched already.
        """
        if not self._limits.allowed:
            raise BadUrl(
                "this server fetches no URLs; send the picture itself",
                Problem("url", "RMADAPTER_FETCH_URLS is off"),
            )
        with self._counted(tenant):
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._follow(url)
            except TimeoutError as error:
                raise _bad(f"no whole answer within {self._limits.seconds:g} s") from error
            except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
                raise _bad("its server could not be reached, or broke off") from error

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        if self._running[tenant] >= _MOST_OF_TENANT:
            raise TooMany(f"{_MOST_OF_TENANT} URLs of this tenant are being fetched", 2)
        if self._running.total() >= _MOST:
            raise Unavailable("too many URLs are being fetched")
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    async def _follow(self, given: str) -> bytes:
        url = _parsed(given)
        timeout = httpx.Timeout(self._limits.seconds, connect=self._limits.seconds / 3)
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client:
            for _ in range(_MOST_REDIRECTS + 1):
                response = await self._send(client, url)
                try:
                    if response.status_code not in _REDIRECTS:
                        return await self._body(response)
                    url = _parsed(str(url.join(response.headers.get("location", ""))))
                finally:
                    await response.aclose()
        raise _bad(f"over {_MOST_REDIRECTS} redirects")

    async def _send(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Response:
        """The head of an answer from the first of the host's addresses that takes a connection."""
        *others, last = [_request(client, url, address) for address in await self._addresses(url)]
        for request in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await client.send(request, stream=True)
        return await client.send(last, stream=True)

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """Where the host is, each address once."""
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(
            url.raw_host.decode("ascii").strip("[]"), port, type=socket.SOCK_STREAM
        )
        names = dict.fromkeys(str(where[4][0]).partition("%")[0] for where in found)
        addresses = [ipaddress.ip_address(name) for name in names]
        if not addresses or not (self._limits.private or all(map(is_public, addresses))):
            raise _bad("its host is not at a public address")
        return addresses[:_MOST_ADDRESSES]

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise _bad(f"its server answered with {response.status_code}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _bad("its server sent it compressed, though asked not to")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self._limits.size:
                raise TooLarge(f"what the URL leads to is over {self._limits.size:,} bytes")
        return bytes(body)


def _request(client: httpx.AsyncClient, url: httpx.URL, address: Address) -> httpx.Request:
    """A request to an address that was looked at; host and certificate stay the name's."""
    return client.build_request(
        "GET",
        url.copy_with(host=str(address)),
        headers=_HEADERS | {"Host": url.netloc.decode("ascii")},
        extensions={"sni_hostname": url.raw_host.decode("ascii")},
    )


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, also within IPv6's forms of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None or address in _LOCAL:
            return False
        if any(address in network for network in _TRANSLATED):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _parsed(text: str) -> httpx.URL:
    if len(text) > _MOST_URL:
        raise _bad(f"over {_MOST_URL} characters")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise _bad("not a URL") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _bad("not an http or https URL with a host")
    if url.port is not None and not 0 < url.port < _PORTS:
        raise _bad("there is no such port")
    if url.userinfo:
        raise _bad("a URL with a user or a password is not fetched")
    return url


def _bad(reason: str) -> BadUrl:
    return BadUrl("the URL cannot be used", Problem("url", reason))
