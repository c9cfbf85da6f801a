"""/healthz, /readyz, /metrics."""

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from adapters.errors import RMAdapterError
from service import metrics
from service.errors import NotFound
from service.http.auth import ComponentsDep
from service.http.examples import HEALTHY, METRICS, READY
from service.wiring import Components

router = APIRouter(tags=["health"])

_PING_SECONDS = 2.0  # a batch takes well under a second


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the process alive?", responses=HEALTHY)
async def healthz() -> dict[str, str]:
    """Answers while the process runs. Needs no key."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can it classify?", response_class=JSONResponse, responses=READY)
async def readyz(components: ComponentsDep) -> JSONResponse:
    """200 if the device and Redis have just answered; else 503, with what did not answer.

    Also 503 while the server drains: it still answers, but should get no new requests.
    """
    if components.draining.is_set():
        return JSONResponse({"ready": False, "draining": True}, status_code=503)
    device, redis = await asyncio.gather(_device(components), _redis(components))
    ready = device == redis == "ok"
    runs = {
        "model": components.clip.name,
        "backend": components.backend,
        "precision": components.precision,
    }
    body = {"ready": ready, **runs, "device": device, "redis": redis}
    return JSONResponse(body, status_code=200 if ready else 503)


@router.head("/metrics", include_in_schema=False)
@router.get(
    "/metrics", summary="Metrics for Prometheus", response_class=Response, responses=METRICS
)
def metrics_text(components: ComponentsDep) -> Response:
    """Answers in Prometheus's text format. Needs no key; keep it inside your network.

    404 if RMADAPTER_API_METRICS_PORT serves them on a port of their own.
    """
    if components.settings.api_metrics_port:
        raise NotFound("the metrics have a port of their own")
    with suppress(RMAdapterError):  # Redis is away: the last number stands
        metrics.OPEN_JOBS.set(components.records.jobs.waiting())
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _device(components: Components) -> str:
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await asyncio.wrap_future(components.engine.ping())
    except TimeoutError:
        return f"no answer within {_PING_SECONDS:g} s"
    except RMAdapterError as error:
        return str(error)
    except Exception:  # whatever the device raised: the log has it, a client needs not
        return "broken"
    return "ok"


async def _redis(components: Components) -> str:
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await run_in_threadpool(components.records.store.check_writes)
    except TimeoutError:
        return "no answer"
    except RMAdapterError as error:
        return "cannot write" if "write" in str(error) else "no answer"
    return "ok"
