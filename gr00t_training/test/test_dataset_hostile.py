# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets made to harm: paths that leave the folder, links, pipes, files that unpack to gigabytes; and signals."""

import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import types
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.cli.dataset import main
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.view import hub
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import DatasetError, Gr00tError
from gr00t_training.io import hub_upload
from gr00t_training.types import KeyRef

pytestmark = pytest.mark.slow

EMBODIMENT = make_embodiment()
FRONT = "observation.images.front"
SECRET = "a private text that stays where it is"


def validate(root):
    return main(["validate", str(root), "--jobs", "1"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    for version in ("v2.1", "v3.0"):
        with DatasetWriter(root / version, EMBODIMENT, version=version) as writer:
            for number in range(3):
                episode = writer.start_episode("lift the cube")
                for frame in make_frames(EMBODIMENT, 5, seed=number):
                    episode.add_frame(frame)
                episode.save()
    return root


@pytest.fixture(params=["v2.1", "v3.0"])
def dataset(request, recorded, tmp_path):
    return Path(shutil.copytree(recorded / request.param, tmp_path / "in" / request.param))


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "private"
    path.write_text(SECRET)
    return path


def set_info(root: Path, **entries) -> None:
    path = root / schema.INFO_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def run_all(root: Path, output: Path) -> dict[str, tuple[int, list[str]]]:
    """Run every command on a dataset; return the codes and what each left of its output."""
    commands = {
        "info": ["info", root],
        "repair": ["repair", root, "--jobs", "1"],
        "merge": ["merge", output / "merge", root],
        "split": ["split", root, "-o", output / "split", "--by-task"],
        "delete": ["delete", root, "--episodes", "0", "-o", output / "delete"],
        "trim": ["trim", root, "-o", output / "trim"],
        "retask": ["retask", root, "--episodes", "0", "--task", "wave", "-o", output / "retask"],
        "convert": ["convert", root, "--to", "v2.0", "-o", output / "convert"],
        "stats": ["stats", root],
        "view": ["view", root, "--html", output / "page.html"],
        "push": ["push", root, "lab/set", "--dry-run"],
    }
    found = {name: main([str(part) for part in parts]) for name, parts in commands.items()}
    found["validate"] = validate(root)
    left = [str(path.relative_to(output)) for path in output.rglob("*")] if output.exists() else []
    return {name: (code, left) for name, code in found.items()}


def load(root: Path) -> None:
    opened = EpisodeDataset(root)
    opened.statistics(KeyRef.parse("state.arm"))
    for episode in opened.episodes:
        opened.action(episode.index, "arm")
        opened.images(episode.index, "front", [0])
    opened.close()


TEMPLATES = [
    "{0}",
    "{}",
    "data/{episode_index.__class__}.parquet",
    "data/{episode_index:03000000000d}.parquet",
    "data/{episode_index!r}.parquet",
    "data/{episode_index:99d}/{file_index}.parquet",
    "data/{unknown}.parquet",
    "../{episode_index:06d}{file_index}.parquet",
    "/etc/{episode_index}{file_index}",
    "data/../../{episode_index}{file_index}.parquet",
    "data\\..\\{episode_index}{file_index}",
    "data/x\n{episode_index}{file_index}",
    "a" * 5000 + "{episode_index}{file_index}",
    3,
]


@pytest.mark.parametrize("field", ["data_path", "video_path"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda text: str(text)[:30])
def test_path_templates_are_strict(dataset, tmp_path, template, field, capsys):
    set_info(dataset, **{field: template})
    with pytest.raises(DatasetError, match=r"path template|leaves its folder|is too long|is 3"):
        EpisodeDataset(dataset)
    if template in TEMPLATES[:4:3]:
        codes = run_all(dataset, tmp_path / "out")
    else:
        codes = {"info": (main(["info", str(dataset)]), [])}
    for name, (code, left) in codes.items():
        assert (code, left) == (1 if name == "validate" else 2, []), name


@pytest.mark.parametrize("name", ["../../x", "a\x1b[31m", "x/../../../y"])
def test_camera_names_stay_inside(dataset, name):
    path = dataset / schema.INFO_FILE
    info = json.loads(path.read_text())
    info["features"][name] = info["features"].pop(FRONT)
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"leaves its folder|control characters"):
        EpisodeDataset(dataset)
    assert main(["info", str(dataset)]) == 2
    assert validate(dataset) == 1


LINKED = ["README.md", "meta/info.json", "meta/quality/episode_000000.json", "meta/notes.txt", "data", "meta", "videos"]


@pytest.mark.parametrize("name", LINKED)
def test_links_take_nothing_along(dataset, tmp_path, secret, name):
    path = dataset / name
    if path.is_dir():
        shutil.move(path, tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    before = {file: file.read_bytes() for file in (tmp_path / "moved").rglob("*") if file.is_file()}
    for command, (code, left) in run_all(dataset, tmp_path / "out").items():
        assert left == [], command
        assert code == 2 or command in ("validate", "repair"), command
    assert secret.read_text() == SECRET
    assert {file: file.read_bytes() for file in (tmp_path / "moved").rglob("*") if file.is_file()} == before


def test_a_data_file_that_is_a_link_is_refused_by_name(dataset, tmp_path):
    file = next(dataset.glob("data/*/*.parquet"))
    shutil.move(file, tmp_path / "rows.parquet")
    file.symlink_to(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match=r"\.parquet is a symbolic link to"):
        load(dataset)


def test_planted_links_are_not_written_through(dataset, tmp_path, secret):
    names = ("README.md", "meta/stats.json", "meta/episodes_stats.jsonl", "meta/episodes/chunk-000/file-000.parquet")
    for name in names:
        (dataset / f"{name}.part").parent.mkdir(parents=True, exist_ok=True)
        (dataset / f"{name}.part").symlink_to(secret)
    for name in ("meta_info.json", "meta_stats.json", "meta_tasks.jsonl", "meta_episodes.jsonl", "meta_tasks.parquet"):
        (dataset / schema.STAGING / f"{name}.part").symlink_to(secret)
    assert main(["push", str(dataset), "lab/set", "--dry-run"]) == 2
    assert main(["stats", str(dataset)]) == 2
    for name in names:
        (dataset / f"{name}.part").unlink()
    with DatasetWriter(dataset, EMBODIMENT) as writer:
        episode = writer.start_episode("another task")
        for frame in make_frames(EMBODIMENT, 4):
            episode.add_frame(frame)
        episode.save()
    assert secret.read_text() == SECRET
    assert len(EpisodeDataset(dataset).episodes) == 4


@pytest.mark.parametrize("name", [".staging", "meta"])
def test_nothing_is_recorded_through_a_link(tmp_path, recorded, name):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    shutil.move(root / name, tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.joinpath("elsewhere").rglob("*"))
    with pytest.raises(DatasetError, match="symbolic link"):
        DatasetWriter(root, EMBODIMENT)
    assert sorted(tmp_path.joinpath("elsewhere").rglob("*")) == before


def test_a_push_takes_no_link_and_nothing_hidden(dataset, secret, monkeypatch):
    sent = {}
    api = types.SimpleNamespace(
        create_repo=lambda *a, **k: types.SimpleNamespace(repo_id="lab/set"),
        upload_folder=lambda **options: sent.update(options),
        delete_tag=lambda *a, **k: None,
        create_tag=lambda *a, **k: None,
    )
    errors = types.SimpleNamespace(RevisionNotFoundError=KeyError)
    client = types.SimpleNamespace(HfApi=lambda: api, get_token=lambda: "token", utils=errors)
    monkeypatch.setattr(hub_upload, "import_client", lambda: client)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.push_dataset(dataset, "lab/set", "v2.1", private=True)
    from fnmatch import fnmatch

    for name in (".env", "meta/.netrc", ".staging/lock", ".git/config", "meta/.git/x", "README.md.part"):
        assert any(fnmatch(name, pattern) for pattern in sent["ignore_patterns"]), name
    for name in ("README.md", "meta/info.json", "data/chunk-000/episode_000000.parquet"):
        assert not any(fnmatch(name, pattern) for pattern in sent["ignore_patterns"]), name
    sent.clear()
    (dataset / "meta" / "notes").symlink_to(secret)
    with pytest.raises(DatasetError, match="symbolic link"):
        hub.push_dataset(dataset, "lab/set", "v2.1", private=True)
    assert not sent


METADATA = ["meta/info.json", "meta/modality.json", "meta/embodiment.json", "meta/stats.json"]
FILES = [*METADATA, "meta/episodes.jsonl", "meta/tasks.jsonl", schema.data_path(1), schema.video_path(1, FRONT)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "pointer"])
def test_what_is_no_file_is_refused_without_waiting(recorded, tmp_path, name, kind):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    path = root / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    words = {"pipe": "named pipe", "device": "symbolic link", "folder": "folder", "pointer": "run 'git lfs pull'"}
    with pytest.raises(Gr00tError, match=words[kind]):
        load(root)
    assert validate(root) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "not valid JSON"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ("[]", "holds a list"),
        ("\xff", "not valid JSON"),
    ],
    ids=["bomb", "deep", "digits", "surrogate", "list", "bytes"],
)
@pytest.mark.parametrize("name", ["meta/info.json", "meta/modality.json"])
def test_json_has_limits(recorded, tmp_path, name, content, expected):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    (root / name).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=expected):
        EpisodeDataset(root)
    with open(root / name, "wb") as file:
        file.truncate(schema.JSON_LIMIT + 1)
    with pytest.raises(DatasetError, match=r"has \d+ bytes \(limit"):
        EpisodeDataset(root)


@pytest.mark.parametrize("name", ["meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"])
def test_a_deep_line_ends_no_command(recorded, tmp_path, name):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    with open(root / name, "a") as file:
        file.write("[" * 100_000 + "\n")
    assert main(["repair", str(root), "--dry-run", "--jobs", "1"]) in (0, 1)
    assert validate(root) == 1


def test_a_page_names_a_video_that_is_too_short(recorded, tmp_path, capsys):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    path = root / schema.EPISODES_FILE
    path.write_text(path.read_text().replace('"length": 5', '"length": 4', 1))
    quality = root / schema.quality_path(0)
    quality.write_text(json.dumps({"report": {"streams": {"state.arm": {"rate": float("nan")}}}}))
    assert main(["view", str(root), "--html", str(tmp_path / "page.html"), "--episodes", "0"]) == 0
    shutil.copy(recorded / "v2.1" / schema.EPISODES_FILE, path)
    path.write_text(path.read_text().replace('"length": 5', '"length": 6', 1))
    table = pq.ParquetFile(root / schema.data_path(0)).read()
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), root / schema.data_path(0))
    assert main(["view", str(root), "--html", str(tmp_path / "page.html"), "--episodes", "0"]) == 2
    assert "has 5 frames, the episode needs 6" in capsys.readouterr().err


def peak_mb(action) -> float:
    """Run `action` in a child, which has to end well; return the most memory that it took beyond what it began with."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss / 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("kind", ["rows", "wide lists", "texts"])
def test_tables_that_unpack_to_gigabytes_are_refused_before(recorded, tmp_path, kind):
    code = f"""
import sys; from pathlib import Path
import test_dataset_hostile as t
t.write_bomb(Path({str(tmp_path / "bomb.parquet")!r}), {kind!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    shutil.copy(tmp_path / "bomb.parquet", root / schema.data_path(1))
    assert (root / schema.data_path(1)).stat().st_size < 2**21
    with pytest.raises(DatasetError, match=r"that unpack to \d+ MiB"):
        EpisodeDataset(root).action(1, "arm")
    assert peak_mb(lambda: validate(root)) < 400


def write_bomb(path: Path, kind: str) -> None:
    """Write a small file that would take gigabytes; in groups, so that writing it takes little."""
    size = 2**20
    if kind == "rows":
        table, groups = pa.table({"action": pa.array(np.zeros(2 * size)), "index": pa.array(np.zeros(2 * size))}), 20
    elif kind == "wide lists":
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * size)), 2**20)
        table, groups = pa.table({"action": values.cast(pa.list_(pa.float64()))}), 60
    else:
        table, groups = pa.table({"action": pa.array(["x" * 10_000]).take(pa.array(np.zeros(10_000, int)))}), 20
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(table, row_group_size=table.num_rows)


def test_lengths_and_shapes_beyond_any_robot_take_no_memory(recorded, tmp_path):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    path = root / schema.EPISODES_FILE
    path.write_text(path.read_text().replace('"length": 5', '"length": 100000000000'))
    with pytest.raises(DatasetError, match="length is 100000000000, expected a whole number from 0 to"):
        EpisodeDataset(root)
    path.write_text(path.read_text().replace('"length": 100000000000', '"length": 10000000'))
    assert peak_mb(lambda: validate(root)) < 900
    info = json.loads((root / schema.INFO_FILE).read_text())
    info["features"]["action"]["shape"] = [2**31, 2**31]
    (root / schema.INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="feature 'action': shape"):
        EpisodeDataset(root)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: b"ffconcat version 1.0\nfile /etc/hostname\n", "neither mp4, Matroska nor AVI"),
        (lambda content: b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "neither mp4, Matroska nor AVI"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + bytes(50), "neither mp4, Matroska nor AVI"),
        (lambda content: b"", "the file is empty"),
        (lambda content: patched(content, b"stsz", 4, struct.pack(">II", 8, 10**9)), "declares 1000000000 frames in"),
        (lambda content: large_video(8000, 8000), "without a size, or too large ones"),
        (lambda content: large_video(9000, 16), "declares pictures of 9000x16"),
    ],
    ids=["concat", "playlist", "picture", "empty", "frames", "size", "side"],
)
def test_videos_have_limits(recorded, tmp_path, change, expected):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    path = root / schema.video_path(1, FRONT)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=expected):
        open_video(path)
    assert peak_mb(lambda: validate(root)) < 400


def patched(content: bytes, kind: bytes, offset: int, new: bytes) -> bytes:
    place = content.rfind(kind) + len(kind) + offset  # the last one counts: recording leaves another header before it
    return content[:place] + new + content[place + len(new) :]


def large_video(width: int, height: int) -> bytes:
    """Return an mp4 of one black picture."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        picture = av.VideoFrame(width, height, "yuvj420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(picture), *stream.encode(None)])
    return content.getvalue()


WORK = """
import sys, time
from gr00t_training.cli.dataset import main
from {module} import {name}
def slow(*arguments, **options):
    print("working", flush=True)
    time.sleep(600)
{name}.{method} = slow
sys.exit(main(sys.argv[1:]))
"""
SLOW = {
    "convert": ("gr00t_training.dataset.tools.edit.output", "_Output", "_write_metadata"),
    "merge": ("gr00t_training.dataset.tools.edit.output", "_Output", "_copy_other_files"),
    "trim": ("gr00t_training.dataset.tools.edit.output", "_Output", "_list_first"),
    "split": ("gr00t_training.dataset.tools.edit.output", "_Output", "_list_first"),
}
ARGUMENTS = {
    "convert": ["convert", "{set}", "--to", "v2.0", "-o", "{out}"],
    "merge": ["merge", "{out}", "{set}", "{set}"],
    "trim": ["trim", "{set}", "--in-place"],
    "split": ["split", "{set}", "-o", "{out}", "--by-task"],
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", SLOW)
def test_a_signal_leaves_nothing_behind(recorded, tmp_path, command, number):
    root = Path(shutil.copytree(recorded / "v2.1", tmp_path / "set"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    module, name, method = SLOW[command]
    arguments = [part.format(set=root, out=tmp_path / "new" / "out") for part in ARGUMENTS[command]]
    code = WORK.format(module=module, name=name, method=method)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (128 + number, "gr00t_dataset: interrupted\n")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
