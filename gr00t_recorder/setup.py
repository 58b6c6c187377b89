# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_recorder"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="Records topics or bags into GR00T-flavoured LeRobot datasets",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_recorder": [
            "py.typed",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=[
        "gr00t_training",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "rosbags>=0.11",
        "mcap>=1.1",
        "zstandard>=0.21",
        "lz4>=4.0",
    ],
    extras_require={
        "test": ["pytest"],
        "ray": ["ray>=2.40"],
    },
    entry_points={
        "console_scripts": [
            "recorder_node = gr00t_recorder.commands:recorder_node",
            "gr00t_record = gr00t_recorder.commands:record",
            "gr00t_convert_bag = gr00t_recorder.commands:convert_bag",
            "gr00t_play_bag = gr00t_recorder.commands:play_bag",
            "gr00t_record_bag = gr00t_recorder.commands:record_bag",
            "gr00t_suggest = gr00t_recorder.commands:suggest",
        ],
        "gr00t.commands": ["gr00t_recorder = gr00t_recorder.commands:COMMANDS"],
    },
    zip_safe=False,
)
