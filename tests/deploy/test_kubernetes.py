"""Kubernetes manifests against the schemas of KubeRay and of Kubernetes, strictly: no field that there is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.boards import ROOT

pytestmark = pytest.mark.deploy

HERE = ROOT / "deploy/kubernetes"
CRDS = Path(
    os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared/kuberay")
)  # ray.io_rayclusters.yaml, ray.io_rayjobs.yaml
OF_KUBERAY = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
DOCUMENTS = {
    f"{file.name}-{document['kind']}": document
    for file in sorted(HERE.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}


def strict(schema: Any) -> Any:
    """The schema, with every object closed whose fields it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part) for name, part in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = False
    return closed


def schema_of(kind: str) -> Any:
    file = CRDS / OF_KUBERAY[kind]
    if not file.is_file():
        pytest.skip(f"KubeRay's {file.name} is not here: KUBERAY_CRDS names the folder that has its CRDs")
    versions = yaml.safe_load(file.read_text())["spec"]["versions"]
    schema = strict(next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"] in OF_KUBERAY])
def test_ray_manifests_are_what_kuberay_takes(name: str) -> None:
    schema = schema_of(DOCUMENTS[name]["kind"])
    jsonschema.validate(DOCUMENTS[name], schema)
    DOCUMENTS[name]["spec"]["notAField"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(DOCUMENTS[name], schema)
    del DOCUMENTS[name]["spec"]["notAField"]


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"] not in OF_KUBERAY])
def test_other_manifests_are_what_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], "1.30", strict=True)


def test_pods_are_what_kubernetes_takes_and_may_do_little() -> None:
    spec = DOCUMENTS["raycluster.yaml-RayCluster"]["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in [group["template"]["spec"] for group in groups]:
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}, "1.30", strict=True
        )
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            little = container["securityContext"]
            assert little["readOnlyRootFilesystem"]
            assert little["capabilities"]["drop"] == ["ALL"]
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
