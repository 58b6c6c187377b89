# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.cli.dataset import main
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCodec, VideoSettings, VideoWriter
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter

FRONT = "observation.images.front"
ROWS, VIDEO = schema.data_path(1), schema.video_path(1, FRONT)
CAMERA = f"episode 1, {FRONT}"
STATS = schema.EPISODES_STATS_FILE


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


def edit_lines(path, change):
    lines = schema.read_json_lines(path)
    change(lines)
    path.write_text(schema.json_lines_text(lines))


def drift(count):
    """Times with every step within the tolerance, but not their sum."""
    return [k * 0.10009 for k in range(count)]


def write_video(path, count, *, fps=10, size=(32, 48), level=None, settings=None):
    """Write plain pictures, all of one gray `level` or each of another."""
    video = VideoWriter(path, *size, fps, settings or VideoSettings())
    for number in range(count):
        video.add(np.full((*size, 3), 20 * number if level is None else level, np.uint8))
    video.close()


def test_written_dataset_has_no_findings(written, capsys):
    assert list(validate_dataset(written)) == []
    assert main(["validate", str(written)]) == 0
    assert capsys.readouterr().out == f"{written}: 0 faults, 0 warnings\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: write_video(root / VIDEO, 4), f"{CAMERA}: 4 frames, the episode has 5 rows"),
        (
            lambda root: write_video(root / VIDEO, 5, fps=20),
            f"{VIDEO}: frame 1 is shown at 0.050000 s, expected 0.100000 s",
        ),
        (lambda root: write_video(root / VIDEO, 5, size=(32, 32)), f"{VIDEO}: is (32, 32) high and wide, expected (32"),
        (lambda root: (root / VIDEO).unlink(), f"{VIDEO}: missing; restore it from a copy"),
        (lambda root: (root / VIDEO).write_bytes(b"\0" * 200), f"{VIDEO}: not a readable video"),
        (lambda root: write_video(root / VIDEO, 5, level=0), f"{CAMERA}: the video is black from start to end"),
        (
            lambda root: write_video(root / VIDEO, 5, level=90),
            f"{CAMERA}: every frame shows the same picture while the robot moves (h264)",
        ),
        (
            lambda root: write_video(root / VIDEO, 5, settings=VideoSettings(codec=VideoCodec.AV1)),
            f"{VIDEO}: is av1, expected h264 as meta/info.json (observation.images.front) says",
        ),
        (lambda root: (root / ROWS).unlink(), f"{ROWS}: missing"),
        (lambda root: (root / ROWS).write_bytes((root / ROWS).read_bytes()[:900]), f"{ROWS}: cannot be read"),
        (
            lambda root: (root / "data/chunk-000/episode_000002.parquet").write_bytes(b""),
            "data/chunk-000/episode_000002.parquet: no episode has this file",
        ),
        (
            lambda root: edit_column(root / ROWS, "timestamp", lambda t: t.__setitem__(3, 0.35)),
            "episode 1: timestamp steps by 0.150000 s after row 2, expected 0.100000 s; run gr00t_dataset repair",
        ),
        (
            lambda root: edit_column(root / ROWS, "timestamp", lambda t: t.__setitem__(slice(None), drift(5))),
            "episode 1: timestamp is 0.200180 s in row 2, expected 0.200000 s",
        ),
        (
            lambda root: edit_column(root / ROWS, "frame_index", lambda t: t.__setitem__(4, 3)),
            "episode 1: frame_index is 3 in row 4, expected 4",
        ),
        (
            lambda root: edit_column(root / ROWS, "episode_index", lambda t: t.__setitem__(0, 0)),
            "episode 1: episode_index is 0 in row 0, expected 1",
        ),
        (
            lambda root: edit_column(root / ROWS, "index", lambda t: t.__setitem__(0, 0)),
            "episode 1: index is 0 in row 0, expected 6",
        ),
        (
            lambda root: edit_column(root / ROWS, "task_index", lambda t: t.__setitem__(2, 7)),
            "episode 1: task_index: task 7 has no text",
        ),
        (
            lambda root: edit_column(root / ROWS, "action", lambda t: t[4].__setitem__(3, float("nan"))),
            "episode 1, action: channel 'grip' is nan in row 4, expected finite numbers",
        ),
        (
            lambda root: edit_column(root / ROWS, "observation.state", lambda t: t[2].__setitem__(0, float("-inf"))),
            "episode 1, observation.state: channel 'j0' is -inf in row 2",
        ),
        (
            lambda root: edit_column(root / ROWS, "action", lambda t: t[4].__setitem__(3, 50.0)),
            "meta/stats.json: max of 'action' is",
        ),
        (
            lambda root: edit_lines(
                root / STATS, lambda lines: lines[1]["stats"]["action"]["mean"].__setitem__(2, 9.0)
            ),
            f"{STATS}: mean of 'episode 1, action' is 9 in channel 2",
        ),
        (
            lambda root: edit_lines(root / STATS, lambda lines: lines[0]["stats"][FRONT].update(mean=[[[0.9]]] * 3)),
            f"{STATS}: episode 0, {FRONT}: mean of red is 0.900",
        ),
        (lambda root: edit_lines(root / STATS, lambda lines: lines.pop()), f"{STATS}: no line for episode 1"),
        (
            lambda root: edit_json(root / "meta/stats.json", lambda s: s["action"]["q01"].pop()),
            "meta/stats.json: q01 of 'action' has shape (3,), expected (4,)",
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
            lambda root: edit_json(
                root / "meta/modality.json", lambda m: m["video"].update(rear={"original_key": "x"})
            ),
            "video.rear: 'x' is not a camera of meta/info.json",
        ),
        (lambda root: (root / "meta/modality.json").unlink(), "meta/modality.json: missing, GR00T cannot open"),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(total_frames=12)),
            "meta/info.json: total_frames is 12, expected 11",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(fps=9.97)),
            "fps is 9.97, expected a whole",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"]["names"].reverse()),
            "action: names are ['grip', 'j2', 'j1', 'j0'], expected ['j0', 'j1', 'j2', 'grip'] as in meta/embodiment",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"].update(names=["j0"] * 4)),
            "action: duplicate channel 'j0'",
        ),
        (
            lambda root: edit_json(
                root / "meta/info.json", lambda i: i["features"]["observation.images.front"].pop("info")
            ),
            "observation.images.front: has no 'info'",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"].pop("shape")),
            "meta/info.json: feature 'action': shape is missing",
        ),
        (lambda root: (root / STATS).unlink(), f"{STATS}: missing"),
        (
            lambda root: edit_lines(root / "meta/episodes.jsonl", lambda lines: lines[1].update(episode_index=2)),
            "meta/episodes.jsonl: episode index 2 at place 1, expected 0, 1, 2",
        ),
        (
            lambda root: edit_lines(root / "meta/episodes.jsonl", lambda lines: lines[1].update(length=4)),
            "episode 1: 5 rows, the metadata says 4",
        ),
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
    assert main(["validate", str(copy), "--jobs", "1"]) == 1
    assert expected in capsys.readouterr().out


def test_undecodable_frame_is_found(copy):
    """The container is complete; only decoding shows the fault."""
    path = copy / VIDEO
    with av.open(str(path)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts == 3 * 1024)
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    found = faults(copy)
    assert any("frame 3 does not decode" in line for line in found), found


def warnings(root):
    return [str(finding) for finding in validate_dataset(root) if not finding.is_fault]


def test_joint_that_was_lost_is_found(copy):
    for number in (0, 1):
        path = copy / schema.data_path(number)
        edit_column(path, "observation.state", lambda rows: [row.__setitem__(slice(0, 2), [1, 2]) for row in rows])
    assert any("observation.state: 2 of 4 channels never change: j0, j1;" in line for line in warnings(copy))


@pytest.mark.parametrize(
    ("encoder", "options", "expected"),
    [
        ("libx265", {"x265-params": "log-level=none"}, "is hevc, of which GR00T's torchvision back end gives only the"),
        ("mpeg4", {}, "is mpeg4, which not every reader decodes, expected h264 or av1"),
        ("libx264", {"bf": "2", "x264-params": "b-adapt=0:scenecut=0"}, "has B frames"),
        (
            "libx264",
            {"g": "250", "bf": "0", "x264-params": "scenecut=0"},
            "has key frames 60 frames apart, random access is slow",
        ),
    ],
)
def test_videos_that_some_readers_stumble_over_are_warnings(tmp_path, encoder, options, expected):
    embodiment, count = make_embodiment(size=(64, 64)), 60
    with DatasetWriter(tmp_path, embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(embodiment, count):
            episode.add_frame(frame)
        episode.save()
    noise = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / schema.video_path(0, FRONT)), "w") as container:
        stream = container.add_stream(encoder, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    assert any(expected in line for line in warnings(tmp_path))


def test_picture_that_hangs_is_a_warning(tmp_path):
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path, embodiment) as writer:
        episode = writer.start_episode("lift")
        for number, frame in enumerate(make_frames(embodiment, 40)):
            if 10 <= number < 25:
                frame.images["front"][:] = 86
            episode.add_frame(frame)
        episode.save()
    expected = f"episode 0, {FRONT}: the picture stays the same for 15 frames from frame 10 on while the robot moves"
    assert warnings(tmp_path) == [f"warning: {expected}; check the camera"]


def test_quick_counts_without_decoding(copy):
    write_video(copy / VIDEO, 5, level=0)
    assert not any("black" in str(finding) for finding in validate_dataset(copy, quick=True))
    write_video(copy / VIDEO, 4)
    assert any("4 frames" in str(finding) for finding in validate_dataset(copy, quick=True))


def test_several_processes_find_the_same(copy):
    write_video(copy / VIDEO, 4, level=0)
    edit_column(copy / ROWS, "index", lambda values: values.__setitem__(0, 0))
    assert list(validate_dataset(copy, jobs=2)) == list(validate_dataset(copy))


def test_lerobots_own_datasets_have_no_fault(data_dir):
    found = [str(finding) for finding in validate_dataset(data_dir / "lerobot_v21_reference")]
    assert found == ["warning: meta/stats.json: missing, every reader has to compute it; run gr00t_dataset repair"]
    assert list(validate_dataset(data_dir / "lerobot_v30_reference")) == []


def test_recording_without_motion_is_a_warning(data_dir):
    found = [str(finding) for finding in validate_dataset(data_dir / "lerobot_v30_so101", quick=True)]
    assert [line.split(";")[0] for line in found] == [
        f"warning: {column}: no channel ever changes" for column in ("action", "observation.state")
    ]


@pytest.fixture
def v30(data_dir, tmp_path):
    root = tmp_path / "v30"
    shutil.copytree(data_dir / "lerobot_v30_reference", root)
    for path in root.rglob("*"):
        path.chmod(0o755)
    return root


EPISODES_TABLE = "meta/episodes/chunk-000/file-000.parquet"
V30_ROWS = "data/chunk-000/file-000.parquet"
FROM = f"videos/{FRONT}/from_timestamp"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda root: edit_column(root / EPISODES_TABLE, FROM, lambda t: t.__setitem__(1, t[1] + 0.5 / 30)),
            f"episode 1, {FRONT}: from_timestamp is 2.016667 s in videos/{FRONT}/chunk-000/file-000.mp4, expected",
        ),
        (
            lambda root: edit_column(root / EPISODES_TABLE, "dataset_from_index", lambda t: t.__setitem__(2, 104)),
            "episode 2: dataset_from_index is 104, expected 105",
        ),
        (
            lambda root: edit_column(root / V30_ROWS, "index", lambda t: t.__setitem__(60, 0)),
            "episode 1: index is 0 in row 0, expected 60",
        ),
        (
            lambda root: pq.write_table(pq.read_table(root / V30_ROWS).slice(0, 150), root / V30_ROWS),
            f"{V30_ROWS}: 150 rows, the metadata says 155",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i["features"].pop("task_index")),
            f"{V30_ROWS}: column 'task_index' is not declared in meta/info.json",
        ),
        (
            lambda root: edit_json(
                root / "meta/info.json", lambda i: i["features"].update(force=i["features"]["action"])
            ),
            f"{V30_ROWS}: no column 'force', which meta/info.json declares",
        ),
        (
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(video_files_size_in_mb=0)),
            "video_files_size_in_mb is 0, expected a positive number",
        ),
        (lambda root: (root / "meta/stats.json").unlink(), "meta/stats.json: missing, training with lerobot needs it"),
        (
            lambda root: edit_column(root / "meta/tasks.parquet", "task_index", lambda t: t.__setitem__(1, 5)),
            "episode 1: task_index: task 1 has no text in meta/tasks.parquet",
        ),
        (
            lambda root: edit_column(root / EPISODES_TABLE, "stats/action/max", lambda t: t[0].__setitem__(3, 7.0)),
            "meta/episodes: max of 'episode 0, action' is 7 in channel 3",
        ),
    ],
)
def test_damage_of_v30_is_found(v30, damage, expected):
    damage(v30)
    found = [str(finding) for finding in validate_dataset(v30, quick=True) if finding.is_fault]
    assert any(expected in line for line in found), found


def test_oddities_of_the_gr1_sample_are_warnings(data_dir, capsys):
    assert main(["validate", str(data_dir / "lerobot_v20_gr1"), "--quick", "--jobs", "1"]) == 0
    found = capsys.readouterr().out
    for part in (
        "observation.images.egoview: a camera of meta/info.json that meta/modality.json does not name",
        "total_videos is 2, expected 5",
        "total_chunks is 0, expected 1",
        "split 'train' is 0:100",
        "no column 'frame_index'",
        "timestamp starts at 0.050000 s",
        "warning: no column 'frame_index', lerobot needs it: 2 more like this",
    ):
        assert part in found


def test_what_is_no_dataset_is_a_fault(tmp_path, capsys):
    assert main(["validate", str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().out
