# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses

from gr00t_recorder.ros.screen import LineEditor, StreamView, Style, View, paint, render

JOINTS = StreamView(
    name="joints", topic="/joint_states", state="ok", reason="",
    rate_hz=500.0, age_s=0.0021, used=2070, late=0, dropped=0,
)  # fmt: skip
CAMERA = StreamView(
    name="wrist", topic="/wrist/image", state="stale", reason="newest sample is 3.2 s old (limit 0.5 s)",
    rate_hz=0.0, age_s=3.21, used=1035, late=2, dropped=14,
)  # fmt: skip
VIEW = View(
    node="/arm/recorder", state="recording", reason="", warning="stream 'wrist' (/wrist/image) is stale",
    dataset="/data/cubes", episode_index=12, num_episodes=12, task="put the red cube in the bin", num_frames=1035,
    num_queued=30, num_spilled=4, progress=0.5, duration_s=94.56, success=True, valid=None, note="gripper slipped",
    can_redo=True, has_ended_by_itself=False, free_bytes=120_300_000_000, left_s=8000.0,
    bag_path="/data/cubes/.bags/episode_000012_x",
    bag_messages=34000, bag_dropped=0, streams=[JOINTS, CAMERA],
)  # fmt: skip


def texts(lines):
    return [line.text for line in lines]


def test_screen_shows_episode_disk_streams_and_keys():
    assert texts(render(VIEW, 100, 30, message="recording episode 12")) == [
        "recorder /arm/recorder  RECORDING  episode 12  1:34.5  1035 rows",
        "task     put the red cube in the bin",
        "marks    success yes  valid -  gripper slipped",
        "dataset  /data/cubes  12 episodes  120.3 GB free, room for 2 h",
        "encoder  30 rows wait, 4 of them on disk",
        "bag      /data/cubes/.bags/episode_000012_x  34000 messages, 0 dropped",
        "warning  stream 'wrist' (/wrist/image) is stale",
        "",
        "stream  state      rate      age  used  late  dropped  topic",
        "joints  ok     500.0 Hz  0.002 s  2070     0        0  /joint_states",
        "wrist   stale    0.0 Hz  3.210 s  1035     2       14  /wrist/image",
        "        newest sample is 3.2 s old (limit 0.5 s)",
        "",
        "[s] start  [k] stop, keep  [d] stop, discard  [x] cancel  [r] redo  [u] take last back  [y] success",
        "[n] failure  [v] valid  [i] invalid  [t] task  [c] note  [q] quit",
        "recording episode 12",
    ]


def test_episode_that_ended_by_itself_is_shown_with_the_keys_that_decide():
    view = dataclasses.replace(VIEW, state="idle", has_ended_by_itself=True, reason="the disk is full")
    shown = texts(render(view, 80, 30))
    assert "ended    episode 11 ended by itself; [d] discards it, [k] keeps it" in shown
    assert "reason   the disk is full" in shown


def test_states_differ_in_words_and_style():
    def first(**changes):
        return render(dataclasses.replace(VIEW, **changes), 100, 30)[0]

    assert first(state="idle") == ("recorder /arm/recorder  IDLE  next is episode 12", Style.GOOD)
    assert first(state="saving") == ("recorder /arm/recorder  SAVING  episode 12  1035 rows written, 50%", Style.WARN)
    assert first(silent_s=4.2) == ("recorder /arm/recorder  SILENT for 4 s", Style.BAD)
    assert render(None, 100, 30)[0].text == "waiting for the recorder's status"
    lines = render(dataclasses.replace(VIEW, state="failed", reason="disk full"), 100, 30)
    assert ("reason   disk full", Style.BAD) in lines
    assert next(line for line in lines if line.text.startswith("wrist")).style is Style.BAD


def test_nothing_exceeds_a_small_terminal_and_the_question_stays():
    for width, height in ((40, 10), (20, 5), (1, 1)):
        lines = render(VIEW, width, height, prompt="task: lift")
        assert len(lines) <= height
        assert all(len(line.text) <= width for line in lines)
    assert texts(render(VIEW, 40, 10, prompt="task: lift"))[-1] == "task: lift_"
    assert texts(render(VIEW, 40, 30))[1] == "task     put the red cube in the bin"
    assert texts(render(VIEW, 30, 30))[1] == "task     put the red cube in ~"


def test_control_characters_of_others_do_not_reach_the_terminal():
    view = dataclasses.replace(VIEW, task="red\x1b[2Jcube")
    assert texts(render(view, 100, 30))[1] == "task     red?[2Jcube"
    picture = paint(render(view, 100, 2))
    assert picture.startswith("\x1b[H\x1b[")
    assert picture.count("\x1b[K") == 2
    assert picture.endswith("\x1b[J")


def test_line_editor():
    editor = LineEditor("task", "lif")
    for key in "x\x7ft":
        editor.press(key)
    assert (editor.prompt, editor.is_done) == ("task: lift", False)
    editor.press("\r")
    assert (editor.text, editor.is_done, editor.is_given_up) == ("lift", True, False)
    given_up = LineEditor("task", "lift")
    for key in "\x15ab\x1b":
        given_up.press(key)
    assert (given_up.text, given_up.is_done, given_up.is_given_up) == ("ab", True, True)
