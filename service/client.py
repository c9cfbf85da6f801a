"""Clients of the HTTP contract: one that waits, which the command line uses, and one for asyncio.

    with Client("http://localhost:8000", key) as client:
        answer = client.classify([("a.jpg", data)], ["rose", "tulip"], adapter="flowers")

    async with AsyncClient("http://localhost:8000", key) as client:
        answer = await client.classify([("a.jpg", data)], ["rose", "tulip"], adapter="flowers")

Both send what the same functions below make. A call without a method of its own goes through
`call`. Answers are the contract's JSON; refusals are ClientError. A service that is busy says when
to ask again, and is asked again then: see `_Patience`.

This file imports httpx alone, and nothing else of this project: the wheel has it a second time, as
the package `rmadapter_client` for other programs, which may have a `service` of their own.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

Json = dict[str, Any]
File = tuple[str, bytes]  # its name, its bytes

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # seconds; an upload of a large archive takes a minute
_FILES_AT_ONCE = 32  # files of one upload, 100 MB of phone photos
_WAIT_SECONDS = 60.0  # of one call, for a service that is busy
_TOO_MANY, _UNAVAILABLE = 429, 503
_MAKE_NOTHING = ("/v1/classify", "/v1/embeddings")  # a POST to these can be repeated


class ClientError(Exception):
    """The service's refusal in its own words, or why it was not reached (`status` 0).

    `retry_after` is in seconds, where the service says when to ask again.
    """

    def __init__(self, detail: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.retry_after = status, retry_after


class Call(NamedTuple):
    """One request."""

    method: str
    path: str
    options: Json


def create_dataset(name: str, tags: Mapping[str, str] | None = None) -> Call:
    """Makes an empty data set; `tags` are ids of its classes in the tool they come from."""
    body: Json = {"name": name} | ({"tags": dict(tags)} if tags else {})
    return Call("POST", "/v1/datasets", {"json": body})


def upload_archive(dataset: str, name: str, archive: Any) -> Call:
    """A zip or tar with a folder per class: an open file or its bytes."""
    return Call("POST", f"/v1/datasets/{dataset}/images", {"files": {"archive": (name, archive)}})


def upload_files(dataset: str, label: str, files: Sequence[File]) -> Call:
    """Pictures of one class."""
    parts = [("files", file) for file in files]
    path = f"/v1/datasets/{dataset}/images"
    return Call("POST", path, {"data": {"label": label}, "files": parts})


def create_job(dataset: str, adapter: str, **options: Any) -> Call:
    """options: params, publish, fit."""
    body = {"dataset": dataset, "adapter": adapter} | options
    return Call("POST", "/v1/jobs", {"json": body})


def publish(adapter: str, version: int) -> Call:
    """Makes a version the one that answers."""
    return Call("PUT", f"/v1/adapters/{adapter}/live", {"json": {"version": version}})


def classify(
    files: Sequence[File],
    classes: Sequence[str] | None = None,
    adapter: str | None = None,
    **options: Any,
) -> Call:
    """Without `classes`, the adapter's own; without `adapter`, zero-shot.

    options: version, template (one or a list), top_k, min_score.
    """
    given = options | {"adapter": adapter}
    data = {name: value for name, value in given.items() if value is not None}
    if classes is not None:
        data["classes"] = json.dumps(list(classes))
    parts = [("files", file) for file in files]
    return Call("POST", "/v1/classify", {"data": data, "files": parts})


def embeddings(inputs: Sequence[str], adapter: str | None = None) -> Call:
    """Of texts, and of pictures as data URIs."""
    body = {"input": list(inputs)} | ({"adapter": adapter} if adapter else {})
    return Call("POST", "/v1/embeddings", {"json": body})


class _Patience:
    """How long one call still waits for a service that is busy.

    Two refusals are asked again after the seconds of their Retry-After: 429, which the service
    gives before it does anything, and 503 where a repeat makes nothing twice. What would take
    longer than is left, such as a quota that is used up, is an error at once.
    """

    def __init__(self, seconds: float, method: str, path: str) -> None:
        self._left = seconds
        again = method != "POST" or path in _MAKE_NOTHING
        self._statuses = (_TOO_MANY, _UNAVAILABLE) if again else (_TOO_MANY,)

    def pause(self, response: httpx.Response) -> float | None:
        """Seconds to wait before the next try; None: this is the answer."""
        seconds = _retry_after(response)
        if response.status_code not in self._statuses or seconds is None or seconds > self._left:
            return None
        self._left -= max(seconds, 1.0)  # a Retry-After of 0 may not go on for ever
        return seconds


class Client:
    """Waits for each answer. Threads may share one.

    Args:
        url: of the service.
        api_key: of a tenant, or of the administrator.
        wait_seconds: how long one call waits for a service that is busy; 0: it is an error at once.
    """

    def __init__(self, url: str, api_key: str, wait_seconds: float = _WAIT_SECONDS) -> None:
        self.http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=_TIMEOUT)
        self.wait_seconds = wait_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request, by httpx's options; None for an empty answer."""
        patience = _Patience(self.wait_seconds, method, path)
        while True:
            try:
                response = self.http.request(method, path, **options)
            except httpx.HTTPError as error:
                raise _unreached(self.http.base_url, error) from error
            if (seconds := patience.pause(response)) is None:
                return _answer(response)
            time.sleep(seconds)

    def _do(self, call: Call) -> Any:
        return self.call(call.method, call.path, **call.options)

    def pages(self, path: str, **query: Any) -> Iterator[Json]:
        """Every item of a list."""
        cursor: str | None = None
        while True:
            page = self.call("GET", path, params=_page(query, cursor))
            yield from page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return

    def create_dataset(self, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Its id."""
        return str(self._do(create_dataset(name, tags))["dataset"])

    def upload_archive(self, dataset: str, archive: Path) -> Json:
        """A zip or tar with a folder per class."""
        with archive.open("rb") as stream:
            answer: Json = self._do(upload_archive(dataset, archive.name, stream))
        return answer

    def upload_class(
        self, dataset: str, label: str, files: Sequence[Path | File]
    ) -> Iterator[Json]:
        """The files of one class, or their names and bytes, some at a time."""
        for some in _some(files):
            yield self._do(upload_files(dataset, label, _read(some)))

    def create_job(self, dataset: str, adapter: str, **options: Any) -> Json:
        """Starts a fit. options: params, publish, fit."""
        job: Json = self._do(create_job(dataset, adapter, **options))
        return job

    def job_events(self, job: str) -> Iterator[Json]:
        """The job whenever it changed, until it ended; a server that stops sends us to another."""
        latest: Json = {"finished_at": None}
        while not latest["finished_at"]:
            for latest in self._events(job):
                yield latest

    def _events(self, job: str) -> Iterator[Json]:
        try:
            with self.http.stream("GET", f"/v1/jobs/{job}/events") as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx.HTTPError as error:
            raise _broken(self.http.base_url, error) from error

    def publish(self, adapter: str, version: int) -> Json:
        """Makes a version live, a newer or an older one; the adapter."""
        answer: Json = self._do(publish(adapter, version))
        return answer

    def artifact(self, adapter: str, version: int) -> bytes:
        """A version's file, in the safetensors format."""
        try:
            response = self.http.get(f"/v1/adapters/{adapter}/versions/{version}/artifact")
        except httpx.HTTPError as error:
            raise _unreached(self.http.base_url, error) from error
        if response.is_error:
            raise _refusal(response)
        return response.content

    def classify(
        self,
        files: Sequence[File],
        classes: Sequence[str] | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Json:
        """options: version, template, top_k, min_score."""
        answer: Json = self._do(classify(files, classes, adapter, **options))
        return answer

    def embeddings(self, inputs: Sequence[str], adapter: str | None = None) -> Json:
        """Of texts, and of pictures as data URIs."""
        answer: Json = self._do(embeddings(inputs, adapter))
        return answer


class AsyncClient:
    """The same for asyncio, made from the same arguments."""

    def __init__(self, url: str, api_key: str, wait_seconds: float = _WAIT_SECONDS) -> None:
        self.http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=_TIMEOUT)
        self.wait_seconds = wait_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """One request, by httpx's options; None for an empty answer."""
        patience = _Patience(self.wait_seconds, method, path)
        while True:
            try:
                response = await self.http.request(method, path, **options)
            except httpx.HTTPError as error:
                raise _unreached(self.http.base_url, error) from error
            if (seconds := patience.pause(response)) is None:
                return _answer(response)
            await asyncio.sleep(seconds)

    async def _do(self, call: Call) -> Any:
        return await self.call(call.method, call.path, **call.options)

    async def pages(self, path: str, **query: Any) -> AsyncIterator[Json]:
        """Every item of a list."""
        cursor: str | None = None
        while True:
            page = await self.call("GET", path, params=_page(query, cursor))
            for item in page["items"]:
                yield item
            cursor = page["cursor"]
            if cursor is None:
                return

    async def create_dataset(self, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Its id."""
        return str((await self._do(create_dataset(name, tags)))["dataset"])

    async def upload_archive(self, dataset: str, archive: Path) -> Json:
        """A zip or tar with a folder per class."""
        answer: Json = await self._do(upload_archive(dataset, archive.name, archive.read_bytes()))
        return answer

    async def upload_class(
        self, dataset: str, label: str, files: Sequence[Path | File]
    ) -> AsyncIterator[Json]:
        """The files of one class, or their names and bytes, some at a time."""
        for some in _some(files):
            yield await self._do(upload_files(dataset, label, _read(some)))

    async def create_job(self, dataset: str, adapter: str, **options: Any) -> Json:
        """Starts a fit. options: params, publish, fit."""
        job: Json = await self._do(create_job(dataset, adapter, **options))
        return job

    async def job_events(self, job: str) -> AsyncIterator[Json]:
        """The job whenever it changed, until it ended; a server that stops sends us to another."""
        latest: Json = {"finished_at": None}
        while not latest["finished_at"]:
            async for latest in self._events(job):
                yield latest

    async def _events(self, job: str) -> AsyncIterator[Json]:
        try:
            async with self.http.stream("GET", f"/v1/jobs/{job}/events") as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx.HTTPError as error:
            raise _broken(self.http.base_url, error) from error

    async def publish(self, adapter: str, version: int) -> Json:
        """Makes a version live, a newer or an older one; the adapter."""
        answer: Json = await self._do(publish(adapter, version))
        return answer

    async def artifact(self, adapter: str, version: int) -> bytes:
        """A version's file, in the safetensors format."""
        try:
            response = await self.http.get(f"/v1/adapters/{adapter}/versions/{version}/artifact")
        except httpx.HTTPError as error:
            raise _unreached(self.http.base_url, error) from error
        if response.is_error:
            raise _refusal(response)
        return response.content

    async def classify(
        self,
        files: Sequence[File],
        classes: Sequence[str] | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Json:
        """options: version, template, top_k, min_score."""
        answer: Json = await self._do(classify(files, classes, adapter, **options))
        return answer

    async def embeddings(self, inputs: Sequence[str], adapter: str | None = None) -> Json:
        """Of texts, and of pictures as data URIs."""
        answer: Json = await self._do(embeddings(inputs, adapter))
        return answer


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _page(query: Json, cursor: str | None) -> Json:
    return {"limit": 1000} | query | ({"cursor": cursor} if cursor else {})


def _some(files: Sequence[Path | File]) -> Iterator[Sequence[Path | File]]:
    for start in range(0, len(files), _FILES_AT_ONCE):
        yield files[start : start + _FILES_AT_ONCE]


def _read(files: Sequence[Path | File]) -> list[File]:
    return [(f.name, f.read_bytes()) if isinstance(f, Path) else f for f in files]


def _answer(response: httpx.Response) -> Any:
    if response.is_error:
        raise _refusal(response)
    try:
        return response.json() if response.content else None
    except ValueError as error:
        raise ClientError(f"{response.url} does not answer as rmadapter does") from error


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; None where the service does not say, or says a date, as it never does."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _unreached(url: httpx.URL, error: httpx.HTTPError) -> ClientError:
    return ClientError(f"{url} does not answer ({error}); is `rmadapter up` running?")


def _broken(url: httpx.URL, error: httpx.HTTPError) -> ClientError:
    return ClientError(f"the connection to {url} broke: {error}")


def _refusal(response: httpx.Response) -> ClientError:
    try:
        problem = response.json()
        details = [f"{e['field']}: {e['reason']}" for e in problem.get("errors", [])]
        reason = "\n  ".join([problem["detail"], *details])
    except (ValueError, KeyError, TypeError):
        reason = f"{response.status_code} {response.reason_phrase}"
    return ClientError(reason, response.status_code, _retry_after(response))
