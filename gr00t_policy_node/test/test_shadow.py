# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t evaluate --bag`: a bag through the real node, in shadow mode and in the present, and what comes of it."""

from __future__ import annotations

import array
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

from gr00t_msgs.msg import PolicyStatus
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from test_policy_node import JOINTS, POSE, files  # noqa: F401 - a fixture

from gr00t_policy_node.ros.shadow import _reasons, main
from gr00t_policy_node.shadow.comparing import ShadowChunk, compare
from gr00t_policy_node.shadow.replay import Replay, findings, format_replay, sections
from gr00t_policy_node.timing import Quantiles
from gr00t_recorder.bag.demonstrations import RecordedEpisode
from gr00t_recorder.bag.installed_definitions import full_definition
from gr00t_recorder.bag.mcap_writer import BagWriter, WrittenTopic
from gr00t_test_support.builders import make_embodiment
from gr00t_training.cli import evaluate
from gr00t_training.judge.judging import baseline_errors, judge_answers
from gr00t_training.judge.metrics import gripper_timing
from gr00t_training.judge.page import judgement_page
from gr00t_training.types import Frame, Verdict

START_NS = 1_700_000_000_000_000_000  # long ago: the stamps have to be moved
DELAY_NS = 4_000_000  # of the camera, from the stamp to the log
AHEAD = 0.1  # of the leader's joint j0, before that of the robot
LEADER = """  leader: {topic: leader/joint_states, type: sensor_msgs/msg/JointState, max_age_s: 0.5}
action:
  arm: {stream: leader}
  gripper: {stream: leader}
state:
"""


def make_bag(folder: Path, *, duration_s: float = 4.0, joints: tuple[str, ...] = tuple(JOINTS)) -> Path:
    """Write joint states at 50 Hz and images at 20 Hz of the robot of `test_policy_node`."""
    writer = BagWriter(folder)
    joint_state = "sensor_msgs/msg/JointState"
    types = {
        "/joint_states": joint_state,
        "/leader/joint_states": joint_state,
        "/front/image_raw": "sensor_msgs/msg/Image",
    }
    numbers = {
        topic: writer.add_topic(WrittenTopic(topic, kind, full_definition(kind))) for topic, kind in types.items()
    }
    image = Image(height=32, width=48, encoding="rgb8", step=48 * 3)
    image.data = array.array("B", bytes(32 * 48 * 3))
    state = JointState(name=list(joints), position=list(POSE.values()))
    leader = JointState(name=list(joints), position=list(POSE.values()))
    place = JOINTS.index("j0")
    times = [
        (ns, topic)
        for ns in range(0, round(duration_s * 1e9), 20_000_000)
        for topic in ("/joint_states", "/leader/joint_states")
    ]
    times += [(ns, "/front/image_raw") for ns in range(7_000_000, round(duration_s * 1e9), 50_000_000)]
    for offset_ns, topic in sorted(times):
        message = {"/joint_states": state, "/leader/joint_states": leader}.get(topic, image)
        leader.position[place] = state.position[place] + AHEAD * (1 + offset_ns / 1e9)  # it never stands
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


def test_report_tells_errors_stages_ages_and_counts_of_the_bag(
    files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = make_bag(tmp_path / "bag")
    topics = files["topics_file"].with_name("with_action.yaml")
    topics.write_text(files["topics_file"].read_text().replace("state:\n", LEADER))
    parameters = ("--ros-args", "-p", "control_rate_hz:=50.0", "-p", "inference_period_s:=0.1")
    words = arguments(bag, {**files, "topics_file": topics}, "--output", tmp_path / "report", *parameters)
    code = evaluate.main(["--bag", *words])
    output = capsys.readouterr().out
    report = json.loads((tmp_path / "report/evaluation.json").read_text())
    (judged,) = report["judgements"]
    # the robot stands, and the leader's j0 is ahead by 0.1 rad and 0.1 rad/s: by at most 0.5 rad at the end of the bag
    assert AHEAD <= judged["errors"]["hold still"]["mae"]["arm/j0"] <= 5 * AHEAD
    assert judged["errors"]["hold still"]["mae"]["arm/j1"] == pytest.approx(0.0, abs=1e-6)
    assert {found["about"] for found in judged["findings"]} >= {"accuracy", "joints", "node", "latency", "motion"}
    page = (tmp_path / "report/report.html").read_text()
    assert page.index("Tests") < page.index("In the policy node") < page.index("observation to chunk</td>")
    assert f"saved {tmp_path}/report/report.html" in output
    found = report["node"]
    assert found["duration_s"] >= 3.9
    assert found["chunks"] > 0
    # on a busy machine the first chunk may have ended when it comes
    has_run = found["state_s"].get("running", 0.0) > 0.0
    assert code == (0 if has_run and judged["verdict"] != "no-go" else 1)
    assert sum(found["state_s"].values()) <= found["duration_s"] + 0.1
    stages = {stage["name"]: stage for stage in found["stages"]}
    # a busy machine may lose any of them, since the subscription is best effort
    assert 1 <= stages["receive joints"]["count"] <= 200
    assert 1 <= stages["receive front"]["count"] <= 80
    # what was recorded as late is late in the present, too
    assert stages["receive front"]["p50"] >= DELAY_NS / 1e9
    for name in ("age joints", "age front", "decode", "preprocess", "infer", "publish", "query"):
        # the report may come during a query
        assert abs(stages[name]["count"] - found["chunks"]) <= 1, name
        assert f"\n{name} " in output
    assert stages["tick lateness"]["count"] > 10
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
    assert "not compared with the demonstration: " in output.out
    assert "the topic map binds no action" in output.out
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
    alone = [word for word in arguments(bag, files) if word not in ("--instruction", "lift: the cube")]
    assert evaluate.main([f"--bag={alone[0]}", *alone[1:]]) == 2
    assert capsys.readouterr().err.startswith("gr00t_evaluate --bag: error: ")
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


EMBODIMENT = make_embodiment()
STEP_NS = EMBODIMENT.step_ns
HORIZON = EMBODIMENT.action_horizon


def demonstrated(row: float) -> np.ndarray:
    """Return the actions at a row: the joints of the arm rise, the gripper closes at row 30."""
    return np.array([0.1 * row, 0.2 * row, 1.0, 0.0 if row < 30 else 1.0])


def make_episode(start_row: int = 0, num_rows: int = 60) -> RecordedEpisode:
    rows = range(start_row, start_row + num_rows)
    vectors = [(row, {"arm": demonstrated(row)[:3], "gripper": demonstrated(row)[3:]}) for row in rows]
    return RecordedEpisode("lift", [Frame(START_NS + row * STEP_NS, values, values, {}) for row, values in vectors])


def make_chunk(row: float, late_rows: float) -> ShadowChunk:
    """Return a chunk that does what was demonstrated; its observation is at a row, and it comes so many rows later."""
    rows = np.array([demonstrated(row + step) for step in range(HORIZON)])
    start_ns = START_NS + round(row * STEP_NS)
    return ShadowChunk(rows, start_ns, start_ns + round(late_rows * STEP_NS), STEP_NS)


def test_chunks_between_two_rows_are_compared_with_what_was_done_then() -> None:
    chunks = [make_chunk(4.5, 2.2), make_chunk(12.25, 1.0), make_chunk(26.0, 3.0), make_chunk(100.0, 1.0)]
    compared = compare(EMBODIMENT, [make_episode()], chunks)
    assert compared is not None
    recording, answers = compared
    assert [query.row for query in recording.queries] == [4, 12, 26]  # the last one is after the episode
    assert [len(chunk) for chunk in answers.chunks] == [HORIZON] * 3
    for query, chunk in zip(recording.queries, answers.chunks, strict=True):
        np.testing.assert_allclose(query.truth[:, :3], chunk[: len(query.truth), :3], atol=1e-9)
    # from 2.2 rows on, until the next chunk comes 1 row after 12.25: 8.75 rows after 4.5
    assert recording.queries[0].used == slice(3, 9)
    assert recording.queries[1].used == slice(1, min(17, HORIZON))  # until 29.0, which is 16.75 rows later
    np.testing.assert_array_equal(recording.queries[0].hold, demonstrated(4))
    assert answers.seconds == pytest.approx(2.2 * STEP_NS / 1e9, abs=1e-6)
    judgement = judge_answers(recording, "perfect", answers, baseline_errors(recording))
    assert judgement.errors.relative == pytest.approx(0.0, abs=1e-6)
    (timing,) = gripper_timing(recording, answers.chunks)
    assert (timing.recorded, timing.missed, timing.extra) == (1, 0, 0)
    assert compare(EMBODIMENT, [make_episode()], chunks[3:]) is None


def test_answers_that_all_come_too_late_are_judged() -> None:
    compared = compare(EMBODIMENT, [make_episode()], [make_chunk(4.0, 90.0), make_chunk(20.0, 95.0)])
    assert compared is not None
    recording, answers = compared
    assert [query.used for query in recording.queries] == [slice(HORIZON, HORIZON)] * 2
    judgement = judge_answers(recording, "slow", answers, baseline_errors(recording))
    assert judgement.smoothness.boundary == judgement.smoothness.inside == 0.0


def make_replay(**changes: object) -> Replay:
    counts: dict[str, dict[str, int]] = {kind: {} for kind in ("holds", "stops", "gates", "clamps")}
    stages = (Quantiles("observation to chunk", 9, 0.1, 0.2, 0.3, 0.4), Quantiles("tick lateness", 99, 0, 0, 0.001, 0))
    values = {
        "duration_s": 10.0,
        "chunks": 50,
        "state_s": {"running": 9.5},
        "reasons": {},
        "stages": stages,
        "jitter": (Quantiles("boundary jump", 9, 1.0, 1.1, 1.2, 1.3),),
        "counts": {**counts, "others": {"refused observations": 0, "limited commands": 3}},
    }
    return Replay(**{**values, **changes})  # type: ignore[arg-type]


def test_what_the_node_reports_is_judged() -> None:
    assert {found.verdict for found in findings(make_replay(), 0.8)} == {Verdict.GO}
    counts = {
        **make_replay().counts,
        "holds": {"input": 3},
        "gates": {"front waiting": 2, "front stale": 9},
        "clamps": {"velocity": 70},
        "others": {"refused observations": 9, "limited commands": 70},
    }
    bad = make_replay(state_s={"running": 5.0}, counts=counts)
    verdicts = {found.name: found for found in findings(bad, 0.19)}
    assert verdicts["observation to chunk"].verdict is Verdict.NO_GO
    assert verdicts["policy has control"].verdict is Verdict.LOOK
    assert "input 3" in verdicts["policy has control"].meaning
    assert "front stale 9" in verdicts["observations"].meaning
    assert "velocity 70" in verdicts["commands within limits"].meaning
    (never, *_) = findings(make_replay(state_s={}, chunks=0, reasons={"front: stale": 1}), 0.8)
    assert never.verdict is Verdict.NO_GO and never.meaning == "the policy never ran: front: stale"


def test_the_page_has_the_tables_of_the_node() -> None:
    compared = compare(EMBODIMENT, [make_episode()], [make_chunk(4.0, 1.0)])
    assert compared is not None
    judgement = judge_answers(compared[0], "own", compared[1], baseline_errors(compared[0]))
    page = judgement_page([judgement], compared[0], "a bag", sections=sections(make_replay()))
    assert "50 chunks (5.0/s); running 95%" in page
    assert '<td>observation to chunk</td><td class="number">9</td><td class="number">100.00</td>' in page
