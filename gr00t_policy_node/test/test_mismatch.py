# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A model and a robot that disagree are refused, in words that name the item and both values."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

import torch
from gr00t_msgs.msg import PolicyStatus, StreamStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from test_policy_node import POSE, Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_policy_node.inference.policies import LocalPolicy, load_local
from gr00t_recorder.ros.processes import next_domain
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_training.dataset.statistics.compute import KeyStatistics, compute_statistics
from gr00t_training.embodiment import Embodiment, Normalization, Rotation, VectorKey, VideoKey
from gr00t_training.errors import CheckpointError, ConfigError, Gr00tError, ServerError
from gr00t_training.policy.policy import Policy
from gr00t_training.policy.state_range import StateRange, statistics_fingerprint
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.server import PolicyServer, ServerSettings

torch.set_num_threads(1)

ROBOT = make_embodiment()
Change = Callable[[Embodiment], Embodiment]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("trained") / "checkpoint", ROBOT)


def changed(**changes: Any) -> Change:
    return lambda robot: dataclasses.replace(robot, **changes)


def state(key: str = "arm", **changes: Any) -> Change:
    return lambda robot: dataclasses.replace(robot, state=with_key(robot.state, key, changes))


def action(key: str = "arm", **changes: Any) -> Change:
    return lambda robot: dataclasses.replace(robot, action=with_key(robot.action, key, changes))


def with_key(keys: Mapping[str, VectorKey], key: str, changes: dict[str, Any]) -> dict[str, VectorKey]:
    return {**keys, key: dataclasses.replace(keys[key], **changes)}


def load(path: Path, robot: Embodiment) -> Embodiment:
    """Do what the policy node does with its checkpoint at configure."""
    policy = LocalPolicy(str(path), device="cpu", num_threads=0, denoising_steps=1, seed=0, instruction="")
    return load_local(policy, robot).embodiment


ANGLES = {"rotation": Rotation.EULER_RPY}
ROBOTS: dict[str, tuple[Change, str]] = {  # what is different on the robot, and the words for it
    "joint order": (
        state(names=("j0", "j2", "j1")),
        "state.arm.names: found [j0, j1, j2], expected [j0, j2, j1] (the same in another order)",
    ),
    "missing joint": (
        state(names=("j0", "j1")),
        "state.arm.names: found [j0, j1, j2], expected [j0, j1] (unknown j2)",
    ),
    "extra joint": (
        state(names=("j0", "j1", "j2", "j3")),
        "state.arm.names: found [j0, j1, j2], expected [j0, j1, j2, j3] (missing j3)",
    ),
    "joint renamed": (
        state(names=("j0", "j1", "wrist")),
        "state.arm.names: found [j0, j1, j2], expected [j0, j1, wrist] (missing wrist, unknown j2)",
    ),
    "dims of an action": (
        action("gripper", names=("left", "right")),
        "action.gripper.names: found [grip], expected [left, right] (missing left, right, unknown grip)",
    ),
    "order of keys": (
        lambda robot: dataclasses.replace(robot, state=dict(reversed(list(robot.state.items())))),
        "state: found [arm, gripper], expected [gripper, arm]",
    ),
    "units": (state(unit="deg"), "state.arm.unit: found rad, expected deg"),
    "fps": (changed(fps=30), "fps: found 10, expected 30"),
    "camera missing": (
        changed(video={"front": ROBOT.video["front"], "wrist": ROBOT.video["front"]}),
        "video: found [front], expected [front, wrist]",
    ),
    "camera size": (
        changed(video={"front": VideoKey(height=32, width=64)}),
        "video.front.width: found 48, expected 64",
    ),
    "language key": (changed(language="human.task"), "language: found human.task_description, expected human.task"),
    "action kind": (action(relative_to="arm"), "action.arm.relative_to: found none, expected arm"),
    "is_absolute": (action(is_absolute=False), "action.arm.is_absolute: found true, expected false"),
    "state history": (changed(state_history=(-1, 0)), "state_history: found [0], expected [-1, 0]"),
    "video history": (changed(video_history=(-5, 0)), "video_history: found [0], expected [-5, 0]"),
    "rotation form": (state(**ANGLES), "state.arm.rotation: found none, expected euler_angles_rpy"),
    "normalization": (
        state(normalization=Normalization.Q99),
        "state.arm.normalization: found min_max, expected q99",
    ),
    "action horizon": (changed(action_horizon=8), "action_horizon: found 16, expected 8"),
    "embodiment tag": (changed(tag="gr1"), "tag: found new_embodiment, expected gr1"),
}


@pytest.mark.parametrize("name", ROBOTS)
def test_a_robot_that_is_not_the_checkpoints_is_refused(checkpoint: Path, name: str) -> None:
    change, words = ROBOTS[name]
    with pytest.raises(CheckpointError) as refusal:
        load(checkpoint, change(ROBOT))
    assert words in str(refusal.value)
    assert str(checkpoint) in str(refusal.value)
    # one item, not a list of everything that follows from it
    assert str(refusal.value).count(": found ") == 1


def test_the_checkpoints_own_robot_is_taken(checkpoint: Path) -> None:
    assert load(checkpoint, make_embodiment()) == make_embodiment()


def edited(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the checkpoint with changed statistics."""
    shutil.copytree(checkpoint, folder)
    file = folder / "experiment_cfg" / "metadata.json"
    content = json.loads(file.read_text())
    change(content[ROBOT.tag]["statistics"])
    file.write_text(json.dumps(content))
    return folder


def forget_gripper(statistics: dict[str, Any]) -> None:
    del statistics["state"]["gripper"]


def cut_arm(statistics: dict[str, Any]) -> None:
    statistics["action"]["arm"] = {name: values[:2] for name, values in statistics["action"]["arm"].items()}


def spoil_arm(statistics: dict[str, Any]) -> None:
    statistics["state"]["arm"]["max"] = [math.inf, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (forget_gripper, r"state\.gripper: normalization min_max needs statistics, there are none"),
        (cut_arm, r"action\.arm: statistics of shape \(2,\), expected \(3,\)"),
        (spoil_arm, r"state\.arm: 'max' holds NaN or infinity"),
    ],
    ids=["statistics without a key", "statistics of another width", "statistics not finite"],
)
def test_statistics_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path, change, words: str) -> None:
    with pytest.raises(Gr00tError, match=words):
        load(edited(checkpoint, tmp_path / "edited", change), ROBOT)


def test_projector_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    robot = dataclasses.replace(ROBOT, tag="oxe_droid")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", robot)
    known = json.loads((checkpoint / "embodiment_id.json").read_text())
    del known["oxe_droid"]  # a new checkpoint has a projector for any tag
    (checkpoint / "embodiment_id.json").write_text(json.dumps(known))
    with pytest.raises(CheckpointError, match=r"no projector for embodiment tag 'oxe_droid'.*gr1, new_embodiment"):
        load(checkpoint, robot)


def test_topic_map_that_is_not_the_embodiments_is_refused(files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    text = files["topics_file"].read_text()
    (tmp_path / "embodiment.json").write_text((files["topics_file"].parent / "embodiment.json").read_text())
    for change, words in (
        (
            ("arm: {stream: joints}", "leg: {stream: joints}"),
            r"state\.leg: .*'test_arm' has no such key \(arm, gripper\)",
        ),
        (("  gripper: {stream: joints}\n", ""), "state: no entry for key 'gripper' of embodiment 'test_arm'"),
        (("arm: {stream: joints}", "arm: {stream: joints, select: [a, b]}"), "select names 2 channels, .* has 3"),
        (("front: {stream: front}", "back: {stream: front}"), r"video\.back: .* has no such key \(front\)"),
    ):
        path = tmp_path / "topics.yaml"
        path.write_text(text.replace(*change, 1))
        with pytest.raises(ConfigError, match=words):
            load_topic_map(path)


# The measured state, compared with training.


def statistics_of(rows: np.ndarray) -> KeyStatistics:
    return compute_statistics(rows)


def training(spread: float = 0.5) -> dict[str, KeyStatistics]:
    """Return the statistics of an arm that moved about zero with `spread`, and of a gripper between 0 and 0.08 m."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-spread, spread, size=(1000, 3))
    return {"arm": compute_statistics(rows), "gripper": compute_statistics(rng.uniform(0.0, 0.08, size=(1000, 1)))}


def test_degrees_for_radians_are_refused_with_value_range_and_cause() -> None:
    known = StateRange(ROBOT, training(), 3.0)
    pose = np.array([0.4, -0.3, 0.25])
    assert known.channels_out_of_range({"arm": pose, "gripper": np.array([0.04])}) == []
    (item, *_) = known.channels_out_of_range({"arm": np.rad2deg(pose), "gripper": np.array([0.04])})
    assert item.startswith("state.arm: 'j0' is 22.92 rad, in training it was -0.4")
    assert "these may be degrees: check 'unit' in the topic map" in item
    (item,) = known.channels_out_of_range({"arm": pose, "gripper": np.array([40.0])})
    assert item.startswith("state.gripper: 'grip' is 40 m, in training it was ")
    assert "millimeters" in item
    (item,) = known.channels_out_of_range({"arm": np.array([0.0, -400.0, 0.0])})
    assert "'j1' is -400 rad" in item


def test_every_pose_of_training_and_many_others_are_taken() -> None:
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.01, 0.5, math.pi):
        known = StateRange(ROBOT, training(spread), 3.0)
        for pose in rng.uniform(-2 * math.pi, 2 * math.pi, size=(200, 3)):  # anywhere a joint may stand, turned once
            assert known.channels_out_of_range({"arm": pose}) == []
    # a gripper that was open once in a thousand rows, in per cent, may be open
    rare = np.zeros((1000, 1))
    rare[0] = 100.0
    percent = dataclasses.replace(ROBOT, state=with_key(ROBOT.state, "gripper", {"unit": "%"}))
    known = StateRange(percent, {"gripper": compute_statistics(rare)}, 3.0)
    assert known.channels_out_of_range({"gripper": np.array([100.0])}) == []
    # a channel that stood still at a large count may move
    counts = StateRange(percent, {"gripper": compute_statistics(np.full((10, 1), 2048.0))}, 3.0)
    assert counts.channels_out_of_range({"gripper": np.array([2100.0])}) == []


def test_one_spike_in_training_does_not_hide_degrees_in_the_other_channels() -> None:
    rows = np.random.default_rng(2).uniform(-0.5, 0.5, size=(1000, 3))
    rows[0, 0] = 1e6
    items = StateRange(ROBOT, {"arm": compute_statistics(rows)}, 3.0).channels_out_of_range({"arm": np.full(3, 30.0)})
    assert [item.split("'")[1] for item in items] == ["j1", "j2"]
    rows[0] = [2.0, 2.0, 2.0]  # nor does a spike widen what counts as a range
    items = StateRange(ROBOT, {"arm": compute_statistics(rows)}, 3.0).channels_out_of_range({"arm": np.full(3, 12.0)})
    assert len(items) == 3


def test_endless_joints_and_absent_statistics_are_not_looked_at() -> None:
    far = {"arm": np.full(3, 1e4), "gripper": np.array([1e4])}
    assert StateRange(ROBOT, training(), 3.0, endless={"arm", "gripper"}).channels_out_of_range(far) == []
    assert StateRange(ROBOT, {}, 3.0).channels_out_of_range(far) == []
    with pytest.raises(CheckpointError, match=r"state.arm have shape \(1,\), embodiment 'test_arm' expects \(3,\)"):
        StateRange(ROBOT, {"arm": training()["gripper"]}, 3.0)


# A server that restarts with another checkpoint.


@pytest.fixture
def serve() -> Iterator[Callable[..., PolicyServer]]:
    running: list[tuple[PolicyServer, threading.Thread]] = []

    def start(policy: Policy, port: int = 0, name: str = "first") -> PolicyServer:
        stop()
        server = PolicyServer(policy, ServerSettings(port=port), name=name)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((server, thread))
        return server

    def stop() -> None:
        while running:
            server, thread = running.pop()
            server.stop()
            thread.join()

    yield start
    stop()


def test_another_checkpoint_of_the_same_robot_behind_the_same_address_is_noticed(
    checkpoint: Path,
    tmp_path: Path,
    serve: Callable[..., PolicyServer],
) -> None:
    def widen(statistics: dict[str, Any]) -> None:
        statistics["action"]["arm"]["max"] = [2.0, 2.0, 2.0]

    policy = Policy.from_checkpoint(checkpoint, ROBOT, device="cpu")
    other = Policy.from_checkpoint(edited(checkpoint, tmp_path / "other", widen), ROBOT, device="cpu")
    digests = [statistics_fingerprint(found.statistics) for found in (policy, other)]
    assert digests[0] != digests[1]
    assert policy.embodiment.fingerprint() == other.embodiment.fingerprint()  # which is the same for both
    server = serve(policy)
    with PolicyClient(ROBOT, port=server.port, timeout_s=30.0) as client:
        assert client.state_statistics is None
        client.check_embodiment()
        assert client.health()["statistics_fingerprint"] == digests[0]
        assert client.state_statistics is not None
        np.testing.assert_array_equal(client.state_statistics["arm"].max, [1.0, 1.0, 1.0])
        serve(other, server.port, "second")
        with pytest.raises(
            ServerError, match=rf"another checkpoint than before, 'second': .*{digests[1]}.*{digests[0]}"
        ):
            client.reset()
        serve(policy, server.port)
        client.reset()


# Through the node.


def transition(robot: Robot, number: int) -> bool:
    return robot.call(ChangeState, "policy/change_state", transition=Transition(id=number)).success


def until_streams(robot: Robot, state: int) -> None:
    robot.until(
        lambda: any(s.name == "joints" and s.state == state for s in robot.status.streams), f"joints in {state}"
    )


def test_activation_is_refused_by_name_and_accepted_afterwards(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    with Robot(domain) as robot, start_node(files, domain, autostart=False) as node:
        robot.joints = ["grip", "j2", "j0", "elbow"]
        assert transition(robot, Transition.TRANSITION_CONFIGURE)
        until_streams(robot, StreamStatus.INVALID)
        assert not transition(robot, Transition.TRANSITION_ACTIVATE)
        line = [line for line in node.output.splitlines() if "not activated" in line][-1]
        assert "state.arm: j1 never came on joint_states, which carries grip, j2, j0, elbow" in line

        robot.joints = ["grip", "j2", "j0", "j1"]
        robot.pose.update({name: math.degrees(value) for name, value in POSE.items()})
        until_streams(robot, StreamStatus.OK)
        assert not transition(robot, Transition.TRANSITION_ACTIVATE)
        line = [line for line in node.output.splitlines() if "not activated" in line][-1]
        assert "state.arm: 'j0' is 28.65 rad, in training it was -1 to 1; these may be degrees" in line

        robot.pose.update(POSE)
        robot.until(lambda: transition(robot, Transition.TRANSITION_ACTIVATE), "activation in radians")
        robot.instruct()
        robot.until_state(PolicyStatus.RUNNING)


def test_state_in_degrees_that_comes_after_the_activation_means_hold(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    with Robot(domain) as robot, start_node(files, domain, instruction="lift the cube"):  # active before any input
        robot.pose.update({name: math.degrees(value) for name, value in POSE.items()})
        status = robot.until_state(PolicyStatus.HOLDING, "these may be degrees")
        assert "'j0' is 28.65 rad" in status.reason
        assert "'max_state_ranges'" in status.reason
        assert not robot.chunks
        robot.pose.update(POSE)
        robot.until_state(PolicyStatus.RUNNING)
