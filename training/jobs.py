"""What crosses from the API to a worker, and the queue that carries it: Dramatiq over Redis.

Dramatiq keeps one warm process, so CLIP is loaded once, and gives a job that a dead worker held to
another one after `HEARTBEAT_MS`. What a job is about and how it stands lies in the records; the
message only names it, so a message too many does no harm.
"""

from dataclasses import dataclass
from typing import Self

import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

QUEUE = "fit"
ACTOR = "fit"
HEARTBEAT_MS = 10_000  # a worker silent for so long is dead; a fit holds the GIL far shorter
_EVERY_COMMAND = 1_000_000  # look for dead workers at every command: there are few a second


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
        middleware=[],  # a job's end is written by the worker itself; nothing is retried blindly
        heartbeat_timeout=HEARTBEAT_MS,
        maintenance_chance=_EVERY_COMMAND,
    )
    broker.declare_queue(QUEUE)
    return broker
