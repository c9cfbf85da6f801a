"""A TCP proxy of the tests' own: a balancer, and a network that refuses, hangs or cuts."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, Self

Mode = Literal["pass", "refuse", "hang", "cut"]
_CHUNK = 65536
_LOOK_SECONDS = 0.1  # between two looks at which backends are healthy


class Proxy:
    """Passes connections on to the first backend that is healthy and does not refuse.

    `mode` is for what comes next: "refuse" resets a connection at once, "hang" accepts and says
    nothing, "cut" resets it after `cut_bytes` of the answer's or the request's bytes; `delay` is
    added to each chunk.
    """

    def __init__(
        self, ports: Sequence[int], is_healthy: Callable[[int], bool] | None = None
    ) -> None:
        self.mode: Mode = "pass"
        self.delay, self.cut_bytes = 0.0, 1000
        self._ports, self._turn = list(ports), 0
        self._is_healthy, self._healthy = is_healthy, set(ports)
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        if self._is_healthy:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _look(self) -> None:
        assert self._is_healthy
        while not self._stop.wait(_LOOK_SECONDS):
            self._healthy = {port for port in self._ports if self._is_healthy(port)}

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self.mode == "refuse":
                _reset(client)
                return
            while self.mode == "hang" and not self._stop.is_set():
                time.sleep(0.02)
            backend = self._connect()
            if backend is None:
                _reset(client)
                return
            with backend:
                back = threading.Thread(target=self._pipe, args=(backend, client), daemon=True)
                back.start()
                self._pipe(client, backend)
                back.join()

    def _connect(self) -> socket.socket | None:
        self._turn += 1
        ports = [*self._ports[self._turn % len(self._ports) :], *self._ports]
        for port in sorted(ports[: 2 * len(self._ports)], key=lambda p: p not in self._healthy):
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", port))
        return None

    def _pipe(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(_CHUNK):
                time.sleep(self.delay)
                while self.mode == "hang" and not self._stop.is_set():
                    time.sleep(0.02)
                if self.mode == "refuse" or (self.mode == "cut" and passed > self.cut_bytes):
                    _reset(source)
                    _reset(sink)
                    return
                sink.sendall(data)
                passed += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # either side has gone
            _reset(sink)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
