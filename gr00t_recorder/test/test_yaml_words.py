# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings with words that YAML reads as booleans."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter

from gr00t_recorder.ros.bag_topics import BagScope
from gr00t_recorder.ros.parameters import declare, read
from gr00t_recorder.ros.processes import next_domain
from gr00t_recorder.ros.recorder_settings import RecorderSettings
from gr00t_training.errors import ConfigError


@pytest.fixture
def node_of():
    """Make a node from command line arguments."""
    context = Context()

    def make(*arguments: str):
        rclpy.init(args=["--ros-args", *arguments], context=context, domain_id=next_domain())
        return rclpy.create_node("recorder", context=context, enable_rosout=False)

    yield make
    context.try_shutdown()


@pytest.mark.parametrize("written", ["off", "Off", "OFF", "'off'", "no", "false"])
@pytest.mark.parametrize("in_file", [True, False])
def test_off_in_a_parameters_file_is_a_word(node_of, tmp_path: Path, written: str, in_file: bool) -> None:
    path = tmp_path / "recorder.yaml"
    path.write_text(f"recorder:\n  ros__parameters:\n    bag: {written}\n")
    node = node_of("--params-file", str(path)) if in_file else node_of("-p", f"bag:={written}")
    assert declare(node, RecorderSettings).bag is BagScope.OFF
    node.set_parameters([Parameter("bag", value="all")])
    assert read(node, RecorderSettings).bag is BagScope.ALL
    node.set_parameters([Parameter("bag", value=False)])  # as `ros2 param set recorder bag off` sends it
    assert read(node, RecorderSettings).bag is BagScope.OFF


@pytest.mark.parametrize(("written", "found"), [("on", "true"), ("everything", "everything"), ("3", "3")])
def test_other_words_are_refused(node_of, written: str, found: str) -> None:
    with pytest.raises(ConfigError, match=f"parameter 'bag': '{found}' is not one of off, configured, all"):
        declare(node_of("-p", f"bag:={written}"), RecorderSettings)


def test_a_truth_value_is_no_word_of_other_settings(node_of) -> None:
    with pytest.raises(ConfigError, match="parameter 'video_codec'"):
        declare(node_of("-p", "video_codec:=off"), RecorderSettings)
