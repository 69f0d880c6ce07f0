"""Every file of cluster/ is what the program that reads it expects, and safe by its own rules."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from compose_spec import PyCompose
from ray.serve.schema import ServeDeploySchema

from imgrec import __version__
from pipelines.serve import Arguments
from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"


DOCKERFILES = sorted((CLUSTER / "images").glob("Dockerfile*"))


KUBERNETES = sorted((CLUSTER / "kubernetes").glob("*.yaml"))


NEWEST = kubernetes_validate.latest_version()


TEXT, WHOLE, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}


TEXTS = {"type": "object", "additionalProperties": TEXT}


def exactly(required: tuple[str, ...], **properties: object) -> dict[str, Any]:
    """A schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# What KubeRay's types say that we use (apis/ray/v1 of ray-project/kuberay, 1.5). Pods in it are
# checked by Kubernetes' own schema.
RAY_CLUSTER = exactly(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=exactly((), mode={"enum": ["token"]}),  # KubeRay knows "disabled" too; we do not
    enableInTreeAutoscaling=YES,
    autoscalerOptions=exactly(
        (),
        idleTimeoutSeconds=WHOLE,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources={"type": "object"},
        securityContext={"type": "object"},
    ),
    headGroupSpec=exactly(
        ("template",), serviceType=TEXT, rayStartParams=TEXTS, template={"type": "object"}
    ),
    workerGroupSpecs={
        "type": "array",
        "items": exactly(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            rayStartParams=TEXTS,
            template={"type": "object"},
        ),
    },
)


RAY_JOB = exactly(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    shutdownAfterJobFinishes=YES,
    ttlSecondsAfterFinished=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=RAY_CLUSTER,
)


RAY_SERVICE = exactly(
    ("serveConfigV2", "rayClusterConfig"), serveConfigV2=TEXT, rayClusterConfig=RAY_CLUSTER
)
EXPORTED = "model"
"""A folder that whoever builds an image of the server has exported before."""


def objects() -> Iterator[Any]:
    """Every object of every Kubernetes file."""
    for path in KUBERNETES:
        for found in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield pytest.param(found, id=f"{path.stem}-{found['kind']}-{found['metadata']['name']}")


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod template in an object, at any depth."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield node
        for child in node.values():
            yield from pods(child)
    elif isinstance(node, list):
        for child in node:
            yield from pods(child)


@pytest.mark.parametrize("path", sorted((CLUSTER / "ray").glob("*.yaml")), ids=lambda p: p.stem)
def test_ray_accepts_its_cluster_files(path: Path) -> None:
    """By the schema that `ray up` itself goes by."""
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))

    jsonschema.validate(settings, json.loads(schema.read_text(encoding="utf-8")))
    starts = settings["head_start_ray_commands"] + settings["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in one for one in starts if "ray start" in one)
    assert "--dashboard-host=127.0.0.1" in " ".join(settings["head_start_ray_commands"])


@pytest.mark.parametrize("found", list(objects()))
def test_kubernetes_accepts_every_object(found: dict[str, Any]) -> None:
    """By its own schema, in which an unknown key is an error; KubeRay's kinds by their types."""
    if found["apiVersion"] == "ray.io/v1":
        jsonschema.validate(
            found["spec"],
            {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB, "RayService": RAY_SERVICE}[
                found["kind"]
            ],
        )
        for pod in pods(found):
            template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
            kubernetes_validate.validate(template | {"template": pod}, NEWEST, strict=True)
    else:
        kubernetes_validate.validate(found, NEWEST, strict=True)


@pytest.mark.parametrize("found", list(objects()))
def test_no_pod_is_root_without_limits_or_open_to_the_world(found: dict[str, Any]) -> None:
    """Whoever copies these files copies their safety."""
    for pod in pods(found):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert not spec.get("hostNetwork")
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            if found["apiVersion"] != "ray.io/v1":  # KubeRay adds its own
                assert {"readinessProbe", "livenessProbe"} <= set(container)
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|SECRET|TOKEN", variable["name"])
                assert not (secret and "value" in variable), variable["name"]
    if found["kind"] == "Service":
        assert found["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_compose_accepts_its_file() -> None:
    """Every reference resolves; no secret has a default; nothing listens on all addresses."""
    text = (CLUSTER / "compose" / "compose.yaml").read_text(encoding="utf-8")
    # As compose itself reads it: with the variables filled in.
    filled = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?[^}]*\}", "secret", text))
    PyCompose.from_yaml(filled).validate()
    services = yaml.safe_load(text)["services"]

    for name, service in services.items():
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert all(
            port.startswith("${MLFLOW_BIND:-127.0.0.1}:") for port in service.get("ports", [])
        )
        for key, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|ADMIN_USER", key):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), key
    example = (CLUSTER / "compose" / "example.env").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_against_the_images(path: Path) -> None:
    """And they run as a user of their own, with the versions of this package."""
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    text = path.read_text(encoding="utf-8")

    assert found.returncode == 0, found.stdout
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert f":{__version__}" in text
    for copied in re.findall(r"^COPY ((?!--from).+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split() if name != EXPORTED)


def test_ray_serve_accepts_its_files() -> None:
    """By its own schema, with arguments that our application takes."""
    (service,) = [
        one
        for one in yaml.safe_load_all((CLUSTER / "kubernetes" / "rayservice.yaml").read_text())
        if one["kind"] == "RayService"
    ]
    texts = [(CLUSTER / "serve" / "serve.yaml").read_text(), service["spec"]["serveConfigV2"]]
    for text in texts:
        (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications

        module, _, name = application.import_path.partition(":")
        assert hasattr(importlib.import_module(module), name)
        assert Arguments.model_validate(application.args).replicas == 2
        assert "IMGREC_TOKEN:" not in text


def test_all_files_name_the_ray_that_is_installed() -> None:
    """A cluster of another version would refuse every job."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    bounds = next(one for one in project["project"]["dependencies"] if one.startswith("ray["))
    for path in KUBERNETES:
        for version in re.findall(r'rayVersion: "([\d.]+)"', path.read_text(encoding="utf-8")):
            assert f">={version.rpartition('.')[0]}," in bounds
            assert version == ray.__version__
