"""What `kubectl kustomize docker/kubernetes` renders refers only to what there is."""

import re
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import SecretStr
from typer.main import get_command

from service.cli import app as command_line
from service.http.routes.health import router
from service.settings import Settings
from tests.support.paths import ROOT
from training.jobs import QUEUE, make_broker
from training.worker import STOP_MS

BASE = ROOT / "docker" / "kubernetes"
OWN_KINDS = ("ScaledObject", "TriggerAuthentication")  # KEDA's: Kubernetes has no schema of them
SETTINGS = {f"RMADAPTER_{name.upper()}" for name in Settings.model_fields}
Object = dict[str, Any]

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", BASE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def secret() -> Object:
    return yaml.safe_load((BASE / "secret.example.yaml").read_text())


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def pods(objects: list[Object]) -> dict[str, Object]:
    """Of the deployments and the job."""
    makers = of_kind(objects, "Deployment") | of_kind(objects, "Job")
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


def servers(objects: list[Object]) -> dict[str, Object]:
    return {name: pods(objects)[name] for name in ("api", "worker")}


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    return only


def selected(objects: list[Object], labels: dict[str, str]) -> set[str]:
    every = pods(objects).items()
    return {n for n, pod in every if labels.items() <= pod["metadata"]["labels"].items()}


def test_every_object_keeps_to_kubernetes_schema(objects: list[Object], secret: Object) -> None:
    for item in [*objects, secret]:
        if item["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(item, "1.32", strict=True)


def test_selectors_find_the_pods_that_they_are_for(objects: list[Object]) -> None:
    for name, deployment in of_kind(objects, "Deployment").items():
        assert selected(objects, deployment["spec"]["selector"]["matchLabels"]) == {name}
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        assert selected(objects, budget["spec"]["selector"]["matchLabels"]) == {name}
    for name, service in of_kind(objects, "Service").items():
        assert selected(objects, service["spec"]["selector"]) == {name}
    policies = of_kind(objects, "NetworkPolicy")
    every = policies["rmadapter"]["spec"]["podSelector"]["matchLabels"]
    assert selected(objects, every) == {"api", "worker", "weights"}
    assert selected(objects, policies["api"]["spec"]["podSelector"]["matchLabels"]) == {"api"}


def test_scalers_aim_at_deployments_that_say_no_number_themselves(objects: list[Object]) -> None:
    deployments = of_kind(objects, "Deployment")
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in of_kind(objects, kind).values():
            target = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"]


def test_ports_are_named_where_they_are_used(objects: list[Object]) -> None:
    api = container(pods(objects)["api"])
    named = {port["name"]: port["containerPort"] for port in api["ports"]}
    assert named["http"] == Settings.model_fields["port"].default
    used = [port["targetPort"] for port in of_kind(objects, "Service")["api"]["spec"]["ports"]]
    used += [api[probe]["httpGet"]["port"] for probe in api if probe.endswith("Probe")]
    told = pods(objects)["api"]["metadata"]["annotations"]["prometheus.io/port"]
    (variable,) = (v for v in api["env"] if v["name"] == "RMADAPTER_API_METRICS_PORT")
    assert told == str(named["metrics"]) == variable["value"]
    policy = of_kind(objects, "NetworkPolicy")["api"]["spec"]
    used += [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert len(used) == 6
    assert set(used) == set(named)


def test_a_workers_metrics_are_where_prometheus_is_told(objects: list[Object]) -> None:
    pod = pods(objects)["worker"]
    (port,) = container(pod)["ports"]
    (variable,) = (v for v in container(pod)["env"] if v["name"] == "RMADAPTER_WORKER_METRICS_PORT")
    told = pod["metadata"]["annotations"]["prometheus.io/port"]
    assert variable["value"] == told == str(port["containerPort"])
    (rule,) = of_kind(objects, "NetworkPolicy")["worker"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"], "protocol": "TCP"}]
    (asker,) = rule["from"]  # Prometheus alone
    assert asker["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}


def test_the_images_folders_of_weights_and_graphs_are_volumes(objects: list[Object]) -> None:
    image = (ROOT / "docker/Dockerfile").read_text()
    folders = {re.search(rf"{name}=(\S+)", image)[1] for name in ("HF_HOME", "RMADAPTER_CACHE_DIR")}
    for name in ("api", "worker"):
        mounted = {mount["mountPath"] for mount in container(pods(objects)[name])["volumeMounts"]}
        assert folders <= mounted


def test_weights_are_fetched_by_one_job_and_read_only_for_all_others(objects: list[Object]) -> None:
    writers = set()
    for name, pod in pods(objects).items():
        (mount,) = (m for m in container(pod)["volumeMounts"] if m["name"] == "weights")
        (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "weights")
        claim = volume["persistentVolumeClaim"]
        assert claim["claimName"] in of_kind(objects, "PersistentVolumeClaim")
        if not mount.get("readOnly"):
            writers.add(name)
        else:
            assert claim["readOnly"]
            assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container(pod)["env"]
    assert writers == {"weights"}


def test_only_the_weights_job_has_a_way_to_the_internet(objects: list[Object]) -> None:
    open_to_all = {
        name
        for name, policy in of_kind(objects, "NetworkPolicy").items()
        for rule in policy["spec"].get("egress", [])
        if "to" not in rule
    }
    assert open_to_all == {"weights"}
    for policy in of_kind(objects, "NetworkPolicy").values():
        assert all("from" in rule for rule in policy["spec"].get("ingress", []))


def test_every_temporary_volume_has_a_size(objects: list[Object]) -> None:
    for pod in pods(objects).values():
        sizes = [v["emptyDir"].get("sizeLimit") for v in pod["spec"]["volumes"] if "emptyDir" in v]
        assert sizes
        assert all(sizes)


def test_probes_ask_routes_of_the_app(objects: list[Object]) -> None:
    api = container(pods(objects)["api"])
    probed = {probe: api[probe]["httpGet"]["path"] for probe in api if probe.endswith("Probe")}
    assert set(probed.values()) <= {route.path for route in router.routes}
    assert probed["livenessProbe"] == "/healthz"  # a Redis that is away is no reason to restart
    assert probed["readinessProbe"] == "/readyz"


def test_commands_and_settings_are_the_services(objects: list[Object]) -> None:
    maps = of_kind(objects, "ConfigMap")
    for pod in pods(objects).values():
        runs = container(pod)
        assert runs["args"][0] in get_command(command_line).commands
        names = {entry["name"] for entry in runs.get("env", [])}
        for source in runs["envFrom"]:
            names |= set(maps[source["configMapRef"]["name"]]["data"])
        assert "RMADAPTER_BLOB_URL" in names
        assert names <= SETTINGS | {"AWS_REGION", "HF_HUB_OFFLINE"}


def test_no_service_puts_variables_into_the_settings(objects: list[Object]) -> None:
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(objects).values())


def test_secrets_are_mounted_where_the_service_reads_them(
    objects: list[Object], secret: Object
) -> None:
    hidden = {n for n, f in Settings.model_fields.items() if SecretStr in _parts(f.annotation)}
    keys = {k for k in secret["stringData"] if k.startswith("rmadapter_")}
    assert keys == {f"rmadapter_{name}" for name in hidden | {"redis_url"}}
    for pod in servers(objects).values():
        (volume,) = [v for v in pod["spec"]["volumes"] if "secret" in v]
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        places = {m["name"]: m["mountPath"] for m in container(pod)["volumeMounts"]}
        assert places[volume["name"]] == "/run/secrets"
        assert set(places) == {v["name"] for v in pod["spec"]["volumes"]}


def test_keda_reads_the_list_that_the_queue_is(objects: list[Object], secret: Object) -> None:
    (trigger,) = of_kind(objects, "ScaledObject")["worker"]["spec"]["triggers"]
    assert trigger["metadata"]["listName"] == f"{make_broker(None).namespace}:{QUEUE}"
    access = of_kind(objects, "TriggerAuthentication")[trigger["authenticationRef"]["name"]]
    for reference in access["spec"]["secretTargetRef"]:
        assert reference["name"] == secret["metadata"]["name"]
        assert reference["key"] in secret["stringData"]
    assert secret["stringData"]["redis_address"] in secret["stringData"]["rmadapter_redis_url"]


def test_pods_have_longer_to_stop_than_the_service_takes(objects: list[Object]) -> None:
    pods_ = servers(objects)
    grace = {n: p["spec"]["terminationGracePeriodSeconds"] for n, p in pods_.items()}
    api = {e["name"]: e["value"] for e in container(pods(objects)["api"])["env"]}
    assert grace["api"] > float(api["RMADAPTER_DRAIN_SECONDS"]) + 30
    assert grace["worker"] > STOP_MS / 1000


def test_pods_have_a_gpu_and_few_rights(objects: list[Object]) -> None:
    for pod in pods(objects).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for pod in servers(objects).values():
        assert container(pod)["resources"]["limits"]["nvidia.com/gpu"] == 1


def _parts(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())
