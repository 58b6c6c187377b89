# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import sys

import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.cli.dataset import main
from gr00t_training.dataset import schema
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter

EMBODIMENT = make_embodiment()
MARKS = [{"success": True}, {"success": False, "note": "dropped it"}, {}, {"valid": False}]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded") / "cubes"
    with DatasetWriter(root, EMBODIMENT) as writer:
        for seed, marks in enumerate(MARKS):
            episode = writer.start_episode("lift" if seed < 3 else "push")
            for frame in make_frames(EMBODIMENT, 4 + seed, seed=seed, task=""):
                episode.add_frame(frame)
            episode.save(marks)
    return root


def lengths(root):
    return [episode.length for episode in EpisodeDataset(root).episodes]


def test_info_tells_what_a_dataset_holds(recorded, capsys):
    assert main(["info", str(recorded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "version     LeRobot v2.1" in lines
    assert f"embodiment  test_arm, tag new_embodiment, fingerprint {EMBODIMENT.fingerprint()}" in lines
    assert "episodes    4, 0.4 to 0.7 s each" in lines
    assert "frames      22 at 10 Hz, 2.2 s" in lines
    assert "task        'lift': 3 episodes" in lines and "task        'push': 1 episode" in lines
    assert "success     1 yes, 1 no, 2 unmarked" in lines and "valid       0 yes, 1 no, 3 unmarked" in lines
    assert "state       arm: j0, j1, j2" in lines
    size = sum((recorded / schema.video_path(i, "observation.images.front")).stat().st_size for i in range(4))
    assert f"camera      observation.images.front: 48x32 h264, {size / 1000:.1f} kB" in lines


def test_info_as_json(recorded, capsys):
    assert main(["info", str(recorded), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["num_episodes"], content["num_frames"], content["version"]) == (4, 22, "v2.1")
    assert content["tasks"] == {"lift": 3, "push": 1}
    assert content["cameras"][0]["codec"] == "h264"


def test_validate_counts_faults(recorded, tmp_path, capsys):
    assert main(["validate", str(recorded), "--jobs", "1"]) == 0
    shutil.copytree(recorded, tmp_path / "copy")
    (tmp_path / "copy" / schema.data_path(1)).unlink()
    assert main(["validate", str(tmp_path / "copy"), "--jobs", "1"]) == 1
    assert "episode_000001.parquet" in capsys.readouterr().out


def test_repair_makes_a_dataset_whole(recorded, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(recorded, root)
    (root / schema.EPISODES_FILE).unlink()
    assert main(["repair", str(root), "--jobs", "1"]) == 0
    assert lengths(root) == [4, 5, 6, 7]
    assert main(["validate", str(root), "--jobs", "1"]) == 0
    capsys.readouterr()
    assert main(["repair", str(root), "--jobs", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"


def test_episodes_are_deleted_by_number_range_and_mark(recorded, tmp_path, capsys):
    assert main(["delete", str(recorded), "--episodes", "0,2-3", "-o", str(tmp_path / "a")]) == 0
    assert lengths(tmp_path / "a") == [5]
    assert main(["delete", str(recorded), "--mark", "success=false", "valid=false", "-o", str(tmp_path / "b")]) == 0
    assert lengths(tmp_path / "b") == [4, 6]
    assert "deleting 2 episodes: 1, 3\n" in capsys.readouterr().out
    assert main(["delete", str(recorded), "--episodes", "2-", "--dry-run"]) == 0
    assert capsys.readouterr().out == "deleting 2 episodes: 2, 3\n"
    assert lengths(recorded) == [4, 5, 6, 7]


def test_a_dataset_goes_round_through_all_that_changes_it(recorded, tmp_path, capsys):
    """Merge, split, retask, convert and trim, one after the other; each result is valid."""
    steps = [
        ["merge", "two", str(recorded), str(recorded)],
        ["retask", "two", "--episodes", "4-", "--task", "wave", "-o", "waved"],
        ["retask", "waved", "--replace", "lift", "raise", "--in-place"],
        ["convert", "waved", "--to", "v3.0", "-o", "new"],
        ["trim", "new", "--margin", "0", "-o", "trimmed"],
        ["split", "trimmed", "--episodes", "train=0-5", "val=6,7", "-o", "parts"],
        ["convert", "parts/val", "--to", "v2.1", "--in-place"],
        ["stats", "parts/val", "--no-images"],
    ]
    folder = str(tmp_path) + "/"
    names = {"two", "waved", "new", "trimmed", "parts", "parts/val"}
    for step in steps:
        assert main([folder + word if word in names else word for word in step]) == 0, capsys.readouterr().err
    for name in names - {"parts"}:
        assert main(["validate", folder + name, "--jobs", "1"]) == 0
    found = EpisodeDataset(tmp_path / "parts" / "val")
    assert [found.task(episode, 0) for episode in range(2)] == ["wave", "wave"]
    assert EpisodeDataset(tmp_path / "parts" / "train").task(0, 0) == "raise"


def test_split_by_task_and_at_random(recorded, tmp_path):
    assert main(["split", str(recorded), "--by-task", "-o", str(tmp_path / "tasks")]) == 0
    assert (lengths(tmp_path / "tasks" / "lift"), lengths(tmp_path / "tasks" / "push")) == ([4, 5, 6], [7])
    assert main(["split", str(recorded), "--fractions", "a=0.5", "b=0.5", "-o", str(tmp_path / "parts")]) == 0
    both = lengths(tmp_path / "parts" / "a") + lengths(tmp_path / "parts" / "b")
    assert sorted(both) == [4, 5, 6, 7]


def test_trim_says_what_would_go(recorded, tmp_path, capsys):
    arguments = ["trim", str(recorded), "--episodes", "0", "--threshold", "1.0", "--margin", "0", "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == (
        "episode 0: nothing moves in 4 rows; unchanged, delete it if it is empty\nidle: 0 of 4 rows, 0.0 s\n"
    )


def test_card_tells_what_info_tells_and_a_written_one_is_kept(recorded, tmp_path, capsys):
    root = tmp_path / "cubes"
    shutil.copytree(recorded, root)
    assert main(["push", str(root), "lab/cubes", "--license", "apache-2.0", "--dry-run"]) == 0
    card = (root / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "\n# cubes\n" in card
    assert "| `state.arm` | `observation.state` | j0, j1, j2 |" in card and "| lift | 3 |" in card
    assert main(["push", str(root), "lab/cubes", "--dry-run"]) == 0  # its own card is brought up to date
    assert "license" not in (root / "README.md").read_text()
    (root / "README.md").write_text("my own words")
    assert main(["push", str(root), "lab/cubes", "--dry-run"]) == 0
    assert (root / "README.md").read_text() == "my own words"
    assert "kept" in capsys.readouterr().out
    assert main(["validate", str(root), "--jobs", "1"]) == 0


def test_push_without_token_or_network_says_so(recorded, tmp_path, capsys, monkeypatch):
    pytest.importorskip("huggingface_hub")
    root = tmp_path / "cubes"
    shutil.copytree(recorded, root)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert main(["push", str(root), "lab/cubes"]) == 2
    assert "no token of the Hugging Face Hub; log in with 'hf auth login'" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main(["push", str(root), "lab/cubes"]) == 2
    assert "HF_HUB_OFFLINE is set; unset it to upload" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "nowhere"], "nowhere/meta/info.json: cannot be read"),
        (["delete", "DATA", "--episodes", "0"], "say where to with --output, or --in-place"),
        (["delete", "DATA", "--episodes", "9", "--dry-run"], "episodes '9': not all of them are in the dataset"),
        (["delete", "DATA", "--episodes", "x", "--dry-run"], "episodes 'x': expected numbers and ranges"),
        (["delete", "DATA", "--mark", "good=1", "--dry-run"], "mark 'good=1': expected success=false"),
        (["delete", "DATA", "--mark", "valid=true", "--dry-run"], "no episode is marked so"),
        (["retask", "DATA", "--task", "x", "-o", "OUT"], "--episodes is missing"),
        (["split", "DATA", "--fractions", "a=x", "-o", "OUT"], "share 'x': expected a number"),
        (["split", "DATA", "--fractions", "../a=0.5", "-o", "OUT"], "part '../a=0.5': expected NAME=VALUE"),
        (["trim", "DATA", "--threshold", "2", "--dry-run"], "threshold is 2.0, expected 1e-06 to 1.0"),
        (["merge", "DATA", "DATA"], "exists already"),
        (["view", "DATA", "--rerun", "OUT"], "the Rerun viewer's library is not installed"),
    ],
)
def test_errors_are_one_line_and_name_the_remedy(recorded, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.setitem(sys.modules, "rerun", None)  # as if it were not installed
    places = {"DATA": str(recorded), "OUT": str(tmp_path / "out")}
    assert main([str(places.get(word, word)) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.startswith("gr00t_dataset: error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
