# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import threading
from contextlib import suppress

import pytest

from gr00t_recorder.bag import recording as module
from gr00t_recorder.bag.mcap_writer import WrittenTopic
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.recording import BagRecording
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.errors import DatasetError

MS = 1_000_000
TOPICS = ["/fast", "/latched"]


@pytest.fixture
def recording():
    made = BagRecording(max_queued_bytes=1000)
    for name in TOPICS:
        made.declare(WrittenTopic(name, "std_msgs/msg/Empty", ""))
    yield made
    made.close()


def times_ms(folder, topic):
    with Bag(folder) as bag:
        return [message.log_ns // MS for message in bag.messages([topic])]


def test_bag_begins_a_second_before_the_episode_and_holds_what_is_latched(recording, tmp_path):
    recording.put("/latched", 0, b"\0\1\0\0old!")
    recording.put("/latched", 10 * MS, b"\0\1\0\0new!")
    for t in range(1000, 3001, 100):
        recording.put("/fast", t * MS, b"\0\1\0\0")
    recording.begin(tmp_path / "first")
    for t in range(3100, 3501, 100):
        recording.put("/fast", t * MS, b"\0\1\0\0")
    recording.end(is_kept=True, custom={"episode": "0"})
    recording.begin(tmp_path / "dropped")
    recording.put("/fast", 3600 * MS, b"\0\1\0\0")
    recording.end(is_kept=False)
    recording.put("/fast", 3700 * MS, b"\0\1\0\0")
    recording.close()
    assert times_ms(tmp_path / "first", "/fast") == list(range(2000, 3501, 100))
    with Bag(tmp_path / "first") as bag:
        assert [(m.log_ns, m.payload) for m in bag.messages(["/latched"])] == [(2000 * MS - 1, b"\0\1\0\0new!")]
    assert not (tmp_path / "dropped").exists()


def test_messages_that_the_disk_is_too_slow_for_are_counted(recording, tmp_path, monkeypatch):
    gate, put = threading.Event(), module.BagWriter.write
    monkeypatch.setattr(module.BagWriter, "write", lambda *given: gate.wait(DEADLINE_S) and put(*given))
    recording.begin(tmp_path / "bag")
    for t in range(1, 21):  # of 100 bytes each; 1000 may wait
        recording.put("/fast", t * MS, b"\0\1\0\0" + bytes(96))
    assert recording.num_dropped == 10
    gate.set()
    recording.close()
    assert times_ms(tmp_path / "bag", "/fast") == list(range(1, 11))


def test_what_a_kill_would_leave_is_at_most_a_second_old(recording, tmp_path):
    recording.begin(tmp_path / "bag")
    recording.put("/fast", 1 * MS, b"\0\1\0\0")

    def is_in_the_file():
        with suppress(DatasetError), Bag(tmp_path / "bag", allow_partial=True) as bag:  # there is no file yet
            return [message.log_ns for message in bag.messages(["/fast"])] == [1 * MS]

    eventually(is_in_the_file, "the message did not reach the file")


def test_bag_that_cannot_be_written_leaves_the_next_one_unharmed(recording, tmp_path):
    (tmp_path / "bag").mkdir()
    recording.begin(tmp_path / "bag")
    recording.put("/fast", 1 * MS, b"\0\1\0\0")
    recording.begin(tmp_path / "next")
    recording.close()
    assert times_ms(tmp_path / "next", "/fast") == [1]


@pytest.mark.parametrize("is_written", [False, True], ids=["before the first bag", "after a bag"])
def test_rate_of_the_bag_is_that_of_its_compressed_file(tmp_path, monkeypatch, is_written):
    recording = BagRecording()
    recording.declare(WrittenTopic("/fast", "std_msgs/msg/Empty", ""))
    monkeypatch.setattr(module, "MIN_MEASURED_BYTES", 1000)
    monkeypatch.setattr(module, "SAMPLE_PERIOD_S", 0.0)
    if is_written:
        recording.begin(tmp_path / "bag")
    for t in range(1, 9):  # 100 kB every 100 ms, which compress to nearly nothing
        recording.put("/fast", t * 100 * MS, b"\0\1\0\0" + bytes(99_996))
    if is_written:
        recording.end(is_kept=True)
    eventually(lambda: 0 < recording.bytes_per_s() < 10_000, "rate of the compressed file")  # of a million that arrive
    recording.close()
