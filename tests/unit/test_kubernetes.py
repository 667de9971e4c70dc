"""The manifests of deploy/kubernetes: against the schemas of Kubernetes and KEDA, and against each other."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import urllib.parse
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests import deployment
from tests.unit.test_compose import understood
from workers import app

FOLDER = deployment.ROOT / "deploy/kubernetes"
VERSION = "1.34"
Manifest = dict[str, Any]


def read(path: pathlib.Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")) if manifest]


KUSTOMIZATION = read(FOLDER / "kustomization.yaml")[0]
MANIFESTS = [manifest for name in KUSTOMIZATION["resources"] for manifest in read(FOLDER / name)]
EXAMPLE_SECRET = read(FOLDER / "secret.example.yaml")[0]


def of(kind: str) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in MANIFESTS if manifest["kind"] == kind}


def pods() -> dict[str, Manifest]:
    found = {name: manifest["spec"]["template"]["spec"] for name, manifest in of("Deployment").items()}
    return {**found, "migrate": of("Job")["migrate"]["spec"]["template"]["spec"]}


def validate(manifest: Manifest) -> None:
    if manifest["apiVersion"].startswith("keda.sh/"):
        schema = json.loads(
            (pathlib.Path(__file__).parent / f"data/keda/{manifest['kind']}.json").read_text()
        )
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize(
    "manifest", [*MANIFESTS, EXAMPLE_SECRET], ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_it_fits_its_schema(manifest: Manifest) -> None:
    validate(manifest)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate({**manifest, "spek": {}})


def test_every_file_is_applied_but_the_example() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")}
    assert files - set(KUSTOMIZATION["resources"]) == {"kustomization.yaml", "secret.example.yaml"}


def test_every_setting_is_one_that_the_processes_know() -> None:
    given = set(of("ConfigMap")["listing-dedup-settings"]["data"])
    for pod in pods().values():
        for container in pod["containers"]:
            given |= {entry["name"] for entry in container.get("env", [])}
    assert given <= deployment.known_settings()
    assert len(given) > 8


def test_what_a_pod_names_is_there() -> None:
    keys = set(EXAMPLE_SECRET["stringData"])
    settings = of("ConfigMap")["listing-dedup-settings"]["data"]
    images = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    for name, pod in pods().items():
        assert pod["serviceAccountName"] in of("ServiceAccount")
        (container,) = pod["containers"]
        assert understood(container["args"]), f"{name}: {container['args']}"
        assert images[container["image"]] in deployment.dockerfile_targets()
        assert container["envFrom"][0]["configMapRef"]["name"] in of("ConfigMap")
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        secret = volumes[mounts["/run/secrets/listing-dedup"]]["secret"]
        assert secret["secretName"] == EXAMPLE_SECRET["metadata"]["name"]
        shown = {item["key"] for item in secret.get("items", [])} or keys
        assert shown <= keys
        # The owner's password is for the migration alone.
        assert ("migration-database-url" in shown) == (name == "migrate")
        files = [value for key, value in settings.items() if key.endswith("_FILE")]
        files += [entry["value"] for entry in container.get("env", []) if entry["name"].endswith("_FILE")]
        for file in files:
            folder, _, key = file.rpartition("/")
            assert folder in mounts
            assert key in shown


def test_every_pod_is_confined_and_limited() -> None:
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert "memory" in container["resources"]["limits"], name


def test_the_network_lets_every_pod_reach_its_parts_and_be_probed() -> None:
    policy = of("NetworkPolicy")["listing-dedup"]["spec"]
    chosen = policy["podSelector"]["matchLabels"].items()
    for kind in ("Deployment", "Job"):
        for name, manifest in of(kind).items():
            assert chosen <= manifest["spec"]["template"]["metadata"]["labels"].items(), name
    settings = of("ConfigMap")["listing-dedup-settings"]["data"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [
        int(settings["DEDUP_HEALTH_PORT"])
    ]
    anywhere = {
        (port["protocol"], port["port"])
        for rule in policy["egress"]
        if "to" not in rule
        for port in rule["ports"]
    }
    urls = [urllib.parse.urlsplit(url) for url in EXAMPLE_SECRET["stringData"].values()]
    needed = {url.port for url in urls if url.port} | {443}
    assert len(needed) == 3
    assert anywhere == {("UDP", 53), ("TCP", 53), *(("TCP", port) for port in needed)}


def test_every_deployment_is_probed_and_ends_in_peace() -> None:
    given = of("ConfigMap")["listing-dedup-settings"]["data"]
    port = int(given["DEDUP_HEALTH_PORT"])
    for name, deployed in of("Deployment").items():
        template = deployed["spec"]["template"]
        assert deployed["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"], name
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == name
        assert template["spec"]["terminationGracePeriodSeconds"] >= deployment.least_grace_seconds(given), (
            name
        )
        (container,) = template["spec"]["containers"]
        assert container["ports"] == [{"name": "health", "containerPort": port}], name
        for probe, path in (
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/healthz"),
        ):
            assert container[probe]["httpGet"] == {"path": path, "port": "health"}, name


def test_the_gpu_workers_get_a_gpu_and_the_others_none() -> None:
    # The worker of backfills is one, too: on a processor it would take weeks.
    with_gpu = {
        name
        for name, pod in pods().items()
        if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    }
    assert with_gpu == {"embed", "embed-bulk"}
    for name in with_gpu:
        pod = pods()[name]
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert pod["containers"][0]["image"] == "listing-dedup/cuda"


def check_scaling(manifests: list[Manifest], queues: set[str]) -> None:
    objects = [manifest for manifest in manifests if manifest["kind"] == "ScaledObject"]
    logins = {
        manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "TriggerAuthentication"
    }
    assert {scaled["spec"]["scaleTargetRef"]["name"] for scaled in objects} == set(of("Deployment")) - {
        "sweep"
    }
    seen, used = set(), set()
    for scaled in objects:
        spec = scaled["spec"]
        assert spec["minReplicaCount"] < spec["maxReplicaCount"]
        # One decides on replicas: a Deployment that names a number, too, would be set back at each apply.
        assert "replicas" not in of("Deployment")[spec["scaleTargetRef"]["name"]]["spec"]
        for trigger in spec["triggers"]:
            used.add(trigger["authenticationRef"]["name"])
            metadata = trigger["metadata"]
            if trigger["type"] == "rabbitmq":
                seen.add(metadata["queueName"])
                assert {"mode", "value"} <= set(metadata)
            elif trigger["type"] == "aws-sqs-queue":
                seen.add(metadata["queueURL"].rpartition("/")[2])
                assert {"awsRegion", "queueLength"} <= set(metadata)
            else:
                assert trigger["type"] == "postgresql"
                assert {"query", "targetQueryValue"} <= set(metadata)
    assert used == logins
    assert seen == queues


def test_each_queue_scales_the_workers_that_empty_it() -> None:
    events = of("ConfigMap")["listing-dedup-settings"]["data"]["DEDUP_EVENT_QUEUE"]
    check_scaling(MANIFESTS, {*app.TASK_QUEUES, events})
    keys = set(EXAMPLE_SECRET["stringData"])
    for login in of("TriggerAuthentication").values():
        assert {entry["key"] for entry in login["spec"].get("secretTargetRef", [])} <= keys
    by_queue = {
        trigger["metadata"]["queueName"]: name
        for name, scaled in of("ScaledObject").items()
        for trigger in scaled["spec"]["triggers"]
        if trigger["type"] == "rabbitmq"
    }
    assert by_queue == {"embed": "embed", "embed.bulk": "embed-bulk", "match": "match", "match.bulk": "match"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes-sqs"])
def test_kustomize_builds_it(folder: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER.parent / folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    for manifest in built:
        validate(manifest)
    placed = [manifest for manifest in built if manifest["kind"] != "Namespace"]
    assert {manifest["metadata"].get("namespace") for manifest in placed} == {"listing-dedup"}
    assert "listing-dedup/light" not in done.stdout.replace("registry.example/listing-dedup", "")
    if folder == "kubernetes-sqs":
        names = [name.replace(".", "-") for name in app.TASK_QUEUES]
        check_scaling(built, {*names, "dedup-events"})
