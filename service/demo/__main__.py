"""`make demo` makes a classifier over HTTP from the bundled sample photos.

Starts the service as `rmadapter up` does, uploads 16 photos of each of six classes, fits, and
classifies photos that the fit never saw: of the six classes, and of two whose names were not in it.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from adapters.errors import RMAdapterError
from service.cli import follow
from service.cli.terminal import errors, out
from service.client import Client, Json

PHOTOS = Path(__file__).parent / "photos"
NEW_NAMES = ("starfish", "umbrella")  # classes that the fit does not see
SHOTS = 16

_START_SECONDS = 120.0  # loading CLIP takes a few, on a cold disk more


@dataclass(frozen=True, slots=True)
class Split:
    """The bundled photos by class: those to fit on, and those to test with."""

    fit: dict[str, list[Path]]
    test: dict[str, list[Path]]

    @property
    def names(self) -> list[str]:
        """The classes' names, sorted."""
        return sorted(self.test)


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers among photos."""

    right: int
    photos: int

    def __str__(self) -> str:
        return f"{self.right / self.photos:6.1%}  ({self.right} of {self.photos})"


def split_photos() -> Split:
    """The bundled photos: those to fit on, and those to classify afterwards."""
    classes = {folder.name: sorted(folder.iterdir()) for folder in sorted(PHOTOS.iterdir())}
    fitted = {name: files for name, files in classes.items() if name not in NEW_NAMES}
    return Split(
        {name: files[:SHOTS] for name, files in fitted.items()},
        {name: files[SHOTS:] if name in fitted else files for name, files in classes.items()},
    )


def run() -> None:
    """Runs the demo and prints each step."""
    photos, clock = split_photos(), _Clock()
    with (
        tempfile.TemporaryDirectory(prefix="rmadapter-demo-") as folder,
        _service(Path(folder)) as client,
    ):
        clock.lap("start of the service")
        job = _fit(client, photos, clock)
        table = _score(client, photos, clock)
    out.print(table)
    _print_report(job, clock)


def _fit(client: Client, photos: Split, clock: "_Clock") -> Json:
    dataset = client.create_dataset("demo")
    for name, files in photos.fit.items():
        for _ in client.upload_class(dataset, name, files):
            pass
    count = sum(map(len, photos.fit.values()))
    clock.lap(f"upload of {count} photos")
    job = follow(client, client.create_job(dataset, "demo")["job"])
    if job["state"] != "succeeded":
        raise RMAdapterError(f"the fit has {job['state']}: {job['error']}")
    clock.lap("fit, with its four-fold check")
    return job


def _score(client: Client, photos: Split, clock: "_Clock") -> Table:
    fitted, everything = sorted(photos.fit), photos.names
    rows = {
        "six classes of the fit": (fitted, fitted),
        "the same, two more names to confuse": (fitted, everything),
        "two classes not in the fit, eight names": (list(NEW_NAMES), everything),
    }
    table = Table("photos that the fit never saw", "zero-shot", "adapted")
    for title, (shown, names) in rows.items():
        scores = [_accuracy(client, photos, shown, names, adapter) for adapter in (None, "demo")]
        table.add_row(title, *map(str, scores))
    clock.lap("classification")
    return table


def _accuracy(
    client: Client, photos: Split, shown: Sequence[str], names: Sequence[str], adapter: str | None
) -> Score:
    """How many of the test photos of the classes `shown` get their label among `names`."""
    right = count = 0
    for label in shown:
        files = [(file.name, file.read_bytes()) for file in photos.test[label]]
        answer = client.classify(files, names, adapter, top_k=1)
        right += sum(result["label"] == label for result in answer["results"])
        count += len(files)
    return Score(right, count)


def _print_report(job: Json, clock: "_Clock") -> None:
    metrics = job["metrics"]["adapted"]
    low, high = metrics["interval"]
    out.print(
        f"The fit's own estimate, by four folds of its {metrics['images']} photos:"
        f" {metrics['accuracy']:.1%} (95 % interval {low:.0%} to {high:.0%})."
    )
    out.print(
        "The CLIP is the small bundled one, far below ViT-B/16 as a zero-shot model.\n"
        f"Time: {clock}."
    )


class _Clock:
    """Measures the time of each step."""

    def __init__(self) -> None:
        self._last, self._laps = time.monotonic(), list[str]()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps.append(f"{name} {now - self._last:.1f} s")
        self._last = now

    def __str__(self) -> str:
        return ", ".join(self._laps)


@contextmanager
def _service(folder: Path) -> Iterator[Client]:
    """`rmadapter up` in a process of its own, on a free port, in an empty folder."""
    command = [sys.executable, "-m", "service", "up", "--port", "0", "--data-dir", str(folder)]
    command += ["--backend", "torch"]  # an export to ONNX pays off on a server, not in a minute
    log = folder / "up.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)  # noqa: S603
    try:
        url = _wait_for_url(log, process)
        with Client(url, (folder / "default.key").read_text().strip()) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def _wait_for_url(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("rmadapter is up: "):
                return line.split()[3]
        time.sleep(0.1)
    raise RMAdapterError(f"the service did not start:\n{log.read_text()}")


if __name__ == "__main__":
    with errors():
        run()
