# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The services of compose.yaml, run as processes: their commands are valid, they start, and they end on request."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from gr00t_msgs.msg import PolicyStatus, RecorderStatus
from launch_stand_ins import launch
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState

from gr00t_bringup.robots import compact_checkpoint
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames
from gr00t_test_support.ros.nodes import Peer
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError

DOCKER = Path(__file__).resolve().parents[2] / "docker"
pytestmark = pytest.mark.skipif(not DOCKER.exists(), reason="this package is tested alone")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MODULES = {
    "policy_node": "gr00t_policy_node.ros.policy_node",
    "recorder_node": "gr00t_recorder.ros.recorder_node",
    "sim_node": "gr00t_bringup.ros.sim_node",
}
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")


def service(name: str, **variables: object) -> dict[str, Any]:
    """Return a service with its variables filled in, as compose does."""
    values = {key: str(value) for key, value in variables.items()}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [fill(each) for each in value]
        filled = (
            VARIABLE.sub(lambda match: values.get(match[1]) or match[2] or "", value)
            if isinstance(value, str)
            else value
        )
        assert not isinstance(filled, str) or "$" not in filled, (
            f"{value}: compose reads the whole file for any service"
        )
        return filled

    return {key: fill(each) for key, each in compose()[name].items() if key != "build"}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]


def words_of(service: dict[str, Any]) -> list[str]:
    """Return the command of a service with the container's paths replaced by those they are mounted from."""
    command = service["command"]
    words = shlex.split(command) if isinstance(command, str) else command
    mounts = {}
    for mount in service.get("volumes", []):
        source, target = mount.split(":")[:2] if isinstance(mount, str) else (mount["source"], mount["target"])
        mounts[target] = source
    return [re.sub(r"(?<![\w.])(/\w+)", lambda match: mounts.get(match[1], match[1]), word) for word in words]


def through_entrypoint(words: list[str], tmp_path: Path) -> list[str]:
    """Return the words that the entry point executes; what it sources exists in the image only."""
    (tmp_path / "install").mkdir(exist_ok=True)
    for name in ("ros.bash", "install/setup.bash"):
        (tmp_path / name).touch()
    places = {"ROS_SETUP": str(tmp_path / "ros.bash"), "WORKSPACE": str(tmp_path), "ENVIRONMENT": str(tmp_path)}
    script = DOCKER / "entrypoint.sh"
    show = [sys.executable, "-c", "import sys; print('\\0'.join(sys.argv[1:]), end='')"]
    environment = {**os.environ, **places}
    shown = subprocess.run([script, *show, *words], env=environment, capture_output=True, text=True, check=True)
    return shown.stdout.split("\0")


def is_healthy(name: str, domain: int = 0) -> bool:
    """Run the health check of a service as the engine does, without the image's entry point."""
    kind, *words = compose()[name]["healthcheck"]["test"]
    assert kind == "CMD"
    words = words[1:] if words[0] == "/opt/scripts/entrypoint.sh" else words
    assert words[0] == "python3"
    words = [sys.executable, *words[1:]]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return subprocess.run(words, env=environment, capture_output=True).returncode == 0


def becomes_healthy(name: str, domain: int) -> None:
    eventually(lambda: is_healthy(name, domain), f"health of {name}")


def node_of(words: list[str], tmp_path: Path, domain: int) -> NodeProcess:
    """Start the node that a `ros2 launch` command of a service starts."""
    executed = through_entrypoint(words, tmp_path)
    assert executed[:4] == ["ros2", "launch", "--noninteractive", "gr00t_bringup"]
    (node,) = launch(executed[4], *executed[5:])
    name, *arguments = node.command()
    return NodeProcess(MODULES[name], *arguments, domain=domain, OMP_NUM_THREADS="1", **node.additional_env)


def end(process: NodeProcess, service: dict[str, Any]) -> int:
    process.process.send_signal(getattr(signal, service["stop_signal"]))
    return process.wait()


def test_policy_starts_and_ends(tmp_path: Path) -> None:
    policy = service("policy", ROBOT="sim_arm", CHECKPOINT=compact_checkpoint(), INSTRUCTION='say "yes": #1')
    domain = next_domain()
    with node_of(words_of(policy), tmp_path, domain) as process, Peer(domain) as peer:
        statuses = peer.listen(PolicyStatus, "policy/status", LATCHED)
        peer.until(lambda: any(status.instruction == 'say "yes": #1' for status in statuses), "the task")
        becomes_healthy("policy", domain)
        assert end(process, policy) == 0


def test_recorder_starts_and_ends(tmp_path: Path) -> None:
    recorder = service("recorder", ROBOT="sim_arm", DATASETS=tmp_path)
    domain = next_domain()
    with node_of(words_of(recorder), tmp_path, domain) as process, Peer(domain) as peer:
        statuses = peer.listen(RecorderStatus, "recorder/status", LATCHED)
        peer.until(lambda: statuses, "a status")
        becomes_healthy("recorder", domain)
        assert end(process, recorder) == 0
    assert (tmp_path / "demo").is_dir()


def test_simulation_starts_and_ends(tmp_path: Path) -> None:
    sim = service("sim")
    domain = next_domain()
    with node_of(words_of(sim), tmp_path, domain) as process, Peer(domain) as peer:
        joints = peer.listen(JointState, "joint_states")
        peer.until(lambda: joints, "a joint state")
        becomes_healthy("sim", domain)
        assert end(process, sim) == 0


@pytest.mark.parametrize("words", [("--node", "policy"), ("--topic", "joint_states")], ids=["node", "topic"])
def test_node_that_does_not_publish_is_not_healthy(words: tuple[str, str]) -> None:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain())}
    command = [sys.executable, "-m", "gr00t_bringup.ros.healthy", *words, "--within", "0.5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"nothing of {words[1]} within 0.5 s\n")


def test_page_starts_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    console = service("console", DATASETS=tmp_path)
    words = through_entrypoint(words_of(console), tmp_path)
    assert words[:4] == ["ros2", "run", "gr00t_console", "gr00t_console"]
    with NodeProcess("gr00t_console.ros.console", *words[4:], domain=next_domain()) as process:
        eventually(lambda: "operator page: http://localhost:8600/" in process.output, lambda: process.output)
        assert is_healthy("console")
        assert end(process, console) == 0
    assert not is_healthy("console")


def test_server_starts_and_ends() -> None:
    pytest.importorskip("torch")
    serve = service("serve", CHECKPOINT=compact_checkpoint(), SERVE_ARGS="--device cpu")
    command, *words = words_of(serve)
    assert command == "gr00t_serve"
    assert not is_healthy("serve")
    code = "import sys; from gr00t_training.cli.serve import main; sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: is_healthy("serve") or process.poll() is not None, "health of the server")
        assert process.poll() is None
        process.send_signal(getattr(signal, serve["stop_signal"]))
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["policy", "recorder"])
def test_no_service_has_a_default_robot(name: str, tmp_path: Path) -> None:
    executed = through_entrypoint(words_of(service(name)), tmp_path)
    with pytest.raises(ConfigError, match=r"missing: topics_file.*name a shipped robot"):
        launch(executed[4], *executed[5:])


def test_training_starts_and_continues(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path / "cubes", embodiment) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(embodiment, 5):
            episode.add_frame(frame)
        episode.save()
    paths = {"DATASETS": tmp_path, "CHECKPOINTS": tmp_path / "out", "DATASET": "cubes"}
    paths["BASE_MODEL"] = make_checkpoint(tmp_path / "base", embodiment)
    for steps in (1, 2):
        train = service("train", **paths, TRAIN_ARGS=f"--max-steps {steps} --batch-size 1 --device cpu")
        command, *words = words_of(train)
        assert command == "gr00t_finetune"
        code = "import sys; from gr00t_training.cli.finetune import main; sys.exit(main())"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert (tmp_path / f"out/cubes/checkpoint-{steps}").is_dir()


def test_every_service_has_a_health_check() -> None:
    for name, each in compose().items():
        check = each["healthcheck"]
        assert check == {"disable": True} if name == "train" else set(check) > {"test", "interval", "start_period"}
        assert each["user"] == "${CONTAINER_USER:-1000}"


def test_stop_reaches_what_runs_in_a_container() -> None:
    for file in DOCKER.glob("Dockerfile.*"):
        assert "\nSTOPSIGNAL SIGINT\n" in file.read_text(encoding="utf-8")
    for name, each in compose().items():
        assert each["stop_signal"] == "SIGINT"
        patience_s = int(each["stop_grace_period"].removesuffix("s"))
        assert patience_s >= (300 if name == "train" else 100)


def test_training_image_has_what_training_imports() -> None:
    """Two lists: what is installed in the image, and what the library asks for to train."""
    command = [DOCKER / "requirements.sh", "train", DOCKER.parent / "requirements-run.txt"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    kept = {re.split(r"[=\[]", line)[0].lower() for line in lines if not line.startswith("#")}
    setup = (DOCKER.parent / "gr00t_training" / "setup.py").read_text(encoding="utf-8")
    base = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL)
    train = re.search(r'"train": \[(.*?)\]', setup, re.DOTALL)
    assert base
    assert train
    needed = {name.lower() for name in re.findall(r'"([\w-]+)>=', base[1] + train[1])}
    assert len(needed) > 8
    assert needed <= kept
