#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure the recorder: three raw cameras 640x480 at 30 Hz and joints at 500 Hz, on two cores.

Separate processes publish numbered messages (made beforehand, only stamp and number change, so that publishing
costs little), `recorder_node` records them as one episode, and a plain typed rclpy subscriber takes the same topics and
does nothing, all in one ROS domain of this machine and on the same cores. Afterwards what was sent is compared with
what both received, and the numbers in the decoded images against the rows.

    sent, received  messages of a stream, over the whole run
    lost            sent - received
    rows            rows of the episode
    skipped         image numbers that no row has, between the first and the last one
    repeated        rows that show the image of the row before
    cpu             share of one core while the episode is recorded
    peak_mib        resident memory

    python3 -m bench.record --seconds 60 --json record.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from gr00t_msgs.msg import RecorderStatus, StreamStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import Image, JointState

from bench.convert import FPS, HEIGHT, WIDTH, make_frames
from gr00t_bringup.robots import fastdds_profile
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.ros.nodes import call, parameter_arguments
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset.reader import EpisodeDataset

CAMERAS = ("front", "left", "right")
JOINTS = tuple(f"joint_{number}" for number in range(7))
JOINT_TOPIC = "joint_states"
PUBLISHER_DEPTH = 50
DEFAULT_DEPTH = 10  # of the plain subscriber, as in most examples
NUM_FRAMES = 45  # images made beforehand, shown forwards and backwards
NUM_BITS = 16
BLOCK_PX = 8  # of the number's bits in the top rows
STAMP_OFFSET = 4  # bytes; CDR: the encapsulation comes first, then the header's stamp
MARK = 1234567.5  # position that is looked for in the serialized message, to be replaced by the number
SETTLE_S = 3.0  # after the last message

TOPICS = """
embodiment: embodiment.yaml
streams:
  joints: {{topic: joint_states, type: sensor_msgs/msg/JointState{qos}}}
{cameras}
state: {{arm: {{stream: joints}}}}
action: {{arm: {{stream: joints}}}}
video: {{{videos}}}
"""


def main() -> int:
    """Measure once and print the tables; return 1 when a message or a row is lost."""
    parser = argparse.ArgumentParser(description="Measure the recorder next to a plain subscriber.")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the episode [s]")
    parser.add_argument("--joint-hz", type=float, default=500.0, help="rate of the joints [Hz]")
    parser.add_argument("--cameras", type=int, default=3, choices=range(1, 4), help="number of cameras")
    parser.add_argument("--cores", type=int, default=2, help="cores for everything together")
    parser.add_argument("--reliability", default="best_effort", choices=["best_effort", "reliable"],
                        help="QoS of recorder and subscriber; the publishers are reliable")  # fmt: skip
    parser.add_argument("--depth", type=int, help="QoS depth of recorder and subscriber (default: the recorder's own)")
    parser.add_argument("--folder", type=Path, help="where the dataset is written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--subscribers", type=int, default=2, help=argparse.SUPPRESS)  # that publishers wait for
    parser.add_argument("--role", choices=sorted(_ROLES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        _ROLES[options.role](options)
        return 0
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # inherited by all processes
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_record_") as folder:
        result = measure(Path(folder), options)
    print_tables(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    lost = [stream["lost"] for stream in result["streams"].values()]
    return 1 if any(lost) or result["ended_early"] else 0


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all processes and return their output."""
    domain = next_domain()
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(fastdds_profile())
    topics = write_topic_map(folder, options)
    values = {"topics_file": topics, "dataset_path": folder / "dataset", "autostart": True, "min_free_disk_gb": 0.0}
    with (
        spinning_node("bench", domain) as node,
        NodeProcess("gr00t_recorder.ros.recorder_node", *parameter_arguments(**values), domain=domain) as recorder,
        Role("subscriber", domain, options) as subscriber,
        Role("cameras", domain, options) as cameras,
        Role("joints", domain, options) as joints,
    ):
        statuses: list[RecorderStatus] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(RecorderStatus, "/recorder/status", statuses.append, latched)
        eventually(
            lambda: statuses and statuses[-1].streams and all(s.state == StreamStatus.OK for s in statuses[-1].streams),
            lambda: f"all streams of the recorder; its log: {recorder.output}",
        )
        pids = {"recorder_node": recorder.process.pid, "plain typed subscriber": subscriber.pid,
                "publisher of the cameras": cameras.pid, "publisher of the joints": joints.pid}  # fmt: skip
        answer = call(node, StartEpisode, "/recorder/start_episode", StartEpisode.Request(task="bench"))
        if answer.error_code:
            raise SystemExit(f"the episode did not start: {answer.error_msg}")
        start_s, before = time.monotonic(), {name: cpu_s(pid) for name, pid in pids.items()}
        time.sleep(options.seconds)
        passed_s, after = time.monotonic() - start_s, {name: cpu_s(pid) for name, pid in pids.items()}
        stopped = call(node, StopEpisode, "/recorder/stop_episode", StopEpisode.Request(keep=True))
        save_s = time.monotonic() - start_s - passed_s
        sent = {**cameras.finish(), **joints.finish()}
        time.sleep(SETTLE_S)
        memory = {name: _peak_mib(pid) for name, pid in list(pids.items())[:2]}
        plain = subscriber.finish()
        streams = {stream.topic.strip("/"): stream for stream in statuses[-1].streams}
    return {
        "seconds": passed_s,
        "cores": options.cores,
        "reliability": options.reliability,
        "rows": stopped.frames,
        "ended_early": " ".join(filter(None, [stopped.error_msg, statuses[-1].reason])),
        "save_s": save_s,
        "queued": max(status.queued for status in statuses),
        "cpu": {name: (after[name] - before[name]) / passed_s for name in pids},
        "peak_mib": memory,
        "streams": {
            topic: {
                "sent": sent[topic],
                "received": stream.received,
                "dropped": stream.dropped,
                "late": stream.late,
                "lost": sent[topic] - stream.received,
                "plain_received": plain[topic],
                "plain_lost": sent[topic] - plain[topic],
            }
            for topic, stream in streams.items()
        },
        "images": check_images(folder / "dataset", options),
    }


def check_images(path: Path, options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Read the numbers in the images of the episode."""
    dataset = EpisodeDataset(path)
    length = dataset.episode(0).length
    found = {}
    for key in CAMERAS[: options.cameras]:
        numbers = [number_in(dataset.images(0, key, [row])[0]) for row in range(length)]
        steps = np.diff(numbers)
        found[key] = {"skipped": int((steps[steps > 1] - 1).sum()), "repeated": int((steps <= 0).sum())}
    dataset.close()
    return found


def number_in(image: np.ndarray) -> int:
    """Return the number in the pixels of an image `(H, W, 3)`."""
    half = BLOCK_PX // 2
    return sum(int(image[half, bit * BLOCK_PX + half, 1] > 127) << bit for bit in range(NUM_BITS))


def write_topic_map(folder: Path, options: argparse.Namespace) -> Path:
    """Write the topic map and the embodiment of what the publishers send; return the topic map's path."""
    keys = CAMERAS[: options.cameras]
    names = ", ".join(JOINTS)
    sizes = ", ".join(f"{key}: {{height: {HEIGHT}, width: {WIDTH}}}" for key in keys)
    (folder / "embodiment.yaml").write_text(
        f"name: bench\ntag: new_embodiment\nfps: {FPS}\nstate: {{arm: {{names: [{names}]}}}}\n"
        f"action: {{arm: {{names: [{names}]}}}}\nvideo: {{{sizes}}}\n"
    )
    qos = f", reliability: {options.reliability}" + (f", depth: {options.depth}" if options.depth else "")
    streams = [f"  {key}: {{topic: {key}, type: sensor_msgs/msg/Image{qos}}}" for key in keys]
    videos = ", ".join(f"{key}: {{stream: {key}}}" for key in keys)
    path = folder / "topics.yaml"
    path.write_text(TOPICS.format(qos=qos, cameras="\n".join(streams), videos=videos))
    return path


class Role:
    """This script as one of the other processes; says at its end how many messages it sent or received by topic."""

    def __init__(self, role: str, domain: int, options: argparse.Namespace) -> None:
        forwarded = [f"--joint-hz={options.joint_hz}", f"--cameras={options.cameras}",
                     f"--reliability={options.reliability}", f"--subscribers={options.subscribers}",
                     *([f"--depth={options.depth}"] if options.depth else [])]  # fmt: skip
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        command = [sys.executable, "-m", "bench.record", "--role", role, *forwarded]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finish(self) -> dict[str, int]:
        """End it as Ctrl-C does and return its counts."""
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=60)
        return json.loads(output)


def _publish_cameras(options: argparse.Namespace) -> None:
    keys = CAMERAS[: options.cameras]
    pictures = [image for pair in make_frames(NUM_FRAMES) for image in pair.values()]
    templates = {
        key: [_image_template(pictures[2 * index + (place > 0)]) for index in range(NUM_FRAMES)]
        for place, key in enumerate(keys)
    }

    def stamped(key: str, number: int) -> bytes:
        place = number % (2 * NUM_FRAMES - 2)
        template, offset = templates[key][min(place, 2 * NUM_FRAMES - 2 - place)]
        _write_stamp(template)
        pixels = np.frombuffer(template, np.uint8, HEIGHT * WIDTH * 3, offset).reshape(HEIGHT, WIDTH, 3)
        bits = np.repeat([255 * (number >> bit & 1) for bit in range(NUM_BITS)], BLOCK_PX)
        pixels[:BLOCK_PX, : NUM_BITS * BLOCK_PX] = bits[:, None]
        return bytes(template)

    _publish(Image, dict.fromkeys(keys, stamped), FPS, options.subscribers)


def _image_template(image: np.ndarray) -> tuple[bytearray, int]:
    """Return a serialized message and where its pixels begin."""
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3, data=image.tobytes())
    serialized = bytearray(serialize_message(message))
    offset = serialized.find(image[0].tobytes())
    return serialized, offset


def _publish_joints(options: argparse.Namespace) -> None:
    message = JointState(name=list(JOINTS), position=[MARK] + [0.0] * (len(JOINTS) - 1))
    template = bytearray(serialize_message(message))
    offset = template.find(struct.pack("<d", MARK))

    def stamped(key: str, number: int) -> bytes:
        _write_stamp(template)
        struct.pack_into("<d", template, offset, number / 1e6)  # a joint near rest
        return bytes(template)

    _publish(JointState, {JOINT_TOPIC: stamped}, options.joint_hz, options.subscribers)


def _write_stamp(template: bytearray) -> None:
    now_ns = time.time_ns()
    struct.pack_into("<iI", template, STAMP_OFFSET, now_ns // 1_000_000_000, now_ns % 1_000_000_000)


def _publish(kind: Any, makers: dict[str, Callable[[str, int], bytes]], rate_hz: float, subscribers: int) -> None:
    """Publish on every topic at a rate until interrupted, from when all subscribers are there; then print counts."""
    stop: list[int] = []
    rclpy.init()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.append(number))
    node = Node(f"bench_{next(iter(makers))}")
    qos = QoSProfile(depth=PUBLISHER_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
    publishers = {topic: node.create_publisher(kind, topic, qos) for topic in makers}
    while not stop and any(publisher.get_subscription_count() < subscribers for publisher in publishers.values()):
        time.sleep(0.05)
    time.sleep(SETTLE_S)  # the other side may know the publisher a little later
    number, start_s = 0, time.monotonic()
    while not stop:
        for topic, publisher in publishers.items():
            publisher.publish(makers[topic](topic, number))
        number += 1
        rest_s = start_s + number / rate_hz - time.monotonic()
        if rest_s > 0:
            time.sleep(rest_s)
    time.sleep(SETTLE_S / 3)  # a reliable writer has to outlive its last message
    print(json.dumps(dict.fromkeys(publishers, number)))
    node.destroy_node()
    try_shutdown()


def _subscribe(options: argparse.Namespace) -> None:
    """Take all topics as a user's first node would, and count."""
    rclpy.init()
    node = Node("bench_plain")
    reliable = options.reliability == "reliable"
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=options.depth or DEFAULT_DEPTH, reliability=reliability)
    counts: dict[str, int] = dict.fromkeys((*CAMERAS[: options.cameras], JOINT_TOPIC), 0)

    def count(topic: str) -> Callable[[Any], None]:
        def callback(message: Any) -> None:
            counts[topic] += 1

        return callback

    for topic in counts:
        node.create_subscription(JointState if topic == JOINT_TOPIC else Image, topic, count(topic), qos)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    print(json.dumps(counts))
    try_shutdown()


_ROLES: dict[str, Callable[[argparse.Namespace], None]] = {
    "cameras": _publish_cameras,
    "joints": _publish_joints,
    "subscriber": _subscribe,
}


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and of its ended children [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def print_tables(result: dict[str, Any]) -> None:
    """Print the results for people."""
    print(f"{result['seconds']:.1f} s on {result['cores']} cores, subscriptions {result['reliability']}")
    columns = ("sent", "received", "lost", "dropped", "late", "plain_received", "plain_lost")
    print(f"{'stream':14}" + "".join(f"{name:>16}" for name in columns))
    for topic, stream in result["streams"].items():
        print(f"{topic:14}" + "".join(f"{stream[name]:>16}" for name in columns))
    print(f"\n{'process':28}{'cpu':>8}{'peak_mib':>10}")
    for name, share in result["cpu"].items():
        memory = result["peak_mib"].get(name)
        print(f"{name:28}{share:>8.0%}{'' if memory is None else f'{memory:>10.0f}'}")
    print(f"\nrows {result['rows']} (expected {result['seconds'] * FPS:.0f}), saved in {result['save_s']:.1f} s")
    print(f"at most {result['queued']} rows waited to be encoded; {result['ended_early'] or 'not ended early'}")
    for key, counts in result["images"].items():
        print(f"images of {key}: {counts['skipped']} skipped, {counts['repeated']} repeated")


if __name__ == "__main__":
    sys.exit(main())
