#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure the conversion of a bag of two cameras 640x480 at 30 Hz, next to LeRobot's own writer on the same frames.

Makes a bag with JPEG and one with raw images of the same pixels (a textured scene, one camera still with something
moving in front of it, one camera moving, both with sensor noise; joints at 200 Hz), converts each with
`gr00t_convert_bag` in a separate process, and gives the same frames, as arrays and so without the work of reading a
bag, to LeRobot's writer:

    --lerobot-python PYTHON ...  interpreters that have lerobot: its EpisodeDataset.create, add_frame, save_episode
    without                      the same procedure done here (PNG files from a pool of threads, then libsvtav1 with
                                 crf 30 and g 2, as lerobot 0.3.3 has it), and called so in the table

Columns:

    wall_s, cpu_s  time from start to end of the process, imports included; processor time of it and its children
    x_wall, x_core seconds of recording per second of wall time, and per second of processor time
    peak_mib       resident memory of the process and its children together
    video_mib      size of the videos
    psnr_db        luma of the videos against the frames of the bag: 40 dB and more is taken for visually lossless

    python3 -m bench.convert --seconds 20 60 --json convert.json

With `--bags` it measures many small bags instead (an episode of 6 to 8 rows each, one tiny camera): one process, then
Ray with each number of tasks, while conversions are killed at random moments (`--kills` each). Every dataset must be
that of the one process, byte for byte.

    python3 -m bench.convert --engine ray --bags 200 --jobs 2
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FPS = 30
HEIGHT, WIDTH = 480, 640
CAMERAS = ("front", "wrist")
JOINTS = tuple(f"joint_{number}" for number in range(7))
JOINT_HZ = 200
JPEG_QUALITY = 90
NOISE = 2.0  # standard deviation of the sensor noise [of 255], a webcam by daylight
SAMPLE_S = 0.02  # distance of the memory samples
KILL_S = (2.0, 12.0)  # between two killed conversions: a bag whose worker dies four times is refused
PSNR_EVERY = 7  # frames; a prime number, so that frames of all places in a group of pictures are compared
LEROBOT_THREADS = 4 * len(CAMERAS)  # image writer threads, as lerobot's record script has them
LEROBOT_ENCODER = ("libsvtav1", {"g": "2", "crf": "30"})

TOPICS = """
embodiment: embodiment.yaml
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  command: {topic: command, type: sensor_msgs/msg/JointState}
  front: {topic: front, type: TYPE}
  wrist: {topic: wrist, type: TYPE}
state: {arm: {stream: joints}}
action: {arm: {stream: command}}
video: {front: {stream: front}, wrist: {stream: wrist}}
"""


def main() -> None:
    """Measure, print a line per measurement, and write all to the JSON file if one is named."""
    parser = argparse.ArgumentParser(description="Measure bag conversion next to LeRobot's writer.")
    parser.add_argument("--seconds", type=int, nargs="+", default=[20], help="lengths of the recording [s]")
    parser.add_argument("--kinds", nargs="+", default=["jpeg", "raw"], choices=["jpeg", "raw"], help="kinds of images")
    parser.add_argument("--lerobot-python", nargs="+", default=[], metavar="PYTHON", help="interpreters with lerobot")
    parser.add_argument("--folder", type=Path, help="where the bags are made (default: the system's temporary folder)")
    parser.add_argument("--bags", type=int, help="small bags to convert")
    parser.add_argument("--engine", default="ray", choices=["processes", "ray"], help="for --bags (default: ray)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2], help="for --bags (default: 2)")
    parser.add_argument("--kills", type=int, default=3, help="for --bags, with Ray (default: 3)")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--write-frames", nargs=3, metavar=("WRITER", "FRAMES", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_frames:  # this process is one of the measured ones
        writer, frames, output = options.write_frames
        _WRITERS[writer](Path(frames), Path(output))
        return
    if options.bags:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_convert_") as folder:
            many = _measure_many(Path(folder), options)
        if options.json:
            options.json.write_text(json.dumps({"cores": os.cpu_count(), "results": many}, indent=1) + "\n")
        return
    results: list[dict[str, Any]] = []
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_convert_") as folder:
            for result in _measure_all(Path(folder), seconds, options.kinds, options.lerobot_python):
                _print_row(result, is_first=not results)
                results.append(result)
    slowest = max((row for row in results if row["is_ours"]), key=lambda row: row["cpu_s"] / row["seconds"])
    for row in results:
        if not row["is_ours"]:
            wall = row["wall_s"] / row["seconds"] / (slowest["wall_s"] / slowest["seconds"])
            cpu = row["cpu_s"] / row["seconds"] / (slowest["cpu_s"] / slowest["seconds"])
            print(f"{slowest['what']} is faster than {row['what']} by {wall:.1f} (wall time), {cpu:.1f} (processor)")
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


def _measure_all(folder: Path, seconds: int, kinds: Sequence[str], lerobots: Sequence[str]) -> Iterator[dict[str, Any]]:
    bags = {kind: folder / f"{kind}_bag" for kind in kinds}
    write_bags(bags, folder, seconds)
    for kind, bag in bags.items():
        output = folder / f"{kind}_dataset"
        command = "import sys; from gr00t_recorder.bag.convert_cli import main; sys.exit(main())"
        options = [str(bag), "--topics", str(folder / kind / "topics.yaml"), "--output", str(output), "--task", "lift"]
        yield _measure(f"gr00t_convert_bag, {kind}", [sys.executable, "-c", command, *options], folder, output, seconds)
    writers = [("lerobot", python) for python in lerobots] or [("procedure", sys.executable)]
    for number, (writer, python) in enumerate(writers):
        output = folder / f"{writer}_{number}"
        what = f"lerobot {_lerobot_version(python)}" if lerobots else "LeRobot's procedure, done here"
        command = [python, __file__, "--write-frames", writer, str(folder), str(output)]
        yield _measure(what, command, folder, output, seconds)


def _measure_many(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Convert small bags by one process and by the engine; exits when the datasets differ."""
    from gr00t_test_support.bag_builder import write_toy_topics

    topics, bags = write_toy_topics(folder), folder / "bags"
    write_small_bags(bags, options.bags)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.bags} bags of {_mean_kib(bags):.0f} KiB")
    runs = [("one process", 0)] + [(f"{options.engine}, {jobs} jobs", jobs) for jobs in options.jobs]
    results, digests = [], []
    for number, (what, jobs) in enumerate(runs):
        output = folder / f"out_{number}"
        words = [str(bags), "--topics", str(topics), "--output", str(output)]
        if jobs:
            words += ["--engine", options.engine, "--jobs", str(jobs)]
        kills = options.kills if jobs and options.engine == "ray" else 0
        wall_s, peak, killed = _convert_many(words, kills)
        digests.append(_digest(output))
        results.append({"what": what, "bags": options.bags, "wall_s": wall_s, "peak_mib": peak / 2**20})
        results[-1] |= {"bags_per_s": options.bags / wall_s, "killed": killed, "is_equal": digests[-1] == digests[0]}
        columns = ("wall_s", "bags_per_s", "peak_mib", "killed", "is_equal")
        if not number:
            print(f"{'what':24}" + "".join(f"{name:>11}" for name in columns))
        cells = (f"{v:>11.2f}" if isinstance(v := results[-1][name], float) else f"{v!s:>11}" for name in columns)
        print(f"{what:24}" + "".join(cells), flush=True)
    if len(set(digests)) > 1:
        raise SystemExit("the datasets differ")
    return results


def _convert_many(words: Sequence[str], kills: int) -> tuple[float, int, int]:
    """Run the command, kill conversions meanwhile; return its time [s], greatest memory [bytes] and how many ended."""
    command = "import sys; from gr00t_recorder.bag.convert_cli import main; sys.exit(main())"
    rng, start_s = np.random.default_rng(0), time.perf_counter()
    peak, killed, next_s = 0, 0, 0.0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, "-c", command, *words], stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            found = _descendants(process.pid)
            peak = max(peak, sum(map(_own_bytes, found)))
            running = [number for number in found if "ray::_convert_task" in _command_line(number)]
            if running and killed < kills and time.perf_counter() > next_s:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rng.choice(running)), signal.SIGKILL)
                    killed += 1
                next_s = time.perf_counter() + rng.uniform(*KILL_S)
            time.sleep(SAMPLE_S)
        wall_s = time.perf_counter() - start_s
        if process.returncode:
            log.seek(0)
            told = log.read()
            raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}\n{told[:2000]}\n...\n{told[-500:]}")
    return wall_s, peak, killed


def write_small_bags(folder: Path, count: int) -> None:
    """Write bags of one episode each."""
    from gr00t_test_support.bag_builder import STEP_NS, ToyBag

    folder.mkdir()
    for number in range(count):
        bag = ToyBag().steps(number, number + 5 + number % 3)
        bag.event(number * STEP_NS, "start", f"task {number % 4}").event((number + 5) * STEP_NS, "stop")
        bag.write(folder / f"{number:04d}.mcap")


def _mean_kib(folder: Path) -> float:
    return float(np.mean([path.stat().st_size for path in folder.iterdir()])) / 1024


def _digest(folder: Path) -> str:
    """Return a digest of all files of a dataset and their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and ".staging" not in path.parts):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _measure(what: str, command: list[str], frames: Path, output: Path, seconds: int) -> dict[str, Any]:
    """Run a command and return what it took and what came out."""
    with tempfile.TemporaryFile("w+") as log:
        start_s = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _resident_bytes(process.pid))
            time.sleep(SAMPLE_S)
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{what}: exit code {process.returncode}\n{log.read()}")
    cpu_s = usage.ru_utime + usage.ru_stime
    videos = {key: _find_video(output, key) for key in CAMERAS}
    return {
        "what": what,
        "is_ours": what.startswith("gr00t"),
        "seconds": seconds,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "x_wall": seconds / wall_s,
        "x_core": seconds / cpu_s,
        "peak_mib": peak / 2**20,  # not ru_maxrss: after a fork it begins with what the parent has
        "video_mib": sum(path.stat().st_size for path in videos.values()) / 2**20,
        "psnr_db": {key: _psnr(path, _open_frames(frames, key), seconds * FPS) for key, path in videos.items()},
    }


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all its descendants; pages that they share count for each."""
    return sum(map(_own_bytes, _descendants(pid)))


def _descendants(pid: int) -> list[int]:
    """Return a process and those that it and its children started."""
    found, left = [], [pid]
    while left:
        number = left.pop()
        found.append(number)
        with contextlib.suppress(OSError):  # has ended meanwhile
            for task in Path(f"/proc/{number}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return found


def _own_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0  # has ended meanwhile


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _find_video(output: Path, key: str) -> Path:
    """Return the only video of a camera, wherever its dataset version has it."""
    (path,) = [path for path in output.rglob("*.mp4") if any(part.endswith(f".{key}") for part in path.parts)]
    return path


def _psnr(path: Path, frames: np.ndarray, num_frames: int) -> float:
    """Return the peak signal to noise ratio of the luma [dB]; exits when the video has another number of frames."""
    import av

    squares, count, number = 0.0, 0, 0
    with av.open(str(path)) as container:
        for number, picture in enumerate(container.decode(video=0), start=1):
            if (number - 1) % PSNR_EVERY:
                continue
            luma = picture.reformat(format="gray").to_ndarray().astype(np.float64)
            expected = av.VideoFrame.from_ndarray(frames[number - 1], format="rgb24").reformat(format="yuv420p")
            squares += ((luma - _full_range(expected.to_ndarray()[:HEIGHT])) ** 2).mean()
            count += 1
    if number != num_frames:
        raise SystemExit(f"{path}: {number} frames, expected {num_frames}")
    return float(10 * np.log10(255**2 / (squares / count)))


def _full_range(luma: np.ndarray) -> np.ndarray:
    """Luma of videos runs from 16 to 235 (BT.601)."""
    return (luma.astype(np.float64) - 16) * 255 / 219


def write_bags(bags: dict[str, Path], folder: Path, seconds: int) -> None:
    """Write a bag per kind of image, its topic map next to it, and the frames themselves as files of raw RGB."""
    import cv2
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    image_types = {"jpeg": "sensor_msgs/msg/CompressedImage", "raw": "sensor_msgs/msg/Image"}
    frames: dict[str, Any] = {key: _open_frames(folder, key, seconds * FPS) for key in CAMERAS}
    files = {kind: Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) for kind, path in bags.items()}
    connections = {}
    for kind, file in files.items():
        _write_topic_map(folder / kind, image_types[kind])
        file.open()
        for topic in ("joint_states", "command", *CAMERAS):
            message_type = image_types[kind] if topic in CAMERAS else "sensor_msgs/msg/JointState"
            connections[kind, topic] = file.add_connection(f"/{topic}", message_type, typestore=store)

    def header(stamp_ns: int) -> Any:
        time_type = types["builtin_interfaces/msg/Time"]
        stamp = time_type(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id="")

    def write(kind: str, topic: str, stamp_ns: int, message_type: str, **fields: Any) -> None:
        message = types[message_type](header=header(stamp_ns), **fields)
        files[kind].write(connections[kind, topic], stamp_ns, store.serialize_cdr(message, message_type))

    def write_joints(first_s: float, end_s: float) -> None:
        none = np.zeros(0)
        for number in range(round(first_s * JOINT_HZ), round(end_s * JOINT_HZ)):
            position = np.sin(number / JOINT_HZ + np.arange(len(JOINTS)))
            for kind in files:
                for topic in ("joint_states", "command"):
                    write(kind, topic, start_ns + round(number / JOINT_HZ * 1e9), "sensor_msgs/msg/JointState",
                          name=list(JOINTS), position=position, velocity=none, effort=none)  # fmt: skip

    start_ns = 1_700_000_000_000_000_000
    for number, images in enumerate(make_frames(seconds * FPS)):
        write_joints(number / FPS, (number + 1) / FPS)
        stamp_ns = start_ns + round(number / FPS * 1e9)
        for key, image in images.items():
            # what the JPEG decodes to is the truth for both kinds
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            frames[key][number] = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
            if "jpeg" in files:
                write("jpeg", key, stamp_ns, image_types["jpeg"], format="rgb8; jpeg compressed bgr8", data=encoded)
            if "raw" in files:
                write("raw", key, stamp_ns, image_types["raw"], height=HEIGHT, width=WIDTH, encoding="rgb8",
                      is_bigendian=0, step=WIDTH * 3, data=frames[key][number].reshape(-1))  # fmt: skip
    for file in files.values():
        file.close()


def _write_topic_map(folder: Path, image_type: str) -> None:
    folder.mkdir()
    names = ", ".join(JOINTS)
    videos = ", ".join(f"{key}: {{height: {HEIGHT}, width: {WIDTH}}}" for key in CAMERAS)
    (folder / "embodiment.yaml").write_text(
        f"name: bench\ntag: new_embodiment\nfps: {FPS}\nstate: {{arm: {{names: [{names}]}}}}\n"
        f"action: {{arm: {{names: [{names}]}}}}\nvideo: {{{videos}}}\n"
    )
    (folder / "topics.yaml").write_text(TOPICS.replace("TYPE", image_type))


def _open_frames(folder: Path, key: str, num_frames: int | None = None) -> np.ndarray:
    """Map the frames of a camera, `(N, H, W, 3)` uint8 RGB; for writing when their number is given."""
    path = folder / f"{key}.rgb"
    if num_frames is None:
        return np.memmap(path, np.uint8, "r").reshape(-1, HEIGHT, WIDTH, 3)
    return np.memmap(path, np.uint8, "w+", shape=(num_frames, HEIGHT, WIDTH, 3))


def make_frames(num_frames: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield images `(H, W, 3)` uint8 by camera, the same ones in every run."""
    import cv2

    rng = np.random.default_rng(0)
    scene = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.float32)
    for cells in (4, 16, 64, 256):  # detail of all sizes, the finest faintest, as in photographs
        small = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        scene += cv2.resize(small, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC) * (40 * (4 / cells) ** 0.5)
    scene = np.clip(scene + 120, 0, 255).astype(np.uint8)
    noise = rng.normal(0, NOISE, (7, HEIGHT, WIDTH, 3)).astype(np.int8)
    for number in range(num_frames):
        angle = 2 * np.pi * number / (4 * FPS)  # a motion takes four seconds
        left, top = int(WIDTH / 2 * (1 + np.cos(angle))), int(HEIGHT / 2 * (1 + np.sin(angle)))
        moving = scene[top : top + HEIGHT, left : left + WIDTH]
        still = scene[:HEIGHT, :WIDTH].copy()
        cv2.circle(still, (left // 2 + 160, top // 2 + 120), 60, (200, 40, 40), -1, cv2.LINE_AA)
        images = {"front": still, "wrist": moving}
        yield {
            key: np.clip(image.astype(np.int16) + noise[(number + shift) % len(noise)], 0, 255).astype(np.uint8)
            for shift, (key, image) in enumerate(images.items())
        }


def _write_with_lerobot(frames_folder: Path, output: Path) -> None:
    """Write one episode with LeRobot's own writer; runs in the interpreter that has it."""
    import inspect

    from lerobot.datasets.lerobot_dataset import EpisodeDataset  # pyright: ignore[reportMissingImports]

    vector = {"dtype": "float32", "shape": (len(JOINTS),), "names": list(JOINTS)}
    image = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": vector,
        "action": vector,
        **{f"observation.images.{key}": image for key in CAMERAS},
    }
    dataset = EpisodeDataset.create(
        "bench/frames", FPS, features, root=output, image_writer_threads=LEROBOT_THREADS, use_videos=True
    )
    takes_task = "task" in inspect.signature(dataset.add_frame).parameters  # 0.3; later it is part of the frame
    frames = {key: _open_frames(frames_folder, key) for key in CAMERAS}
    for number in range(len(frames[CAMERAS[0]])):
        position = np.sin(number / FPS + np.arange(len(JOINTS))).astype(np.float32)
        row: dict[str, Any] = {"observation.state": position, "action": position}
        row |= {f"observation.images.{key}": np.array(images[number]) for key, images in frames.items()}
        if takes_task:
            dataset.add_frame(row, task="lift")
        else:
            dataset.add_frame({**row, "task": "lift"})
    dataset.save_episode()
    dataset.stop_image_writer()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


def _write_by_procedure(frames_folder: Path, output: Path) -> None:
    """Do with the images what LeRobot's writer does: a PNG file each, read back and encoded, then deleted."""
    import av
    from PIL import Image

    pngs: dict[str, list[Path]] = {key: [] for key in CAMERAS}
    with concurrent.futures.ThreadPoolExecutor(LEROBOT_THREADS) as pool:
        pending = []
        for key in CAMERAS:
            (output / f"images.{key}").mkdir(parents=True)
        frames = {key: _open_frames(frames_folder, key) for key in CAMERAS}
        for number in range(len(frames[CAMERAS[0]])):
            for key in CAMERAS:
                pngs[key].append(output / f"images.{key}" / f"frame_{number:06d}.png")
                image = Image.fromarray(np.array(frames[key][number]))
                pending.append(pool.submit(image.save, pngs[key][-1]))
        for future in pending:
            future.result()
    for key in CAMERAS:
        encoder, options = LEROBOT_ENCODER
        with av.open(str(output / f"images.{key}.mp4"), "w") as container:
            stream: Any = container.add_stream(encoder, FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for path in pngs[key]:
                container.mux(stream.encode(av.VideoFrame.from_image(Image.open(path).convert("RGB"))))
            container.mux(stream.encode(None))
        (output / f"images.{key}.mp4").rename(output / f"images.{key}" / "video.mp4")
        for path in pngs[key]:
            path.unlink()


_WRITERS = {"lerobot": _write_with_lerobot, "procedure": _write_by_procedure}


def _lerobot_version(python: str) -> str:
    command = [python, "-c", "from importlib.metadata import version; print(version('lerobot'))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


_COLUMNS = ("what", "seconds", "wall_s", "cpu_s", "x_wall", "x_core", "peak_mib", "video_mib", "psnr_db")


def _print_row(row: dict[str, Any], *, is_first: bool) -> None:
    if is_first:
        print(f"{_COLUMNS[0]:32}" + "".join(f"{name:>11}" for name in _COLUMNS[1:]))
    cells = [f"{row['what']:32}"]
    for name in _COLUMNS[1:]:
        value = "/".join(f"{db:.1f}" for db in row[name].values()) if name == "psnr_db" else row[name]
        cells.append(f"{value:>11.2f}" if isinstance(value, float) else f"{value:>11}")
    print("".join(cells), flush=True)


if __name__ == "__main__":
    main()
