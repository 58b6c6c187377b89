# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_policy_node"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="Drives a robot with a GR00T policy over ROS 2",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_policy_node": [
            "py.typed",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=[
        "gr00t_training[model,serve]",
        "gr00t_recorder",
        "numpy>=1.26",
        "matplotlib>=3.7",
    ],
    extras_require={
        "test": ["pytest"],
    },
    entry_points={
        "console_scripts": [
            "policy_node = gr00t_policy_node.commands:policy_node",
            "teleop_node = gr00t_policy_node.commands:teleop_node",
            "gr00t_check = gr00t_policy_node.commands:check",
            "gr00t_init = gr00t_policy_node.commands:init",
            "gr00t_replay = gr00t_policy_node.commands:replay",
            "gr00t_bench_policy = gr00t_policy_node.commands:bench_policy",
        ],
        "gr00t.commands": ["gr00t_policy_node = gr00t_policy_node.commands:COMMANDS"],
    },
    zip_safe=False,
)
