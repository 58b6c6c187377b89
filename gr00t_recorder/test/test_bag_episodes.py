# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the episodes of a bag begin and end, what their tasks are, and what becomes of faults in their streams."""

import json

import numpy as np
import pytest
from bag_truth import frame_number

from gr00t_recorder.bag.convert_cli import main
from gr00t_test_support.bag_builder import MS, START_EPISODE, START_NS, STEP_NS, TRIGGER, ToyBag, write_toy_topics
from gr00t_training.dataset.reader import EpisodeDataset

REFUSED = {"success": False, "message": "busy"}
DONE = {"success": True, "message": ""}


class Conversion:
    """A conversion of one bag, and what it left."""

    def __init__(self, folder, bag, *options):
        self.output = folder / "out"
        arguments = [str(bag.write(folder / "toy.mcap")), "--topics", str(write_toy_topics(folder))]
        self.code = main([*arguments, "--output", str(self.output), *options])

    @property
    def dataset(self):
        return EpisodeDataset(self.output)

    @property
    def entry(self):
        return json.loads((self.output / "conversion.json").read_text())["bags"][0]

    def lengths(self):
        return [episode.length for episode in self.dataset.episodes]

    def steps(self, episode):
        """Return the numbers shown in the images of an episode, after holding its state against them."""
        dataset = self.dataset
        rows = list(range(dataset.episodes[episode].length))
        numbers = [frame_number(image) for image in dataset.images(episode, "front", rows)]
        np.testing.assert_allclose(dataset.state(episode, "arm")[:, 0], np.array(numbers) / 10, atol=1e-5)
        return numbers


def two_stretches():
    """Steps 0 to 9, three seconds of silence, steps 40 to 46."""
    return ToyBag().steps(0, 9).steps(40, 46)


def test_episodes_that_were_taken_back_are_left_out(tmp_path, capsys):
    bag = ToyBag().steps(0, 40)
    for at, event in ((0, "take_back"), (1, "start"), (6, "stop"), (11, "start"), (16, "stop"), (21, "start"),
                      (24, "take_back"), (26, "discard"), (27, "take_back"), (31, "start"), (36, "stop")):  # fmt: skip
        bag.event(at * STEP_NS - 50 * MS, event, "wave")
    conversion = Conversion(tmp_path, bag)
    assert conversion.code == 0
    assert [conversion.steps(0), conversion.steps(1)] == [list(range(1, 6)), list(range(31, 36))]
    assert [episode["is_discarded"] for episode in conversion.entry["episodes"]] == [False, True, True, False]
    assert sum("'take_back' out of place" in text for text in conversion.entry["complaints"]) == 2


def test_bag_without_an_episode_fails_and_is_tried_again(tmp_path, capsys):
    bag = ToyBag().steps(0, 20).event(-50 * MS, "start", "wave").event(10 * STEP_NS, "discard")
    for options in (["--dry-run"], [], []):
        assert Conversion(tmp_path, bag, *options).code == 1
        printed = capsys.readouterr()
        assert "toy.mcap: no episode to convert (1 discarded, 0 without a complete row)" in printed.err
        assert "0 episodes, 0 rows" in printed.out
    found = Conversion(tmp_path, bag, "--episodes", "bag", "--task", "wave")
    assert (found.code, found.lengths()) == (0, [21])
    assert len(json.loads((found.output / "conversion.json").read_text())["bags"]) == 1
    # converted before, next to one without an episode
    (tmp_path / "toy.mcap").rename(tmp_path / "first.mcap")
    ToyBag().steps(30, 39).event(30 * STEP_NS, "start").event(35 * STEP_NS, "discard").write(tmp_path / "second.mcap")
    both = [str(tmp_path / name) for name in ("first.mcap", "second.mcap")]
    assert main([*both, "--topics", str(tmp_path / "topics.yaml"), "--output", str(found.output)]) == 0
    assert "no episode" not in capsys.readouterr().err


def test_gaps_of_the_camera_separate_episodes(tmp_path):
    conversion = Conversion(tmp_path, two_stretches(), "--episodes", "gaps", "--gap-s", "1", "--task", "wave")
    assert conversion.code == 0
    assert [conversion.steps(0), conversion.steps(1)] == [list(range(10)), list(range(40, 47))]


def test_gaps_of_a_named_stream_separate_episodes(tmp_path):
    bag = two_stretches()
    for step in range(10, 40):
        bag.image(step)  # the camera never rests
    options = ("--episodes", "gaps", "--gap-s", "1", "--gap-stream", "command", "--task", "wave")
    conversion = Conversion(tmp_path, bag, *options)
    # the camera continues to the middle of the silence, the joints do not: missing rows are reported, not filled in
    assert conversion.code == 1
    assert "state.arm: the closest sample" in conversion.entry["error"]
    assert conversion.entry["episodes"] == []


def test_silence_within_an_episode_is_refused_with_its_remedy(tmp_path, capsys):
    conversion = Conversion(tmp_path, two_stretches(), "--task", "wave")
    assert conversion.code == 1
    assert "from the tick (limit 0.5 s" in capsys.readouterr().err
    assert conversion.entry["error"]
    assert not (conversion.output / "meta" / "info.json").exists()


def test_calls_of_named_services_mark_episodes_and_refused_calls_do_not(tmp_path, capsys):
    bag = ToyBag().steps(0, 40)
    for at, service, response in (
        (2, "/rec/start", DONE), (4, "/rec/start", REFUSED), (9, "/rec/stop", DONE), (12, "/rec/start", DONE),
        (18, "/rec/discard", DONE), (22, "/rec/start", DONE), (29, "/rec/stop", DONE),
    ):  # fmt: skip
        bag.call(at * STEP_NS - 50 * MS, service, "std_srvs/srv/Trigger", TRIGGER, {}, response)
    names = ("--start-service", "rec/start", "--stop-service", "/rec/stop", "--discard-service", "/rec/discard")
    conversion = Conversion(tmp_path, bag, "--episodes", "services", *names, "--task", "wave")
    assert conversion.code == 0
    assert [conversion.steps(0), conversion.steps(1)] == [list(range(2, 9)), list(range(22, 29))]
    assert "the call of /rec/start was refused; ignored" in capsys.readouterr().err
    assert [episode["is_discarded"] for episode in conversion.entry["episodes"]] == [False, True, False]


@pytest.mark.parametrize(
    ("error_fields", "not_recording", "failed"),
    [
        pytest.param("uint16 NONE=0\nuint16 NOT_RECORDING=1\nuint16 SAVE_FAILED=2\n", 1, 2, id="codes of the service"),
        pytest.param("", 200, 204, id="codes of the table"),
    ],
)
def test_services_of_the_recorder_are_found_by_their_type_and_carry_the_task(
    tmp_path, error_fields, not_recording, failed
):
    stop_episode = f"bool keep\n---\n{error_fields}uint16 error_code\nstring error_msg\n"
    bag = ToyBag().steps(0, 40)
    started = {"error_code": 0, "error_msg": "", "episode_index": 0}
    for at, task, keep, code in (
        (0, "wave", True, 0), (10, "bow", False, 0), (20, "nod", True, 0), (30, "bend", True, failed)
    ):  # fmt: skip
        bag.call(
            at * STEP_NS, "/r/start_episode", "gr00t_msgs/srv/StartEpisode", START_EPISODE, {"task": task}, started
        )
        for step, answer in ((5, code), (6, not_recording)):
            bag.call(
                (at + step) * STEP_NS,
                "/r/stop_episode",
                "gr00t_msgs/srv/StopEpisode",
                stop_episode,
                {"keep": keep},
                {"error_code": answer, "error_msg": ""},
            )
    conversion = Conversion(tmp_path, bag, "--episodes", "services")
    assert conversion.code == 0
    assert [conversion.dataset.task(episode.index, 0) for episode in conversion.dataset.episodes] == ["wave", "nod"]
    assert [episode["is_discarded"] for episode in conversion.entry["episodes"]] == [False, True, False, True]


def test_absent_services_are_refused_and_those_recorded_are_named(tmp_path, capsys):
    bag = ToyBag().steps(0, 5).call(0, "/go", "std_srvs/srv/Trigger", TRIGGER, {}, DONE)
    conversion = Conversion(tmp_path, bag, "--episodes", "services", "--task", "wave")
    assert conversion.code == 1
    assert "no services gr00t_msgs/srv/StartEpisode_Event: the bag has the events of /go" in capsys.readouterr().err


def test_markers_out_of_place_are_named_and_ignored(tmp_path, capsys):
    bag = ToyBag().steps(0, 20).event(STEP_NS, "stop").event(2 * STEP_NS, "start", "wave", note="slow")
    bag.event(4 * STEP_NS, "start", "again").text("/events", 5 * STEP_NS, "{").event(9 * STEP_NS, "stop", success=True)
    conversion = Conversion(tmp_path, bag)
    assert conversion.code == 0
    assert conversion.steps(0) == list(range(2, 10))
    errors = capsys.readouterr().err
    assert errors.count("out of place; ignored") == 2
    assert "episode marker '{'" in errors
    quality = json.loads((conversion.output / "meta" / "quality" / "episode_000000.json").read_text())
    assert (quality["success"], quality["note"]) == (True, "slow")


def test_markers_asked_for_but_absent_give_no_episodes(tmp_path):
    conversion = Conversion(tmp_path, ToyBag().steps(0, 5), "--episodes", "markers")
    assert conversion.code == 1
    assert conversion.entry["episodes"] == []


@pytest.mark.parametrize(
    ("marker", "topic", "tasks", "option", "expected"),
    [
        ("of marker", "of topic", "toy,of file", "of option", "of marker"),
        ("", "of topic", "toy,of file", "of option", "of topic"),
        ("", "", "toy,of file", "of option", "of file"),
        ("", "", "", "of option", "of option"),
    ],
)
def test_task_comes_from_the_closest_source(tmp_path, marker, topic, tasks, option, expected):
    bag = ToyBag().steps(0, 8).event(0, "start", marker).event(6 * STEP_NS, "stop")
    if topic:
        bag.text("/task", -MS, topic)
    options = ["--task", option]
    if tasks:
        (tmp_path / "tasks.csv").write_text("bag,task\n" + tasks + "\n")
        options += ["--tasks", str(tmp_path / "tasks.csv")]
    conversion = Conversion(tmp_path, bag, *options)
    assert conversion.code == 0
    assert conversion.dataset.task(0, 0) == expected


def test_file_of_tasks_gives_each_episode_its_own(tmp_path):
    (tmp_path / "tasks.json").write_text(json.dumps({"toy.mcap": ["first", "second"]}))
    options = ("--episodes", "gaps", "--gap-s", "1", "--tasks", str(tmp_path / "tasks.json"))
    conversion = Conversion(tmp_path, two_stretches(), *options)
    assert [conversion.dataset.task(index, 0) for index in (0, 1)] == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tasks.csv", "bag,task\nother,wave\n", "unknown bag 'other'"),
        ("tasks.csv", "bag,task\ntoy,\n", "bag 'toy' has an empty task"),
        ("tasks.csv", "recording,text\ntoy,wave\n", "expected CSV with the columns bag,task"),
        ("tasks.json", "[1]", "expected CSV with the columns bag,task or a JSON object"),
    ],
)
def test_wrong_file_of_tasks_is_one_clear_line(tmp_path, capsys, name, text, expected):
    (tmp_path / name).write_text(text)
    conversion = Conversion(tmp_path, ToyBag().steps(0, 5), "--tasks", str(tmp_path / name))
    assert conversion.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) == 1


def test_values_that_are_not_finite_are_left_out_counted_and_named(tmp_path, capsys):
    bag = ToyBag().steps(0, 10)
    bag.messages = [
        entry for entry in bag.messages if not (entry[1] == "/joint_states" and entry[0] == START_NS + 501 * MS)
    ]
    bag.joints("/joint_states", 500 * MS, value=float("nan"))
    conversion = Conversion(tmp_path, bag, "--task", "wave")
    assert conversion.code == 0
    expected = np.arange(11) / 10
    expected[5] = 0.48  # the value before is held: nothing is drawn across a hole
    np.testing.assert_allclose(conversion.dataset.state(0, "arm")[:, 0], expected, atol=1e-6)
    assert "stream 'joints': 1 messages that cannot be used, left out" in capsys.readouterr().err
    assert conversion.entry["streams"]["joints"]["invalid"] == 1
    assert conversion.entry["episodes"][0]["report"]["streams"]["joints"]["invalid"] == 1


def test_messages_without_stamp_are_taken_at_their_log_time_and_named(tmp_path, capsys):
    bag = ToyBag().steps(0, 10)
    for offset in (305 * MS, 505 * MS):
        bag.joints("/joint_states", offset, stamp_ns=0, value=(offset + MS) / 1e9)
    conversion = Conversion(tmp_path, bag, "--task", "wave")
    assert conversion.code == 0
    assert conversion.steps(0) == list(range(11))
    assert "stream 'joints': 2 messages without a stamp, log time used" in capsys.readouterr().err


def test_repeated_stamps_are_left_out_and_named(tmp_path, capsys):
    bag = ToyBag().steps(0, 10)
    for step in (3, 4, 7):
        bag.joints("/joint_states", step * STEP_NS + 5 * MS, stamp_ns=START_NS + step * STEP_NS, value=9.0)
    conversion = Conversion(tmp_path, bag, "--task", "wave")
    assert conversion.code == 0
    assert conversion.steps(0) == list(range(11))
    assert "stream 'joints': 3 messages with a stamp already received" in capsys.readouterr().err


def stepped_back(bag, first, last, step_ns):
    """Add steps with stamps that are off by `step_ns`."""
    for step in range(first, last + 1):
        offset = step * STEP_NS
        bag.image(step, stamp_ns=START_NS + offset + step_ns)
        bag.joints("/command", offset, stamp_ns=START_NS + offset + step_ns)
        for part in range(5):
            at = offset + part * 20 * MS
            bag.joints("/joint_states", at, stamp_ns=START_NS + at + step_ns)
    return bag


@pytest.mark.parametrize("step_s", [-5, 5])
def test_clock_that_steps_in_an_episode_ends_it(tmp_path, capsys, step_s):
    bag = stepped_back(ToyBag().steps(0, 9), 10, 20, step_s * 10**9)
    conversion = Conversion(tmp_path, bag, "--task", "wave")
    assert conversion.code == 1
    assert "--allow-partial keeps the rows before" in capsys.readouterr().err
    conversion = Conversion(tmp_path, bag, "--task", "wave", "--allow-partial")
    assert conversion.code == 0
    shown = [
        frame_number(image) for image in conversion.dataset.images(0, "front", list(range(conversion.lengths()[0])))
    ]
    assert shown[:10] == list(range(10))
    assert set(shown[10:]) <= {9}  # held for at most half a second, and declared:
    assert len(shown) <= 15
    assert conversion.entry["episodes"][0]["report"]["streams"]["camera"]["filled"] == len(shown[10:])
    errors = capsys.readouterr().err
    assert "its clock was set back 1 times" in errors or "its clock jumped 1 times" in errors
    assert conversion.entry["streams"]["joints"]["clock_steps"] == 1


def test_clock_that_steps_between_episodes_does_no_harm(tmp_path):
    bag = stepped_back(ToyBag().steps(0, 9), 40, 49, -1 * 10**9)
    conversion = Conversion(tmp_path, bag, "--task", "wave", "--episodes", "gaps", "--gap-s", "1")
    assert conversion.code == 0
    assert conversion.lengths() == [10, 10]


def test_streams_that_share_a_topic_both_get_its_messages(tmp_path):
    topics = write_toy_topics(tmp_path)
    text = topics.read_text().replace("/command, type", "/joint_states, type")
    topics.write_text(text)
    path = ToyBag().steps(0, 10).write(tmp_path / "toy.mcap")
    assert main([str(path), "--topics", str(topics), "--output", str(tmp_path / "out"), "--task", "wave"]) == 0
    dataset = EpisodeDataset(tmp_path / "out")
    np.testing.assert_allclose(dataset.action(0, "arm")[:, 0], dataset.state(0, "arm")[:, 0], atol=1e-6)


def own_event(bag, topic, offset_ns, event, **members):
    return bag.text(topic, offset_ns, json.dumps({"event": event, **members}))


@pytest.mark.parametrize("topic", ["/recorder/events", "/cell_2/recorder/events", "/left/tape/events"])
def test_markers_of_a_recorder_are_found_whatever_its_name(tmp_path, capsys, topic):
    """They go before what was asked on the events topic: a start that was refused is no episode."""
    bag, said = ToyBag().steps(0, 40), {"recorder": topic.removesuffix("/events")}
    bag.event(STEP_NS - 50 * MS, "start", "refused").event(2 * STEP_NS, "stop")
    for first, task in ((4, "fold"), (14, "fold"), (24, "hang")):
        at = first * STEP_NS - 50 * MS
        own_event(bag, topic, at, "start", task=task, **said)
        own_event(bag, topic, at + 2 * STEP_NS, "mark", note=f"from {first}", **said)
        own_event(bag, topic, at + 6 * STEP_NS, "stop", success=True, **said)
    own_event(bag, topic, 30 * STEP_NS, "take_back", **said)
    own_event(bag, topic, 31 * STEP_NS, "mark", valid=False, back=1, **said)
    own_event(bag, topic, 32 * STEP_NS, "mark", success=False, **said)
    conversion = Conversion(tmp_path, bag)
    assert conversion.code == 0
    assert [conversion.steps(0), conversion.steps(1)] == [list(range(4, 10)), list(range(14, 20))]
    assert [conversion.dataset.task(index, 0) for index in (0, 1)] == ["fold", "fold"]
    marks = [json.loads(path.read_text()) for path in sorted((conversion.output / "meta/quality").iterdir())]
    assert [(each["success"], each["valid"], each["note"]) for each in marks] == [
        (True, False, "from 4"), (False, None, "from 14"),
    ]  # fmt: skip
    assert f"those of {topic}" in capsys.readouterr().err


def test_markers_of_two_recorders_are_refused(tmp_path, capsys):
    bag = ToyBag().steps(0, 9)
    for name in ("/a/recorder", "/b/recorder"):
        own_event(bag, f"{name}/events", 0, "start", task="fold", recorder=name)
    assert Conversion(tmp_path, bag).code == 1
    assert "several recorders, on /a/recorder/events, /b/recorder/events" in capsys.readouterr().err


def test_inputs_that_stopped_are_held_where_the_recorder_held_them(tmp_path):
    bag = ToyBag().steps(0, 30)
    bag.messages = [
        entry for entry in bag.messages if not (entry[1] == "/command" and entry[0] > START_NS + 10 * STEP_NS)
    ]
    said = {"recorder": "/recorder"}
    own_event(bag, "/recorder/events", 0, "start", task="fold", is_held=True, **said)
    own_event(bag, "/recorder/events", 30 * STEP_NS + 50 * MS, "stop", **said)
    conversion = Conversion(tmp_path, bag)
    assert conversion.code == 0
    quality = json.loads((conversion.output / "meta" / "quality" / "episode_000000.json").read_text())
    assert conversion.lengths() == [31]
    assert quality["filled_rows"]["action.arm"] == list(range(10, 31))  # they are marked as filled, not as samples
