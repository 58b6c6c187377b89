#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Kill a recording process with SIGKILL at random instants, start it again each time, and count what was lost.

The process is a plain writer, or with --node the recorder node, fed with topics by this process. What it is fed says
what it is: numbers in the rows, and the same numbers as black and white cells in the images. After every kill

* the dataset opens, and lists every episode that had been reported as saved, and at most the one being saved;
* every new episode is compared with what was fed, row by row and frame by frame, earlier ones by their files' bytes;
* now and then, and at the end, `repair` recovers what was left unfinished, and those episodes are checked in the same
  way; `validate` then finds nothing, which includes that indices are contiguous.

    python3 -m bench.kill_recorder --kills 200
    python3 -m bench.kill_recorder --kills 200 --node --seconds 300
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.repair.dataset import repair_dataset
from gr00t_training.dataset.tools.repair.unfinished import find_unfinished
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey, to_mapping
from gr00t_training.types import Frame

FPS = 30
HEIGHT, WIDTH = 96, 128
CELL_PX = 8  # 16 cells a line: one 16-bit number
JOINTS = tuple(f"joint_{number}" for number in range(7))
CAMERAS = ("front", "wrist")
PHASES = ("starting", "recording", "saving", "between")
NODE_FPS = 15  # one process publishes all, on a machine that does other things too
# Fast DDS leaves segments and locks of a killed process in shared memory, on which the living may then wait.
TRANSPORT = {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
PACE_S = 0.003  # between frames of the plain writer: ten times as fast as a robot
DEADLINE_S = 120.0


def make_embodiment(fps: int = FPS) -> Embodiment:
    """Return an arm with two cameras."""
    arm = VectorKey(names=JOINTS)
    video = {key: VideoKey(height=HEIGHT, width=WIDTH) for key in CAMERAS}
    return Embodiment(
        name="kill_test", tag="new_embodiment", fps=fps, state={"arm": arm}, action={"arm": arm}, video=video
    )


def coded_image(numbers: Sequence[int], level: int) -> np.ndarray:
    """Draw numbers below 2^16 as lines of 16 cells on plain gray; `(HEIGHT, WIDTH, 3)` uint8."""
    image = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    for line, number in enumerate(numbers):
        bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8) * 255
        cells = np.repeat(bits, CELL_PX)
        image[line * CELL_PX : (line + 1) * CELL_PX] = cells[None, :, None]
    return image


def decoded_numbers(image: np.ndarray, count: int) -> list[int]:
    """Read the numbers of an image back; AssertionError where a cell is neither black nor white."""
    numbers = []
    for line in range(count):
        cells = image[line * CELL_PX : (line + 1) * CELL_PX].reshape(CELL_PX, 16, CELL_PX, 3)
        middle = cells[2:-2, :, 2:-2].mean(axis=(0, 2, 3))
        assert ((middle < 60) | (middle > 195)).all(), f"cells are {middle.round()}"
        numbers.append(sum(1 << bit for bit in range(16) if middle[bit] > 127))
    return numbers


def fed_frame(run: int, episode: int, row: int) -> Frame:
    """Return what the plain writer is fed."""
    state = np.array([run, episode, row, *np.random.default_rng([run, episode, row]).normal(size=4)])
    images = {key: coded_image((run, episode, row), 60 + 40 * camera) for camera, key in enumerate(CAMERAS)}
    return Frame(round(row * 1e9 / FPS), {"arm": state}, {"arm": -state}, images)


def write_until_killed(path: str, run: int, seed: int, version: str) -> None:
    """Record one episode after the other and print each step; the child process."""
    rng = random.Random(seed)
    print("open", flush=True)
    with DatasetWriter(path, make_embodiment(), version=version) as writer:
        print("opened", writer.num_episodes, flush=True)
        for episode in range(1000):
            print("start", episode, flush=True)
            recording = writer.start_episode(f"run {run}")
            for row in range(rng.randint(10, 60)):
                recording.add_frame(fed_frame(run, episode, row))
                print("row", row, flush=True)
                time.sleep(PACE_S)
            print("save", episode, flush=True)
            print("saved", recording.save(), flush=True)


@dataclass(frozen=True)
class Kill:
    """How one process ended."""

    phase: str
    num_saved: int  # episodes that it reported as saved
    num_rows: int  # of the episode it was killed in


class Recorder(Protocol):
    """A process that records until it is killed, and knows what it was fed."""

    def record_and_kill(self, run: int, rng: random.Random) -> Kill:
        """Start the process, and kill it at a random instant."""
        ...

    def check(self, dataset: EpisodeDataset, index: int) -> None:
        """Compare an episode with what was fed; AssertionError names the difference."""
        ...

    def close(self) -> None:
        """Stop feeding."""
        ...


class PlainWriter:
    """`DatasetWriter` in a separate process, without ROS."""

    def __init__(self, path: Path, version: str = "v2.1") -> None:
        self._path, self._version = path, version

    def record_and_kill(self, run: int, rng: random.Random) -> Kill:
        """Start the process, and kill it at a random instant of a phase drawn at random."""
        arguments = ["--child", str(run), "--seed", str(rng.randrange(2**31)), "--version", self._version]
        with tempfile.NamedTemporaryFile("r") as log:
            with open(log.name, "w") as output:
                command = [sys.executable, __file__, "--path", str(self._path), *arguments]
                child = subprocess.Popen(command, stdout=output)
            try:
                self._wait_for_instant(child, log, rng)
            finally:
                child.send_signal(signal.SIGKILL)
                code = child.wait()
            assert code == -signal.SIGKILL, f"the writer ended by itself ({code})"
            log.seek(0)
            lines = log.read().split("\n")[:-1]  # behind the last line break is what was being printed
            return _kill_of([line.split() for line in lines])

    def _wait_for_instant(self, child: subprocess.Popen, log: Any, rng: random.Random) -> None:
        """Wait for an event of the process, and then a random while."""
        events = [("open", 1, 0.05), ("start", rng.randint(1, 3), 0.3), ("save", rng.randint(1, 3), 0.06)]
        event, count, while_s = rng.choices(events, [1, 3, 3])[0]
        deadline_s = time.monotonic() + DEADLINE_S
        text = ""
        while text.count(f"{event} ") + text.count(f"{event}\n") < count and child.poll() is None:
            assert time.monotonic() < deadline_s, f"'{event}' was not reported: {text[-200:]}"
            time.sleep(0.001)
            text += log.read()
        time.sleep(rng.uniform(0, while_s))

    def close(self) -> None:
        """Do nothing: nothing runs between two processes."""

    def check(self, dataset: EpisodeDataset, index: int) -> None:
        """Compare an episode with the input."""
        states, actions = dataset.column(index, "observation.state"), dataset.column(index, "action")
        run, episode = int(states[0][0]), int(states[0][1])
        frames = [fed_frame(run, episode, row) for row in range(len(states))]
        expected = np.array([frame.state["arm"] for frame in frames], np.float32)
        assert np.array_equal(states, expected) and np.array_equal(actions, -expected), f"rows of episode {index}"
        assert dataset.task(index, 0) == f"run {run}"
        for key in CAMERAS:
            for row, image in enumerate(dataset.images(index, key, range(len(states)))):
                found = decoded_numbers(image, 3)
                assert found == [run, episode, row], f"episode {index}, {key}, row {row}: image is of {found}"


def _kill_of(events: list[list[str]]) -> Kill:
    last = events[-1][0] if events else ""
    phases = {"start": "recording", "row": "recording", "save": "saving", "opened": "between", "saved": "between"}
    rows = 0
    for event in events:
        rows = {"start": 0, "saved": 0}.get(event[0], int(event[1]) + 1 if event[0] == "row" else rows)
    return Kill(phases.get(last, "starting"), sum(event[0] == "saved" for event in events), rows)


class NodeUnderTest:
    """The recorder node in a separate process, fed with topics by this process.

    Joint i is at (1 + i) times the seconds since the start; images carry their number, and their stamps are kept.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Start to publish; `folder` takes the configuration files. `close` ends it."""
        from gr00t_recorder.ros.processes import next_domain, spinning_node  # only this variant needs ROS

        self._path = path
        self._topics = folder / "topics.yaml"
        (folder / "kill_test.yaml").write_text(json.dumps(to_mapping(make_embodiment(NODE_FPS))))
        age = {"max_age_s": 2.0}  # a loaded machine holds up good messages by less
        cameras = {key: {"topic": f"{key}/image", "type": "sensor_msgs/msg/Image", **age} for key in CAMERAS}
        joints = {"type": "sensor_msgs/msg/JointState", **age}
        streams = {"joints": {"topic": "joint_states", **joints}, "leader": {"topic": "leader", **joints}, **cameras}
        bound = {"state": {"arm": {"stream": "joints"}}, "action": {"arm": {"stream": "leader"}}}
        video = {key: {"stream": key} for key in CAMERAS}
        topics = {"embodiment": "kill_test.yaml", "streams": streams, **bound, "video": video}
        self._topics.write_text(json.dumps(topics))
        self._domain = next_domain()
        self._context = spinning_node("robot", self._domain)
        with mock.patch.dict(os.environ, TRANSPORT):  # read when the node is made
            self._node = self._context.__enter__()
        self._publish()

    def close(self) -> None:
        """Stop publishing."""
        self._context.__exit__(None, None, None)

    def record_and_kill(self, run: int, rng: random.Random) -> Kill:
        """Start the node, record some episodes, and kill it at a random instant of a phase drawn at random."""
        from gr00t_recorder.ros.processes import NodeProcess
        from gr00t_test_support.ros.nodes import parameter_arguments

        phase = rng.choices(PHASES, [1, 5, 5, 1])[0]
        parameters = {"topics_file": self._topics, "dataset_path": self._path, "min_free_disk_gb": 0.0}
        arguments = parameter_arguments(**parameters, autostart=True)
        self._statuses.clear()
        with NodeProcess("gr00t_recorder.ros.recorder_node", *arguments, domain=self._domain, **TRANSPORT) as process:
            try:
                return self._drive(phase, run, rng, process)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{process.output[-4000:]}") from error
            finally:
                process.process.kill()
                process.process.wait()

    def _drive(self, phase: str, run: int, rng: random.Random, process: Any) -> Kill:
        """Record until the instant has come."""
        from gr00t_msgs.srv import StartEpisode, StopEpisode

        from gr00t_test_support.ros.nodes import call
        from gr00t_test_support.waiting import eventually

        if phase == "starting":
            time.sleep(rng.uniform(0, 3))
            return Kill(phase, 0, 0)
        eventually(self._is_ready, "the node is ready", DEADLINE_S)
        num_episodes = rng.randint(1, 3)
        for number in range(num_episodes):
            answer = call(self._node, StartEpisode, "/recorder/start_episode", StartEpisode.Request(task=f"run {run}"))
            assert not answer.error_code, answer.error_msg
            is_last = phase == "recording" and rng.random() < 0.5
            time.sleep(rng.uniform(0.3, 2.0))
            eventually(self._has_rows, "rows", DEADLINE_S)  # without any, there is nothing to save
            if is_last:
                return Kill(phase, number, self._num_rows())
            client = self._node.create_client(StopEpisode, "/recorder/stop_episode")
            eventually(client.service_is_ready, "stop_episode", DEADLINE_S)
            num_rows = self._num_rows()
            asked = client.call_async(StopEpisode.Request(keep=True))
            if phase == "saving" and rng.random() < 0.6:
                time.sleep(rng.uniform(0, 0.15))
                is_saved = asked.done()
                return Kill("between" if is_saved else phase, number + is_saved, 0 if is_saved else num_rows)
            eventually(asked.done, "the episode is saved", DEADLINE_S)
            result: Any = asked.result()
            assert not result.error_code, result.error_msg
        time.sleep(rng.uniform(0, 0.3))
        return Kill("between", num_episodes, 0)

    def _is_ready(self) -> bool:
        from gr00t_msgs.msg import StreamStatus

        streams = self._statuses[-1].streams if self._statuses else []
        return len(streams) == 2 + len(CAMERAS) and all(stream.state == StreamStatus.OK for stream in streams)

    def _has_rows(self) -> bool:
        from gr00t_msgs.msg import RecorderStatus

        return self._statuses[-1].state == RecorderStatus.RECORDING and self._num_rows() > 0

    def _num_rows(self) -> int:
        return self._statuses[-1].frames if self._statuses else 0

    def check(self, dataset: EpisodeDataset, index: int) -> None:
        """Hold an episode against what was published."""
        quality, length = dataset.quality(index), dataset.episode(index).length
        assert quality is not None
        ticks_ns = quality.start_ns + np.round(np.arange(length) * 1e9 / NODE_FPS).astype(np.int64)
        seconds = (ticks_ns - self._start_ns) / 1e9
        expected = seconds[:, None] * (1 + np.arange(len(JOINTS)))
        for column, sign in (("observation.state", 1), ("action", -1)):
            np.testing.assert_allclose(dataset.column(index, column), sign * expected, atol=2e-3, err_msg=column)
        for key in CAMERAS:
            ages_ns = quality.ages_ns[f"video.{key}"]
            for row, image in enumerate(dataset.images(index, key, range(length))):
                number, again = decoded_numbers(image, 2)
                assert again == number ^ 0xFFFF
                stamp_ns = self._stamps_ns[key][number]
                text = f"episode {index}, {key}, row {row}: image {number} of {stamp_ns}, age {ages_ns[row]}"
                assert abs(ticks_ns[row] - ages_ns[row] - stamp_ns) < 2000, text

    def _publish(self) -> None:
        from gr00t_msgs.msg import RecorderStatus
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image, JointState

        node = self._node
        self._statuses: list[Any] = []
        self._stamps_ns: dict[str, list[int]] = {key: [] for key in CAMERAS}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(RecorderStatus, "/recorder/status", self._statuses.append, latched)
        arms = {topic: node.create_publisher(JointState, f"/{topic}", 10) for topic in ("joint_states", "leader")}
        cameras = {key: node.create_publisher(Image, f"/{key}/image", 10) for key in CAMERAS}
        self._start_ns = node.get_clock().now().nanoseconds

        def move() -> None:
            now = node.get_clock().now()
            position = (now.nanoseconds - self._start_ns) / 1e9 * (1 + np.arange(len(JOINTS)))
            for topic, sign in (("joint_states", 1), ("leader", -1)):
                message = JointState(name=list(JOINTS), position=(sign * position).tolist())
                message.header.stamp = now.to_msg()
                arms[topic].publish(message)

        def look() -> None:
            for camera, key in enumerate(CAMERAS):
                now = node.get_clock().now()
                number = len(self._stamps_ns[key])
                self._stamps_ns[key].append(now.nanoseconds)
                pixels = coded_image((number, number ^ 0xFFFF), 60 + 40 * camera).tobytes()
                message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3, data=pixels)
                message.header.stamp = now.to_msg()
                cameras[key].publish(message)

        node.create_timer(0.02, move)
        node.create_timer(1 / NODE_FPS, look)


@dataclass
class Results:
    """What came out of all kills."""

    kills: Counter[str] = field(default_factory=Counter)  # by phase
    num_saved: int = 0  # episodes reported as saved
    num_between: int = 0  # episodes that were complete although the kill came before the report
    num_lost: int = 0
    unfinished: Counter[str] = field(default_factory=Counter)  # episodes that were being recorded or saved, by phase
    rows_unfinished: int = 0
    num_recovered: int = 0
    rows_recovered: int = 0
    most_rows_left: int = 0  # of an unfinished episode that was not recovered
    num_episodes: int = 0
    num_frames: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{'killed while':<14}{'kills':>7}{'unfinished episodes':>22}"]
        lines += [f"{phase:<14}{self.kills[phase]:>7}{self.unfinished[phase]:>22}" for phase in PHASES]
        lines.append(f"{'all':<14}{self.kills.total():>7}{self.unfinished.total():>22}\n")
        lines.append(
            f"finished episodes: {self.num_saved} reported as saved, {self.num_between} more were complete, "
            f"{self.num_lost} lost"
        )
        lines.append(
            f"unfinished episodes: {self.unfinished.total()}, of which {self.num_recovered} recovered; "
            f"{self.rows_recovered} rows, {self.rows_unfinished} reported; others have at most {self.most_rows_left}"
        )
        lines.append(
            f"dataset: {self.num_episodes} episodes, {self.num_frames} rows, no finding of validate; "
            f"{self.seconds:.0f} s in all"
        )
        return "\n".join(lines)


def run_kills(
    recorder: Recorder,
    path: Path,
    *,
    kills: int,
    seed: int,
    repair_every: int,
    seconds: float = 1e9,
    show: bool = False,
) -> Results:
    """Kill and restart, checking after each kill; AssertionError at the first thing that is not as it should be."""
    rng, results = random.Random(seed), Results()
    digests: dict[str, str] = {}  # of the files of checked episodes
    num_checked, began = 0, time.monotonic()
    for run in range(kills):
        if time.monotonic() - began > seconds:
            break
        kill = recorder.record_and_kill(run, rng)
        results.kills[kill.phase] += 1
        results.num_saved += kill.num_saved
        num_found = _num_episodes(path)
        num_new = num_found - num_checked
        assert num_new in (kill.num_saved, kill.num_saved + 1), f"kill {run}: {num_new} episodes, {kill} reported"
        results.num_between += num_new - kill.num_saved
        if kill.num_rows and num_new == kill.num_saved:
            results.unfinished[kill.phase] += 1
            results.rows_unfinished += kill.num_rows
        _check_new(recorder, path, num_checked, num_found)
        _check_old(path, digests, rng)
        num_checked = num_found
        if (run + 1) % repair_every == 0:
            num_checked = _repair(recorder, path, num_checked, results)
        if show:
            text = f"kill {run + 1} while {kill.phase}: {num_checked} episodes, {results.num_recovered} recovered"
            print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)
    num_checked = _repair(recorder, path, num_checked, results)
    _check_new(recorder, path, 0, num_checked)
    results.most_rows_left = max((item.num_rows for item in find_unfinished(path)[0]), default=0)
    findings = [str(finding) for finding in validate_dataset(path)]
    assert findings == [], findings
    dataset = EpisodeDataset(path)
    results.num_episodes, results.num_frames = len(dataset.episodes), dataset.num_frames
    results.num_lost = results.num_saved + results.num_between + results.num_recovered - results.num_episodes
    dataset.close()
    results.seconds = time.monotonic() - began
    if show:
        print(file=sys.stderr)
    return results


def _num_episodes(path: Path) -> int:
    """Open the dataset; there is none before the first episode is saved."""
    if not (path / "meta/info.json").exists():
        return 0
    dataset = EpisodeDataset(path)
    indices = [episode.index for episode in dataset.episodes]
    assert indices == list(range(len(indices))), indices
    return len(indices)


def _check_new(recorder: Recorder, path: Path, start: int, stop: int) -> None:
    if start < stop:
        dataset = EpisodeDataset(path)
        first_row = sum(dataset.episodes[index].length for index in range(start))
        for index in range(start, stop):
            recorder.check(dataset, index)
            length = dataset.episodes[index].length
            assert dataset.column(index, "index").tolist() == list(range(first_row, first_row + length))
            first_row += length
        dataset.close()


def _check_old(path: Path, digests: dict[str, str], rng: random.Random) -> None:
    """Hold the bytes of some files of earlier episodes against what they were (v2.x: a file is written once)."""
    for name in rng.sample(sorted(digests), min(len(digests), 20)):
        assert _digest(path / name) == digests[name], f"{name} has changed"
    num_episodes = _num_episodes(path)
    for file in [*path.glob("data/*/episode_*.parquet"), *path.glob("videos/*/*/episode_*.mp4")]:
        name = file.relative_to(path).as_posix()
        if name not in digests and int(file.stem.split("_")[1]) < num_episodes:
            digests[name] = _digest(file)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _repair(recorder: Recorder, path: Path, num_checked: int, results: Results) -> int:
    """Recover what is unfinished, check it, and return the number of episodes."""
    if not path.is_dir():
        return num_checked
    report = repair_dataset(path)
    assert not [finding for finding in report.remaining if finding.is_fault], str(report)
    num_new, num_found = len(report.relisted) + len(report.recovered), _num_episodes(path)
    assert num_found == num_checked + num_new, f"{num_found} episodes after repair: {report}"
    results.num_recovered += num_new
    if num_new:
        dataset = EpisodeDataset(path)
        results.rows_recovered += sum(dataset.episodes[index].length for index in range(num_checked, num_found))
        dataset.close()
    _check_new(recorder, path, num_checked, num_found)
    return num_found


def main() -> int:
    """Parse, kill, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--repair-every", type=int, default=20, help="kills between repairs (default: %(default)s)")
    parser.add_argument("--version", default="v2.1", choices=["v2.1", "v3.0"], help="of the dataset")
    parser.add_argument("--path", type=Path, help="where to keep the dataset; default: a temporary folder")
    parser.add_argument("--node", action="store_true", help="kill the recorder node")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        write_until_killed(options.path, options.child, options.seed, options.version)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "dataset"
        recorder = NodeUnderTest(path, Path(folder)) if options.node else PlainWriter(path, options.version)
        try:
            results = run_kills(
                recorder,
                path,
                kills=options.kills,
                seed=options.seed,
                repair_every=options.repair_every,
                seconds=options.seconds,
                show=True,
            )
        finally:
            recorder.close()
    print(results)
    return 1 if results.num_lost else 0


if __name__ == "__main__":
    sys.exit(main())
