# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The manifest for KubeRay, compared with KubeRay's and Kubernetes' fields and with the commands that it runs.

It is not applied: that needs a cluster.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")

from gr00t_training.cli import serve, serve_healthy
from gr00t_training.serve.access import TOKEN_VARIABLE
from gr00t_training.serve.replica_process import LEAVE_S, STOP_S

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "kubernetes" / "gr00t-serve.yaml"
if not FILE.exists():
    pytest.skip("this package is tested alone", allow_module_level=True)

# of KubeRay's ray.io/v1 (ray-operator/apis/ray/v1/raycluster_types.go), those that have been in it since 1.3
FIELDS = {
    "spec": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
    | {"headServiceAnnotations", "suspend"},
    "autoscalerOptions": {"resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext"}
    | {"idleTimeoutSeconds", "upscalingMode"},
    "head": {"serviceType", "headService", "enableIngress", "rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}
    | {"scaleStrategy"},
}
# of Kubernetes' v1 PodSpec and Container, those that are used
POD = {"securityContext", "volumes", "containers", "terminationGracePeriodSeconds"}
CONTAINER = {"name", "image", "securityContext", "command", "args", "env", "ports", "resources", "volumeMounts"}
CONTAINER |= {"startupProbe", "readinessProbe", "livenessProbe"}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


@pytest.fixture
def cluster(parts: dict[str, Any]) -> dict[str, Any]:
    return parts["RayCluster"]["spec"]


@pytest.fixture
def head(cluster: dict[str, Any]) -> dict[str, Any]:
    return cluster["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.fixture
def worker(cluster: dict[str, Any]) -> dict[str, Any]:
    return cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


def command_of(head: dict[str, Any]) -> list[str]:
    """Return the words of the server's command, which is the last one of the head's."""
    line = head["args"][0].strip().splitlines()[-1]
    assert line.startswith("exec gr00t_serve ")
    return shlex.split(line)[2:]


def test_fields_are_those_of_kuberay_and_kubernetes(parts: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert {kind: part["apiVersion"] for kind, part in parts.items()} == {
        "RayCluster": "ray.io/v1",
        "Service": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    groups = [(cluster["headGroupSpec"], "head"), *((each, "worker") for each in cluster["workerGroupSpecs"])]
    assert set(cluster) <= FIELDS["spec"]
    assert set(cluster["autoscalerOptions"]) <= FIELDS["autoscalerOptions"]
    for group, kind in groups:
        assert set(group) <= FIELDS[kind]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        for container in pod["containers"]:
            assert set(container) <= CONTAINER


def test_versions_are_pinned_and_agree(cluster: dict[str, Any], head: dict[str, Any], worker: dict[str, Any]) -> None:
    pinned = (ROOT / "requirements-ray.txt").read_text(encoding="utf-8")
    assert f"ray[serve]=={cluster['rayVersion']}\n" in pinned
    assert head["image"] == worker["image"] and re.search(r":\d+\.\d+\.\d+$", head["image"])


def test_containers_run_as_a_user_without_rights(cluster: dict[str, Any]) -> None:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert set(container["resources"]) == {"requests", "limits"}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            names = {mount["name"] for mount in container["volumeMounts"]}
            assert names == {volume["name"] for volume in pod["volumes"]}


def test_server_command_is_one_that_the_suite_has(
    cluster: dict[str, Any], head: dict[str, Any], worker: dict[str, Any], parts: dict[str, Any]
) -> None:
    options = serve._parser().parse_args(command_of(head))
    (workers,) = cluster["workerGroupSpecs"]
    assert (options.replicas.least, options.replicas.most) == (workers["minReplicas"], workers["maxReplicas"])
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert options.device == "cuda"  # auto would take the CPU while there is no worker yet
    (port,) = [each["containerPort"] for each in head["ports"] if each["name"] == "robots"]
    assert (
        port
        == options.port
        == parts["Service"]["spec"]["ports"][0]["port"]
        == head["livenessProbe"]["tcpSocket"]["port"]
    )
    assert options.checkpoint.startswith(head["volumeMounts"][0]["mountPath"])
    assert head["volumeMounts"] == worker["volumeMounts"]
    for container in (head, worker):
        assert TOKEN_VARIABLE in [each["name"] for each in container["env"]]
        assert "$KUBERAY_GEN_RAY_START_CMD" in container["args"][0]
    grace_s = workers["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > LEAVE_S + 2 * STOP_S


def test_probes_run_what_exists(head: dict[str, Any], worker: dict[str, Any]) -> None:
    for name in ("startupProbe", "readinessProbe"):
        python, dash_m, module, *words = head[name]["exec"]["command"]
        assert (python, dash_m, module) == ("python3", "-m", serve_healthy.__name__)
        asked = serve_healthy._parser().parse_args(words)
        assert asked.port == 5555 and asked.within < head[name]["timeoutSeconds"]
    for name in ("livenessProbe", "readinessProbe"):
        python, dash_c, code = worker[name]["exec"]["command"]
        compile(code, "probe", "exec")
        assert (python, dash_c) == ("python3", "-c")


def test_update_command_of_the_head_comment_is_one_that_the_suite_has(head: dict[str, Any]) -> None:
    (line,) = [line for line in FILE.read_text(encoding="utf-8").splitlines() if " -- gr00t_serve " in line]
    options = serve._parser().parse_args(shlex.split(line.split(" -- gr00t_serve ")[1]))
    assert options.update == serve._parser().parse_args(command_of(head)).name
    assert options.checkpoint.startswith(head["volumeMounts"][0]["mountPath"])


def test_only_robots_port_is_open_to_others(parts: dict[str, Any]) -> None:
    policy, name = parts["NetworkPolicy"]["spec"], parts["RayCluster"]["metadata"]["name"]
    selected = {"ray.io/cluster": name}
    assert policy["podSelector"] == {"matchLabels": selected}
    open_to_all = [rule for rule in policy["ingress"] if "from" not in rule]
    assert open_to_all == [{"ports": [{"port": 5555, "protocol": "TCP"}]}]
    assert parts["Service"]["spec"]["selector"] == selected | {"ray.io/node-type": "head"}
