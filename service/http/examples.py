"""Examples of the answers that no JSON schema describes, for the OpenAPI document."""

import json
from typing import Any

Responses = dict[int | str, dict[str, Any]]

_RUNNING = {"job": "job_0643a1b2c3d4e0123abcd", "state": "running", "adapter": "flowers"}
_DONE = _RUNNING | {"state": "succeeded", "version": 2, "published": True}


def _text_answer(media_type: str, description: str, example: object) -> Responses:
    return {200: {"description": description, "content": {media_type: {"example": example}}}}


# A photo has a media type of its own, and generators of clients know no ranges such as image/*.
PHOTO: Responses = {200: {"description": "the photo's bytes, in its own format"}}
ARTIFACT: Responses = {
    200: {
        "description": "the bytes of a safetensors file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
HEALTHY = _text_answer("application/json", "alive", {"status": "alive"})
READY = _text_answer(
    "application/json",
    "ready",
    {
        "ready": True,
        "model": "ViT-B-16",
        "backend": "torch",
        "precision": "bf16",
        "device": "ok",
        "redis": "ok",
    },
)
METRICS = _text_answer(
    "text/plain",
    "all metrics",
    'rmadapter_requests_total{method="POST",route="/v1/classify",status="200"} 1280.0\n'
    "rmadapter_open_jobs 2.0\n",
)
JOB_EVENTS = _text_answer(
    "text/event-stream",
    "an event whenever the job changed",
    f"event: progress\ndata: {json.dumps(_RUNNING)}\n\nevent: end\ndata: {json.dumps(_DONE)}\n\n",
)
