"""Rates on a Redis of the test's own."""

from service.embedded.redis_server import RedisServer
from service.errors import TooMany
from service.records.rates import Rate, Rates
from service.records.store import connect


def rates(server: RedisServer, **kinds: Rate) -> Rates:
    return Rates(connect(server.url, 0.2), kinds)


def taken(limiter: Rates, tenant: str, kind: str) -> int:
    """Calls until one is refused."""
    for count in range(1000):
        try:
            limiter.take(tenant, kind)
        except TooMany:
            return count
    return 1000
