"""Which version may replace the one that is live."""

from typing import Any

from service.records.adapters import Version
from service.records.jobs import Publish


def not_worse(metrics: dict[str, Any], live: Version | None) -> bool:
    """The gate of `publish: "if_better"`.

    A version passes when its held-out accuracy is not below zero-shot's, nor below the live
    version's. A version that could not be judged does not pass.
    """
    adapted, zero_shot = metrics.get("adapted"), metrics.get("zero_shot")
    if not adapted or not zero_shot or adapted["accuracy"] < zero_shot["accuracy"]:
        return False
    before = live.metrics.get("adapted") if live else None
    return not before or bool(adapted["accuracy"] >= before["accuracy"])


def may_begin(metrics: dict[str, Any], publish: Publish, live: Version | None) -> bool:
    """Whether an instant version goes live while its job fits the full one.

    It replaces a live version only through the gate. Where none is live, `publish: true` needs no
    gate.
    """
    if publish is True and live is None:
        return True
    return publish is not False and not_worse(metrics, live)


def not_worse_than_instant(metrics: dict[str, Any]) -> bool:
    """Whether a full version replaces its own job's instant one.

    Both were judged on the same held-out photos. Where none could be held out, the full one does.
    """
    adapted, instant = metrics.get("adapted"), metrics.get("instant")
    return not adapted or not instant or bool(adapted["accuracy"] >= instant["accuracy"])
