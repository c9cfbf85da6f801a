"""`rmadapter doctor`: what is there, what is broken, and what to do."""

import json
import stat
from pathlib import Path

import pytest

from tests.support.api import ADMIN_KEY


def test_doctor_finds_all_well(run, server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMADAPTER_REDIS_URL", server.url)
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0, found
    states = {(f["what"], f["state"]) for f in found}
    here = ("device", "ONNX Runtime", "model", "Redis", "blob store", "disk", "model cache")
    for what in (*here, "service", "key", "sign-in"):
        assert (what, "ok") in states, found


@pytest.mark.parametrize(
    ("variables", "what", "mend"),
    [
        ({"RMADAPTER_REDIS_URL": "redis://127.0.0.1:9/0"}, "Redis", "RMADAPTER_REDIS_URL"),
        ({"RMADAPTER_BLOB_URL": "file:///proc/nowhere"}, "blob store", "RMADAPTER_BLOB_URL"),
        ({"RMADAPTER_MODEL": "no-such"}, "model", "RMADAPTER_MODEL"),
        ({"RMADAPTER_DEVICE": "cuda:7"}, "device", "nvidia-smi"),
        ({"RMADAPTER_CACHE_DIR": "/proc/nowhere"}, "model cache", "RMADAPTER_CACHE_DIR"),
        ({"RMADAPTER_URL": "http://127.0.0.1:9"}, "service", "RMADAPTER_URL"),
        ({"RMADAPTER_API_KEY": "rma_unknown"}, "sign-in", "rmadapter login"),
    ],
)
def test_doctor_says_what_is_broken_and_what_to_mend(
    run, monkeypatch: pytest.MonkeyPatch, variables: dict, what: str, mend: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run("doctor", "--json")
    assert done.exit_code == 1
    (failed,) = [f for f in json.loads(done.stdout) if f["what"] == what]
    assert failed["state"] == "fail"
    assert mend in failed["mend"]


def test_doctor_warns_of_a_key_that_others_can_read(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RMADAPTER_API_KEY")
    file = tmp_path / "default.key"
    file.write_text("rma_unknown")
    file.chmod(stat.S_IRUSR | stat.S_IROTH)
    found = json.loads(run("doctor", "--json").stdout)
    (key,) = [finding for finding in found if finding["what"] == "key"]
    assert (key["state"], key["mend"]) == ("warn", f"chmod 600 {file}")


def test_doctor_warns_of_an_administrators_key_where_a_tenants_is_needed(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMADAPTER_API_KEY", ADMIN_KEY)
    found = {f["what"]: f for f in json.loads(run("doctor", "--json").stdout)}
    assert found["sign-in"]["state"] == "warn"
    assert "tenants create" in found["sign-in"]["mend"]


def test_a_service_that_nobody_named_may_be_off(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host where `up` is not started yet, this alone is no fault."""
    monkeypatch.delenv("RMADAPTER_URL")
    monkeypatch.setenv("RMADAPTER_PORT", "9")
    done = run("doctor", "--json")
    found = {f["what"]: f for f in json.loads(done.stdout)}
    assert (done.exit_code, found["service"]["state"]) == (0, "warn")
