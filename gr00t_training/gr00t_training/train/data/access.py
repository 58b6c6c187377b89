# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How a run goes through the frames of its sources: the order of samples, and what is kept in memory for it.

The order follows from the data and the settings, never from the machine or the number of workers: a run continues on
another machine. Only the memory that frames may take follows from the machine.
"""

from __future__ import annotations

import logging

from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.io.machine import available_bytes
from gr00t_training.train.data.decoded_frames import DecodedFrames
from gr00t_training.train.data.order import EpochOrder, StreamOrder, StreamShape
from gr00t_training.train.data.samples import Source, StepDataset
from gr00t_training.train.settings import Shuffle

logger = logging.getLogger(__name__)

NEAR_FRAMES = 8.0  # from key frame to key frame, up to which a random frame is cheap
KEPT_BYTES = 512 * 2**20  # decoded frames of a source that every worker keeps
STREAM_BYTES = 6 * 2**30  # decoded frames of all workers, which decides the shape of streams
_LARGEST_SHARE = 0.5  # of the machine's available memory


def choose_access(
    samples: StepDataset, *, batch_size: int, seed: int, shuffle: Shuffle, num_workers: int
) -> list[EpochOrder | None]:
    """Return the order of each source, and let its images come through memory where that saves decoding.

    Args:
        samples: of the run.
        batch_size: samples of a batch.
        seed: of the order.
        shuffle: how samples are ordered.
        num_workers: processes that share the machine's memory; 0: this one.

    Raises:
        DatasetError: a video cannot be read.
    """
    orders: list[EpochOrder | None] = []
    for number, source in enumerate(samples.sources):
        orders.append(None)
        source.decoded = None
        is_near = source.frames is not None or key_frame_distance(source) <= NEAR_FRAMES
        if shuffle is not Shuffle.STREAMS and is_near:
            continue
        row_bytes = decoded_row_bytes(source)
        ticks = source.pipeline.embodiment.video_history
        largest = int(_LARGEST_SHARE * available_bytes() / max(1, num_workers))
        fits = row_bytes * num_rows(source) <= KEPT_BYTES
        if shuffle is Shuffle.STREAMS or (shuffle is Shuffle.AUTO and not fits):
            shape = StreamShape.within(STREAM_BYTES // row_bytes, len(source), batch_size)
            lengths = [stretch.count for stretch in source.stretches]
            orders[-1] = StreamOrder(samples.mixture, number, lengths, batch_size, seed, shape)
            limit = min(largest, 2 * STREAM_BYTES // max(1, num_workers))
            source.decoded = DecodedFrames(ticks, limit, keeps_episodes=False)
            logger.info("%s: samples come in %d streams of segments of %d rows", source.path, *orders[-1].size)
        elif fits:
            source.decoded = DecodedFrames(ticks, min(largest, 2 * KEPT_BYTES), keeps_episodes=True)
    return orders


def key_frame_distance(source: Source) -> float:
    """Return the largest mean distance of key frames of the source's cameras, as their first videos have it."""
    return max((video.key_frame_distance for video in _first_videos(source)), default=1.0)


def decoded_row_bytes(source: Source) -> int:
    """Return the bytes of the decoded frames of a row, as the first videos have them."""
    sizes = [video.size for video in _first_videos(source)]
    return max(1, sum(height * width * 3 // 2 for height, width in sizes))


def num_rows(source: Source) -> int:
    """Return the number of rows of the episodes of a source."""
    return sum(source.dataset.episode(episode).length for episode in source.episodes())


def _first_videos(source: Source) -> list[VideoReader]:
    videos = [source.dataset.first_video(key) for key in source.pipeline.embodiment.video_keys]
    return [video for video in videos if video is not None]
