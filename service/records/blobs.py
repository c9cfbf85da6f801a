"""Blobs: pictures, artifacts and manifests in a folder or an S3-protocol store.

Only this file imports obstore. A blob is written completely or not at all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service import metrics
from service.errors import NotFound, Unavailable

if TYPE_CHECKING:  # that is where obstore has them
    from obstore.store import ClientConfig, RetryConfig, S3Config

_DELETE_AT_ONCE = 1000  # S3's limit for one request
# A store that hangs is an error after 10 to 20 s; the default is minutes.
_CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=2),
    "read_timeout": timedelta(seconds=10),  # a picture of 20 MB has gone out by then
    "timeout": timedelta(seconds=20),
    "allow_http": True,  # the endpoint's own scheme says
}
_RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}


class Blobs:
    """Bytes by path. `url`: file:///folder or s3://bucket/prefix.

    `s3_keys`: the id and the secret of an S3 store's key; without them obstore reads AWS_*.
    """

    def __init__(self, url: str, s3_keys: tuple[str, str] | None = None) -> None:
        self._store: ObjectStore
        self._folder: Path | None = None
        if url.startswith("file://"):
            self._folder = _folder(url)
            self._store = LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
        else:
            self._store = from_url(
                url, config=_s3(s3_keys), client_options=_CLIENT, retry_config=_RETRY
            )

    def put(self, path: str, data: bytes) -> None:
        """Writes a file, and replaces one of the same path.

        Raises:
            Unavailable: the object store does not answer or has no room.
        """
        with _translated(path):
            obstore.put(self._store, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Stores a blob if the path is free; False, and nothing changes, if it is taken."""
        with _translated(path):
            try:
                obstore.put(self._store, path, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def get(self, path: str) -> bytes:
        """Raises NotFound or Unavailable."""
        with _translated(path):
            return bytes(obstore.get(self._store, path).bytes())

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Part of a file, shorter if the file ends before.

        Raises:
            NotFound, Unavailable: as `get`.
        """
        with _translated(path):
            return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def delete(self, path: str) -> None:
        """Deletes a blob if there is one."""
        with suppress(NotFound), _translated(path):  # a folder says so, an S3 store does not
            self._delete([path])

    def delete_all(self, prefix: str) -> None:
        """Deletes every blob under the folder `prefix`."""
        paths = list(self.paths(prefix))
        for start in range(0, len(paths), _DELETE_AT_ONCE):
            some = paths[start : start + _DELETE_AT_ONCE]
            try:
                with _translated(prefix):
                    self._delete(some)
            except NotFound:  # another deletion was faster with one of them
                for path in some:
                    self.delete(path)
        if self._folder is not None:  # what a kill left half-written is in no list
            shutil.rmtree(self._folder / prefix, ignore_errors=True)

    def paths(self, prefix: str) -> Iterator[str]:
        """The paths of all blobs under the folder `prefix`, in any order."""
        return (path for path, _ in self.sizes(prefix))

    def files(self, folder: str) -> list[str]:
        """The paths of the blobs directly in a folder, without those in folders below it."""
        with _translated(folder):
            listed = obstore.list_with_delimiter(self._store, folder.removesuffix("/"))
            return [item["path"] for item in listed["objects"]]

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The paths of all blobs under the folder `prefix`, each with its size in bytes."""
        with _translated(prefix):
            for chunk in obstore.list(self._store, prefix):
                yield from ((item["path"], item["size"]) for item in chunk)

    def _delete(self, paths: list[str]) -> None:
        try:
            obstore.delete(self._store, paths)
        except NotFoundError:  # gone already: a folder says so, S3 does not
            for path in paths if len(paths) > 1 else ():
                self._delete([path])


def _folder(url: str) -> Path:
    """The folder of a file:// URL, whose spaces and letters may be percent-encoded.

    Earlier releases did not decode the URL and made a folder of its encoded name. It is renamed.
    """
    written = Path(url.removeprefix("file://"))
    folder = Path(unquote(str(written)))
    if folder != written and written.is_dir() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        written.rename(folder)
    return folder


def _s3(keys: tuple[str, str] | None) -> "S3Config":
    return {"access_key_id": keys[0], "secret_access_key": keys[1]} if keys else {}


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"there is no blob {path}") from error
    except (BaseError, OSError) as error:
        metrics.STORE_ERRORS.labels("blobs").inc()
        raise Unavailable("the object store does not answer") from error
