"""The Compose files say what the service reads, and hold what they promise of each container."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import compose_spec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import SecretStr
from typer.main import get_command

from service.cli import app
from service.settings import Settings
from tests.support.compose import CPU, MAIN, load, variables_in
from tests.support.paths import ROOT

OURS = ("api", "worker")
SERVICES = load(MAIN)["services"]
EXAMPLE = (ROOT / "docker" / ".env.example").read_text()


@pytest.fixture(scope="module")
def compose() -> dict:
    return load(MAIN)


def test_a_gpu_is_reserved_for_the_api_and_the_worker(compose: dict) -> None:
    for name in OURS:
        device = compose["services"][name]["deploy"]["resources"]["reservations"]["devices"][0]
        assert device["capabilities"] == ["gpu"]


def test_without_a_gpu_none_is_reserved_and_the_carried_model_runs() -> None:
    services = load(MAIN, CPU)["services"]
    for name in OURS:
        service = services[name]
        assert "reservations" not in service["deploy"]["resources"]
        assert "limits" in service["deploy"]["resources"]
        assert service["build"]["args"] == {"EXTRA": "cpu"}
        assert service["environment"]["RMADAPTER_MODEL"] == "bundled"
        assert "RMADAPTER_PRETRAINED" not in service["environment"]
    assert services["redis"] == SERVICES["redis"]


def test_their_commands_are_commands_of_the_command_line(compose: dict) -> None:
    known = set(get_command(app).commands)
    for name in OURS:
        assert compose["services"][name]["command"][0] in known


def test_their_settings_are_settings_of_the_service(compose: dict) -> None:
    known = {f"RMADAPTER_{name.upper()}" for name in Settings.model_fields}
    known |= {"AWS_ENDPOINT_URL", "AWS_REGION", "HF_HUB_OFFLINE"}  # obstore's, and the hub's
    for name in OURS:
        given = set(compose["services"][name]["environment"])
        assert given <= known
        assert {"RMADAPTER_REDIS_URL", "RMADAPTER_BLOB_URL"} <= given


def test_their_secrets_are_settings_that_hide_themselves(compose: dict) -> None:
    hidden = {
        f"rmadapter_{name}"
        for name, field in Settings.model_fields.items()
        if SecretStr in getattr(field.annotation, "__args__", ())
    }
    for name in OURS:
        assert set(compose["services"][name]["secrets"]) == hidden


def test_no_secret_is_in_the_environment_or_a_command(compose: dict) -> None:
    for service in compose["services"].values():
        names = [n for n in service.get("environment", {}) if not n.endswith("__FILE")]
        assert not [n for n in names if re.search("PASSWORD|SECRET|KEY", n)]
        assert "requirepass $" not in " ".join(service.get("command", []))


def test_every_secret_is_a_file_that_the_script_makes(compose: dict, secrets_dir: Path) -> None:
    used = {name for s in compose["services"].values() for name in s.get("secrets", [])}
    assert used == set(compose["secrets"])
    for name in used:
        file = compose["secrets"][name]["file"]
        assert file == f"./docker/secrets/{name}"
        assert (secrets_dir / name).read_text()
        assert (secrets_dir / name).stat().st_mode & 0o777 == 0o644
    assert secrets_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_few_rights_and_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] in ("unless-stopped", "on-failure")
    assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-alpine)?$", SERVICES[name]["image"])


def test_one_port_is_published_and_replicas_do_not_collide(compose: dict) -> None:
    default = {n: s for n, s in compose["services"].items() if "profiles" not in s}
    assert [n for n, s in default.items() if "ports" in s] == ["proxy"]
    assert not [n for n, s in default.items() if "container_name" in s]


def test_the_proxy_asks_the_api_by_its_name_and_port(compose: dict) -> None:
    conf = (ROOT / "docker" / "nginx.conf").read_text()
    name = re.search(r"set \$api (\w+);", conf)[1]
    port = re.search(r"proxy_pass http://\$api:(\d+);", conf)[1]
    assert name in compose["services"]
    assert int(port) == Settings.model_fields["port"].default
    assert re.search(r"listen (\d+);", conf)[1] == compose["services"]["proxy"]["ports"][0][-4:]


def test_redis_and_the_object_store_are_out_of_the_proxys_reach(compose: dict) -> None:
    for name in ("redis", "s3"):
        assert compose["services"][name]["networks"] == ["stores"]
    assert "stores" not in compose["services"]["proxy"]["networks"]


def test_only_the_proxy_the_weights_job_and_grafanas_port_have_a_way_outside(compose: dict) -> None:
    networks, services = compose["networks"], compose["services"]
    closed = {name for name, network in networks.items() if (network or {}).get("internal") is True}
    assert closed == set(networks) - {"default"}
    outside = {n for n, s in services.items() if set(s.get("networks", ["default"])) - closed}
    assert outside == {"proxy", "weights", "grafana"}


def test_prometheus_shares_its_network_with_those_it_asks_alone(compose: dict) -> None:
    on = {n for n, s in compose["services"].items() if "metrics" in s.get("networks", [])}
    assert on == {"prometheus", "api", "worker"}


def test_weights_are_fetched_by_one_job_and_read_only_for_all_others(compose: dict) -> None:
    services = compose["services"]
    for name in OURS:
        needs = services[name]["depends_on"]["weights"]
        assert needs == {"condition": "service_completed_successfully"}
        assert "weights:/weights:ro" in services[name]["volumes"]
        assert services[name]["environment"]["HF_HUB_OFFLINE"] == "1"
    assert services["weights"]["volumes"] == ["weights:/weights"]
    assert [n for n, s in services.items() if "graphs:/graphs" in s.get("volumes", [])] == ["api"]


def test_the_images_folders_of_weights_and_graphs_are_volumes(compose: dict) -> None:
    image = (ROOT / "docker/Dockerfile").read_text()
    folders = {re.search(rf"{name}=(\S+)", image)[1] for name in ("HF_HOME", "RMADAPTER_CACHE_DIR")}
    declared = json.loads(re.search(r"^VOLUME (.+)$", image, re.MULTILINE)[1])
    assert folders <= set(declared)
    mounted = {volume.split(":")[1] for volume in compose["services"]["api"]["volumes"]}
    assert set(declared) <= mounted


def test_the_weights_job_loads_the_model_of_the_settings() -> None:
    job = load(MAIN, CPU)["services"]["weights"]
    given = {k: str(v) for k, v in job["environment"].items()} | {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "service", *job["command"]]  # the image's entry point
    done = subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("bundled: "), done.stderr


@pytest.mark.parametrize("name", [n for n, s in SERVICES.items() if "tmpfs" in s])
def test_every_temporary_volume_has_a_size(name: str) -> None:
    for mount in SERVICES[name]["tmpfs"]:
        assert re.search(r":size=\d+[mg],", mount)


def test_every_service_volume_and_network_that_is_named_exists(compose: dict) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert set(service.get("networks", [])) <= set(compose["networks"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("./docker/") or source in compose["volumes"]


def test_the_containers_time_to_stop_is_longer_than_the_drain(compose: dict) -> None:
    drain = Settings.model_fields["drain_seconds"].default
    assert compose["services"]["api"]["stop_grace_period"] == "40s"
    assert drain + 30 < 40  # service.embedded finishes accepted requests within 30 s


def test_every_variable_that_compose_reads_is_in_the_example() -> None:
    named = set(re.findall(r"^#?\s?(\w+)=", EXAMPLE, re.MULTILINE))
    assert variables_in(MAIN, CPU) <= named


@pytest.mark.parametrize("files", [(MAIN,), (MAIN, CPU)])
def test_the_files_keep_to_the_compose_specification(files: tuple[Path, ...]) -> None:
    read = compose_spec.PyCompose.from_json(json.dumps(load(*files)))
    assert read.service_names() == list(SERVICES)


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_lock_has_every_dependency_in_its_range_with_hashes(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = locked_versions(extra)
    own_index = {"torch", "torchvision"} if extra == "cpu" else set()  # the GPU lock's versions
    extras = project["optional-dependencies"]
    assert "rmadapter[server]" in extras[extra]
    texts = project["dependencies"] + extras["server"] + extras[extra]
    for wanted in map(Requirement, set(texts) - {"rmadapter[server]"}):
        name = canonicalize_name(wanted.name)
        versions = locked_versions("gpu") if name in own_index else locked
        assert wanted.specifier.contains(versions[name]), name
    assert not own_index & set(locked)


def test_the_build_backend_is_locked_with_hashes_and_nothing_else_builds() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = locked_versions("build")
    for wanted in map(Requirement, backend):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)])
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert "--require-hashes -r /src/requirements.build.lock" in dockerfile
    assert re.findall(r"pip \w+ [^&]*/src(?=\s)[^&]*", dockerfile) == [
        "pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src \\\n "
    ]


def test_the_locks_agree_and_name_no_index() -> None:
    gpu, cpu = locked_versions("gpu"), locked_versions("cpu")
    assert all(gpu[name] == cpu[name] for name in gpu.keys() & cpu.keys())
    for extra in ("gpu", "cpu"):
        assert not re.search(r"index-url|find-links|://", lock_file(extra))


def test_pytorch_and_onnx_runtime_load_one_major_version_of_cuda() -> None:
    """The one asks for the toolkit, the other's wheels name theirs; two would not load together."""
    gpu = locked_versions("gpu")
    assert gpu["cuda-toolkit"].split(".")[0] == "13"
    assert "nvidia-cudnn-cu13" in gpu
    assert not [name for name in gpu if name.endswith("-cu12")]


def lock_file(extra: str) -> str:
    return (ROOT / "docker" / f"requirements.{extra}.lock").read_text()


def locked_versions(extra: str) -> dict[str, str]:
    blocks = re.findall(r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:.*\n?)+)", lock_file(extra), re.M)
    assert len(blocks) == len(re.findall(r"^\w", lock_file(extra), re.M))  # none without a hash
    return {name: version for name, version, _ in blocks}


def test_the_image_takes_in_every_package_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} /src/{package}" in dockerfile


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("needs hadolint, which has no wheel for this machine")
    done = subprocess.run([program, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
