# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Published descriptions of embodiments against the release's own files, and the way back."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.embodiment import (
    Embodiment,
    Interpolation,
    ModelKeys,
    Normalization,
    Pose,
    Rotation,
    VectorKey,
    load_embodiment,
    modality_layout,
    to_mapping,
)
from gr00t_training.errors import ConfigError
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.upstream import (
    data_config,
    data_config_names,
    embodiment_from_metadata,
    embodiment_from_modality,
    fitting_data_configs,
    modality_differences,
    modality_from_embodiment,
    options_for,
    reference_config,
    resolve_tag,
)

N1_FIXTURES = (
    "transforms_n1/bimanual_panda_gripper",
    "transforms_n1/bimanual_panda_hand",
    "transforms_n1/gr1_arms_only",
    "transforms_n1/gr1_arms_waist",
    "transforms_n1/gr1_full_upper_body",
    "transforms_n1/single_panda_gripper",
    "transforms_n1/so100",
    "transforms_n1_5/agibot_genie1",
    "transforms_n1_5/bimanual_panda_gripper",
    "transforms_n1_5/fourier_gr1_arms_only",
    "transforms_n1_5/oxe_droid",
    "transforms_n1_5/so100_dualcam",
    "transforms_n1_5/unitree_g1",
    "transforms_n1_5/unitree_g1_full_body",
)
TINY = (
    ("n1_7_tiny", "oxe_droid_relative_eef_relative_joint"),
    ("n1_7_tiny", "libero_sim"),
    ("n1_7_tiny_variant", "xdof_relative_eef_relative_joint"),
    ("n1_7_tiny_variant", "unitree_g1_sonic"),
    ("n1_6_tiny", "gr1"),
    ("n1_6_tiny", "libero_panda"),
)
DROID = "oxe_droid_relative_eef_relative_joint"


@dataclass(frozen=True)
class Published:
    """One embodiment of a published folder."""

    tag: str
    modality: dict[str, Any]
    options: ProcessorOptions
    statistics: dict[str, Any]

    def embodiment(self, **changes: Any) -> Embodiment:
        arguments = {"modality": self.modality, "options": self.options, "statistics": self.statistics, **changes}
        return embodiment_from_modality(self.tag, **arguments, fps=15)

    def differences(self, embodiment: Embodiment) -> list[str]:
        return modality_differences(self.modality, self.options, self.statistics, embodiment)


def load_published(folder: Path, tag: str) -> Published:
    settings = json.loads((folder / "processor_config.json").read_text())["processor_kwargs"]
    known = {field.name for field in dataclasses.fields(ProcessorOptions)}
    options = ProcessorOptions(**{name: value for name, value in settings.items() if name in known})
    statistics = json.loads((folder / "statistics.json").read_text())
    return Published(tag, settings["modality_configs"][tag], options, statistics[tag])


@pytest.fixture(params=TINY, ids="-".join)
def tiny(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> Published:
    return load_published(fixtures_dir / request.param[0], request.param[1])


@pytest.fixture
def droid(fixtures_dir: ReferenceFiles) -> Published:
    return load_published(fixtures_dir / "n1_7_tiny", DROID)


@pytest.fixture
def variant(fixtures_dir: ReferenceFiles) -> Published:
    return load_published(fixtures_dir / "n1_7_tiny_variant", "xdof_relative_eef_relative_joint")


def spelled_out(modality: dict[str, Any]) -> dict[str, Any]:
    """Write what the release leaves open: no action_configs are absolute ones, state_key is the key, if it is used."""
    modality = copy.deepcopy(modality)
    action = modality["action"]
    absolute = {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None}
    action["action_configs"] = action["action_configs"] or [absolute] * len(action["modality_keys"])
    for key, config in zip(action["modality_keys"], action["action_configs"], strict=True):
        config["state_key"] = (config["state_key"] or key) if config["rep"] == "RELATIVE" else None
    return modality


# N1 and N1.5


@pytest.mark.parametrize("line", ["n1", "n1_5"])
def test_data_configs_are_those_of_the_release(spec_dir: ReferenceFiles, line: str):
    published = json.loads((spec_dir / f"data_configs_{line}.json").read_text())
    assert set(published) <= set(data_config_names())
    for name, content in published.items():
        found, modalities = data_config(name), content["modalities"]
        modes: dict[str, str] = {}
        targets: dict[str, str] = {}
        for transform in content["transforms"]:
            modes |= transform.get("normalization_modes", {})
            targets |= transform.get("target_rotations", {})
            if transform["name"] == "StateActionSinCosTransform":
                modes |= dict.fromkeys(transform["apply_to"], "sin_cos")
        assert [f"video.{key}" for key in found.video] == modalities["video"]["keys"]
        for kind, keys in (("state", found.state), ("action", found.action)):
            assert [f"{kind}.{key}" for key in keys] == modalities[kind]["keys"], name
            assert {f"{kind}.{key}": mode.value for key, mode in keys.items() if mode} == {
                key: mode for key, mode in modes.items() if key.startswith(kind)
            }
        rotations = {f"state.{key}": form.value for key, form in found.state_rotations.items()}
        rotations |= {f"action.{key}": form.value for key, form in found.action_rotations.items()}
        assert rotations == targets
        assert [f"annotation.{found.language}"] == modalities["language"]["keys"]
        assert list(range(found.action_horizon)) == modalities["action"]["delta_indices"]


@pytest.mark.parametrize("place", N1_FIXTURES)
def test_metadata_gives_the_embodiment_of_the_reference(
    fixtures_dir: ReferenceFiles, spec_dir: ReferenceFiles, place: str
):
    pytest.importorskip("torch")
    from reference_release import load_reference

    folder = fixtures_dir / place
    line = "n1_5" if "n1_5" in place else "n1"
    configs = json.loads((spec_dir / f"data_configs_{line}.json").read_text())
    expected = load_reference(folder, configs[folder.name]).embodiment
    entry = json.loads((folder / "metadata.json").read_text())[expected.tag]
    found = embodiment_from_metadata(expected.tag, entry, folder.name, name=folder.name)
    assert folder.name in fitting_data_configs(entry)
    assert (found.name, found.tag, found.fps, found.action_horizon) == (folder.name, expected.tag, 20, 16)
    assert (found.state_keys, found.action_keys) == (expected.state_keys, expected.action_keys)
    assert found.video_keys == expected.video_keys
    assert found.video == expected.video
    for kind in ("state", "action"):
        for key, vector in getattr(expected, kind).items():
            same = replace(getattr(found, kind)[key], unit="rad", interpolation=Interpolation.LINEAR)
            assert same == vector, f"{kind}.{key}"


def make_entry() -> dict[str, Any]:
    def vector(dim: int) -> dict[str, Any]:
        return {"absolute": True, "rotation_type": None, "shape": [dim], "continuous": True}

    camera = {"resolution": [640, 480], "channels": 3, "fps": 29.97}
    arm = {"head": vector(2), "single_arm": vector(5), "gripper": vector(1)}
    return {"modalities": {"video": {"wrist": dict(camera), "front": dict(camera)}, "state": arm, "action": dict(arm)}}


def test_recorded_keys_that_the_data_config_leaves_out_stay_declared():
    embodiment = embodiment_from_metadata("new_embodiment", make_entry(), "so100_dualcam")
    assert list(embodiment.state) == ["head", "single_arm", "gripper"]
    assert embodiment.state_keys == ("single_arm", "gripper")
    assert embodiment.state["head"].normalization is None
    assert embodiment.video_keys == ("front", "wrist")
    assert (embodiment.video["front"].width, embodiment.video["front"].height) == (640, 480)
    assert embodiment.fps == 30
    assert embodiment.language == "human.task_description"
    assert embodiment.action["gripper"].names == ("gripper_0",)


def test_two_state_actions_are_not_interpolated():
    entry = {
        "modalities": {
            "video": {
                key: {"resolution": [64, 64], "fps": 15}
                for key in ("exterior_image_1", "exterior_image_2", "wrist_image")
            },
            "state": {
                key: {"absolute": True, "shape": [dim], "rotation_type": form}
                for key, dim, form in (
                    ("eef_position", 3, None),
                    ("eef_rotation", 4, "quaternion"),
                    ("gripper_position", 1, None),
                )
            },
            "action": {
                key: {"absolute": False, "shape": [dim], "rotation_type": form}
                for key, dim, form in (
                    ("eef_position_delta", 3, None),
                    ("eef_rotation_delta", 3, "euler_angles_rpy"),
                    ("gripper_position", 1, None),
                )
            },
        }
    }
    embodiment = embodiment_from_metadata("oxe_droid", entry, "oxe_droid")
    assert embodiment.action["gripper_position"].interpolation is Interpolation.STEP
    assert embodiment.action["eef_rotation_delta"].interpolation is Interpolation.LINEAR
    assert embodiment.action["eef_rotation_delta"].rotation is Rotation.EULER_RPY
    assert embodiment.action["eef_rotation_delta"].target_rotation is Rotation.AXIS_ANGLE


def test_unknown_data_configs_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'so101' is unknown, expected one of gr1_arms_only, .*agibot_genie1"):
        data_config("so101")


def test_data_configs_that_do_not_fit_the_metadata_are_refused_with_those_that_do():
    with pytest.raises(
        ConfigError, match=r"metadata of 'gr1': video\.webcam of data configuration 'so100' .*fit: so100_dualcam$"
    ):
        embodiment_from_metadata("gr1", make_entry(), "so100")
    with pytest.raises(ConfigError, match=r"no known one fits: write an embodiment"):
        embodiment_from_metadata("gr1", {}, "so100")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("video", "front", "fps"), 10, r"wrist 29\.97 Hz\), expected one"),
        (("video", "front", "resolution"), [641, 480], r"video\.front: size 641x480 is odd"),
        (("state", "head", "rotation_type"), "rpy", r"state\.head: rotation_type is 'rpy', expected one of quaternion"),
        (("action", "head", "shape"), [], r"damaged: IndexError"),
        (("video", "wrist", "resolution"), None, r"damaged: TypeError"),
    ],
)
def test_damaged_metadata_is_refused(place: tuple[str, str, str], value: Any, message: str):
    entry = make_entry()
    entry["modalities"][place[0]][place[1]][place[2]] = value
    with pytest.raises(ConfigError, match=f"metadata of 'new_embodiment': .*{message}"):
        embodiment_from_metadata("new_embodiment", entry, "so100_dualcam")


# N1.6 and N1.7


def test_modality_there_and_back_is_the_same(tiny: Published):
    embodiment = tiny.embodiment()
    assert modality_from_embodiment(embodiment) == spelled_out(tiny.modality)
    assert options_for(embodiment, tiny.options) == tiny.options
    assert tiny.differences(embodiment) == []
    again = tiny.embodiment(modality=modality_from_embodiment(embodiment))
    assert again == embodiment


def test_read_embodiments_survive_a_file(tiny: Published, tmp_path: Path):
    path = tmp_path / "embodiment.json"
    path.write_text(json.dumps(to_mapping(tiny.embodiment())))
    assert load_embodiment(path) == tiny.embodiment()


def test_droid_by_hand(droid: Published):
    embodiment = droid.embodiment()
    assert (embodiment.name, embodiment.tag, embodiment.fps) == (DROID, DROID, 15)
    assert embodiment.video_keys == ("exterior_image_1_left", "wrist_image_left")
    assert all(camera.is_any_size for camera in embodiment.video.values())
    assert (embodiment.video_history, embodiment.state_history, embodiment.action_horizon) == ((-3, 0), (0,), 12)
    assert [(key, vector.dim) for key, vector in embodiment.state.items()] == [
        ("eef_9d", 9),
        ("gripper_position", 1),
        ("joint_position", 7),
    ]
    assert {vector.normalization for vector in embodiment.state.values()} == {Normalization.Q99}
    eef, gripper, joints = embodiment.action.values()
    assert (eef.relative_to, eef.pose, eef.normalization) == ("eef_9d", Pose.XYZ_ROTATION_6D, Normalization.MIN_MAX)
    assert (gripper.relative_to, gripper.pose, gripper.normalization) == (None, None, Normalization.Q99)
    assert (joints.relative_to, joints.pose, joints.normalization) == ("joint_position", None, Normalization.MIN_MAX)
    assert joints.names == tuple(f"joint_position_{i}" for i in range(7))
    assert embodiment.language == "language.language_instruction"


def test_variant_by_hand(variant: Published):
    embodiment = variant.embodiment(name="arm")
    assert embodiment.name == "arm"
    modes = {key: vector.normalization for key, vector in embodiment.state.items()}
    assert modes == {"eef_rotvec": Normalization.Q99, "joints": Normalization.SIN_COS, "gripper": Normalization.Q99}
    eef, _, gripper = embodiment.action.values()
    assert (eef.relative_to, eef.pose) == ("eef_rotvec", Pose.XYZ_AXIS_ANGLE)
    assert (gripper.relative_to, gripper.normalization) == (None, Normalization.MEAN_STD)
    assert embodiment.language == "task"


def test_options_decide_what_the_modality_means(variant: Published):
    options = replace(
        variant.options, use_relative_action=False, apply_sincos_state_encoding=False, use_percentiles=False
    )
    embodiment = variant.embodiment(options=options)
    assert {vector.normalization for vector in embodiment.state.values()} == {Normalization.MIN_MAX}
    assert [vector.relative_to for vector in embodiment.action.values()] == [None, None, None]
    found = modality_from_embodiment(embodiment)
    assert found["state"]["sin_cos_embedding_keys"] is None
    assert {config["rep"] for config in found["action"]["action_configs"]} == {"ABSOLUTE"}
    assert found["action"]["mean_std_embedding_keys"] == ["gripper"]


def test_published_keys_with_dashes_and_dots_come_back(droid: Published):
    names = ["top_camera-images-rgb_320_240", "observation.images.rgb.head_256_256"]
    modality = {**droid.modality, "video": {**droid.modality["video"], "modality_keys": names}}
    embodiment = droid.embodiment(modality=modality)
    assert list(embodiment.video) == names
    assert modality_from_embodiment(embodiment)["video"] == modality["video"]
    assert modality_layout(embodiment)["video"][names[0]] == {"original_key": f"observation.images.{names[0]}"}
    for name in ("a/b", "../a", "-a", "a.", ""):
        broken = {**modality, "video": {**modality["video"], "modality_keys": [name]}}
        with pytest.raises(ConfigError, match=r"video key '.*': use letters, digits"):
            droid.embodiment(modality=broken)


@pytest.mark.parametrize(
    ("published", "stored"),
    [
        ("annotation.human.task_description", "human.task_description"),
        ("task", "task"),
        ("sub_task", "sub_task"),
        ("annotation.task", "annotation.task"),
    ],
)
def test_language_keys_come_back(droid: Published, published: str, stored: str):
    modality = {**droid.modality, "language": {"delta_indices": [0], "modality_keys": [published, "another"]}}
    embodiment = droid.embodiment(modality=modality)
    assert embodiment.language == stored
    assert modality_from_embodiment(embodiment)["language"]["modality_keys"] == [published]


def changed(modality: dict[str, Any], kind: str, **changes: Any) -> dict[str, Any]:
    return {**modality, kind: {**modality[kind], **changes}}


def with_config(modality: dict[str, Any], index: int, **changes: Any) -> dict[str, Any]:
    configs = copy.deepcopy(modality["action"]["action_configs"])
    configs[index] |= changes
    return changed(modality, "action", action_configs=configs)


def test_delta_actions_stay_as_they_were_recorded(droid: Published):
    embodiment = droid.embodiment(modality=with_config(droid.modality, 2, rep="DELTA"))
    assert embodiment.action["joint_position"].relative_to is None
    assert embodiment.action["joint_position"].normalization is Normalization.Q99


def test_the_format_of_an_absolute_pose_is_kept_where_it_fits(droid: Published):
    absolute = droid.embodiment(modality=with_config(droid.modality, 0, rep="ABSOLUTE"))
    assert (absolute.action["eef_9d"].pose, absolute.action["eef_9d"].relative_to) == (Pose.XYZ_ROTATION_6D, None)
    loose = droid.embodiment(modality=with_config(droid.modality, 0, rep="ABSOLUTE", format="XYZ_ROTVEC"))
    assert loose.action["eef_9d"].pose is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {k: v for k, v in m.items() if k != "state"}, "'state' is missing, found video, action, language"),
        (lambda m: {**m, "video": {"modality_keys": ["a"]}}, r"'video' is damaged: delta_indices is not a list"),
        (lambda m: changed(m, "state", modality_keys=[]), r"state\.modality_keys is empty"),
        (
            lambda m: changed(m, "action", delta_indices=[0, 2, 4]),
            r"action\.delta_indices is \[0, 2, 4\], expected 0, 1",
        ),
        (lambda m: changed(m, "action", delta_indices=[]), "action_horizon is 0"),
        (lambda m: changed(m, "video", delta_indices=[0, 5]), r"video_history is \[0, 5\], expected rising"),
        (lambda m: changed(m, "action", action_configs=[]), "0 action_configs for 3 action keys"),
        (lambda m: with_config(m, 0, rep="relative"), r"action\.eef_9d: rep is 'relative', expected one of RELATIVE"),
        (lambda m: with_config(m, 0, format="XYZ_ROTVEC"), r"action\.eef_9d: pose xyz_axis_angle has 6 channels"),
        (
            lambda m: with_config(m, 2, state_key="arm"),
            r"action\.joint_position\.relative_to: 'arm' is not a state key",
        ),
        (
            lambda m: with_config(m, 2, state_key="gripper_position"),
            r"action\.joint_position has 7 channels and counts from state\.gripper_position, which has 1",
        ),
    ],
)
def test_modalities_that_cannot_be_used_are_refused(droid: Published, change: Any, message: str):
    with pytest.raises(ConfigError, match=f"modality config of '{DROID}': .*{message}"):
        droid.embodiment(modality=change(droid.modality))


def test_statistics_of_another_file_are_refused(droid: Published):
    with pytest.raises(ConfigError, match=rf"statistics of '{DROID}': state\.eef_9d is missing"):
        droid.embodiment(statistics={"state": {}, "action": {}})
    broken = {**droid.statistics, "action": {**droid.statistics["action"], "eef_9d": {"min": 0.0}}}
    with pytest.raises(ConfigError, match=r"action\.eef_9d\.min has shape \(\), expected \(channels,\)"):
        droid.embodiment(statistics=broken)


def test_differences_name_each_item_with_both_values(droid: Published):
    ours = droid.embodiment()
    state, action = dict(ours.state), dict(ours.action)
    state["joint_position"] = replace(
        state["joint_position"], names=state["joint_position"].names[:6], normalization=Normalization.SIN_COS
    )
    action["joint_position"] = replace(action["joint_position"], relative_to=None, normalization=Normalization.Q99)
    action["eef_9d"] = replace(action["eef_9d"], pose=None)
    other = replace(
        ours,
        state=state,
        action=action,
        video_history=(0,),
        action_horizon=16,
        language="human.task_description",
        model=ModelKeys(video=("wrist_image_left",), state=("joint_position", "eef_9d"), action=ours.action_keys),
    )
    assert droid.differences(other) == [
        "video: found [exterior_image_1_left, wrist_image_left], expected [wrist_image_left]",
        "video_history: found [-3, 0], expected [0]",
        "state: found [eef_9d, gripper_position, joint_position], expected [joint_position, eef_9d]",
        "action_horizon: found 12, expected 16",
        "language: found annotation.language.language_instruction, expected annotation.human.task_description",
        "state.joint_position.channels: found 7, expected 6",
        "state.joint_position.normalization: found q99, expected sin_cos",
        "action.eef_9d.pose: found xyz_rotation_6d, expected none",
        "action.joint_position.normalization: found min_max, expected q99",
        "action.joint_position.relative_to: found joint_position, expected none",
    ]


def test_what_is_the_users_own_is_no_difference(droid: Published):
    """A camera's size, names of channels, units, rate, and keys that are recorded and not used."""
    ours = droid.embodiment()
    state = {"torque": VectorKey(names=("t",)), **ours.state}
    state["joint_position"] = replace(state["joint_position"], names=tuple("abcdefg"), unit="rad")
    video = {key: replace(camera, height=480, width=640) for key, camera in ours.video.items()}
    assert droid.differences(replace(ours, fps=10, state=state, video=video, name="mine", tag="new_embodiment")) == []


def test_keys_that_the_model_leaves_out_are_not_published(droid: Published):
    ours = droid.embodiment()
    wider = replace(ours, state={"torque": VectorKey(names=("t",)), **ours.state})
    assert modality_from_embodiment(wider) == modality_from_embodiment(ours)
    with pytest.raises(ConfigError, match=r"action\.joint_position counts from state\.joint_position, .*model\.state"):
        modality_from_embodiment(replace(ours, model=ModelKeys(state=("eef_9d", "gripper_position"))))


def test_options_follow_the_embodiment():
    arm = make_embodiment()  # all min_max
    base = ProcessorOptions(use_percentiles=True)
    assert options_for(arm, base) == ProcessorOptions(use_percentiles=False)
    joints = replace(arm.action["arm"], relative_to="arm")
    encoded = {key: replace(vector, normalization=Normalization.SIN_COS) for key, vector in arm.state.items()}
    gripper = replace(arm.action["gripper"], normalization=Normalization.Q99)
    mixed = replace(arm, state=encoded, action={"arm": joints, "gripper": gripper})
    assert options_for(mixed, ProcessorOptions()) == ProcessorOptions(
        use_percentiles=True, use_relative_action=True, apply_sincos_state_encoding=True
    )
    undecided = replace(mixed, action={"arm": joints})
    assert options_for(undecided, base).use_percentiles is True
    assert options_for(undecided, ProcessorOptions()).use_percentiles is False


def test_ranges_of_two_kinds_are_refused_by_key():
    arm = make_embodiment()
    mixed = replace(arm, state={**arm.state, "arm": replace(arm.state["arm"], normalization=Normalization.Q99)})
    with pytest.raises(
        ConfigError, match=r"min_max for state\.gripper, action\.arm, action\.gripper, q99 for state\.arm; .*choose one"
    ):
        options_for(mixed, ProcessorOptions())


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("state", {"normalization": None}, r"state\.arm is none, expected min_max or q99 or mean_std or sin_cos"),
        ("state", {"normalization": Normalization.SCALE}, r"state\.arm is scale"),
        (
            "action",
            {"normalization": Normalization.BINARY},
            r"action\.arm is binary, expected min_max or q99 or mean_std",
        ),
        ("action", {"normalization": Normalization.SIN_COS}, r"action\.arm is sin_cos"),
        (
            "action",
            {"normalization": Normalization.Q99, "relative_to": "arm"},
            r"action\.arm \(relative\) is q99, expected min_max or mean_std",
        ),
        (
            "state",
            {"rotation": Rotation.AXIS_ANGLE, "target_rotation": Rotation.ROTATION_6D},
            r"state\.arm is turned into rotation_6d",
        ),
    ],
)
def test_scaling_that_the_release_does_not_have_is_refused(kind: str, changes: dict[str, Any], message: str):
    arm = make_embodiment()
    keys = getattr(arm, kind)
    broken = replace(arm, **{kind: {**keys, "arm": replace(keys["arm"], **changes)}})
    with pytest.raises(ConfigError, match=message):
        modality_from_embodiment(broken)
    with pytest.raises(ConfigError, match=message):
        options_for(broken, ProcessorOptions())


def test_the_release_gets_the_same_modality_as_a_file(droid: Published):
    embodiment = replace(droid.embodiment(), tag="new_embodiment")
    tree = ast.parse(reference_config(embodiment))
    imports = [statement for statement in tree.body if isinstance(statement, ast.ImportFrom)]
    assert [name.name for statement in imports for name in statement.names] == [
        "register_modality_config",
        "EmbodimentTag",
        "ModalityConfig",
    ]
    (assignment,) = (statement for statement in tree.body if isinstance(statement, ast.Assign))
    assert ast.literal_eval(assignment.value) == modality_from_embodiment(embodiment)
    assert "EmbodimentTag('new_embodiment')" in ast.unparse(tree.body[-1])


# built-in modalities and tags


@pytest.mark.parametrize(
    ("name", "known", "tag"),
    [
        ("LIBERO_PANDA", ["libero_sim", "new_embodiment"], "libero_sim"),
        ("libero_panda", ["libero_sim", "new_embodiment"], "libero_sim"),
        ("LIBERO_PANDA", ["libero_panda", "oxe_droid"], "libero_panda"),
        ("Libero_Sim", ["libero_sim"], "libero_sim"),
        ("unitree_g1", ["unitree_g1_full_body_with_waist_height_nav_cmd", "unitree_g1_sonic"], None),
        ("UNITREE_G1", ["unitree_g1", "gr1"], "unitree_g1"),
        ("xdof_subtask", ["xdof_relative_eef_relative_joint_subtask"], None),
        ("REAL_R1_PRO_SHARPA_MECKA", ["real_r1_pro_sharpa_relative_eef_mecka"], None),
        ("GR1", ["gr1"], "gr1"),
        ("My_Arm", ["MY_ARM"], "MY_ARM"),
    ],
)
def test_tags_by_name_then_by_value_in_any_case(name: str, known: list[str], tag: str | None):
    assert resolve_tag(name, known, N1_7.tag_names) == (tag or known[0])


def test_a_public_name_goes_before_a_tag_of_the_same_letters():
    known = ["unitree_g1", "unitree_g1_full_body_with_waist_height_nav_cmd"]
    assert resolve_tag("unitree_g1", known, N1_7.tag_names) == "unitree_g1_full_body_with_waist_height_nav_cmd"


def test_unknown_tags_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'ur5' is unknown, known: libero_sim \(LIBERO_PANDA\), new_embodiment; "):
        resolve_tag("ur5", ["libero_sim", "new_embodiment"], N1_7.tag_names)


def test_every_tag_of_the_released_table_has_a_public_name(fixtures_dir: ReferenceFiles):
    table = json.loads((fixtures_dir / "n1_7_tiny" / "embodiment_id.json").read_text())

    assert sorted(N1_7.tag_names.values()) == sorted(table)
