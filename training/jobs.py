"""The message from the API to a worker, and its queue: Dramatiq over Redis.

Dramatiq keeps one warm process, so CLIP is loaded once. It gives a dead worker's job to another
worker after `HEARTBEAT_MS`. The job's content and state are in the records. The message only names
the job, so a duplicate message does no harm.
"""

from dataclasses import dataclass
from typing import Self

import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

QUEUE = "fit"
ACTOR = "fit"
HEARTBEAT_MS = 10_000  # a worker silent this long is dead; a fit holds the GIL far shorter
_EVERY_COMMAND = 1_000_000  # check for dead workers at every command: there are few per second


@dataclass(frozen=True, slots=True)
class FitJob:
    """The name of one fit."""

    tenant: str
    job: str

    def to_message(self) -> Message[None]:
        """The message that a worker receives."""
        return Message(QUEUE, ACTOR, args=(self.tenant, self.job), kwargs={}, options={})

    @classmethod
    def from_args(cls, tenant: str, job: str) -> Self:
        """The job that a message's arguments name."""
        return cls(tenant, job)


def make_broker(client: "redis.Redis") -> RedisBroker:
    """The queue's broker. Every process that uses the queue needs these same settings."""
    broker = RedisBroker(
        client=client,
        middleware=[],  # the worker itself records a job's end; nothing is retried blindly
        heartbeat_timeout=HEARTBEAT_MS,
        maintenance_chance=_EVERY_COMMAND,
    )
    broker.declare_queue(QUEUE)
    return broker
