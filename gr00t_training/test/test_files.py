# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from gr00t_training.errors import DatasetError
from gr00t_training.io.files import inside, open_regular, read_text


@pytest.mark.parametrize(
    "name", ["", "..", "a/../../b", "/etc/passwd", "a\\b", "C:/x", "a\nb", "./../x"], ids=lambda name: repr(name)
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(DatasetError, match="leaves its folder"):
        inside(tmp_path, name, DatasetError)


def test_links_inside_the_folder_are_refused_wherever_they_are(tmp_path):
    (tmp_path / "private").write_text("secret")
    root = tmp_path / "data"
    root.mkdir()
    os.symlink(tmp_path / "private", root / "README.md")
    os.symlink(tmp_path, root / "meta")
    assert inside(root, "rows/a.parquet", DatasetError) == root / "rows/a.parquet"
    for name in ("README.md", "meta/private"):
        with pytest.raises(DatasetError, match="symbolic link"):
            inside(root, name, DatasetError)


def test_links_of_the_hugging_face_cache_are_followed(tmp_path):
    repository = tmp_path / "datasets--lab--data"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "meta").mkdir(parents=True)
    (repository / "blobs" / "123").write_text("{}")
    os.symlink("../../../blobs/123", snapshot / "meta" / "info.json")
    assert read_text(inside(snapshot, "meta/info.json", DatasetError), DatasetError) == "{}"
    os.symlink("/etc/passwd", snapshot / "meta" / "tasks.jsonl")
    with pytest.raises(DatasetError, match="symbolic link"):
        inside(snapshot, "meta/tasks.jsonl", DatasetError)


def test_pipes_and_devices_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "info.json")
    with pytest.raises(DatasetError, match="named pipe"):
        open_regular(tmp_path / "info.json", DatasetError)
    with pytest.raises(DatasetError, match="character device"):
        read_text(Path(os.devnull), DatasetError)


def test_lfs_pointers_and_large_files_are_named(tmp_path):
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    with pytest.raises(DatasetError, match="git lfs pull"):
        open_regular(pointer, DatasetError)
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(DatasetError, match=r"has 100 bytes \(limit 99\)"):
        read_text(tmp_path / "large", DatasetError, limit=99)
