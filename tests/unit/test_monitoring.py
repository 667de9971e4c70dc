"""The alerts, Prometheus' configuration and the dashboard, as files. That every metric which they name is measured is
seen in a real scrape: tests/acceptance/test_metrics.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests import deployment, monitoring
from workers import collectors

PROMETHEUS = deployment.ROOT / "deploy/prometheus/prometheus.yml"
GRAFANA = deployment.ROOT / "deploy/grafana"
OPERATIONS = deployment.ROOT / "docs/operations.md"
promtool = shutil.which("promtool")
jq = shutil.which("jq")


def test_the_metrics_of_an_expression_are_found_wherever_they_stand() -> None:
    text = (
        'histogram_quantile(0.9, sum by (le) (rate(a_bucket{lane="x"}[5m]))) > 6 and absent(b{c="d", e!~"f"})'
    )
    assert monitoring.selectors(text) == {
        ("a_bucket", frozenset({"lane"})),
        ("b", frozenset({"c", "e"})),
    }
    text = '-(c offset 1d) / on (model) max_over_time(d[15m:1m]) or e - (topk(2, f{g!="h"}) > 1)'
    assert {name for name, _ in monitoring.selectors(text)} == {"c", "d", "e", "f"}


def test_every_expression_is_promql() -> None:
    found = [monitoring.selectors(expression) for expression in monitoring.expressions()]
    assert len(found) > 60
    assert all(found), "each reads at least one metric"
    with pytest.raises(ValueError, match="brackets"):
        monitoring.selectors("rate(a[5m)")


def test_every_alert_says_how_urgent_it_is_and_where_its_runbook_is() -> None:
    alerts = monitoring.alerts()
    assert len(alerts) > 15
    for name, rule in alerts.items():
        assert re.fullmatch(r"Dedup[A-Z][A-Za-z]+", name)
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert rule["annotations"]["summary"].endswith("."), name
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"


def test_every_alert_has_its_heading_in_the_runbook_and_the_other_way_round() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    headings = re.findall(r"^### (Dedup\w+)$", text, flags=re.MULTILINE)
    assert sorted(headings) == sorted(monitoring.alerts())
    for heading in headings:
        section = text.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
        assert "**Means**" in section, heading
        assert "**Do**" in section, heading


def test_every_metric_is_explained() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    named = {name for expression in monitoring.expressions() for name, _ in monitoring.selectors(expression)}
    bases = {re.sub("_(bucket|count|sum)$", "", name) for name in named - monitoring.recorded()}
    own = {name for name in bases if name.startswith("dedup_")} | set(collectors.GPU)
    assert {name for name in own if f"`{name}`" not in text} == set()


def test_prometheus_scrapes_every_service_that_tells_something() -> None:
    config = yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (source,) = job["dns_sd_configs"]
    services: dict[str, Any] = yaml.safe_load(deployment.COMPOSE.read_text(encoding="utf-8"))["services"]
    lasting = {
        name
        for name, service in services.items()
        if service.get("build") and service["restart"] == "unless-stopped"
    }
    assert set(source["names"]) == lasting
    for name in lasting:
        assert str(source["port"]) == services[name]["environment"]["DEDUP_HEALTH_PORT"], name
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])
    mounts = [volume.split(":")[1] for volume in services["prometheus"]["volumes"]]
    for file in config["rule_files"]:
        assert f"/etc/prometheus/{file}" in mounts


def test_grafana_finds_its_datasource_and_its_dashboard() -> None:
    services = yaml.safe_load(deployment.COMPOSE.read_text(encoding="utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (source,) = yaml.safe_load((GRAFANA / "datasource.yml").read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((GRAFANA / "dashboards.yml").read_text(encoding="utf-8"))["providers"]
    assert mounts["./deploy/grafana/listing-dedup.json"].startswith(provider["options"]["path"] + "/")
    places: list[tuple[int, int]] = []
    for panel in monitoring.panels():
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["targets"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        places.append((place["x"], place["y"]))
    assert len(set(places)) == len(places), "no panel lies on another"


@pytest.mark.skipif(jq is None, reason="jq is not installed")
def test_what_is_asked_of_the_logs_passes_over_those_of_other_services() -> None:
    photo = {"property_id": "42", "photo_id": 4711}
    lines = [
        "2026-01-01 00:00:00 UTC [1] LOG:  database system is ready to accept connections",
        "42",
        '["a list"]',
        "{broken",
        *(
            json.dumps({"level": level, "event": event, "error": "503", **photo})
            for level, event in (
                ("info", "photo_embedded"),
                ("warning", "task_retried"),
                ("error", "task_gave_up"),
            )
        ),
        '{"level": 4, "message": "another service\'s"}',
    ]
    filters = re.findall(r"jq (-\w+) '([^']+)'", OPERATIONS.read_text(encoding="utf-8"))
    assert len(filters) == 4
    counts = []
    for options, text in filters:
        done = subprocess.run(
            [str(jq), options, text],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        counts.append(len(done.stdout.splitlines()))
    assert counts == [3, 2, 2, 1]


@pytest.mark.skipif(promtool is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(PROMETHEUS)),
        ("test", "rules", "tests/unit/data/alerts_test.yml"),
        ("test", "rules", "tests/unit/data/drift_test.yml"),
    ],
    ids=lambda arguments: arguments[-1].rpartition("/")[2],
)
def test_prometheus_own_checks(arguments: tuple[str, ...]) -> None:
    assert promtool is not None
    done = subprocess.run(
        [promtool, *arguments], cwd=deployment.ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
