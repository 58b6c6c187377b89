# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from pathlib import Path

import pytest

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.embodiment import (
    Embodiment,
    differences,
    load_embodiment,
    modality_layout,
    shipped_embodiments,
    to_mapping,
)
from gr00t_training.errors import ConfigError
from gr00t_training.settings import parse_settings


@pytest.mark.parametrize("name", shipped_embodiments())
def test_shipped_embodiment_loads_and_survives_json(name: str, tmp_path: Path) -> None:
    embodiment = load_embodiment(name)
    assert embodiment.name == name
    path = tmp_path / "embodiment.json"
    path.write_text(json.dumps(to_mapping(embodiment)))
    assert load_embodiment(path) == embodiment
    assert load_embodiment(path).fingerprint() == embodiment.fingerprint()


def test_gr1_layout_is_that_of_the_published_demo_dataset(data_dir: ReferenceFiles) -> None:
    published = json.loads((data_dir / "lerobot_v20_gr1/meta/modality.json").read_text())
    layout = modality_layout(load_embodiment("gr1_arms_only"))
    for kind in ("state", "action"):
        found = {key: (entry["start"], entry["end"]) for key, entry in layout[kind].items()}
        assert found == {key: (entry["start"], entry["end"]) for key, entry in published[kind].items()}
    assert layout["video"] == published["video"]
    assert "human.action.task_description" in layout["annotation"]


def test_model_order_differs_from_column_order() -> None:
    gr1 = load_embodiment("gr1_arms_only")
    assert gr1.state_keys == ("left_arm", "right_arm", "left_hand", "right_hand")
    assert list(gr1.state)[:2] == ["left_arm", "left_hand"]


def test_differences_name_the_item_and_both_values() -> None:
    ours = make_embodiment()
    theirs = dataclasses.replace(
        ours, fps=30, state={**ours.state, "gripper": dataclasses.replace(ours.state["gripper"], unit="rad")}
    )
    assert differences(theirs, ours) == ["fps: found 30, expected 10", "state.gripper.unit: found rad, expected m"]
    assert differences(ours, ours) == []
    assert theirs.fingerprint() != ours.fingerprint()


def test_order_of_keys_changes_the_fingerprint() -> None:
    ours = make_embodiment()
    swapped = dataclasses.replace(ours, state=dict(reversed(ours.state.items())))
    assert swapped.fingerprint() != ours.fingerprint()
    assert differences(swapped, ours) == ["state: found [gripper, arm], expected [arm, gripper]"]


MINIMAL = "name: x\ntag: gr1\naction: {arm: {names: [a]}}\nvideo: {front: {height: 2, width: 2}}\n"


def test_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(ConfigError, match=r"'pr2': neither a file nor a shipped embodiment \(aloha, fr3, .*, xarm7\)"):
        load_embodiment("pr2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model: {state: [leg]}", r"model\.state: 'leg' is not declared under state \(arm\)"),
        ("model: {video: [back]}", r"model\.video: 'back' is not declared"),
        ("fps: 0", r"fps is 0, expected 1 to 1000"),
        ("depth: {d: {height: 1, width: 1, unit_m: 1}}\nrobot_type: x\nlanguage: 'a\x07'", "not valid YAML: character"),
        ('language: "a\\e[31m"', r"language is 'a\\x1b\[31m', expected 0 to 200 printable"),
    ],
)
def test_contradictions_are_refused_with_the_line(change: str, message: str) -> None:
    text = MINIMAL + "state: {arm: {names: [a]}}\n"
    text += change if change.startswith("fps") else f"fps: 5\n{change}"
    with pytest.raises(ConfigError, match=rf"e\.yaml:\d+: .*{message}"):
        parse_settings(Embodiment, text, "e.yaml")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[a, b, a]", "duplicate channel 'a' in names"),
        ("['']", "a channel name is '', expected 1 to 200 printable"),
        ('["\\n"]', "a channel name is "),
        ("[" + ",".join(f"c{i}" for i in range(9000)) + "]", r"names has 9000 channels \(limit 8192\)"),
    ],
)
def test_channel_names_have_limits(names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings(Embodiment, MINIMAL + f"fps: 5\nstate: {{arm: {{names: {names}}}}}\n", "e.yaml")


def test_channel_named_twice_is_refused() -> None:
    text = MINIMAL + "fps: 5\nstate: {arm: {names: [a]}, leg: {names: [a]}}\n"
    with pytest.raises(ConfigError, match="channel 'a' is in two keys"):
        parse_settings(Embodiment, text, "e.yaml")
