# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint and its tokenizer come from: folders, and the hub's cache. No test asks the hub itself."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("torch")

from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.tokenizer import find_tokenizer
from gr00t_training.errors import CheckpointError
from gr00t_training.model.families.n1_5 import N1_5
from gr00t_training.model.families.n1_7 import N1_7

REVISION = "0123456789abcdef0123456789abcdef01234567"


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's cache: a checkpoint in the root of nvidia/flat, two in sub-folders of nvidia/nested."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for repository, places in (("flat", ["."]), ("nested", ["libero_10", "libero_goal"])):
        folder = tmp_path / "cache" / f"models--nvidia--{repository}"
        (folder / "refs").mkdir(parents=True)
        for name in ("main", "v1.0"):
            (folder / "refs" / name).write_text(REVISION)
        for place in places:
            make_folder(folder / "snapshots" / REVISION / place)
    return tmp_path / "cache"


def make_client(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Put a client in the place of the hub's that raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    client = types.ModuleType("huggingface_hub")
    client.__dict__.update(snapshot_download=fail, hf_hub_download=fail, try_to_load_from_cache=lambda *_: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)


def test_a_local_folder_is_taken_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_client(monkeypatch, AssertionError("asked"))
    make_folder(tmp_path / "nvidia" / "GR00T-N1.7-3B")
    assert find_folder("nvidia/GR00T-N1.7-3B") == Path("nvidia/GR00T-N1.7-3B")


def test_sub_folders_are_listed_where_the_folder_holds_no_checkpoint(tmp_path: Path):
    make_folder(tmp_path / "libero_goal")
    make_folder(tmp_path / "runs" / "libero_10")
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text("{}")  # no weights next to it: not a checkpoint
    with pytest.raises(
        CheckpointError,
        match=r"has no config\.json, but checkpoints in sub-folders: libero_goal, runs/libero_10; choose one, as in "
        r".*/libero_goal$",
    ):
        find_folder(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "/no/where", "a b/c", "../up/down", "org/name@", "~/x"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    make_client(monkeypatch, AssertionError("asked"))
    with pytest.raises(CheckpointError, match="no such folder, expected a checkpoint; download or train one first"):
        find_folder(name)


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file, expected the folder of a checkpoint"):
        find_folder(tmp_path / "model.safetensors")


def test_without_the_client_the_error_says_which_files_to_put_where(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        CheckpointError,
        match=r"nvidia/GR00T-N1\.7-3B: no such folder; .* install huggingface_hub \(pip install 'gr00t_training\[hub\]'"
        r"\), or put config\.json, model\.safetensors .*processor_config\.json, statistics\.json and "
        r"embodiment_id\.json \(N1\.6, N1\.7\) into a folder",
    ):
        find_folder("nvidia/GR00T-N1.7-3B")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", "the repository is gated: accept its license on its page"),
        ("RepositoryNotFoundError", "it has no such repository, or a private one"),
        ("RevisionNotFoundError", "the repository has no such revision"),
        ("LocalEntryNotFoundError", "not in the local cache, and the hub does not answer"),
        ("ConnectError", "nobody there"),
    ],
)
def test_refusals_of_the_hub_are_explained(monkeypatch: pytest.MonkeyPatch, name: str, message: str):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    make_client(monkeypatch, type(name, (Exception,), {})("nobody there\nand a page of help"))
    with pytest.raises(CheckpointError, match=rf"org/name@v2: .* hub: {message}.*\. Put config\.json"):
        find_folder("org/name@v2")


def test_the_cache_serves_ids_with_revisions_and_sub_folders(cache: Path):
    snapshot = cache / "models--nvidia--flat" / "snapshots" / REVISION
    for name in ("nvidia/flat", "nvidia/flat@main", "nvidia/flat@v1.0", f"nvidia/flat@{REVISION}"):
        assert find_folder(name) == snapshot
    nested = cache / "models--nvidia--nested" / "snapshots" / REVISION
    assert find_folder("nvidia/nested/libero_goal") == nested / "libero_goal"
    assert find_folder("nvidia/nested/libero_goal@v1.0") == nested / "libero_goal"
    with pytest.raises(CheckpointError, match="sub-folders: libero_10, libero_goal; choose one"):
        find_folder("nvidia/nested")
    with pytest.raises(CheckpointError, match="nvidia/nested has no folder 'libero_90'"):
        find_folder("nvidia/nested/libero_90")


def test_what_is_not_in_the_cache_is_missed_at_once_when_offline(cache: Path):
    with pytest.raises(CheckpointError, match=r"nvidia/other: .*not in the local cache, and HF_HUB_OFFLINE is set"):
        find_folder("nvidia/other")


def test_a_hub_without_a_checkpoint_in_its_root_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    asked = {}

    def snapshot_download(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    files = [
        "README.md",
        "libero_10/config.json",
        "libero_10/model-00001-of-00002.safetensors",
        "goal/model.safetensors",
    ]
    client = types.ModuleType("huggingface_hub")
    client.__dict__.update(snapshot_download=snapshot_download, list_repo_files=lambda *_, **__: files)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    with pytest.raises(CheckpointError, match=r"sub-folders: goal, libero_10; choose one, as in org/name/goal@v1$"):
        find_folder("org/name@v1")
    assert (asked["repository"], asked["revision"], asked["local_files_only"]) == ("org/name", "v1", False)
    assert "config.json" in asked["allow_patterns"] and "*" not in asked["allow_patterns"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], r"org/name: is an adapter \(LoRA\)"),
        (["config.json", "pytorch_model.bin"], "org/name: has no model.safetensors, found pickled weights"),
        (["meta/info.json", "data/x.parquet"], "org/name: is a dataset"),
        (["global_step100/mp_rank_00_model_states.pt"], "DeepSpeed"),
    ],
)
def test_repositories_of_other_kinds_are_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], message: str
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    if "config.json" in files:
        (tmp_path / "config.json").write_text("{}")
    client = types.ModuleType("huggingface_hub")
    client.__dict__.update(snapshot_download=lambda *_, **__: str(tmp_path), list_repo_files=lambda *_, **__: files)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    with pytest.raises(CheckpointError, match=message):
        find_folder("org/name")


def test_a_tokenizer_is_looked_for_in_the_folder_then_where_told_then_in_the_cache(cache: Path, tmp_path: Path):
    folder, given = make_folder(tmp_path / "checkpoint"), tmp_path / "given"
    cached = cache / "models--Qwen--Qwen3-1.7B"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(REVISION)
    places = [
        cached / "snapshots" / REVISION / "tokenizer.json",
        given / "backbone" / "tokenizer.json",
        given / "tokenizer.json",
        folder / "backbone" / "tokenizer.json",
        folder / "tokenizer.json",
    ]
    with pytest.raises(
        CheckpointError,
        match=r"no tokenizer \(searched .*checkpoint/tokenizer\.json, .*checkpoint/backbone/tokenizer\.json, "
        r".*given, then the hub: Qwen/Qwen3-1\.7B: not in the local cache, and HF_HUB_OFFLINE is set\); for GR00T "
        r"N1\.5 put the tokenizer\.json of Qwen/Qwen3-1\.7B into the checkpoint's folder, or pass its path",
    ):
        find_tokenizer(folder, given, N1_5.prompt)
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
        assert find_tokenizer(folder, given, N1_5.prompt) == place
    assert find_tokenizer(None, given / "tokenizer.json", N1_5.prompt) == given / "tokenizer.json"


def test_all_models_with_the_tokenizer_are_asked_for_it(cache: Path):
    with pytest.raises(
        CheckpointError, match=r"nvidia/Cosmos-Reason2-2B: not in .*; Qwen/Qwen3-VL-2B-Instruct: not in "
    ):
        find_tokenizer(None, None, N1_7.prompt)


@pytest.mark.slow
def test_importing_the_package_leaves_the_hub_alone():
    code = "import gr00t_training.checkpoint, sys; print('huggingface_hub' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_client_of_the_hub_keeps_quiet() -> None:
    pytest.importorskip("huggingface_hub")
    code = (
        "from gr00t_training.io.hub_download import import_client; import_client(); "
        "from huggingface_hub.utils.logging import get_logger; "
        "get_logger('huggingface_hub.utils._http').warning('an attempt failed')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
