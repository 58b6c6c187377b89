# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the videos: every packet is listed, and unless it has to be quick every frame is decoded.

A file is scanned once into a few numbers per frame; the checks look at these, so that v3.0 files with many episodes
cost no more than single ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter

from gr00t_training.dataset.media.video import _CONVERSION
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.features import camera_block, image_size
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.tools.validate.findings import (
    ENCODE_AGAIN,
    NO_REPAIR,
    RECORD_AGAIN,
    REPAIR,
    TABLE_ROWS,
    Finding,
    camera_of,
    fault,
    guarded,
    length_of,
    places_in,
    warning,
)
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import exists

BLOCK_PX = 8  # frames are compared by the mean colors of such blocks
# Coding the same picture again moves block means by less than this; a thing that moves, by more.
STILL_LEVELS = 3
DARK_LEVEL = 12  # of 255: no block is brighter
STILL_S = 1.0  # pictures that stay the same for less are not reported
MOVING = 0.05  # of a channel's range in the dataset: the robot moves
MAX_KEY_DISTANCE = 50  # frames; random access decodes half of it on average


@dataclass
class VideoFacts:
    """What one file holds."""

    codec: str = ""
    pix_fmt: str = ""
    size: tuple[int, int] = (0, 0)  # height, width
    num_audio: int = 0
    times_s: np.ndarray = field(default_factory=lambda: np.zeros(0))  # presentation time of each frame
    key_distance: int = 0  # largest, frames
    has_b_frames: bool = False
    failure: str = ""  # why it cannot be read at all, and what to do
    # the rest only where frames were decoded
    damaged: dict[int, str] = field(default_factory=dict)  # frame -> what the decoder says
    is_decoded: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    is_dark: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    still_since: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # first frame that looks the same
    mean_rgb: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # of 0..1

    @property
    def rate_hz(self) -> float:
        """Frames per second by the times of the frames; 0 where there are too few."""
        step_s = float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.0
        return 1 / step_s if step_s > 0 else 0.0


def scan_video(path: Path, *, decode: bool) -> VideoFacts:
    """List the frames of a file, and decode them if asked to; never raises for what is in the file."""
    facts = VideoFacts()
    try:
        with open_video(path, RECORD_AGAIN) as container:
            facts.num_audio = len(container.streams.audio)
            frame_at = _list_frames(container, facts)
        if decode and frame_at:
            with open_video(path) as container:
                _decode_frames(container, facts, frame_at)
    except DatasetError as error:
        facts.failure = str(error).removeprefix(f"{path}: ")
    except (OSError, av.error.FFmpegError, ValueError) as error:
        facts.failure = f"not a readable video ({error}); {RECORD_AGAIN}"
    return facts


def _list_frames(container: InputContainer, facts: VideoFacts) -> dict[int, int]:
    """Return the number of the frame at each presentation time."""
    stream = container.streams.video[0]
    context = stream.codec_context
    # the codec's own name, whichever decoder is used
    facts.codec = context.codec.canonical_name
    facts.pix_fmt, facts.size = context.pix_fmt or "", (context.height, context.width)
    packets = [
        (packet.pts, packet.is_keyframe)
        for packet in container.demux(stream)
        if packet.pts is not None and not packet.is_discard
    ]
    facts.has_b_frames = any(after[0] < before[0] for before, after in itertools.pairwise(packets))
    packets.sort()
    base = float(stream.time_base or 0)
    facts.times_s = np.array([pts * base for pts, _ in packets])
    keys = [number for number, (_, is_key) in enumerate(packets) if is_key]
    facts.key_distance = int(np.diff([*keys, len(packets)]).max(initial=0)) if keys else len(packets)
    return {pts: number for number, (pts, _) in enumerate(packets)}


def _decode_frames(container: InputContainer, facts: VideoFacts, frame_at: dict[int, int]) -> None:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # files are checked side by side; one thread names the damaged frame
    stream.codec_context.options = {"err_detect": "explode"}
    count = len(frame_at)
    facts.is_decoded, facts.is_dark = np.zeros(count, bool), np.zeros(count, bool)
    facts.still_since, facts.mean_rgb = np.arange(count), np.zeros((count, 3))
    anchor, anchor_frame, reformatter = None, 0, VideoReformatter()
    for packet in container.demux(stream):
        try:
            pictures = packet.decode()
        except av.error.FFmpegError as error:
            facts.damaged[frame_at.get(packet.pts or 0, 0)] = str(error)
            continue
        for picture in pictures:
            frame = frame_at.get(picture.pts, -1) if picture.pts is not None else -1
            if frame < 0:
                continue  # before the start of an edit list
            if picture.is_corrupt:
                facts.damaged[frame] = "the decoder calls it corrupt"
            blocks = _blocks(picture, reformatter)
            facts.is_decoded[frame] = True
            facts.is_dark[frame] = bool(blocks.max() <= DARK_LEVEL)
            facts.mean_rgb[frame] = blocks.mean(axis=(0, 1)) / 255
            if anchor is None or np.abs(blocks - anchor).max() > STILL_LEVELS:
                anchor, anchor_frame = blocks, frame
            facts.still_since[frame] = anchor_frame


def _blocks(picture: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Return the mean colors of the picture's blocks, `(H / 8, W / 8, 3)` int16."""
    height, width = max(picture.height // BLOCK_PX, 1), max(picture.width // BLOCK_PX, 1)
    small = reformatter.reformat(
        picture, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, **_CONVERSION
    )
    return small.to_ndarray().astype(np.int16)


def check_file(metadata: DatasetMetadata, name: str, feature: str, facts: VideoFacts) -> Iterator[Finding]:
    """Check what concerns a whole file of the camera `feature`."""
    if facts.failure:
        yield fault(name, facts.failure)
        return
    yield from guarded(name, _check_form(metadata, name, feature, facts))
    wrong = np.flatnonzero(np.abs(facts.times_s - np.arange(len(facts.times_s)) / metadata.fps) > TIME_TOLERANCE_S)
    if wrong.size:
        frame = int(wrong[0])
        text = f"frame {frame} is shown at {facts.times_s[frame]:.6f} s"
        yield fault(name, text, f"{frame / metadata.fps:.6f} s", REPAIR, (), ENCODE_AGAIN)
    for frame, reason in sorted(facts.damaged.items())[:1]:
        more = f" ({len(facts.damaged)} such frames)" if len(facts.damaged) > 1 else ""
        yield fault(name, f"frame {frame} does not decode ({reason}){more}", remedy=RECORD_AGAIN)
    missing = np.flatnonzero(~facts.is_decoded)
    if missing.size and not facts.damaged:
        text = f"{len(missing)} of {len(facts.times_s)} frames never come out of the decoder, first {missing[0]}"
        yield fault(name, text, remedy=RECORD_AGAIN)


def _check_form(metadata: DatasetMetadata, name: str, feature: str, facts: VideoFacts) -> Iterator[Finding]:
    declared = metadata.features[feature]
    size = image_size(declared, feature)
    if facts.size != size:
        yield fault(
            name, f"is {facts.size} high and wide", f"{size} as declared", "correct the shape in meta/info.json"
        )
    block = camera_block(declared)
    codec, pix_fmt = block.get("video.codec"), block.get("video.pix_fmt")
    if codec is not None and facts.codec != codec:
        expected = f"{codec} as {camera_of(feature)} says"
        yield fault(name, f"is {facts.codec}", expected, REPAIR, (camera_of(feature),), ENCODE_AGAIN)
    if pix_fmt is not None and facts.pix_fmt != pix_fmt:
        yield warning(name, f"is {facts.pix_fmt}", f"{pix_fmt} as {camera_of(feature)} says", "correct the entry")
    if facts.codec == "hevc":
        text = "is hevc, of which GR00T's torchvision back end gives only the first frame"
        yield warning(name, text, "h264 or av1", ENCODE_AGAIN)
    elif facts.codec not in ("h264", "av1"):
        yield warning(name, f"is {facts.codec}, which not every reader decodes", "h264 or av1", ENCODE_AGAIN)
    if facts.pix_fmt not in ("yuv420p", "") and not block.get("video.is_depth_map"):
        yield warning(name, f"is {facts.pix_fmt}, which not every decoder takes", "yuv420p", ENCODE_AGAIN)
    if facts.has_b_frames:
        yield warning(name, "has B frames: cutting or joining it can lose the last ones", remedy=ENCODE_AGAIN)
    if facts.key_distance > MAX_KEY_DISTANCE:
        text = f"has key frames {facts.key_distance} frames apart, random access is slow"
        yield warning(name, text, f"at most {MAX_KEY_DISTANCE}", ENCODE_AGAIN)
    if facts.num_audio:
        yield warning(name, "has an audio stream", remedy="take it out")


def check_episode_video(
    metadata: DatasetMetadata, episode: Episode, feature: str, facts: VideoFacts, motion: np.ndarray | None
) -> Iterator[Finding]:
    """Check one episode's part of a file.

    Args:
        motion: `(N, D)` state of the episode in units of each channel's range over the dataset; None: not known.
    """
    span, subject = episode.videos[feature], f"{episode.name}, {feature}"
    first, file = span.first, metadata.name_of(span.path)
    count = min(max(len(facts.times_s) - first, 0), episode.length)
    if not metadata.is_v3 and len(facts.times_s) != episode.length:
        text = f"{len(facts.times_s)} frames, the episode has {episode.length} rows"
        if len(facts.times_s) > episode.length:
            yield warning(subject, f"{text}; the frames behind them are used by no row")
        else:
            targets = (length_of(episode.index), file, metadata.name_of(episode.rows.path))
            yield fault(subject, text, "", REPAIR, targets, f"{RECORD_AGAIN}, or run gr00t_dataset delete")
    elif count < episode.length:
        text = f"{file} ends at frame {len(facts.times_s)}"
        expected = f"{episode.length} frames from frame {first} on"
        yield fault(subject, text, expected, REPAIR, (places_in(file), TABLE_ROWS), NO_REPAIR)
    if len(facts.is_dark) < first + count or not count:
        return
    longest = max(round(STILL_S * metadata.fps), 2)
    yield from _check_dark(subject, facts.is_dark[first : first + count], longest)
    if motion is not None and not facts.is_dark[first : first + count].all():
        since = np.maximum(facts.still_since[first : first + count] - first, 0)
        yield from _check_still(subject, since, motion[:count], longest, facts.codec)


def check_depth_file(metadata: DatasetMetadata, name: str, episode: Episode) -> Iterator[Finding]:
    """Check that an episode's depth has a frame for each row."""
    path = metadata.file(name)
    if not exists(path):
        yield fault(name, "missing", remedy=RECORD_AGAIN)
        return
    facts = scan_video(path, decode=False)
    if facts.failure:
        yield fault(name, facts.failure)
    elif len(facts.times_s) != episode.length:
        text = f"{len(facts.times_s)} frames, {episode.name} has {episode.length} rows"
        yield fault(name, text, remedy=RECORD_AGAIN)


def check_unused(name: str, episodes: Sequence[Episode], facts: VideoFacts) -> Iterator[Finding]:
    """Name frames of a shared video that no episode has; readers go by from_timestamp and do not mind."""
    num_unused = len(facts.times_s) - sum(episode.length for episode in episodes)
    if num_unused > 0:
        yield warning(name, f"{num_unused} of {len(facts.times_s)} frames belong to no episode")


def _check_dark(subject: str, is_dark: np.ndarray, longest: int) -> Iterator[Finding]:
    if is_dark.all():
        yield fault(subject, "the video is black from start to end", remedy="check the camera; record it again")
        return
    start, length = _longest_run(is_dark)
    if length > longest:
        text = f"the video is black for {length} frames from frame {start} on"
        yield warning(subject, text, remedy="check the camera")


def _check_still(subject: str, since: np.ndarray, motion: np.ndarray, longest: int, codec: str) -> Iterator[Finding]:
    """Find pictures that stay the same while the robot moves."""
    frames = np.arange(len(since))
    end = int(np.argmax(frames - since))
    start = int(since[end])
    length = end - start + 1
    rows = motion[start : end + 1]
    moved = rows.size and float((rows.max(axis=0) - rows.min(axis=0)).max()) > MOVING
    if not moved or length < 2:
        return
    if length == len(since):
        text = f"every frame shows the same picture while the robot moves ({codec})"
        yield fault(subject, text, remedy="check camera, codec and decoder; record it again")
    elif length > longest:
        text = f"the picture stays the same for {length} frames from frame {start} on while the robot moves"
        yield warning(subject, text, remedy="check the camera")


def _longest_run(flags: Sequence[bool] | np.ndarray) -> tuple[int, int]:
    """Return start and length of the longest run of true values."""
    best, start = (0, 0), None
    for place, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = place
        elif not flag and start is not None:
            best = max(best, (start, place - start), key=lambda run: run[1])
            start = None
    return best
