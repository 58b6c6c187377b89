# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t_bench_policy`: a bag through the real node, in shadow mode and in the present."""

from __future__ import annotations

import array
import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

from gr00t_msgs.msg import PolicyStatus
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from test_policy_node import JOINTS, POSE, files  # noqa: F401 - a fixture

from gr00t_policy_node.ros.bench_policy import Replay, _reasons, format_replay, main
from gr00t_policy_node.timing import Quantiles
from gr00t_recorder.bag.installed_definitions import full_definition
from gr00t_recorder.bag.mcap_writer import BagWriter, WrittenTopic

START_NS = 1_700_000_000_000_000_000  # long ago: the stamps have to be moved
DELAY_NS = 4_000_000  # of the camera, from the stamp to the log


def make_bag(folder: Path, *, duration_s: float = 4.0, joints: tuple[str, ...] = tuple(JOINTS)) -> Path:
    """Write joint states at 50 Hz and images at 20 Hz of the robot of `test_policy_node`."""
    writer = BagWriter(folder)
    types = {"/joint_states": "sensor_msgs/msg/JointState", "/front/image_raw": "sensor_msgs/msg/Image"}
    numbers = {
        topic: writer.add_topic(WrittenTopic(topic, kind, full_definition(kind))) for topic, kind in types.items()
    }
    image = Image(height=32, width=48, encoding="rgb8", step=48 * 3)
    image.data = array.array("B", bytes(32 * 48 * 3))
    state = JointState(name=list(joints), position=list(POSE.values()))
    times = [(ns, "/joint_states") for ns in range(0, round(duration_s * 1e9), 20_000_000)]
    times += [(ns, "/front/image_raw") for ns in range(7_000_000, round(duration_s * 1e9), 50_000_000)]
    for offset_ns, topic in sorted(times):
        message = state if topic == "/joint_states" else image
        log_ns = START_NS + offset_ns
        stamp_ns = log_ns - (DELAY_NS if message is image else 0)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        writer.write(numbers[topic], log_ns, bytes(serialize_message(message)))
    writer.close()
    return folder


def arguments(bag: Path, files: dict[str, Path], *more: object) -> list[str]:  # noqa: F811
    given = {"checkpoint": files["checkpoint_path"], "topics": files["topics_file"], "limits": files["limits_file"]}
    options = [part for name, path in given.items() for part in (f"--{name}", path)]
    return [*map(str, (bag, *options, "--instruction", "lift: the cube", "--device", "cpu", *more))]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two cores are shared with the player


def test_table_tells_stages_ages_and_counts_of_the_bag(
    files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = make_bag(tmp_path / "bag")
    parameters = ("--ros-args", "-p", "control_rate_hz:=50.0", "-p", "inference_period_s:=0.1")
    assert main(arguments(bag, files, "--json", tmp_path / "found.json", *parameters)) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert 3.9 <= found["duration_s"] <= 10.0
    assert found["chunks"] > 0
    assert found["state_s"]["running"] > 0.0
    assert sum(found["state_s"].values()) <= found["duration_s"] + 0.1
    stages = {stage["name"]: stage for stage in found["stages"]}
    # all but what a busy machine may lose, since the subscription is best effort
    assert 180 <= stages["receive joints"]["count"] <= 200
    assert 70 <= stages["receive front"]["count"] <= 80
    # what was recorded as late is late in the present, too
    assert stages["receive front"]["p50"] >= DELAY_NS / 1e9
    for name in ("age joints", "age front", "decode", "preprocess", "infer", "publish", "query"):
        assert stages[name]["count"] == found["chunks"], name
        assert f"\n{name} " in output
    assert stages["tick lateness"]["count"] > 100
    assert {metric["name"] for metric in found["jitter"]} >= {"boundary jump", "velocity cosine", "acceleration arm"}
    assert found["counts"]["holds"]["waiting"] >= 1
    assert f"{found['chunks']} chunks" in output
    assert "holds   " in output


def test_policy_that_never_ran_is_told_with_the_reason(
    files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = make_bag(tmp_path / "bag", duration_s=1.5, joints=("a", "b", "c", "d"))
    assert main(arguments(bag, files)) == 1
    output = capsys.readouterr()
    assert "which carries a, b, c, d" in output.out
    assert "0 chunks" in output.out
    assert "never ran" in output.err


def test_what_cannot_be_replayed_is_one_error(
    files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = make_bag(tmp_path / "bag", duration_s=0.5)
    other = tmp_path / "topics.yaml"
    embodiment = files["topics_file"].parent / "embodiment.json"
    text = files["topics_file"].read_text().replace("embodiment.json", str(embodiment))
    other.write_text(text.replace("front/image_raw", "rear/image_raw"))
    assert main(arguments(bag, {**files, "topics_file": other})) == 2
    assert "no topic /rear/image_raw; the bag has /front/image_raw, /joint_states" in capsys.readouterr().err
    assert main(arguments(bag, {**files, "checkpoint_path": tmp_path / "nowhere"})) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("gr00t_bench_policy: error: policy node: not configured: ")
    assert "nowhere" in errors
    assert len(errors.splitlines()) == 1
    for wrong in (["--fast"], ["--devise", "cpu"], ["--device", "cpu", "--device", "cpu"]):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments(bag, files, *wrong))
        assert exit_info.value.code == 2
    assert "did you mean '--device'?" in capsys.readouterr().err


def status(state: int, reason: str) -> PolicyStatus:
    return PolicyStatus(state=state, reason=reason)


def test_reasons_count_once_per_hold_whatever_their_numbers() -> None:
    holding, running = PolicyStatus.HOLDING, PolicyStatus.RUNNING
    statuses = [
        status(holding, "ended 12 ms ago"),
        status(holding, "ended 13 ms ago"),
        status(running, ""),
        status(holding, "ended 9 ms ago"),
        status(PolicyStatus.STOPPED, "stop service called"),
        status(PolicyStatus.IDLE, "no instruction"),
    ]
    assert _reasons(statuses) == {"ended 12 ms ago": 2, "stop service called": 1}


def test_replay_of_a_node_that_told_nothing_can_be_printed() -> None:
    counts: dict[str, dict[str, int]] = {kind: {} for kind in ("holds", "stops", "gates", "clamps", "others")}
    replay = Replay(2.0, 0, {}, {}, (Quantiles("decode"),), (), counts)
    assert not replay.has_run
    text = format_replay(replay)
    assert "0 chunks (0.0/s), no state reported" in text
    assert "decode" not in text
    assert text.count("none") == 5
