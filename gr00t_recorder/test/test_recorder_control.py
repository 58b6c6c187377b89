# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Disk budget, buttons and definitions: what the recorder node decides with, without ROS."""

import pytest

from gr00t_recorder.bag.installed_definitions import full_definition
from gr00t_recorder.episodes.backlog import FrameBacklog
from gr00t_recorder.episodes.buttons import Buttons, Command
from gr00t_recorder.episodes.disk import DiskBudget, folder_bytes
from gr00t_recorder.topics.picking import PickedFrame
from gr00t_recorder.topics.resample import Choice
from gr00t_test_support.builders import make_embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.types import KeyRef

MB = 10**6
MS = 10**6


def make_budget(path, free_bytes, **options):
    return DiskBudget(path, make_embodiment(fps=10, size=(500, 1000)), free_bytes=lambda: free_bytes, **options)


def test_first_guess_is_by_the_images_and_later_ones_are_measured(tmp_path):
    budget = make_budget(tmp_path, 100 * MB, reserve_bytes=50 * MB)
    vectors = 10 * 2 * 4 * 4  # 10 Hz, state and action of 4 channels of 4 bytes
    assert budget.bytes_per_s == 10 * 500 * 1000 * 0.2 + vectors  # 1 MB/s
    for name, size in (("videos/a/b.mp4", 7 * MB), ("data/c.parquet", 1 * MB), ("meta/d.json", 9 * MB)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert folder_bytes(tmp_path / "videos") == 7 * MB
    budget.measure(99)  # less than ten seconds
    assert budget.source == "guessed from the image sizes"
    budget.measure(160)
    assert (budget.bytes_per_s, budget.source) == (8 * MB / 16, "measured on 16 s of earlier episodes")
    (tmp_path / "data/c.parquet").unlink()
    budget.measure(300)  # not doubled: not measured again
    assert budget.bytes_per_s == 8 * MB / 16
    assert budget.left_s() == 100
    assert budget.left_s(extra_bytes_per_s=0.5 * MB) == 50


def test_first_episode_is_measured_while_it_runs(tmp_path):
    budget = make_budget(tmp_path, 100 * MB, reserve_bytes=50 * MB)
    (tmp_path / "running").mkdir()
    (tmp_path / "running/front.mp4").write_bytes(bytes(4 * MB))
    budget.measure_running(tmp_path / "running", 199)
    assert budget.source == "guessed from the image sizes"
    budget.measure_running(tmp_path / "running", 200)
    assert (budget.bytes_per_s, budget.left_s()) == (4 * MB / 20, 250)
    assert budget.source == "measured on 20 s of the running episode"


@pytest.mark.parametrize(("free_mb", "is_refused"), [(110.1, False), (109.9, True)])
def test_start_is_refused_when_the_shortest_episode_would_not_fit(tmp_path, free_mb, is_refused):
    budget = make_budget(tmp_path, free_mb * MB, reserve_bytes=50 * MB)
    budget.bytes_per_s = 1.0 * MB
    assert bool(budget.refusal(60.0)) is is_refused
    if is_refused:
        assert "0.1 GB free at" in budget.refusal(60.0)
        assert "60 s at 1.0 MB/s" in budget.refusal(60.0)


@pytest.mark.parametrize(("free_mb", "waiting_s", "is_ending"), [(53.1, 0, False), (52.9, 0, True), (60, 7.1, True)])
def test_episode_ends_while_its_rest_still_fits(tmp_path, free_mb, waiting_s, is_ending):
    budget = make_budget(tmp_path, free_mb * MB, reserve_bytes=50 * MB)
    budget.bytes_per_s = 1.0 * MB
    assert budget.is_ending(waiting_s) is is_ending  # 3 s to end, and what waits
    assert budget.has_room(1) is (free_mb > 53)


def press(buttons, *sequence, is_recording=False):
    return [buttons.commands([down], t * MS, is_recording=is_recording) for t, down in sequence]


def test_button_counts_once_per_press_and_not_when_it_bounces():
    buttons = Buttons({Command.SUCCESS: 0, Command.FAILURE: -1}, debounce_s=0.3)
    found = press(buttons, (0, 1), (10, 0), (20, 1), (40, 0), (60, 1), (400, 1), (500, 0), (600, 1))
    # held at first; then pressed, bouncing, held, released and pressed again
    assert found == [[], [], [Command.SUCCESS], [], [], [], [], [Command.SUCCESS]]
    assert buttons.commands([], 0, is_recording=False) == []  # a joystick with fewer buttons


def test_one_button_may_start_and_stop():
    buttons = Buttons({Command.START: 0, Command.STOP: 0, Command.DISCARD: 1}, debounce_s=0.0)
    assert buttons.commands([0, 0], 0, is_recording=False) == []
    assert buttons.commands([1, 1], 1, is_recording=False) == [Command.START]
    assert buttons.commands([0, 0], 2, is_recording=True) == []
    assert buttons.commands([1, 1], 3, is_recording=True) == [Command.STOP, Command.DISCARD]


def test_button_pressed_when_the_episode_had_just_ended_by_itself_starts_no_other():
    buttons = Buttons({Command.START: 0, Command.STOP: 0, Command.DISCARD: 1}, debounce_s=0.0)

    def press(**options):
        buttons.commands([0, 0], 0, is_recording=False)
        return buttons.commands([1, 1], 1, is_recording=False, can_decide=True, **options)

    assert press(has_just_ended=True) == [Command.STOP, Command.DISCARD]
    assert press() == [Command.START, Command.DISCARD]


class Image:
    """Stands for an image message: it has data."""

    def __init__(self, number):
        self.data = bytes([number]) * 1000


def make_frame(number):
    image = Image(number)
    return PickedFrame(number, True, {KeyRef.parse("video.front"): Choice(image, 0, ())}, frozenset())


def test_backlog_keeps_the_order_through_memory_and_disk(tmp_path):
    backlog = FrameBacklog(tmp_path, max_bytes=7000, segment_bytes=2500)  # two frames of 3000 fit into memory
    for number in range(5):
        backlog.put(make_frame(number))
    taken = [backlog.take() for _ in range(3)]  # two of memory and one of disk: there is memory again
    for number in range(5, 8):
        backlog.put(make_frame(number))
    assert (len(backlog), backlog.num_on_disk, backlog.num_spilled) == (5, 3, 4)
    taken += [backlog.take() for _ in range(5)]
    assert [frame.tick_ns for frame in taken] == list(range(8))
    assert all(
        frame.choices[KeyRef.parse("video.front")].value.data == bytes([frame.tick_ns]) * 1000 for frame in taken
    )
    assert not list(tmp_path.iterdir())  # the files have no names
    with pytest.raises(IndexError):
        backlog.take()
    assert backlog.memory_bytes == 0


def test_frame_that_comes_back_damaged_is_not_taken_for_a_frame(tmp_path, monkeypatch):
    import os

    backlog, read = FrameBacklog(tmp_path, max_bytes=0), os.pread
    backlog.put(make_frame(1))
    backlog.put(make_frame(2))
    with monkeypatch.context() as patch:
        patch.setattr("os.pread", lambda *given: read(*given)[:-1] + b"?")
        with pytest.raises(DatasetError, match="came back damaged"):
            backlog.take()
    assert backlog.take().tick_ns == 2


def test_definitions_are_complete_or_refused(tmp_path, monkeypatch):
    folder = tmp_path / "share/own_msgs/msg"
    folder.mkdir(parents=True)
    (folder / "Arm.msg").write_text("# Joint joint\nuint8 OK=0\nJoint[<=7] joints\nother/Grip grip\nstring<=5 name\n")
    (folder / "Joint.msg").write_text("float64 angle 0.5\n")
    (tmp_path / "share/other/msg").mkdir(parents=True)
    (tmp_path / "share/other/msg/Grip.msg").write_text("own_msgs/Joint finger\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    lines = full_definition("own_msgs/msg/Arm").splitlines()
    assert [line for line in lines if line.startswith("MSG:")] == ["MSG: own_msgs/Joint", "MSG: other/Grip"]
    assert lines.count("float64 angle 0.5") == 1
    (folder / "Broken.msg").write_text("absent/Thing thing\n")
    with pytest.raises(ConfigError, match=r"share/absent/msg/Thing\.msg is not installed"):
        full_definition("own_msgs/msg/Broken")
