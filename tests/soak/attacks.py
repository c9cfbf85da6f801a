"""One tenant attacks, another one goes on asking: what the second waits, /readyz, and memory.

python -m tests.soak.attacks                   this code
python -m tests.soak.attacks --before FOLDER   and another checkout's, in turn, for each attack

Each attack runs for a while against a server of its own with one classify key or one tenant's. The
bank has two slots, so that two adapters of the attacker fill it.
"""

import argparse
import io
import json
import os
import random
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from adapters.bank import Bank
from adapters.clip import load_clip
from service.client import Client, ClientError
from service.demo.__main__ import PHOTOS
from tests.support.api import is_ready
from tests.support.cluster import free_port
from tests.support.paths import ROOT
from tests.support.processes import resident_mb
from tests.support.waiting import wait_for
from training.data import Sample, read_samples
from training.fit import default_settings

SECONDS = 15.0  # of each attack
_PATIENCE_SECONDS = 90.0  # the victim's and /readyz's; a refused or lost call counts as waited for
_MIB = 2**20
_JSON_BYTES = 4 * _MIB
_SIDE = 7000  # pixels: 49 MP, within the limit of a picture
_SCANS = 490


@dataclass
class Attacker:
    """A tenant's manage and classify key, and where it sends to."""

    url: str
    client: Client
    classify_key: str
    dataset: str
    stop: threading.Event = field(default_factory=threading.Event)
    open: ExitStack = field(default_factory=ExitStack)  # what is closed at the end

    def repeat(self, call: Callable[[], object]) -> None:
        while not self.stop.is_set():
            with suppress(httpx.HTTPError, ClientError, OSError):
                call()

    def connect(self) -> socket.socket:
        host, port = httpx.URL(self.url).host, httpx.URL(self.url).port
        return socket.create_connection((host, port or 80), timeout=_PATIENCE_SECONDS)

    def request(self, path: str, body: bytes, kind: str, length: int | None = None) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.classify_key}\r\n"
        head += f"content-type: {kind}\r\ncontent-length: {length or len(body)}\r\n\r\n"
        return head.encode() + body


# --- attacks: each returns what one of its threads does again and again ---


def wrong_json(attacker: Attacker) -> Callable[[], object]:
    """A list of a million wrong items."""
    body = b'{"images":[' + b"{}," * (_JSON_BYTES // 3) + b"{}]}"
    headers = {"authorization": f"Bearer {attacker.classify_key}"}
    headers["content-type"] = "application/json"
    options = {"base_url": attacker.url, "timeout": _PATIENCE_SECONDS, "headers": headers}
    http = attacker.open.enter_context(httpx.Client(**options))
    return lambda: http.post("/v1/classify", content=body)


def hung_up(attacker: Attacker) -> Callable[[], object]:
    """Pictures that take seconds to decode; the client hangs up after half a second."""
    request = attacker.request("/classify", form([slow_jpeg()] * 2), f"multipart/form-data; {_AT}")

    def call() -> None:
        with attacker.connect() as connection:
            connection.sendall(request)
            attacker.stop.wait(0.5)

    return call


def archives(attacker: Attacker) -> Callable[[], object]:
    """Small archives of pictures that are large unpacked."""
    picture = flat_png(2000)

    def call() -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for number in range(12):
                archive.writestr(f"l{number % 2}/{number}.png", picture + secrets.token_bytes(8))
        files = {"archive": ("a.zip", stream.getvalue())}
        attacker.client.http.post(f"/v1/datasets/{attacker.dataset}/images", files=files)

    return call


def large_pictures(attacker: Attacker) -> Callable[[], object]:
    """Uploads of one picture of 49 megapixels each."""
    picture = flat_png(_SIDE)

    def call() -> None:
        files = [("files", ("a.png", picture + secrets.token_bytes(8)))]
        path = f"/v1/datasets/{attacker.dataset}/images"
        attacker.client.http.post(path, data={"label": "large"}, files=files)

    return call


def all_slots(attacker: Attacker) -> Callable[[], object]:
    """Slow pictures for both of its adapters, so that these keep their slots."""
    files = [("files", (f"{i}.jpg", slow_jpeg())) for i in range(4)]

    def call() -> None:
        data = {"classes": '["a","b"]', "adapter": random.choice(("one", "two"))}
        attacker.client.http.post("/classify", data=data, files=files)

    return call


def half_bodies(attacker: Attacker) -> Callable[[], object]:
    """Bodies of 200 MB of which 20 come."""
    kind = f"multipart/form-data; {_AT}"
    start = form([b""])[: -len(_END)] + b"x" * (20 * _MIB)
    request = attacker.request("/classify", start, kind, 200 * _MIB)

    def call() -> None:
        with attacker.connect() as connection:
            connection.sendall(request)
            attacker.stop.wait()

    return call


def silent(attacker: Attacker) -> Callable[[], object]:
    """Connections on which nothing is ever sent."""

    def call() -> None:
        with attacker.connect() as connection:
            connection.settimeout(1.0)
            while not attacker.stop.is_set():
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        return

    return call


def streams(attacker: Attacker) -> Callable[[], object]:
    """Streams of a job's events."""
    job = attacker.client.create_job(attacker.dataset, "one", params={"epochs": 200})["job"]
    head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: x\r\n"
    head += f"authorization: {attacker.client.http.headers['authorization']}\r\n\r\n"

    def call() -> None:
        with attacker.connect() as connection:
            connection.sendall(head.encode())
            connection.settimeout(1.0)
            while not attacker.stop.is_set():
                with suppress(TimeoutError):
                    if not connection.recv(65536):
                        return
        attacker.stop.wait(0.2)

    return call


ATTACKS: dict[str, tuple[Callable[[Attacker], Callable[[], object]], int]] = {
    "nothing": (lambda attacker: lambda: attacker.stop.wait(1), 1),
    "4 MB of wrong JSON items, 2 at a time": (wrong_json, 2),
    "slow pictures, hung up after 0.5 s, 3 at a time": (hung_up, 3),
    "archives of 12 pictures of 4 MP, 40 at a time": (archives, 40),
    "uploads of 49 MP, 16 at a time": (large_pictures, 16),
    "slow pictures for both slots, 4 at a time": (all_slots, 4),
    "100 bodies of 200 MB, sent to a tenth": (half_bodies, 100),
    "500 silent connections": (silent, 500),
    "400 event streams": (streams, 400),
}


# --- what is sent ---

_AT = "boundary=b"
_END = b"--b--\r\n"


def form(pictures: list[bytes]) -> bytes:
    """A multipart body of /classify."""
    parts = b""
    for number, picture in enumerate(pictures):
        head = f'--b\r\ncontent-disposition: form-data; name="files"; filename="{number}.jpg"'
        parts += head.encode() + b"\r\n\r\n" + picture + b"\r\n"
    names = b'--b\r\ncontent-disposition: form-data; name="classes"\r\n\r\n["a","b"]\r\n'
    return names + parts + _END


def flat_png(side: int) -> bytes:
    """A picture of one colour with alpha: large, and small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" * (1 + 4 * side)
    pressed = zlib.compressobj(9)
    data = b"".join(pressed.compress(row) for _ in range(side)) + pressed.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def slow_jpeg() -> bytes:
    """A progressive JPEG whose last scan, with its tables, comes again and again."""
    image = Image.new("L", (_SIDE, _SIDE), 128)
    for x in range(0, _SIDE, 64):
        image.putpixel((x, 0), 255)
    stream = io.BytesIO()
    image.save(stream, "JPEG", progressive=True, quality=90)
    parts = _segments(stream.getvalue())
    starts = [i for i, part in enumerate(parts) if part[1] == 0xDA]
    refining = [i for i in starts if _refines(parts[i])][-1]
    tables = [part for part in parts[starts[-2] + 1 : refining] if part[1] == 0xC4]
    again = b"".join([*tables, parts[refining]]) * (_SCANS - len(starts))
    return b"".join(parts[: starts[-1] + 1]) + again + b"\xff\xd9"


def _segments(data: bytes) -> list[bytes]:
    """A JPEG's parts; a scan's data is its header's."""
    parts, at = [data[:2]], 2
    while data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end += 1
        parts.append(data[at:end])
        at = end
    return parts


def _refines(scan: bytes) -> bool:
    """Whether a scan sends one more bit of coefficients other than the first."""
    first, _, bits = scan[5 + 2 * scan[4] : 8 + 2 * scan[4]]
    return first > 0 and bits >> 4 > 0


# --- what is measured ---


class Watch:
    """The victim's calls, /readyz and the server's memory while an attack runs."""

    def __init__(self, url: str, pid: int, victim: Client, sample: Sample) -> None:
        self._url, self._pid, self._victim, self._sample = url, pid, victim, sample
        self._stop = threading.Event()
        self.seconds: list[float] = []
        self.ready: list[float] = []
        self.failed = 0
        self.before = self.peak = resident_mb(pid)

    @contextmanager
    def watching(self) -> Iterator[None]:
        threads = [threading.Thread(target=t) for t in (self._ask, self._look, self._weigh)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def row(self) -> dict[str, float]:
        return {
            "classify p95, s": round(float(np.percentile(self.seconds, 95)), 2),
            "classify worst, s": round(max(self.seconds), 2),
            "classify failed": self.failed,
            "/readyz worst, s": round(max(self.ready), 2),
            "memory, + MB": round(self.peak - self.before),
        }

    def _ask(self) -> None:
        files = [("files", (self._sample.name, self._sample.data))]
        while not self._stop.is_set():
            began = time.monotonic()
            data = {"adapter": "mine"}
            try:
                answer = self._victim.http.post("/classify", data=data, files=files)
                self.failed += answer.status_code != 200
            except httpx.HTTPError:
                self.failed += 1
            self.seconds.append(time.monotonic() - began)
            self._stop.wait(0.1)

    def _look(self) -> None:
        with httpx.Client(timeout=_PATIENCE_SECONDS) as http:
            while not self._stop.is_set():
                began = time.monotonic()
                with suppress(httpx.HTTPError):
                    http.get(f"{self._url}/readyz")
                self.ready.append(time.monotonic() - began)
                self._stop.wait(0.2)

    def _weigh(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, resident_mb(self._pid))


@contextmanager
def served(code: Path, folder: Path) -> Iterator[tuple[str, int, str]]:
    """`rmadapter up` of a checkout: its address, process and admin key."""
    adapter = default_settings(clip := load_clip()).adapter
    slot = Bank.slot_bytes(clip.image, clip.text, 32, adapter.image_first, adapter.text_first)
    port, key = free_port(), secrets.token_urlsafe(24)
    environment = os.environ | {
        "PYTHONPATH": str(code),
        "RMADAPTER_ADMIN_KEY": key,
        "RMADAPTER_BANK_BYTES": str(2 * slot),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "service", "up", "--port", str(port)]
    command += ["--data-dir", str(folder), "--backend", "torch"]
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=code, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(url))
        yield url, process.pid, key
    finally:
        process.terminate()
        process.wait(60)


def _tenant(url: str, key: str, adapters: tuple[str, ...]) -> tuple[Client, str]:
    """A tenant with a small data set and fitted adapters."""
    with Client(url, key) as admin:
        made = admin.call("POST", "/v1/tenants", json={"name": "a tenant"})
    client = Client(url, made["api_key"])
    client.http.timeout = httpx.Timeout(_PATIENCE_SECONDS)
    dataset = client.create_dataset("photos")
    for label in ("crab", "cup"):
        list(client.upload_class(dataset, label, sorted((PHOTOS / label).glob("*.jpg"))[:4]))
    for adapter in adapters:
        job = client.create_job(dataset, adapter, params={"epochs": 1}, publish=True)["job"]
        wait_for(lambda job=job: client.call("GET", f"/v1/jobs/{job}")["state"] == "succeeded")
    return client, dataset


def attack(name: str, code: Path, seconds: float) -> dict[str, float]:
    """One attack on a server of its own."""
    make, threads = ATTACKS[name]
    sample = next(iter(read_samples(PHOTOS)))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        served(code, Path(folder) / "data") as (url, pid, key),
    ):
        victim, _ = _tenant(url, key, ("mine",))
        client, dataset = _tenant(url, key, ("one", "two"))
        classify = client.call("POST", "/v1/keys", json={"scope": "classify"})["api_key"]
        attacker = Attacker(url, client, classify, dataset)
        call = make(attacker)
        client_files = [("files", (sample.name, sample.data))]
        victim.http.post("/classify", data={"adapter": "mine"}, files=client_files)  # warm
        watch = Watch(url, pid, victim, sample)
        with attacker.open, victim, client, watch.watching():
            _run(attacker, call, threads, seconds)
    return watch.row()


def _run(attacker: Attacker, call: Callable[[], object], threads: int, seconds: float) -> None:
    workers = [threading.Thread(target=attacker.repeat, args=(call,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    attacker.stop.set()
    for worker in workers:
        worker.join()


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a line per attack, and in each cell the codes in turn."""
    first = next(iter(rows.values()))
    codes, columns = list(first), list(next(iter(first.values())))
    lines = [f"| attack ({' → '.join(codes)}) | " + " | ".join(columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for name, by_code in rows.items():
        cells = [" → ".join(f"{by_code[code][column]:g}" for code in codes) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--before", type=Path, help="a checkout of other code")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each attack")
    parser.add_argument("--only", help="attacks whose name contains it", default="")
    options = parser.parse_args()
    codes = {"before": options.before} if options.before else {}
    codes |= {"now": ROOT}
    rows: dict[str, Any] = {}
    for name in (name for name in ATTACKS if options.only in name):
        rows[name] = {code: attack(name, at, options.seconds) for code, at in codes.items()}
        print(json.dumps({name: rows[name]}), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
