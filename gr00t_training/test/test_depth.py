# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import shutil

import av
import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import DepthReader, DepthWriter, StagedDepth
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import DepthKey, load_embodiment, shipped_embodiments, to_mapping
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.settings import parse_settings

DEPTH = DepthKey(height=15, width=21)  # odd: nothing is halved


def pictures(count, *, seed=0, key=DEPTH):
    return np.random.default_rng(seed).integers(0, 65536, (count, key.height, key.width)).astype(np.uint16)


def write(path, images, key=DEPTH, fps=30):
    writer = DepthWriter(path, key, fps)
    for image in images:
        writer.add(image)
    writer.close()
    writer.close()
    return path


def test_depth_comes_back_bit_for_bit_in_any_order(tmp_path):
    images = pictures(20)
    images[3] = 0
    images[4] = 65535
    reader = DepthReader(write(tmp_path / "d.mkv", images))
    assert (reader.num_frames, reader.size, reader.unit_m) == (20, (15, 21), 0.001)
    np.testing.assert_array_equal(reader.read(range(20)), images)
    order = [19, 0, 4, 3, 3, 12, 11]
    np.testing.assert_array_equal(reader.read(order), images[order])
    reader.close()


def test_file_is_what_every_player_knows_and_tells_its_unit(tmp_path):
    key = dataclasses.replace(DEPTH, unit_m=0.00025)
    path = write(tmp_path / "d.mkv", pictures(4), key)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("ffv1", "gray16le")
        assert stream.average_rate == 30
        assert all(packet.is_keyframe for packet in container.demux(stream) if packet.size)
    assert DepthReader(path).unit_m == 0.00025


def test_file_that_was_cut_by_a_kill_holds_all_but_the_last_frame(tmp_path):
    images = pictures(6)
    writer = DepthWriter(tmp_path / "d.mkv", DEPTH, 30)
    for image in images:
        writer.add(image)
    shutil.copy(tmp_path / "d.mkv", tmp_path / "cut.mkv")
    writer.close()
    reader = DepthReader(tmp_path / "cut.mkv")
    assert reader.num_frames >= 5
    np.testing.assert_array_equal(reader.read(range(5)), images[:5])


def test_missing_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"none.mkv: not a readable depth file"):
        DepthReader(tmp_path / "none.mkv")
    (tmp_path / "text.mkv").write_text("no video")
    with pytest.raises(DatasetError, match=r"text.mkv: not a readable depth file"):
        DepthReader(tmp_path / "text.mkv")
    with av.open(str(tmp_path / "color.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(DatasetError, match="holds yuv420p, expected gray16le"):
        DepthReader(tmp_path / "color.mkv")
    reader = DepthReader(write(tmp_path / "d.mkv", pictures(2)))
    with pytest.raises(DatasetError, match="frame 2 requested, the file has 2"):
        reader.read([2])


def with_depth(**keys):
    return dataclasses.replace(make_embodiment(), depth=keys)


def test_staged_depth_checks_each_frame_and_counts_at_the_end(tmp_path):
    embodiment = with_depth(front=DEPTH, wrist=dataclasses.replace(DEPTH, height=4))
    staged = StagedDepth(tmp_path, embodiment)
    (frame,) = make_frames(embodiment, 1)
    front, wrist = pictures(1)[0], np.ones((4, 21), np.uint16)
    for depth, reason in (
        ({}, "depth.front: missing in row 0; bind it in topics.yaml"),
        ({"front": front}, "depth.wrist: missing"),
        ({"front": front, "wrist": wrist, "top": wrist}, "depth.top: the embodiment has no such depth camera"),
        ({"front": wrist, "wrist": wrist}, r"got shape \(4, 21\) uint16, the embodiment expects \(15, 21\)"),
        ({"front": front, "wrist": wrist.astype(np.float32)}, "float32, the embodiment expects"),
    ):
        with pytest.raises(DatasetError, match=reason):
            staged.check(dataclasses.replace(frame, depth=depth))
    complete = dataclasses.replace(frame, depth={"front": front, "wrist": wrist})
    staged.check(complete)
    staged.add(complete)
    assert [schema.depth_path(1234, key) for key in staged.paths] == [
        "depth/chunk-001/front/episode_001234.mkv",
        "depth/chunk-001/wrist/episode_001234.mkv",
    ]
    with pytest.raises(DatasetError, match=r"depth.front: 1 frames in the file, 2 rows"):
        staged.finish(2)
    staged.finish(1)
    np.testing.assert_array_equal(DepthReader(staged.paths["wrist"]).read([0])[0], wrist)


def test_embodiment_without_depth_has_none_of_its_settings_so_fingerprints_stay():
    for name in shipped_embodiments():
        assert "depth" not in to_mapping(load_embodiment(name))
    assert make_embodiment().fingerprint() == "7df9455bde2c8861"


def test_embodiment_with_depth_reads_back_equal_and_has_another_fingerprint():
    embodiment = with_depth(front=DEPTH)
    found = parse_settings(type(embodiment), schema.json_text(to_mapping(embodiment)), "embodiment.json")
    assert found == embodiment
    assert embodiment.fingerprint() != make_embodiment().fingerprint()


def test_depth_keys_are_checked_like_others():
    text = schema.json_text(to_mapping(with_depth(front=DEPTH)))
    for old, new, reason in (
        ('"depth": {\n        "front"', '"depth": {\n        "a/b"', "depth key 'a/b'"),
        ('"unit_m": 0.001', '"unit_m": 0.0', "unit_m is 0.0, expected 1e-06 to 1.0"),
    ):
        assert old in text
        with pytest.raises(ConfigError, match=reason):
            parse_settings(type(make_embodiment()), text.replace(old, new), "embodiment.json")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_depth_of_an_episode_lies_beside_the_dataset_bit_for_bit(tmp_path, version):
    embodiment = with_depth(front=DEPTH)
    images = pictures(5)
    frames = [
        dataclasses.replace(frame, depth={"front": image})
        for frame, image in zip(make_frames(embodiment, 5), images, strict=True)
    ]
    with DatasetWriter(tmp_path / "data", embodiment, version=version) as dataset:
        for _ in range(2):
            episode = dataset.start_episode("lift the cube")
            for frame in frames:
                episode.add_frame(frame)
            episode.save()
        episode = dataset.start_episode("lift the cube")
        episode.add_frame(frames[0])
        episode.discard()
    files = sorted(path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.mkv"))
    assert files == [schema.depth_path(index, "front") for index in range(2)]
    for name in files:
        np.testing.assert_array_equal(DepthReader(tmp_path / "data" / name).read(range(5)), images)


def test_frame_without_depth_is_refused_and_leaves_no_trace(tmp_path):
    embodiment = with_depth(front=DEPTH)
    first, second = make_frames(embodiment, 2)
    image = pictures(1)[0]
    with DatasetWriter(tmp_path / "data", embodiment) as dataset:
        episode = dataset.start_episode("lift the cube")
        episode.add_frame(dataclasses.replace(first, depth={"front": image}))
        with pytest.raises(DatasetError, match=r"depth.front: missing in row 1; bind it in topics.yaml"):
            episode.add_frame(second)
        episode.add_frame(dataclasses.replace(second, depth={"front": image}))
        assert episode.save() == 0
    assert DepthReader(tmp_path / "data" / schema.depth_path(0, "front")).num_frames == 2
