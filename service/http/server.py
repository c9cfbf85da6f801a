"""Serves the app over a socket, and stops without losing a request."""

import asyncio
import resource
import socket
import threading
import time
from contextlib import suppress

import uvicorn
from prometheus_client import start_http_server
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapters.errors import RMAdapterError
from service import metrics, tracing
from service.http.app import create_app
from service.settings import Settings
from service.wiring import Components

HEAD_SECONDS = 10.0  # from a connection, or an answer's end, to the whole head of a request
_GRACE_SECONDS = 30  # accepted requests are finished within it
_KEEP_ALIVE_SECONDS = 75  # above a minute, for which balancers keep idle connections


def listen(settings: Settings) -> socket.socket:
    """The API's socket; port 0 means any free port.

    Raises:
        RMAdapterError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that say they are TCP; else an answer waits
    # for the client's delayed acknowledgement of its head: 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise RMAdapterError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror};"
            " another --port may be free"
        ) from error
    return listener


def raise_file_limit() -> None:
    """Lets the process hold as many connections and files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):  # some systems promise more than they allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve_app(components: Components, listener: socket.socket, drain_seconds: float) -> None:
    """Serves until SIGINT or SIGTERM, then drains, and finishes what it accepted.

    Raises:
        RMAdapterError: the device was lost. What was accepted has been answered, and a supervisor
            should start the process anew.
    """
    raise_file_limit()
    if port := components.settings.api_metrics_port:
        serve_metrics(components, port)
    app = create_app(components)
    tracing.trace_requests(app)
    config = uvicorn.Config(
        app,
        log_config=None,  # the service's own, which also says more of each request
        log_level="warning",
        http=PatientProtocol,  # h11; httptools loses the body where h2c is offered, as Java does
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    lost = components.engine.lost
    _DrainingServer(config, components.draining, drain_seconds, lost).run(sockets=[listener])
    if lost.is_set():
        raise RMAdapterError("the device was lost: this process cannot use it any more")


def serve_metrics(components: Components, port: int) -> None:
    """Serves this process's metrics on a port of their own, which only Prometheus need reach."""
    last = [0]

    def open_jobs() -> float:
        with suppress(RMAdapterError):  # Redis is away: the last number stays
            last[0] = components.records.jobs.waiting()
        return last[0]

    metrics.OPEN_JOBS.set_function(open_jobs)
    start_http_server(port, components.settings.host)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole head of a request comes in time.

    uvicorn closes a kept connection that is idle, but not a new one on which nothing comes.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts the clock again for the head of the next request."""
        if self.cycle is not None and self.cycle.response_complete:
            self._head_timer.cancel()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_silent)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_timer.cancel()  # the head is whole; the body has a deadline of its own

    def _close_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class _DrainingServer(uvicorn.Server):
    """A server that first goes on for a while with a red /readyz, and then stops to listen.

    What a closing listener has not accepted yet is lost, and so is a request on a kept connection
    that is closed in that moment: so balancers are turned away first, and connections ended by the
    answers themselves.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        draining: threading.Event,
        seconds: float,
        lost: threading.Event,
    ) -> None:
        super().__init__(config)
        self._draining, self._seconds, self._lost = draining, seconds, lost

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: whether it should stop. It also does when the device is lost."""
        return await super().on_tick(counter) or self._lost.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining.set()
        close = (b"connection", b"close")
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline and not self.force_exit:  # a second signal
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
        tracing.flush()  # here: uvicorn ends the process by the signal that stopped it
