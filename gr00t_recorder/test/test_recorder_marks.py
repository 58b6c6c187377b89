# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Operator requests other than start and stop, and the recorder's reaction to faults."""

import json
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import pyarrow.parquet as pq
from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import EpisodeMarks, ErrorCode, RecorderStatus
from gr00t_msgs.srv import DiscardLastEpisode, MarkEpisode, RedoEpisode, SetTask
from rclpy.action import ActionClient
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gr00t_recorder.bag.convert_cli import main as convert
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.dataset.reader import EpisodeDataset

pytest_plugins = ("recorder_robot",)
YES, NO, UNKNOWN = EpisodeMarks.YES, EpisodeMarks.NO, EpisodeMarks.UNKNOWN


def quality(path, index):
    return json.loads((path / f"meta/quality/episode_{index:06d}.json").read_text())


def complete_bags(folder):
    """Return the bags as soon as all are complete; one of a discarded episode is deleted when it is."""
    bags = list(folder.iterdir())
    return all((bag / "metadata.yaml").exists() for bag in bags) and bags


def stamp_ns(status):
    return status.header.stamp.sec * 10**9 + status.header.stamp.nanosec


def marks_of(path, index):
    found = quality(path, index)
    return found["success"], found["valid"], found["note"]


def test_marks_go_with_the_episode_before_and_after_it_is_saved(launch, tmp_path):
    _, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.call(MarkEpisode, "mark_episode").error_code == ErrorCode.NO_EPISODE
    assert recorder.start("lift").error_code == ErrorCode.NONE
    answer = recorder.call(MarkEpisode, "mark_episode", episode_index=-1, marks=EpisodeMarks(success=NO, note="slow"))
    assert (answer.error_code, answer.episode_index, answer.marks.success) == (ErrorCode.NONE, 0, NO)
    recorder.wait(lambda status: status.frames >= 2 and status.marks.success == NO, "rows and mark")
    answer = recorder.stop(marks=EpisodeMarks(success=YES))
    assert answer.marks == EpisodeMarks(success=YES, valid=UNKNOWN, note="slow")
    assert marks_of(tmp_path / "dataset", 0) == (True, None, "slow")

    answer = recorder.call(MarkEpisode, "mark_episode", episode_index=-1, marks=EpisodeMarks(valid=NO))
    assert (answer.error_code, answer.episode_index) == (ErrorCode.NONE, 0)
    assert answer.marks == EpisodeMarks(success=YES, valid=NO, note="slow")
    assert marks_of(tmp_path / "dataset", 0) == (True, False, "slow")
    recorder.wait(lambda status: status.marks.valid == NO, "status of the last episode")
    answer = recorder.call(MarkEpisode, "mark_episode", episode_index=7, marks=EpisodeMarks(valid=NO))
    assert answer.error_code == ErrorCode.WRITE_FAILED
    assert "no episode 7" in answer.error_msg


def test_redo_takes_the_last_episode_back_and_starts_again(launch, tmp_path):
    _, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.call(RedoEpisode, "redo_episode").error_code == ErrorCode.NO_EPISODE
    assert recorder.record("first").episode_index == 0
    assert recorder.record("second").episode_index == 1
    start_s = time.monotonic()
    answer = recorder.call(RedoEpisode, "redo_episode")
    print(f"redo of a saved episode took {time.monotonic() - start_s:.3f} s")  # at most 2 are promised
    assert (answer.error_code, answer.error_msg, answer.episode_index) == (ErrorCode.NONE, "", 1)
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.frames >= 3, "rows")
    assert recorder.status.task == "second"
    start_s = time.monotonic()
    assert recorder.call(RedoEpisode, "redo_episode").error_code == ErrorCode.NONE
    print(f"redo of a running episode took {time.monotonic() - start_s:.3f} s")
    assert recorder.call(DiscardLastEpisode, "discard_last_episode").error_code == ErrorCode.BUSY
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.frames >= 5, "rows")
    frames = recorder.stop().frames
    dataset = EpisodeDataset(tmp_path / "dataset")
    assert [dataset.task(index, 0) for index in (0, 1)] == ["first", "second"]
    assert [episode.length for episode in dataset.episodes][1] == frames
    assert len(dataset.episodes) == 2

    answer = recorder.call(DiscardLastEpisode, "discard_last_episode")
    assert (answer.error_code, answer.episode_index) == (ErrorCode.NONE, 1)
    assert any(name.endswith(".parquet") or "parquet" in name for name in os.listdir(answer.moved_to))
    again = recorder.call(DiscardLastEpisode, "discard_last_episode")  # a second press takes nothing more
    assert again.error_code == ErrorCode.NO_EPISODE
    assert len(EpisodeDataset(tmp_path / "dataset").episodes) == 1
    assert recorder.call(RedoEpisode, "redo_episode").episode_index == 1  # the discarded one, once more
    recorder.wait(lambda status: status.task == "second" and status.frames >= 1, "rows")
    assert recorder.stop().error_code == ErrorCode.NONE


def test_cancel_set_task_and_the_action_s_marks(launch, tmp_path):
    _, recorder, node = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.call(SetTask, "set_task", task=" ").error_code == ErrorCode.EMPTY_TEXT
    assert recorder.call(SetTask, "set_task", task="stack").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.task == "stack", "task of the next episode")
    assert not recorder.call(Trigger, "cancel_episode").success
    assert recorder.start("").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 2, "rows")
    assert recorder.call(Trigger, "cancel_episode").success
    recorder.wait(lambda status: status.state == RecorderStatus.IDLE and status.episodes == 0, "idle")

    client = ActionClient(node, RecordEpisode, "/recorder/record_episode")
    assert client.wait_for_server(DEADLINE_S)
    sent = client.send_goal_async(RecordEpisode.Goal())
    eventually(sent.done, "goal accepted")
    ended = sent.result().get_result_async()
    recorder.wait(lambda status: status.frames >= 2, "rows")
    recorder.stop(marks=EpisodeMarks(success=YES, note="good"))
    eventually(ended.done, "result")
    result = ended.result().result
    assert (result.error_code, result.marks) == (ErrorCode.NONE, EpisodeMarks(success=YES, note="good"))
    assert EpisodeDataset(tmp_path / "dataset").task(0, 0) == "stack"
    client.destroy()


def test_task_of_the_operator_applies_until_the_topic_changes(launch):
    robot, recorder, _ = launch(autostart=True, task="of the parameter")
    recorder.wait_until_ready()
    recorder.wait(lambda status: status.task == "of the parameter", "parameter")
    robot.name_task("of the topic")
    recorder.wait(lambda status: status.task == "of the topic", "topic")
    assert recorder.call(SetTask, "set_task", task="of the operator").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.task == "of the operator", "operator")
    received = recorder.status.streams[4].received
    robot.name_task("of the topic")  # repeated, nothing new
    recorder.wait(lambda status: status.streams[4].received > received, "repeated text")
    assert recorder.status.task == "of the operator"
    assert recorder.start("").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING, "recording")
    assert recorder.status.task == "of the operator"
    recorder.stop(keep=False)
    robot.name_task("new of the topic")
    recorder.wait(lambda status: status.task == "new of the topic", "the topic's new text")


@pytest.mark.parametrize(
    ("text", "code"), [("x" * 1001, ErrorCode.TEXT_TOO_LONG), ("a\x1b[2Jb", ErrorCode.INVALID_TEXT)]
)
def test_texts_are_bounded_at_every_entrance(launch, text, code):
    robot, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.call(SetTask, "set_task", task=text).error_code == code
    assert recorder.start(text).error_code == code
    robot.name_task(text)
    recorder.wait(lambda status: status.task, "task of the topic")
    assert len(recorder.status.task) <= 1001
    assert recorder.start("").error_code == code
    assert recorder.start("lift").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 2, "rows")
    marks = EpisodeMarks(note=text)
    assert recorder.call(MarkEpisode, "mark_episode", episode_index=-1, marks=marks).error_code == code
    assert recorder.stop(marks=marks).error_code == code
    robot.mark(event="stop", note=text)  # a topic has no answer: the episode ends without the note
    recorder.wait(lambda status: status.episodes == 1, "saved")
    assert recorder.status.marks.note == ""
    assert text not in recorder.process.output


def lose_the_camera(robot, recorder):
    """Have an episode end by itself."""
    assert recorder.start("lift").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    robot.has_camera = False
    recorder.wait(lambda status: status.ended_by_itself, "ended by itself, and kept")
    robot.has_camera = True
    recorder.wait_until_ready()


def test_episode_that_ended_by_itself_can_be_discarded_by_the_next_request(launch, tmp_path, topics):
    robot, recorder, _ = launch(autostart=True, bag="configured", bag_per="session", max_lag_s=8.0)
    recorder.wait_until_ready()
    frames = [recorder.record("first").frames]
    for way in ("service", "cancel", "marker"):
        lose_the_camera(robot, recorder)
        assert "video.front: the closest sample on image" in recorder.status.reason
        if way == "service":
            answer = recorder.stop(keep=False)
            assert (answer.error_code, answer.frames) == (ErrorCode.NONE, 0)
        elif way == "cancel":
            assert recorder.call(Trigger, "cancel_episode").success
        else:
            robot.mark(event="discard")
        recorder.wait(lambda status: status.episodes == 1 and not status.ended_by_itself, f"taken back by {way}")
        assert recorder.stop(keep=False).error_code == ErrorCode.NOT_RECORDING  # only once

    # the session's bag says the same, also of an episode that is cut by the end of the node
    assert recorder.start("last").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 5, "rows")
    recorder.process.process.terminate()
    assert recorder.process.wait() == 0, recorder.process.output
    live = EpisodeDataset(tmp_path / "dataset")
    frames.append(live.episodes[1].length)
    (bag,) = (tmp_path / "dataset/.bags").iterdir()
    assert convert([str(bag), "--topics", str(topics), "--output", str(tmp_path / "converted")]) == 0
    converted = EpisodeDataset(tmp_path / "converted")
    assert [converted.task(episode.index, 0) for episode in converted.episodes] == ["first", "last"]
    assert [episode.length for episode in converted.episodes] == frames
    assert quality(tmp_path / "converted", 1)["report"]["ended_early"] == "the recorder's process was ended"


def test_episode_that_ended_by_itself_is_confirmed_by_a_stop_and_forgotten_by_the_next_start(launch):
    robot, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    lose_the_camera(robot, recorder)
    answer = recorder.stop(marks=EpisodeMarks(success=NO))
    assert (answer.error_code, answer.episode_index, answer.marks.success) == (ErrorCode.NONE, 0, NO)
    assert "video.front" in answer.error_msg
    assert recorder.stop(keep=False).error_code == ErrorCode.NOT_RECORDING
    recorder.wait(lambda status: not status.ended_by_itself and status.marks.success == NO, "confirmed")
    recorder.record("next")
    assert recorder.stop(keep=False).error_code == ErrorCode.NOT_RECORDING
    recorder.wait(lambda status: status.episodes == 2, "both are kept")


def test_joystick_buttons_act_once_per_press(launch, tmp_path):
    _, recorder, node = launch(
        autostart=True, task="lift", joy_topic="/joy", joy_start=0, joy_stop=0, joy_redo=2, joy_success=3,
        joy_debounce_s=0.05,
    )  # fmt: skip
    recorder.wait_until_ready()
    joy = node.create_publisher(Joy, "/joy", 10)
    eventually(lambda: joy.get_subscription_count() == 1, "subscribed")

    def press(button):
        for is_down in (0, 1, 1, 0):  # two messages in which the button is down are one press
            time.sleep(0.1)
            joy.publish(Joy(buttons=[is_down if index == button else 0 for index in range(4)]))

    press(0)
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.frames >= 3, "started")
    press(0)
    recorder.wait(lambda status: status.episodes == 1 and status.state == RecorderStatus.IDLE, "stopped and kept")
    press(3)
    recorder.wait(lambda status: status.marks.success == YES, "marked")
    assert marks_of(tmp_path / "dataset", 0)[0] is True
    press(2)
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING and status.episodes == 0, "redone")
    press(0)
    recorder.wait(lambda status: status.state in (RecorderStatus.IDLE, RecorderStatus.FAILED), "stopped")


def test_stale_stream_is_shown_and_may_be_held(launch, tmp_path):
    robot, recorder, _ = launch(autostart=True, end_on_stale=False)
    recorder.wait_until_ready()
    assert recorder.start().error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    robot.has_joints = False
    recorder.wait(lambda status: "stream 'joints' (joint_states) is stale" in status.warning, "warning")
    row, warned_ns = recorder.status.frames, stamp_ns(recorder.status)
    # of a second without joints, however late the rows are written
    recorder.wait(lambda status: status.frames >= row + 5 and stamp_ns(status) > warned_ns + 10**9, "rows continue")
    assert recorder.stop().error_code == ErrorCode.NONE
    found = quality(tmp_path / "dataset", 0)
    state = EpisodeDataset(tmp_path / "dataset").state(0, "arm")
    assert set(range(len(state) - 5, len(state))) <= set(found["filled_rows"]["state.arm"])
    assert (state[-5:] == state[-1]).all()  # held, not zero
    assert state[-1].all()
    warning = found["report"]["warnings"][-1]
    assert "stream 'joints'" in warning["reason"]
    assert (warning["stream"], warning["last_row"]) == ("joints", None)  # to the end
    assert warning["first_row"] < len(state)


def test_episode_is_saved_before_the_disk_s_reserve_is_touched(launch, tmp_path):
    free_gb = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e9
    if free_gb < 6:
        pytest.skip(f"{free_gb:.1f} GB free here, 6 wanted")
    _, recorder, _ = launch(autostart=True, min_free_disk_gb=round(free_gb - 2, 3))
    recorder.wait_until_ready()
    assert recorder.start().error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    with open(tmp_path / "others", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * 10**9)
        recorder.wait(lambda status: status.episodes == 1, "ended and saved")
        assert "(reserve" in recorder.status.reason
        answer = recorder.start()
        assert answer.error_code == ErrorCode.DISK_FULL
        assert "GB free at" in answer.error_msg
    os.remove(tmp_path / "others")


@pytest.mark.parametrize("scope", ["configured", "all"])
def test_bag_of_an_episode_converts_to_the_same_episode(launch, tmp_path, topics, scope):
    # a row that is taken before its samples have come cannot be equal: wait for them on a loaded machine
    _, recorder, node = launch(autostart=True, bag=scope, max_lag_s=8.0)
    other = node.create_publisher(String, "/other", 10)
    recorder.wait_until_ready()
    eventually(lambda: other.get_subscription_count() == (scope == "all"), "discovered")
    assert recorder.start("lift").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 8 and status.bag_messages > 0, "rows")
    other.publish(String(data="x"))
    answer = recorder.stop(marks=EpisodeMarks(success=YES))
    assert recorder.record("push", keep=False).error_code == ErrorCode.NONE
    bags = eventually(lambda: complete_bags(tmp_path / "dataset/.bags"), "bags are complete")
    assert [bag.name[:15] for bag in bags] == ["episode_000000_"]  # none of the discarded episode
    assert {path.suffix for path in bags[0].iterdir()} == {".mcap", ".yaml"}
    assert ("/other" in (bags[0] / "metadata.yaml").read_text()) == (scope == "all")
    assert "Traceback" not in recorder.process.output

    converted = tmp_path / "converted"
    assert convert([str(bags[0]), "--topics", str(topics), "--output", str(converted)]) == 0
    file = "data/chunk-000/episode_000000.parquet"
    found, expected = (pq.read_table(folder / file) for folder in (converted, tmp_path / "dataset"))
    assert found.num_rows == answer.frames
    assert found.equals(expected), (quality(converted, 0), quality(tmp_path / "dataset", 0))
    video = "videos/chunk-000/observation.images.front/episode_000000.mp4"
    assert (converted / video).read_bytes() == (tmp_path / "dataset" / video).read_bytes()
    assert marks_of(converted, 0)[0] is True


def test_bag_of_a_session_holds_all_its_episodes(launch, tmp_path, topics):
    _, recorder, _ = launch(autostart=True, bag="configured", bag_per="session", max_lag_s=8.0)
    recorder.wait_until_ready()
    frames = [recorder.record(task).frames for task in ("first", "second")]
    recorder.record("taken back")
    assert recorder.call(DiscardLastEpisode, "discard_last_episode").error_code == ErrorCode.NONE
    recorder.record("done again")
    assert recorder.call(RedoEpisode, "redo_episode").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    frames.append(recorder.stop().frames)
    recorder.process.interrupt()
    assert recorder.process.wait() == 0, recorder.process.output
    (bag,) = (tmp_path / "dataset/.bags").iterdir()
    converted = tmp_path / "converted"
    assert convert([str(bag), "--topics", str(topics), "--output", str(converted)]) == 0
    dataset = EpisodeDataset(converted)
    assert [dataset.task(episode.index, 0) for episode in dataset.episodes] == ["first", "second", "done again"]
    assert [episode.length for episode in dataset.episodes] == frames


def test_bag_of_a_session_gives_the_live_dataset_again(launch, tmp_path, topics):
    """Marks before and after saving, discarded, redone and refused episodes, markers heard and services called."""
    robot, recorder, _ = launch(autostart=True, bag="configured", bag_per="session", max_lag_s=8.0)
    live = tmp_path / "dataset"
    recorder.wait_until_ready()
    assert recorder.start("first").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    marked = recorder.call(MarkEpisode, "mark_episode", episode_index=-1, marks=EpisodeMarks(note="while it ran"))
    assert marked.error_code == ErrorCode.NONE
    recorder.stop(marks=EpisodeMarks(valid=YES))
    recorder.record("dropped", keep=False)
    heard = recorder.status.streams[3].received
    robot.mark(event="start", task="")  # heard, but refused: there is no task
    recorder.wait(lambda status: status.streams[3].received > heard, "marker")
    recorder.call(SetTask, "set_task", task="set before")
    robot.mark(event="start")
    recorder.wait(lambda status: status.frames >= 3, "rows of the heard start")
    robot.mark(event="stop", success=False)
    recorder.wait(lambda status: status.episodes == 2, "saved")
    recorder.record("again")
    assert recorder.call(RedoEpisode, "redo_episode").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    recorder.stop()
    late = recorder.call(MarkEpisode, "mark_episode", episode_index=0, marks=EpisodeMarks(success=YES))
    assert late.error_code == ErrorCode.NONE
    recorder.process.interrupt()
    assert recorder.process.wait() == 0, recorder.process.output
    (bag,) = (live / ".bags").iterdir()
    assert marks_of(live, 0) == (True, True, "while it ran")
    assert marks_of(live, 1)[0] is False
    text = topics.read_text().replace("events: {stream: events}\n", "")
    without = topics.with_name("without_events.yaml")
    without.write_text("".join(line for line in text.splitlines(True) if "topic: events" not in line))
    for file in (topics, without):  # whether the topic map names the markers or not
        converted = tmp_path / file.stem
        assert convert([str(bag), "--topics", str(file), "--output", str(converted)]) == 0
        assert_same_episodes(converted, live, ["first", "set before", "again"])


def assert_same_episodes(converted, live, tasks):
    found, expected = EpisodeDataset(converted), EpisodeDataset(live)
    assert [found.task(episode.index, 0) for episode in found.episodes] == tasks
    for number in range(len(expected.episodes)):
        file = f"data/chunk-000/episode_{number:06d}.parquet"
        rows = [pq.read_table(folder / file).drop(["task_index"]) for folder in (converted, live)]
        assert rows[0].equals(rows[1]), (quality(converted, number), quality(live, number))
        video = f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4"
        assert (converted / video).read_bytes() == (live / video).read_bytes()
        assert marks_of(converted, number) == marks_of(live, number)


def test_bag_of_an_episode_that_is_taken_back_goes_with_it(launch, tmp_path):
    _, recorder, _ = launch(autostart=True, bag="configured", dataset_version="v3.0", video_preset="superfast")
    recorder.wait_until_ready()
    recorder.record("first")
    recorder.record("second")
    answer = recorder.call(DiscardLastEpisode, "discard_last_episode")
    assert answer.error_code == ErrorCode.NONE
    moved = eventually(lambda: list(Path(answer.moved_to).glob("episode_000001_*/*.mcap")), "moved")
    assert len(moved) == 1
    assert [bag.name[:15] for bag in (tmp_path / "dataset/.bags").iterdir()] == ["episode_000000_"]
    assert json.loads((tmp_path / "dataset/meta/info.json").read_text())["codebase_version"] == "v3.0"
