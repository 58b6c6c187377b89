# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_test_support"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="Builders and fixtures that the tests and benches of the GR00T suite share",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_test_support": [
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
        "pytest",
        "websockets>=13",
    ],
    extras_require={},
    zip_safe=False,
)
