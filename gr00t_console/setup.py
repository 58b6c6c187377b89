# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_console"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="Operator page of the GR00T suite: robot, recorder and policy in a browser",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_console": [
            "py.typed",
            "static/*",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=[
        "gr00t_bringup",
        "gr00t_policy_node",
        "gr00t_recorder",
        "gr00t_training",
        "fastapi>=0.110",
        "uvicorn>=0.35",
        "websockets>=13",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
    ],
    extras_require={
        "test": ["pytest"],
        "webrtc": ["aiortc>=1.9"],
    },
    entry_points={
        "console_scripts": [
            "gr00t_console = gr00t_console.commands:console",
        ],
        "gr00t.commands": ["gr00t_console = gr00t_console.commands:COMMANDS"],
    },
    zip_safe=False,
)
