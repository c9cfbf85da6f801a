"""Generated archives, and generated requests from the service's own OpenAPI file: never a 5xx,
never an answer that the file does not have. Derandomised, so that a failure is found again;
FUZZ_EXAMPLES=500 for longer."""

import contextlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import FailureGroup

from adapters.clip import FrozenCLIP
from service.archives import ArchiveLimits, Rejected, read_archive
from service.errors import Invalid, TooLarge
from service.settings import Settings
from tests.support.api import ADMIN_KEY, Api, start_api
from training.data import Sample

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))  # for each call and mode
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
]


LIMITS = ArchiveLimits(entries=20, bytes=20_000, file_bytes=2_000)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def api(
    settings: Settings, clip: FrozenCLIP, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    own = {"blob_url": tmp_path_factory.mktemp("blobs").as_uri()}
    unlimited = {"classify_rate": 0.0, "manage_rate": 0.0}
    yield from start_api(settings.model_copy(update=own | unlimited), clip)


@pytest.fixture(scope="module")
def contract(api: Api):
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


@pytest.fixture(scope="module")
def keys(api: Api) -> dict[str, str]:
    tenant = api.new_tenant()
    return {"tenant": tenant.http.headers["authorization"], "admin": f"Bearer {ADMIN_KEY}"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_generated_call_breaks_the_service_or_the_contract(
    contract: schemathesis.BaseSchema, keys: dict[str, str], mode: GenerationMode
) -> None:
    operations = [found.ok() for found in contract.get_all_operations()]
    assert len(operations) > 25
    broken = {
        operation.label: error for operation in operations if (error := fuzz(operation, keys, mode))
    }
    assert not broken, "\n\n".join(f"{call}: {error}" for call, error in broken.items())


def fuzz(
    operation: schemathesis.APIOperation, keys: dict[str, str], mode: GenerationMode
) -> str | None:
    """What the first generated call that broke something was; None when none did."""
    whose = "admin" if operation.path.startswith("/v1/tenants") else "tenant"
    headers = {"Authorization": keys[whose]}

    @given(operation.as_strategy(generation_mode=mode))
    @bounded(EXAMPLES)
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:  # a call without parameters cannot be made wrongly
        return None
    except FailureGroup as failures:
        return str(failures.exceptions)
    return None


def zipped(files: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in dict(files).items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(files: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
@bounded(300)
@given(
    files=st.lists(
        st.tuples(st.text("ab/.\\:é\udcff", min_size=1, max_size=12), st.binary(max_size=3000)),
        max_size=5,
    ),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 2**15) | st.none(),
)
def test_any_archive_is_read_within_its_limits_or_refused(
    pack, files: list[tuple[str, bytes]], edits: list[tuple[int, int]], cut: int | None
) -> None:
    try:
        packed = bytearray(pack(files))
    except (UnicodeEncodeError, ValueError):  # the writers refuse some names
        return
    for place, value in edits:
        packed[place % len(packed)] = value
    read = []
    with contextlib.suppress(Invalid, TooLarge):
        read.extend(read_archive(io.BytesIO(bytes(packed[:cut])), LIMITS))
    assert len(read) <= LIMITS.entries
    for item in read:
        shown = item.file if isinstance(item, Rejected) else f"{item.label}/{item.name}"
        shown.encode()
        if isinstance(item, Sample):
            assert len(item.data) <= LIMITS.file_bytes
            assert ".." not in (item.label, item.name) and "/" not in item.label + item.name
