# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Sections of parameters files reach the nodes that ROS hands them to."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context

from gr00t_recorder.ros.parameter_sections import section_matches
from gr00t_recorder.ros.processes import next_domain

SECTIONS = (
    *("/**", "/*", "**", "*", "/**/policy", "/*/policy", "**/policy", "*/policy", "policy", "/policy", "lab/policy"),
    *(
        "/lab/policy",
        "/lab/*",
        "/lab/**",
        "/lab/**/policy",
        "/lab/left/policy",
        "/**/left/policy",
        "/*/*/policy",
        "/**/**",
    ),
)


@pytest.mark.parametrize("namespace", ["/", "/lab", "/lab/left"])
def test_a_section_is_for_the_nodes_that_ros_gives_it_to(namespace: str, tmp_path: Path) -> None:
    found, expected = [], []
    for section in SECTIONS:
        path = tmp_path / "parameters.yaml"
        path.write_text(f'"{section}":\n  ros__parameters: {{x: 1}}\n')
        context = Context()
        arguments = ["--ros-args", "-r", f"__ns:={namespace}", "--params-file", str(path)]
        rclpy.init(args=arguments, context=context, domain_id=next_domain())
        node = rclpy.create_node(
            "policy", context=context, automatically_declare_parameters_from_overrides=True, enable_rosout=False
        )
        expected.append((section, node.has_parameter("x")))
        found.append((section, section_matches(section, node.get_fully_qualified_name())))
        node.destroy_node()
        context.try_shutdown()
    assert found == expected
    assert {is_match for _, is_match in expected} == {True, False}
