"""A client of the HTTP contract: what the command line and the demo use."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from adapters.errors import RMAdapterError

Json = dict[str, Any]

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # seconds; an upload of a large archive takes a minute
_FILES_AT_ONCE = 32  # files of one upload, 100 MB of phone photos


class ClientError(RMAdapterError):
    """The service's refusal in its own words, or why it was not reached (`status` 0)."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """Methods return the contract's JSON and raise ClientError."""

    def __init__(self, url: str, api_key: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; None for an empty answer."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ClientError(
                f"{self._http.base_url} does not answer ({error}); is `rmadapter up` running?"
            ) from error
        if response.is_error:
            raise ClientError(_reason(response), response.status_code)
        return response.json() if response.content else None

    def pages(self, path: str) -> Iterator[Json]:
        """Every item of a list."""
        cursor: str | None = None
        while True:
            params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = self.call("GET", path, params=params)
            yield from page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return

    def create_dataset(self, name: str) -> str:
        dataset: str = self.call("POST", "/v1/datasets", json={"name": name})["dataset"]
        return dataset

    def upload_archive(self, dataset: str, archive: Path) -> Json:
        """A zip or tar with a folder a class."""
        with archive.open("rb") as stream:
            answer: Json = self.call(
                "POST", f"/v1/datasets/{dataset}/images", files={"archive": (archive.name, stream)}
            )
        return answer

    def upload_class(self, dataset: str, label: str, files: Sequence[Path]) -> Iterator[Json]:
        """The files of one class, some at a time."""
        for start in range(0, len(files), _FILES_AT_ONCE):
            chunk = [
                ("files", (file.name, file.read_bytes()))
                for file in files[start : start + _FILES_AT_ONCE]
            ]
            path = f"/v1/datasets/{dataset}/images"
            yield self.call("POST", path, data={"label": label}, files=chunk)

    def create_job(self, dataset: str, adapter: str, **options: Any) -> Json:
        """options: params, publish."""
        body = {"dataset": dataset, "adapter": adapter} | options
        job: Json = self.call("POST", "/v1/jobs", json=body)
        return job

    def job_events(self, job: str) -> Iterator[Json]:
        """The job whenever it changed, until it ended; a server that stops sends us to another."""
        latest: Json = {"finished_at": None}
        while not latest["finished_at"]:
            for latest in self._events(job):
                yield latest

    def _events(self, job: str) -> Iterator[Json]:
        try:
            with self._http.stream("GET", f"/v1/jobs/{job}/events") as response:
                if response.is_error:
                    response.read()
                    raise ClientError(_reason(response), response.status_code)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx.HTTPError as error:
            raise ClientError(f"the connection to {self._http.base_url} broke: {error}") from error

    def classify(
        self,
        files: Sequence[tuple[str, bytes]],
        classes: Sequence[str] | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Json:
        """files: (name, bytes). options: version, template, top_k, min_score."""
        data = {name: str(value) for name, value in options.items() if value is not None}
        if classes is not None:
            data["classes"] = json.dumps(list(classes))
        if adapter is not None:
            data["adapter"] = adapter
        parts = [("files", file) for file in files]
        answer: Json = self.call("POST", "/v1/classify", data=data, files=parts)
        return answer


def _reason(response: httpx.Response) -> str:
    try:
        problem = response.json()
        details = [f"{e['field']}: {e['reason']}" for e in problem.get("errors", [])]
        return "\n  ".join([problem["detail"], *details])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
