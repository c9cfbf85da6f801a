"""Dashboard, alerts and the scaler ask for metrics that there are, where Compose serves them."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from service import metrics
from tests.support.compose import MAIN, load
from tests.support.paths import ROOT

DOCKER = ROOT / "docker"
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/rmadapter.json").read_text())
ALERTS = yaml.safe_load((DOCKER / "alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}
UNITS = ("_seconds", "_total", "_rows", "_ratio", "_jobs", "_bytes")


def families() -> dict[str, Any]:
    return {f.name: f for f in REGISTRY.collect() if f.name.startswith("rmadapter_")}


def series() -> set[str]:
    """Every name that a scrape may hold."""
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {name + end for name, family in families().items() for end in ends[family.type]}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    manifests = list(yaml.safe_load_all((DOCKER / "kubernetes/api.yaml").read_text()))
    scalers = [m for m in manifests if m["kind"] == "ScaledObject"]
    return (
        panels + alerts + [t["metadata"]["query"] for s in scalers for t in s["spec"]["triggers"]]
    )


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_metrics_that_there_are(expression: str) -> None:
    asked = set(re.findall(r"\b(?:rmadapter|process)_\w+|\bup\b", expression))
    assert asked
    assert asked <= series() | PROCESS
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_labels_that_there_are(expression: str) -> None:
    labels = {"le", "job", "instance"}
    for metric in vars(metrics).values():
        labels |= set(getattr(metric, "_labelnames", ()))
    grouped = re.findall(r"by \(([\w, ]+)\)", expression)
    named = {name.strip() for group in grouped for name in group.split(",")}
    assert named | set(re.findall(r"(\w+)=~?\"", expression)) <= labels


def test_every_metric_has_a_unit_in_its_name_and_stands_in_the_handbook() -> None:
    for name, family in families().items():
        full = name + ("_total" if family.type == "counter" else "")
        assert full.endswith(UNITS), full
        assert f"`{full}`" in OPERATIONS


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    assert [name for name in families() if name not in shown] == []


def test_panels_have_ids_of_their_own_and_the_source_that_is_provisioned() -> None:
    source = yaml.safe_load((DOCKER / "grafana/datasources/prometheus.yml").read_text())
    (uid,) = [s["uid"] for s in source["datasources"]]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {uid}


def test_prometheus_asks_the_ports_that_compose_opens() -> None:
    services = load(MAIN)["services"]
    asked = {
        name: config["port"]
        for job in PROMETHEUS["scrape_configs"]
        for config in job["dns_sd_configs"]
        for name in config["names"]
    }
    served = {
        name: int(services[name]["environment"][f"RMADAPTER_{name.upper()}_METRICS_PORT"])
        for name in ("api", "worker")
    }
    assert asked == served


def test_what_prometheus_and_grafana_read_is_mounted() -> None:
    services = load(MAIN)["services"]
    for service in ("prometheus", "grafana"):
        for volume in services[service]["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
    mounted = " ".join(services["prometheus"]["volumes"])
    assert all(f":{path}:" in mounted for path in PROMETHEUS["rule_files"])
