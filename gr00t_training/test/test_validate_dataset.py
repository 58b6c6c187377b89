# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_training.cli.validate_dataset import main
from gr00t_training.dataset import schema
from gr00t_training.dataset.validate import validate_dataset
from gr00t_training.dataset.video import VideoCodec, VideoSettings, VideoWriter
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.testing import make_embodiment, make_frames

ROWS, VIDEO = schema.data_path(1), schema.video_path(1, "observation.images.front")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    embodiment = make_embodiment()
    with DatasetWriter(root, embodiment) as writer:
        for count in (6, 5):
            episode = writer.start_episode("lift")
            for frame in make_frames(embodiment, count, seed=count):
                episode.add_frame(frame)
            episode.save()
    return root


@pytest.fixture
def copy(written, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(written, root)
    return root


def faults(root):
    return [str(finding) for finding in validate_dataset(root) if finding.is_fault]


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_column(path, name, change):
    table = pq.read_table(path)
    values = table[name].to_pylist()
    change(values)
    position = table.schema.get_field_index(name)
    field = table.schema.field(name)
    pq.write_table(table.set_column(position, field, pa.array(values, field.type)), path)


def write_video(path, count, *, fps=10, size=(32, 48)):
    video = VideoWriter(path, *size, fps, VideoSettings())
    for _ in range(count):
        video.add(np.zeros((*size, 3), np.uint8))
    video.close()


def test_written_dataset_has_no_findings(written, capsys):
    assert list(validate_dataset(written)) == []
    assert main([str(written)]) == 0
    assert capsys.readouterr().out == f"{written}: 0 faults, 0 warnings\n"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda root: write_video(root / VIDEO, 4),
            "video.front: episode_000001.mp4 has 4 frames, the episode 5 rows",
        ),
        (
            lambda root: write_video(root / VIDEO, 5, fps=20),
            "video.front: episode_000001.mp4: frame 1 is shown at 0.050000 s, expected 0.100000 s",
        ),
        (
            lambda root: write_video(root / VIDEO, 5, size=(32, 32)),
            "video.front: episode_000001.mp4 is (32, 32), meta/info.json says (32, 48)",
        ),
        (lambda root: (root / VIDEO).unlink(), "episode_000001.mp4: not a readable video"),
        (lambda root: (root / ROWS).unlink(), "episode_000001.parquet: cannot be read"),
        (
            lambda root: (root / "data/chunk-000/episode_000002.parquet").write_bytes(b""),
            "data/chunk-000/episode_000002.parquet: no episode of meta/episodes.jsonl has it",
        ),
        (
            lambda root: edit_column(root / ROWS, "timestamp", lambda t: t.__setitem__(3, 0.35)),
            "episode 1: timestamp steps by 0.150000 s after row 2, expected 0.100000 s",
        ),
        (
            lambda root: edit_column(root / ROWS, "index", lambda t: t.__setitem__(0, 0)),
            "episode 1: index is 0 in row 0, expected 6",
        ),
        (
            lambda root: edit_column(root / ROWS, "task_index", lambda t: t.__setitem__(2, 7)),
            "episode 1: annotation.human.task_description: task 7 has no text",
        ),
        (
            lambda root: edit_column(root / ROWS, "action", lambda t: t[4].__setitem__(3, float("nan"))),
            "action.gripper: episode 1: channel 0 of row 4 is not finite",
        ),
        (
            lambda root: edit_column(root / ROWS, "action", lambda t: t[4].__setitem__(3, 50.0)),
            "meta/stats.json: max of 'action' is",
        ),
        (
            lambda root: edit_json(root / "meta/stats.json", lambda s: s["action"]["q01"].pop()),
            "meta/stats.json: q01 of 'action' has 3 values, expected 4",
        ),
        (
            lambda root: edit_json(root / "meta/modality.json", lambda m: m["state"]["arm"].update(end=9)),
            "state.arm: channels 0 to 9 are outside column 'observation.state' of 4",
        ),
        (
            lambda root: edit_json(root / "meta/modality.json", lambda m: m["state"]["arm"].update(end=2)),
            "meta/modality.json: does not follow from meta/embodiment.json",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(total_frames=12)),
            "meta/info.json: total_frames is 12, the dataset has 11",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"]["names"].reverse()),
            "action: names are ['grip', 'j2', 'j1', 'j0'], meta/embodiment.json says ['j0', 'j1', 'j2', 'grip']",
        ),
        (
            lambda root: edit_json(
                root / "meta/info.json", lambda i: i["features"]["observation.images.front"].pop("info")
            ),
            "observation.images.front: has no 'info'",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"].pop("shape")),
            "meta/info.json: not of the expected form: KeyError('shape')",
        ),
        (lambda root: (root / "meta/episodes_stats.jsonl").unlink(), "meta/episodes_stats.jsonl: missing"),
        (
            lambda root: (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": " "}\n'),
            "meta/tasks.jsonl: the text of task 0 is empty",
        ),
    ],
)
def test_damage_is_found(copy, damage, expected, capsys):
    damage(copy)
    found = faults(copy)
    assert any(expected in line for line in found), found
    assert main([str(copy)]) == 1
    assert expected in capsys.readouterr().out


def test_undecodable_frame_is_found(copy):
    """The container is whole, so that only decoding can tell."""
    path = copy / VIDEO
    with av.open(str(path)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts == 3 * 1024)
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    found = faults(copy)
    assert any("frame 3 does not decode" in line for line in found), found


def test_joint_that_was_lost_is_found(copy):
    for number in (0, 1):
        path = copy / schema.data_path(number)
        edit_column(path, "observation.state", lambda rows: [row.__setitem__(slice(0, 3), [1, 2, 3]) for row in rows])
    warnings = [str(finding) for finding in validate_dataset(copy) if not finding.is_fault]
    assert warnings == ["warning: state.arm: no channel ever changes; was it recorded?"]


def test_video_of_another_codec_is_found(copy):
    video = VideoWriter(copy / VIDEO, 32, 48, 10, VideoSettings(codec=VideoCodec.AV1))
    for _ in range(5):
        video.add(np.zeros((32, 48, 3), np.uint8))
    video.close()
    found = [str(finding) for finding in validate_dataset(copy)]
    assert found == ["warning: video.front: episode_000001.mp4 is av1, meta/info.json says h264"]


def test_lerobots_own_dataset_has_no_fault(data_dir):
    found = [str(finding) for finding in validate_dataset(data_dir / "lerobot_v21_reference")]
    assert found == ["warning: meta/stats.json: missing, every reader has to compute it"]


def test_oddities_of_the_gr1_sample_are_warnings(data_dir):
    found = [str(finding) for finding in validate_dataset(data_dir / "lerobot_v20_gr1")]
    assert all(line.startswith("warning") for line in found)
    for part in ("observation.images.egoview", "total_videos is 2", "no column 'frame_index'", "starts at 0.050000 s"):
        assert any(part in line for line in found)


def test_what_is_no_dataset_is_a_fault(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().out
