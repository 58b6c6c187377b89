# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from glob import glob
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_bringup"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="Launch files, robot configuration, simulated robot and demo of the GR00T suite",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_bringup": [
            "py.typed",
            "config/*.xml",
            "config/*/*.yaml",
            "sim/*.xml",
            "checkpoints/*/*",
            "checkpoints/*/*/*",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
        ("share/" + package_name + "/launch", sorted(glob("launch/*.launch.py"))),
    ],
    python_requires=">=3.10",
    install_requires=[
        "gr00t_policy_node",
        "gr00t_training[train]",
        "mujoco>=3.2",
        "opencv-python-headless>=4.6",
        "numpy>=1.26",
        "matplotlib>=3.7",
    ],
    extras_require={
        "view": ["rerun-sdk>=0.24"],
        "test": ["pytest"],
    },
    entry_points={
        "console_scripts": [
            "sim_node = gr00t_bringup.commands:sim_node",
            "expert_node = gr00t_bringup.commands:expert_node",
            "fake_robot_node = gr00t_bringup.commands:fake_robot_node",
            "demo_driver = gr00t_bringup.commands:demo_driver",
            "gr00t_demo = gr00t_bringup.commands:demo",
            "gr00t_launch = gr00t_bringup.commands:launch",
            "gr00t_loop = gr00t_bringup.commands:loop",
            "gr00t_rollout = gr00t_bringup.commands:rollout",
            "gr00t_view = gr00t_bringup.commands:view",
        ],
        "gr00t.commands": ["gr00t_bringup = gr00t_bringup.commands:COMMANDS"],
    },
    zip_safe=False,
)
