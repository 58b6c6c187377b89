# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of several embodiments that were trained together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from gr00t_test_support.builders import make_embodiment
from gr00t_training.checkpoint import Checkpoint, load_checkpoint, new_checkpoint, save_checkpoint
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.conversion import convert_checkpoint
from gr00t_training.checkpoint.description import TrainedEmbodiment, common_options
from gr00t_training.checkpoint.report import describe_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics, compute_statistics
from gr00t_training.embodiment import Embodiment, Normalization
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.policy.policy import Policy

FIRST = make_embodiment()
SECOND = dataclasses.replace(make_embodiment(fps=20), name="other_arm", tag="gr1")


def make_statistics(embodiment: Embodiment, seed: int) -> dict[str, dict[str, KeyStatistics]]:
    rng = np.random.default_rng(seed)
    return {
        kind: {
            name: compute_statistics(rng.normal(size=(20, key.dim))) for name, key in getattr(embodiment, kind).items()
        }
        for kind in ("state", "action")
    }


def make_checkpoint() -> Checkpoint:
    other = TrainedEmbodiment(SECOND, make_statistics(SECOND, 2))
    return new_checkpoint("n1_compact", FIRST, make_statistics(FIRST, 1), others=[other])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = make_checkpoint()
    return save_checkpoint(tmp_path_factory.mktemp("several") / "run", checkpoint, Gr00tModel(checkpoint.config))


def test_each_embodiment_is_found_by_its_tag_its_name_and_itself(saved: Path):
    for embodiment, other, seed in ((FIRST, SECOND, 1), (SECOND, FIRST, 2)):
        for asked in (embodiment, embodiment.tag, embodiment.name):
            found = load_checkpoint(saved, embodiment=asked)
            assert found.embodiment == embodiment
            expected = make_statistics(embodiment, seed)["action"]["arm"]
            np.testing.assert_array_equal(found.statistics["action"]["arm"].q99, expected.q99)
            assert [each.embodiment for each in found.others] == [other]
    assert (saved / "embodiments.json").exists()
    assert not (saved / "embodiment.json").exists()


def test_a_policy_runs_the_embodiment_that_is_asked_for(saved: Path):
    assert Policy.from_checkpoint(saved, embodiment="other_arm", device="cpu").embodiment == SECOND
    with pytest.raises(
        CheckpointError, match=r"several embodiments; pass embodiment: one of the tags new_embodiment \("
    ):
        Policy.from_checkpoint(saved, device="cpu")


def test_an_embodiment_that_was_not_trained_is_refused(saved: Path):
    with pytest.raises(CheckpointError, match="fps: found 20, expected 10"):
        load_checkpoint(saved, embodiment=dataclasses.replace(SECOND, fps=10))
    with pytest.raises(CheckpointError, match=r"requested one\): tag: found gr1, expected new_embodiment$"):
        load_checkpoint(saved, embodiment=dataclasses.replace(SECOND, tag="new_embodiment"))
    with pytest.raises(CheckpointError, match=r"was trained for embodiment tags new_embodiment \(test_arm\), gr1 "):
        load_checkpoint(saved, embodiment=dataclasses.replace(FIRST, name="third", tag="oxe_droid"))


def test_one_of_several_can_be_chosen_in_memory():
    checkpoint = make_checkpoint()
    other = checkpoint.of("gr1")
    assert other.embodiment == SECOND
    assert other.projector != checkpoint.projector
    assert [each.embodiment for each in other.of("new_embodiment").trained] == [FIRST, SECOND]


def test_saving_what_was_loaded_keeps_all_embodiments(saved: Path, tmp_path: Path):
    found = load_checkpoint(saved, embodiment=FIRST)
    again = save_checkpoint(tmp_path / "again", found, Gr00tModel(found.config))
    for name in ("embodiments.json", "experiment_cfg/metadata.json", "embodiment_id.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes(), name


def test_reports_and_conversion_know_all_embodiments(saved: Path, tmp_path: Path):
    assert [finding for finding in audit_checkpoint(saved) if finding.is_fault] == []
    assert {entry.name for entry in describe_checkpoint(saved).embodiments} == {"test_arm", "other_arm"}
    both = convert_checkpoint(saved, tmp_path / "both")
    assert len(json.loads((both / "embodiments.json").read_text())["embodiments"]) == 2
    one = convert_checkpoint(saved, tmp_path / "one", tags=["gr1"])
    assert load_checkpoint(one).embodiment == SECOND
    assert list(json.loads((one / "experiment_cfg/metadata.json").read_text())) == ["gr1"]


@pytest.mark.parametrize("content", [{"embodiments": []}, {"embodiments": {}}, {"embodiments": [{"name": "x"}]}, {}])
def test_a_damaged_list_of_embodiments_is_refused(saved: Path, tmp_path: Path, content: dict):
    broken = convert_checkpoint(saved, tmp_path / "broken")
    (broken / "embodiments.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"embodiments\.json: .*the checkpoint is damaged"):
        load_checkpoint(broken, embodiment=FIRST)


def test_embodiments_that_no_model_can_have_together_are_refused():
    longer = dataclasses.replace(SECOND, action_horizon=20)
    with pytest.raises(ConfigError, match="action_horizon is 16 of 'test_arm', 20 of 'other_arm'"):
        new_checkpoint(
            "n1_compact",
            FIRST,
            make_statistics(FIRST, 1),
            others=[TrainedEmbodiment(longer, make_statistics(longer, 2))],
        )


def test_embodiments_of_n1_6_share_one_kind_of_scaling():
    def scaled(embodiment: Embodiment, mode: Normalization) -> Embodiment:
        keys = {name: dataclasses.replace(key, normalization=mode) for name, key in embodiment.state.items()}
        return dataclasses.replace(embodiment, state=keys, action=keys)

    assert N1_6.released_options
    q99 = [scaled(each, Normalization.Q99) for each in (FIRST, SECOND)]
    assert common_options(q99, N1_6.released_options).use_percentiles
    with pytest.raises(ConfigError, match="'test_arm' and 'other_arm' scale state and actions in different ways"):
        common_options([q99[0], SECOND], N1_6.released_options)
