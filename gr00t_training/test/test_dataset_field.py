# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A new field of the metadata is one entry in one file: every writer, repair and validation follow."""

import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.info import TOTALS, Total
from gr00t_training.dataset.tools.edit.operations import convert_dataset
from gr00t_training.dataset.tools.repair.dataset import repair_dataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter

FIELD = "total_values"
LENGTHS = (3, 2)
EXPECTED = 3 * sum(LENGTHS)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Record two episodes while `info.json` has a made-up field."""
    monkeypatch.setitem(TOTALS, FIELD, Total(lambda counts: 3 * counts.frames, is_fault=True))
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path / "recorded", embodiment) as writer:
        for count in LENGTHS:
            episode = writer.start_episode("lift")
            for frame in make_frames(embodiment, count):
                episode.add_frame(frame)
            episode.save()
    return tmp_path / "recorded"


def field_of(root):
    return schema.read_object(root / schema.INFO_FILE)[FIELD]


def test_new_field_is_recorded_and_converted(recorded, tmp_path):
    assert field_of(recorded) == EXPECTED
    convert_dataset(recorded, tmp_path / "converted", "v3.0")
    assert field_of(tmp_path / "converted") == EXPECTED


def test_new_field_is_validated_and_repaired(recorded):
    path = recorded / schema.INFO_FILE
    path.write_text(schema.json_text({**schema.read_object(path), FIELD: 7}))
    found = [finding for finding in validate_dataset(recorded) if FIELD in finding.text]
    assert [(finding.is_fault, finding.expected) for finding in found] == [(True, str(EXPECTED))]
    repair_dataset(recorded)
    assert field_of(recorded) == EXPECTED
