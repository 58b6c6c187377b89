# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

from gr00t_policy_node.safety.limits import JointLimit, LimitsFile
from gr00t_training.errors import ConfigError
from gr00t_training.settings import parse_settings


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        ("{min: 1.0, max: -1.0, max_velocity: 1.0}", r"min 1\.0 is not below max -1\.0"),
        ("{min: .nan, max: 1.0, max_velocity: 1.0}", r"min nan is not below"),
        ("{min: -1.0, max: 1.0, max_velocity: .nan}", r"max_velocity is nan"),
        ("{min: -1.0, max: 1.0, max_velocity: 1.0, max_acceleration: 0.0}", r"max_acceleration is 0\.0"),
        ("{min: -1.0, max: 1.0, max_velocity: 1.0, max_jerk: 1.0}", r"max_jerk needs max_acceleration"),
        ("{min: -1.0, max: 1.0, max_velocity: 1.0, endless: true}", r"endless, but min is -1\.0"),
        ("{min: -1.0, max: 1.0}", r"missing key 'max_velocity'"),
    ],
)
def test_limits_file_names_file_and_line(joint: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"limits\.yaml:2: joints\.a.*{message}"):
        parse_settings(LimitsFile, f"joints:\n  a: {joint}\n", "limits.yaml")


def test_limits_of_the_file_replace_those_of_the_urdf_and_give_accelerations() -> None:
    text = (
        "acceleration_per_velocity: 5.0\njoints:\n  a: {min: 0.0, max: 1.0, max_velocity: 1.0, max_acceleration: 2.0}\n"
    )
    file = parse_settings(LimitsFile, text, "limits.yaml")
    urdf = {"a": JointLimit(min=-9.0, max=9.0, max_velocity=9.0), "b": JointLimit(min=-1.0, max=1.0, max_velocity=2.0)}
    limits = file.limits(urdf)
    assert limits["a"] == file.joints["a"]
    assert limits["b"] == JointLimit(min=-1.0, max=1.0, max_velocity=2.0, max_acceleration=10.0)
