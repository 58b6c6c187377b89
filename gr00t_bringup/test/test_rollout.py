# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t_rollout`: what it is asked for, what it starts, and trials through real topics."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from gr00t_msgs.msg import RecorderStatus
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from gr00t_bringup.processes import policy_of, policy_timing
from gr00t_bringup.robots import compact_checkpoint, load_robot, robot_file
from gr00t_bringup.rollout import checked, make_parser, recorder_topics
from gr00t_bringup.ros.task_giver import LATCHED
from gr00t_bringup.ros.trial_driver import Watched
from gr00t_bringup.runner import node_command
from gr00t_bringup.trials.boundaries import ChunkTrack
from gr00t_bringup.trials.table import Trial
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import ConfigError
from gr00t_training.types import Commander

RUN_S = 1200  # on a loaded machine
ARM = load_robot("sim_arm")


def asked(*words: str):
    return checked(make_parser().parse_args(list(words)))


def test_every_task_has_the_same_scenes() -> None:
    specs = asked("--num-trials", "2", "--seed", "7").specs
    assert [(spec.seed, spec.task.split()[2]) for spec in specs] == [
        (seed, color) for seed in (7, 8) for color in ("red", "green", "blue")
    ]
    assert all(spec.instruction == spec.task and spec.clock == "lock-step" for spec in specs)


def test_instruction_of_another_task_names_another_cube() -> None:
    for spec in asked("--instruction-of", "other").specs:
        assert spec.instruction != spec.task
        assert spec.instruction.startswith("put the ")
    (spec,) = asked("--instruction-of", "other", "--num-trials", "1", "--instruction", "throw away the blue cube").specs
    assert (spec.task, spec.instruction) == ("throw away the blue cube", "throw away the red cube")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--round-s", "0"], "--round-s is 0, expected 1 to 3600 s"),
        (["--seed", "-1"], "--seed is -1, expected 0 or more"),
        (["--parameters", "execution"], "'execution' is not NAME:=VALUE"),
        (["--instruction", "wave"], "--instruction: 'wave' is no task of sim_arm, expected one of: put the red"),
        (["--judge", "person"], "give the task texts of your robot with --instruction"),
        (["--judge", "person", "--instruction", "wave", "--parameters", "seed:=1"], "robot and policy run already"),
        (
            ["--joy-topic", "joy"],
            "--joy-topic and buttons belong together: a button, such as --joy-success 0, is missing",
        ),
        (["--joy-success", "1"], "belong together: --joy-topic is missing; give both"),
        (["--joy-topic", "joy", "--joy-success", "1"], "judges itself; leave it out, or add --judge person"),
    ],
)
def test_wrong_request_is_told(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(*words)


def test_simulator_waits_for_what_the_policy_node_is_set_to() -> None:
    assert policy_timing(ARM, []) == {"control_rate_hz": 50.0, "inference_period_s": 0.4, "answer_delay_ticks": 0.0}
    assert policy_timing(ARM, ["control_rate_hz:=100", "seed:=1"])["control_rate_hz"] == 100.0
    with pytest.raises(ConfigError, match="--parameters: could not convert string to float: 'often'"):
        policy_timing(ARM, ["inference_period_s:=often"])
    with pytest.raises(ConfigError, match="control_rate_hz is 0, expected more than 0"):
        policy_timing(ARM, ["control_rate_hz:=0"])


def test_holds_and_clamps_count_until_the_success() -> None:
    ticks = [(100, 4, 10), (200, 5, 12), (300, 5, 19), (400, 6, 40)]  # stamp, and what the node has counted so far
    seen = Watched(ticks=ticks)
    assert seen.totals(300) == seen.totals(399) == (1, 9)
    assert seen.totals(400) == (2, 30)
    assert seen.totals(50) == Watched().totals(400) == (0, 0)


def test_latency_is_from_an_observation_to_its_chunk() -> None:
    rows = np.zeros((2, 1))
    seen = Watched(chunks=[ChunkTrack(100, 10, rows, 100 + late_ms * 1_000_000) for late_ms in (10, 20, 60)])
    assert seen.latencies_s() == {"latency_p50_s": pytest.approx(0.020), "latency_p95_s": pytest.approx(0.056)}
    assert Watched().latencies_s() == {"latency_p50_s": None, "latency_p95_s": None}


def test_recorded_action_is_what_the_controller_was_told(tmp_path: Path) -> None:
    topic_map, _ = load_topic_map(str(recorder_topics(ARM, tmp_path)))
    assert {topic_map.streams[each.stream].topic for each in topic_map.action.values()} == {"arm_controller/reference"}


def run(folder: Path, *words: object) -> str:
    arguments = ("--output", folder, "--instruction", "put the red cube in the bin", *words)
    with NodeProcess("gr00t_bringup.ros.rollout", *arguments, domain=next_domain(), OMP_NUM_THREADS="1") as process:
        assert process.process.wait(RUN_S) == 0, process.output
        return process.output


def rows(folder: Path) -> list[Trial]:
    with (folder / "trials.csv").open() as file:
        return [Trial.of_row(cells) for cells in csv.DictReader(file)]


@pytest.mark.slow
def test_trials_can_be_repeated_and_go_on_where_they_ended(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(first, "--num-trials", "2", "--seed", "1000")
    run(second, "--num-trials", "1", "--seed", "1000", "--no-video")
    output = run(second, "--num-trials", "2", "--seed", "1000", "--no-video")
    assert "== 2 trials, 1 of them done before" in output
    # in lock-step neither the machine nor the trials before matter; the node may command once more after the success
    moved, again = (
        [
            (each.spec, each.success, each.time_s, each.chunks, each.sent, each.holds, each.clamps)
            for each in rows(folder)
        ]
        for folder in (first, second)
    )
    assert moved == again
    for trial in rows(first):
        assert trial.success
        assert trial.asked.count == trial.chunks - 1
        assert trial.stops == trial.takeovers == 0
    assert json.loads((first / "trials.json").read_text())["groups"][0]["successes"] == 2
    assert VideoReader(first / "trials.mp4").num_frames >= 40
    assert not (second / "trials.mp4").exists()


@pytest.mark.slow
def test_trials_are_kept_as_episodes_with_their_success(tmp_path: Path) -> None:
    run(tmp_path / "trials", "--num-trials", "1", "--record-to", tmp_path / "dataset", "--no-video")
    run(tmp_path / "short", "--num-trials", "1", "--record-to", tmp_path / "dataset", "--round-s", "1", "--no-video")
    (done,), (failed,) = rows(tmp_path / "trials"), rows(tmp_path / "short")
    assert (done.success, failed.success, failed.outcome) == (True, False, "time limit reached")
    dataset = EpisodeDataset(tmp_path / "dataset")
    assert [episode.length / 20 > each.time_s for episode, each in zip(dataset.episodes, (done, failed), strict=True)]
    marks = [
        Marks.of_report(json.loads((tmp_path / f"dataset/meta/quality/episode_{index:06d}.json").read_text()))
        for index in (0, 1)
    ]
    assert [(each.is_success, each.note) for each in marks] == [(True, "rollout"), (False, "rollout")]
    for index in (0, 1):
        assert Commander.POLICY in dataset.column(index, "command_source")
        assert not dataset.interventions(index).any()


@pytest.mark.slow
def test_person_judges_a_robot_that_runs_already_by_keys_services_and_buttons(tmp_path: Path) -> None:
    domain = next_domain()
    words = ["--judge", "person", "--instruction", "put the red cube in the bin", "--round-s", "300"]
    words += ["--output", str(tmp_path), "--record-to", str(tmp_path / "dataset")]
    words += ["--joy-topic", "joy", "--joy-failure", "1"]
    topics = robot_file("sim_arm", "topics_policy.yaml")
    policy = node_command(policy_of(compact_checkpoint()).with_parameters(topics_file=str(topics)), tmp_path)[1:]
    recorder = parameter_arguments(
        topics_file=topics, dataset_path=tmp_path / "dataset", min_free_disk_gb=0.0, autostart=True
    )
    terminal, end = pty.openpty()
    try:
        with (
            NodeProcess("gr00t_bringup.ros.sim_node", domain=domain),
            NodeProcess("gr00t_policy_node.ros.policy_node", *policy, domain=domain),
            NodeProcess("gr00t_recorder.ros.recorder_node", *recorder, domain=domain),
            Peer(domain) as peer,
            subprocess.Popen(
                [sys.executable, "-c", "from gr00t_bringup.ros.rollout import main; main()", *words],
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as rollout,
        ):
            assert rollout.stdout is not None
            joystick = peer.node.create_publisher(Joy, "joy", 10)
            recorder_status = peer.listen(RecorderStatus, "recorder/status", LATCHED)

            def press(key: str) -> None:
                os.write(terminal, key.encode())

            def say(answer: str) -> None:
                if answer == "success":
                    peer.until(lambda: recorder_status and recorder_status[-1].frames > 5, "recording")
                assert peer.call(Trigger, f"rollout/{answer}").success

            def push() -> None:
                peer.until(joystick.get_subscription_count, "rollout listens to the joystick")
                for is_down in (0, 1):
                    joystick.publish(Joy(buttons=[0, is_down]))

            # each prompt, and how the person answers
            answers = [("press Enter", lambda: press("\n")), ("running:", lambda: say("success"))]
            answers += [("press Enter", lambda: say("begin"))]
            answers += [("running:", lambda: peer.call(Trigger, "policy/stop")), ("was it done?", push)]
            answers += [("press Enter", lambda: press("q"))]
            shown = []
            for line in rollout.stdout:
                shown.append(line)
                if answers and answers[0][0] in line:
                    answers.pop(0)[1]()
            assert rollout.wait(RUN_S) == 0, "".join(shown)
    finally:
        os.close(terminal)
        os.close(end)
    assert not answers, "".join(shown)
    assert [(each.success, each.outcome) for each in rows(tmp_path)] == [
        (True, "judged"),
        (False, "stopped (stop service called)"),
    ]
    assert "ended; the same command continues\n" in shown
    dataset = EpisodeDataset(tmp_path / "dataset")
    kept = [each.success for each in rows(tmp_path) if not each.note]  # stopped before it was commanded
    assert kept[:1] == [True]
    assert [dataset.quality(index).marks.is_success for index in range(len(dataset.episodes))] == kept
