"""`rmadapter doctor`: what a service on this machine would have, and what to fix.

What any client has, the address and the key, is looked at by `service.cli.reach`.
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from adapters.errors import RMAdapterError
from service.cli.reach import Finding, State
from service.embedded.redis_server import find_server
from service.records.store import connect
from service.settings import Settings
from service.wiring import clip_of, records_of

_REDIS_SECONDS = 3.0
_MIN_REDIS = (7, 0)
_MIN_FREE = 5 * 2**30


def findings(settings: Settings) -> Iterator[Finding]:
    """Yields each result as soon as it is known; a failed check does not stop the others."""
    looks: list[Callable[[Settings], Iterator[Finding]]] = [
        _device,
        _onnx,
        _model,
        _redis,
        _blobs,
        _disk,
        _model_cache,
    ]
    for look in looks:
        name = look.__name__.strip("_")
        try:
            yield from look(settings)
        except (RMAdapterError, OSError) as error:
            yield Finding(name, "fail", str(error))


def _device(settings: Settings) -> Iterator[Finding]:
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            yield Finding("device", "ok", f"{properties.name}, {memory}, CUDA {torch.version.cuda}")
        return
    mend = "where there is an NVIDIA GPU: `nvidia-smi` must work, and PyTorch be of a CUDA build"
    if settings.device.startswith("cuda"):
        yield Finding("device", "fail", f"{settings.device} is set, but not available", mend)
    elif settings.model == "bundled":
        yield Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads")
    else:
        says = f"CPU alone, which is slow for {settings.model}"
        yield Finding("device", "warn", says, mend)


def _onnx(settings: Settings) -> Iterator[Finding]:
    try:
        import onnxruntime
    except ImportError:
        state: State = "fail" if settings.backend == "onnx" else "warn"
        mend = "pip install 'rmadapter[cpu]' or, with CUDA, 'rmadapter[gpu]'"
        yield Finding("ONNX Runtime", state, "not installed: PyTorch alone runs the model", mend)
        return
    providers = onnxruntime.get_available_providers()
    says = f"{onnxruntime.__version__}: {', '.join(providers)}"
    if torch.cuda.is_available() and "CUDAExecutionProvider" not in providers:
        mend = "pip uninstall onnxruntime; pip install 'rmadapter[gpu]'"
        yield Finding("ONNX Runtime", "warn", says, mend)
    else:
        yield Finding("ONNX Runtime", "ok", says)


def _model(settings: Settings) -> Iterator[Finding]:
    try:
        clip = clip_of(settings)
    except (RMAdapterError, OSError, RuntimeError, ValueError) as error:
        mend = "RMADAPTER_MODEL and RMADAPTER_PRETRAINED: `bundled`, or open_clip's names"
        yield Finding("model", "fail", f"{settings.model}: {error}", mend)
        return
    yield Finding("model", "ok", f"{clip.name} loads, on {clip.device}")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        yield Finding("Redis", "ok", f"`up` starts {find_server()}")
        return
    mend = "RMADAPTER_REDIS_URL, and the password in RMADAPTER_REDIS_PASSWORD or its file"
    with closing(connect(settings.redis_address(""), _REDIS_SECONDS)) as store:
        try:
            server = store.info("server")
            persistence = store.info("persistence")
            memory = store.info("memory")
        except Exception as error:  # whatever redis-py raises for a wrong address or password
            yield Finding("Redis", "fail", f"{settings.redis_url}: {error}", mend)
            return
        yield from _redis_facts(server, persistence, memory)


def _redis_facts(
    server: dict[str, str], persistence: dict[str, int], memory: dict[str, str]
) -> Iterator[Finding]:
    version = str(server["redis_version"])
    old = tuple(int(part) for part in version.split(".")[:2]) < _MIN_REDIS
    mend = f"{_MIN_REDIS[0]}.{_MIN_REDIS[1]} or newer is needed" if old else ""
    yield Finding("Redis", "fail" if old else "ok", f"version {version} answers", mend)
    if not persistence.get("aof_enabled"):
        mend = "redis-server --appendonly yes; without, a restart loses jobs and the latest uploads"
        yield Finding("Redis", "warn", "does not write to disk at each change", mend)
    policy = memory.get("maxmemory_policy", "noeviction")  # INFO's: managed Redis refuses CONFIG
    if policy not in ("noeviction", "volatile-ttl", "volatile-lru", "volatile-lfu"):
        mend = "maxmemory-policy noeviction: records must not be thrown away"
        yield Finding("Redis", "fail", f"throws away records when full ({policy})", mend)


def _blobs(settings: Settings) -> Iterator[Finding]:
    where, path = (
        settings.blob_url or f"{settings.data_dir}/blobs",
        f"doctor/{secrets.token_hex(8)}",
    )
    mend = (
        "RMADAPTER_BLOB_URL; for s3:// also its keys, AWS_ENDPOINT_URL, AWS_REGION and the bucket"
    )
    try:
        blobs = records_of(settings).blobs
        blobs.put(path, b"probe")
        same = blobs.get(path) == b"probe"
        blobs.delete(path)
    except Exception as error:  # whatever obstore raises for a wrong address or bucket
        yield Finding("blob store", "fail", f"{where}: {error}", mend)
        return
    says = f"{where}: writes, reads, deletes" if same else f"{where} gives back something else"
    yield Finding("blob store", "ok" if same else "fail", says, "" if same else mend)


def _disk(settings: Settings) -> Iterator[Finding]:
    for folder in {_existing(settings.data_dir), _existing(settings.cache_dir)}:
        free = shutil.disk_usage(folder).free
        state: State = "ok" if free > _MIN_FREE else "warn"
        mend = "" if state == "ok" else "RMADAPTER_DATA_DIR or RMADAPTER_CACHE_DIR on a larger disk"
        yield Finding("disk", state, f"{free / 2**30:.0f} GiB free at {folder}", mend)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _model_cache(settings: Settings) -> Iterator[Finding]:
    """Where exported graphs are kept: a folder that cannot be written costs each start minutes."""
    folder, mend = settings.cache_dir, "RMADAPTER_CACHE_DIR: a folder that this user may write"
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        yield Finding("model cache", "fail", f"{folder}: {error.strerror}", mend)
        return
    graphs = len(list(folder.glob("onnx/*/*.onnx")))
    yield Finding("model cache", "ok", f"{folder} can be written; {graphs} graphs")
