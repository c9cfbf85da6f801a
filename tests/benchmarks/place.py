"""Where a benchmark's service lies: a Redis and folders of its own, gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from service.embedded.redis_server import RedisServer
from service.settings import Settings
from tests.support.api import ADMIN_KEY


@contextmanager
def settings() -> Iterator[Settings]:
    """As deployed, but that nothing is refused for its wait: what is timed is the work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis = RedisServer(folder / "redis")
        redis.start()
        try:
            yield Settings(
                port=0,
                redis_url=redis.url,
                blob_url=(folder / "blobs").as_uri(),
                data_dir=folder,
                cache_dir=folder,
                backend="auto",  # whatever the tests are told
                admin_key=SecretStr(ADMIN_KEY),
                request_seconds=600.0,
                max_queue_seconds=600.0,
            )
        finally:
            redis.stop()
