"""The manifests: valid against the schemas, and about things that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from externalscaler import externalscaler_pb2 as pb
from services.registry import scaler_servicer

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "deploy" / "k8s"
SERVICES = ("gateway", "registry", "sfm", "trainer", "postproc")
VARIANTS = (".", "overlays/gpu", "overlays/cluster")


@cache
def rendered(variant: str) -> tuple[dict, ...]:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to render with")
    command = ["kubectl", "kustomize", str(MANIFESTS / variant)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(yaml.safe_load_all(done.stdout))


def deployments(variant: str) -> dict[str, dict]:
    return {o["metadata"]["name"]: o for o in rendered(variant) if o["kind"] == "Deployment"}


def container(deployment: dict) -> dict:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return only


def setting_names() -> set[str]:
    """Every environment variable that a settings class reads."""
    names = set()
    for service in SERVICES:
        module = import_module(f"services.{service}.settings")
        for value in vars(module).values():
            if isinstance(value, type) and hasattr(value, "model_fields"):
                names |= {f"SPLATMILL_{name.upper()}" for name in value.model_fields}
    return names


@pytest.mark.parametrize("variant", VARIANTS)
def test_schemas(variant):
    for thing in rendered(variant):
        if thing["kind"] != "ScaledObject":  # KEDA's own kind has no schema here
            kubernetes_validate.validate(thing, "1.31", strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_service_is_there(variant):
    assert set(deployments(variant)) == set(SERVICES)
    kinds = {(o["kind"], o["metadata"]["name"]) for o in rendered(variant)}
    for service in SERVICES:
        assert {("Service", service), ("ServiceAccount", service)} <= kinds


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_exist(variant):
    known = setting_names()
    for thing in rendered(variant):
        given = set(thing.get("data", {})) if thing["kind"] == "ConfigMap" else set()
        if thing["kind"] == "Deployment":
            given = {entry["name"] for entry in container(thing).get("env", [])}
        assert given <= known


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_and_probes_are_those_of_the_services(variant):
    ports = {"gateway": 8000, "registry": 50051, "sfm": 50052, "trainer": 50053, "postproc": 50054}
    services = {o["metadata"]["name"]: o for o in rendered(variant) if o["kind"] == "Service"}
    for name, deployment in deployments(variant).items():
        box = container(deployment)
        assert box["ports"][0]["containerPort"] == ports[name]
        assert services[name]["spec"]["ports"][0]["targetPort"] == box["ports"][0]["name"]
        # Over HTTP, for a kubelet cannot speak to a gRPC port with TLS.
        probes = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
        for probe, path in probes.items():
            asked = box[probe]["httpGet"]
            assert (asked["path"], asked["port"]) == (path, ports[name] if name == "gateway" else "metrics")
        settings = import_module(f"services.{name}.settings")
        (default,) = {
            value.model_fields[field].default
            for value in vars(settings).values()
            if isinstance(value, type) and hasattr(value, "model_fields")
            for field in ("port" if name == "gateway" else f"{name}_port",)
            if field in value.model_fields
        }
        assert default == ports[name]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_restricted(variant):
    """The `restricted` pod security standard."""
    for deployment in deployments(variant).values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        limits = container(deployment)["securityContext"]
        assert limits["allowPrivilegeEscalation"] is False
        assert limits["readOnlyRootFilesystem"] is True
        assert limits["capabilities"]["drop"] == ["ALL"]
        mounts = {mount["name"] for mount in container(deployment)["volumeMounts"]}
        assert mounts <= {volume["name"] for volume in pod["volumes"]}


def test_only_the_gpu_overlay_takes_a_gpu():
    def gpus(variant: str) -> dict[str, int]:
        found = {
            name: container(d)["resources"]["limits"].get("nvidia.com/gpu")
            for name, d in deployments(variant).items()
        }
        return {name: count for name, count in found.items() if count}

    assert gpus(".") == {}
    assert gpus("overlays/gpu") == gpus("overlays/cluster") == {"trainer": 1}


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_are_where_the_annotations_say(variant):
    (settings,) = [o["data"] for o in rendered(variant) if o["kind"] == "ConfigMap"]
    for deployment in deployments(variant).values():
        notes = deployment["spec"]["template"]["metadata"]["annotations"]
        ports = {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}
        assert str(ports["metrics"]) == notes["prometheus.io/port"] == settings["SPLATMILL_METRICS_PORT"]


def test_registries_have_replicas_on_postgresql_only():
    assert deployments(".")["registry"]["spec"]["replicas"] == 1
    registry = deployments("overlays/cluster")["registry"]
    assert registry["spec"]["replicas"] == 2
    assert registry["spec"]["strategy"] == {"type": "RollingUpdate"}
    (url,) = [e for e in container(registry)["env"] if e["name"] == "SPLATMILL_DATABASE_URL"]
    assert "optional" not in url["valueFrom"]["secretKeyRef"]


def test_keda_asks_for_stages_that_the_scaler_knows():
    scaled = [o for o in rendered("overlays/cluster") if o["kind"] == "ScaledObject"]
    assert not [o for o in rendered(".") if o["kind"] == "ScaledObject"], "a plain apply would fail"
    stages = {}
    for thing in scaled:
        target = thing["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in deployments("overlays/cluster")[target]["spec"]
        (trigger,) = thing["spec"]["triggers"]
        assert trigger["type"] == "external-push"
        host, port = trigger["metadata"]["scalerAddress"].split(":")
        (service,) = [o for o in rendered(".") if o["kind"] == "Service" and o["metadata"]["name"] == host]
        assert int(port) == service["spec"]["ports"][0]["port"]
        ref = pb.ScaledObjectRef(scalerMetadata=trigger["metadata"])
        assert scaler_servicer._target(ref) == 1
        stages[target] = scaler_servicer._stage(ref)
    assert stages == {"sfm": 1, "trainer": 2, "postproc": 3}


@pytest.mark.parametrize("service", SERVICES)
def test_dockerfile_installs_its_own_extra_only(service):
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    assert re.findall(r"pip install --no-cache-dir '\.\[(\w+)\]'", text) == [service]
    assert f'ENTRYPOINT ["python", "-m", "services.{service}"]' in text
    last_stage = text[text.rindex("\nFROM ") :]
    assert "USER 10001" in last_stage
    installed = re.findall(r"apt-get install (?:--\S+ )*([\w ]+?) &&", last_stage)
    assert installed == (["libgomp1"] if service == "trainer" else []), "libraries at most, no tools"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert path == "." or (ROOT / path).exists(), path
    given = set(re.findall(r"(SPLATMILL_\w+)=", text))
    assert given <= setting_names()
