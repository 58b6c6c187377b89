# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import os
import random
from pathlib import Path

import av
import numpy as np
import pytest

from gr00t_training.dataset.media import encoders
from gr00t_training.dataset.media.encoders import VideoEncoder, check_encoder
from gr00t_training.dataset.media.video import (
    VideoCache,
    VideoCodec,
    VideoReader,
    VideoSettings,
    VideoWriter,
    count_frames,
)
from gr00t_training.errors import ConfigError, DatasetError


def write_levels(path: Path, levels, *, fps: int = 10, **settings) -> None:
    video = VideoWriter(path, 64, 96, fps, VideoSettings(**settings))
    for level in levels:
        video.add(np.full((64, 96, 3), level, np.uint8))
    video.close()


@pytest.mark.parametrize("fps", [7, 10, 29, 30])
@pytest.mark.parametrize("codec", list(VideoCodec))
def test_every_frame_comes_back_at_its_index_and_time(tmp_path, codec, fps):
    levels = [16 + 9 * i for i in range(23)]
    write_levels(tmp_path / "a.mp4", levels, fps=fps, codec=codec)
    reader = VideoReader(tmp_path / "a.mp4")
    assert reader.num_frames == 23
    assert (reader.size, reader.codec) == ((64, 96), codec.value)
    np.testing.assert_allclose(reader.presentation_s, np.arange(23) / fps, atol=1e-12)
    order = random.Random(0).sample(range(23), 23)
    np.testing.assert_allclose(reader.read(order).mean(axis=(1, 2, 3)), [levels[i] for i in order], atol=1.5)


def test_color_survives(tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :16], image[:, 16:32], image[:, 32:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    video = VideoWriter(tmp_path / "a.mp4", 32, 48, 10, VideoSettings())
    video.add(image)
    video.close()
    found = VideoReader(tmp_path / "a.mp4").read([0])[0].astype(int)
    inside = np.r_[2:14, 18:30, 34:46]  # chroma has half the resolution: stay clear of the edges
    assert np.abs(found - image)[:, inside].max() < 12


@pytest.mark.parametrize("codec", list(VideoCodec))
def test_written_videos_have_key_frames_close_and_no_b_frames(tmp_path, codec):
    write_levels(tmp_path / "a.mp4", range(20, 40), gop=2, codec=codec)
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        assert keys[0] == 0
        assert max(np.diff([*keys, len(packets)])) <= 2
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
        stream = container.streams.video[0]
        assert (stream.codec_context.pix_fmt, stream.average_rate, len(container.streams)) == ("yuv420p", 10, 1)


@pytest.mark.parametrize(
    "name",
    [
        "lerobot_v20_gr1/videos/chunk-000/observation.images.ego_view/episode_000004.mp4",  # h264 with B-frames
        "lerobot_v21_reference/videos/chunk-000/observation.images.wrist/episode_000001.mp4",  # av1
    ],
)
def test_random_access_equals_decoding_from_the_start(data_dir, name):
    with av.open(str(data_dir / name)) as container:
        truth = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    reader = VideoReader(data_dir / name)
    assert reader.num_frames == len(truth)
    asked = [*random.Random(1).choices(range(len(truth)), k=25), len(truth) - 1, 0, 1, 0]
    for index in asked:
        assert np.array_equal(reader.read([index])[0], truth[index])
    assert np.array_equal(reader.read(asked), np.stack([truth[index] for index in asked]))


def test_frame_outside_the_file_is_refused(tmp_path):
    write_levels(tmp_path / "a.mp4", [20, 30])
    reader = VideoReader(tmp_path / "a.mp4")
    for index in (-1, 2):
        with pytest.raises(DatasetError, match=f"a.mp4: frame {index} requested, the file has 2"):
            reader.read([index])


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DatasetError, match=f"{name}: not a readable video"):
            count_frames(tmp_path / name)


def test_encoder_that_does_not_work_is_refused_naming_those_that_do(tmp_path, monkeypatch):
    """That of the list may be there or not: here it is one that ffmpeg does not have."""
    missing = dataclasses.replace(encoders._ENCODERS[VideoCodec.AV1, VideoEncoder.NVENC], name="av1_nowhere")
    monkeypatch.setitem(encoders._ENCODERS, (VideoCodec.AV1, VideoEncoder.NVENC), missing)
    settings = VideoSettings(codec=VideoCodec.AV1, encoder=VideoEncoder.NVENC)
    words = (
        r"video of 96x64 as av1 by nvenc: av1_nowhere does not work here .*writes h264 by software, hevc by software"
    )
    for make in (VideoWriter, lambda path, *rest: check_encoder(rest[3], *rest[:3])):
        with pytest.raises(ConfigError, match=words):
            make(tmp_path / "a.mp4", 64, 96, 10, settings)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "nonsense"}, "h264 by software with preset 'nonsense': libx264 does not work here"),
        ({"codec": VideoCodec.HEVC}, r"libx265 does not work here \(it needs sides of 64 pixels or more\)"),
    ],
)
def test_settings_that_do_not_work_are_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        VideoWriter(tmp_path / "a.mp4", 32, 48, 10, VideoSettings(**settings))


def test_an_encoder_is_tried_once(monkeypatch):
    tried = []
    try_out = encoders._try_out
    monkeypatch.setattr(encoders, "_try_out", lambda *arguments: tried.append(arguments) or try_out(*arguments))
    for _ in range(3):
        check_encoder(VideoSettings(crf=33), 64, 96, 11)
    assert len(tried) == 1


def test_cache_keeps_few_files_open(tmp_path):
    for name in "abc":
        write_levels(tmp_path / f"{name}.mp4", [20, 200])
    with VideoCache(capacity=2) as cache:
        first = cache.open(tmp_path / "a.mp4")
        second = cache.open(tmp_path / "b.mp4")
        assert cache.open(tmp_path / "a.mp4") is first
        cache.open(tmp_path / "c.mp4")  # b was used least recently
        assert cache.open(tmp_path / "a.mp4") is first
        assert cache.open(tmp_path / "b.mp4") is not second


def test_full_disk_is_an_os_error_while_adding_and_at_the_end():
    rng = np.random.default_rng(0)
    video = VideoWriter(Path("/dev/full"), 32, 48, 10, VideoSettings(crf=0))

    def fill():
        for _ in range(100):
            video.add(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8))

    with pytest.raises(OSError, match="No space left"):
        fill()
    with pytest.raises(OSError, match="No space left"):
        video.close()
    video.close()


def test_full_disk_is_an_os_error_when_only_the_end_is_written():
    video = VideoWriter(Path("/dev/full"), 32, 48, 10, VideoSettings())
    video.add(np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(OSError, match="No space left"):
        video.close()


@pytest.mark.parametrize(
    "name",
    [
        "lerobot_v20_gr1/videos/chunk-000/observation.images.ego_view/episode_000004.mp4",
        "lerobot_v21_reference/videos/chunk-000/observation.images.wrist/episode_000001.mp4",
    ],
)
def test_frames_equal_those_of_torchcodec(data_dir, name):
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:  # it loads ffmpeg's libraries of the system
        pytest.skip(f"torchcodec: {str(error).strip().splitlines()[0]}")
    reader, decoder = VideoReader(data_dir / name), VideoDecoder(data_dir / name, dimension_order="NHWC")
    indices = [0, 1, *range(20, 30), reader.num_frames - 1, 7]
    assert np.array_equal(reader.read(indices), decoder.get_frames_at(indices).data.numpy())


def scheduling():
    """Return policies and priorities of this process's threads."""
    found = set()
    for entry in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found.add((os.sched_getscheduler(int(entry.name)), os.sched_getparam(int(entry.name)).sched_priority))
    return found


@pytest.mark.parametrize("codec", list(VideoCodec))
def test_encoding_leaves_the_scheduling_of_all_threads(tmp_path, codec):
    before = scheduling()
    writer = VideoWriter(tmp_path / "a.mp4", 64, 64, 10, VideoSettings(codec=codec))
    writer.add(np.zeros((64, 64, 3), np.uint8))
    during = scheduling()  # with the encoder's own threads
    writer.close()
    assert during == before
    assert scheduling() == before
