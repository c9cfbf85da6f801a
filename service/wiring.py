"""Everything that a request can reach, made once from the settings."""

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import redis
import torch
from dramatiq.brokers.redis import RedisBroker

from adapters.bank import Bank
from adapters.clip import FrozenCLIP, Precision, load_clip
from adapters.errors import UnsupportedModel
from adapters.pixels import ImageLimits
from service.caches import LastKnown
from service.fair_threads import FairThreads
from service.inference.backends import REFERENCE, open_backend
from service.inference.choice import choose
from service.inference.classifier import Classifier, Limits
from service.inference.engine import Engine
from service.inference.protocol import Backend
from service.inference.tiers import Tiers
from service.records import Records, open_records
from service.records.adapters import Version
from service.records.store import refuse_newer
from service.records.tenants import Grant
from service.settings import Settings
from training.fit import default_settings
from training.jobs import make_broker

log = logging.getLogger(__name__)

_REDIS_URL = "redis://127.0.0.1:6379/0"
_GPU_BATCH = 32
_CPU_BATCH = 4  # within 5 % of the speed of larger ones, and who comes next waits half as long
_WAITING_UPLOADS = 64  # of one tenant
_QUEUE_SECONDS = 10.0  # then a Redis that hangs is taken as gone, and connected to anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """What handlers work with."""

    settings: Settings
    records: Records
    clip: FrozenCLIP
    engine: Engine
    backend: str  # which one runs the model
    precision: Literal["fp32", "bf16", "int8"]  # and in which
    classifier: Classifier
    decoders: FairThreads  # pictures of classify, uploads and thumbnails
    uploads: FairThreads  # archives and lists of files, each on a thread while it is read
    keys: LastKnown[Grant]
    versions: LastKnown[Version]
    draining: threading.Event = field(default_factory=threading.Event)  # it is about to stop


def broker_of(settings: Settings) -> RedisBroker:
    """The job queue, for a worker."""
    url = settings.redis_address(_REDIS_URL)
    return make_broker(
        redis.Redis.from_url(url, socket_timeout=_QUEUE_SECONDS, redis_connect_func=refuse_newer)
    )


def records_of(settings: Settings) -> Records:
    """The records that the settings name."""
    blobs = settings.blob_url or (Path(settings.data_dir) / "blobs").absolute().as_uri()
    return open_records(settings.redis_address(_REDIS_URL), blobs, settings)


def clip_of(settings: Settings) -> FrozenCLIP:
    """The CLIP on its device, in float32 unless a precision is set. Raises UnsupportedModel."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"  # int8: a backend's
    return load_clip(settings.model, settings.pretrained, device, precision)


def clip_to_fit_with(settings: Settings) -> FrozenCLIP:
    """The CLIP in the precision that PyTorch is fastest in. Raises UnsupportedModel."""
    clip = clip_of(settings)
    return choose(settings, clip, batch_size(settings, clip), backend=REFERENCE)[1]


def image_limits(settings: Settings) -> ImageLimits:
    """The limits of one picture that the settings name."""
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)


def open_components(settings: Settings, clip: FrozenCLIP | None = None) -> Components:
    """Loads the CLIP, if none is given; the engine is not started yet.

    Raises:
        NewerFormat: a newer release wrote what is stored.
    """
    records = records_of(settings)
    records.start()
    clip = clip or clip_of(settings)
    batch = batch_size(settings, clip)
    decided, clip = choose(settings, clip, batch)
    bank = _bank(settings, clip)
    backend = open_decided(settings, decided, clip, bank, batch)
    engine = Engine(backend, batch, settings.max_queued_rows, settings.max_queue_seconds)
    pinned = settings.pinned_adapters()
    tiers = Tiers(engine, clip, bank.slots, settings.host_adapters, records.blobs.get, pinned)
    limits = Limits(
        image_limits(settings),
        settings.max_images,
        settings.max_classes,
        settings.request_seconds,
    )
    decoders = FairThreads(settings.decode_threads, "decode")
    classifier = Classifier(clip, engine, tiers, limits, decoders, settings.text_features)
    return Components(
        settings=settings,
        records=records,
        clip=clip,
        engine=engine,
        backend=backend.name,
        precision="int8" if decided.precision == "int8" else clip.precision,
        classifier=classifier,
        decoders=decoders,
        uploads=FairThreads(settings.upload_threads, "upload", _WAITING_UPLOADS),
        keys=LastKnown(),
        versions=LastKnown(),
    )


def open_decided(
    settings: Settings, decided: Settings, clip: FrozenCLIP, bank: Bank, batch: int
) -> Backend:
    """What was decided; where it cannot run any more, and was not asked for, PyTorch.

    Raises:
        UnsupportedModel: what was asked for cannot run.
    """
    try:
        return open_backend(decided, clip, bank, batch)
    except UnsupportedModel as error:
        if settings.backend != "auto":
            raise
        log.warning("PyTorch runs the model: %s", error)
        return open_backend(decided.model_copy(update={"backend": REFERENCE}), clip, bank, batch)


def batch_size(settings: Settings, clip: FrozenCLIP) -> int:
    """Pictures of one batch."""
    return settings.max_batch or (_GPU_BATCH if clip.device.type == "cuda" else _CPU_BATCH)


def _bank(settings: Settings, clip: FrozenCLIP) -> Bank:
    """As many slots as the memory budget holds, and two at least."""
    adapter = default_settings(clip).adapter
    place = (settings.bank_rank, adapter.image_first, adapter.text_first)
    size = Bank.slot_bytes(clip.image, clip.text, *place, clip.dtype)
    slots = max(2, settings.bank_bytes // size) + 1  # and the frozen CLIP's
    return Bank(clip.image, clip.text, slots, *place, clip.device, clip.dtype)
