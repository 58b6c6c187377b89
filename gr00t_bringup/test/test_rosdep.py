# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keys of the package.xml files are known to rosdep, for every distribution of ROS and its Ubuntu.

Read from a copy of github.com/ros/rosdistro that GR00T_ROSDISTRO names, and asked of the `rosdep` of this machine after
`rosdep update`. Without both, keys are compared with a list of what those files had in November 2026: the Python keys,
and ROS packages outside ros_base for Kilted and Lyrical; rosdep itself runs for Humble and Jazzy in CI.
"""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "NOTICE").exists(), reason="this package is tested alone")
# Ubuntu 22.04, 24.04 and 26.04: each distribution is released for one
PLATFORMS = {"humble": "jammy", "jazzy": "noble", "kilted": "noble", "lyrical": "resolute"}
TAGS = ("depend", "exec_depend", "build_depend", "buildtool_depend", "test_depend")
every_distribution = pytest.mark.parametrize("distribution", PLATFORMS)
# rosdep/python.yaml: one Debian package of the same name on every Ubuntu
SYSTEM = {
    "python3-matplotlib",
    "python3-numpy",
    "python3-opencv",
    "python3-pil",
    "python3-pytest",
    "python3-yaml",
}
# <distribution>/distribution.yaml of all four; repository: packages
ROS = {
    "ament_cmake": ("ament_cmake",),
    "common_interfaces": (
        *("diagnostic_msgs", "geometry_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs"),
        "visualization_msgs",
    ),
    "control_msgs": ("control_msgs",),
    "launch": ("launch",),
    "launch_ros": ("launch_ros", "ros2launch"),
    "rcl_interfaces": ("action_msgs", "builtin_interfaces", "lifecycle_msgs", "rcl_interfaces", "rosgraph_msgs"),
    "rclpy": ("rclpy",),
    "rosidl_defaults": ("rosidl_default_generators", "rosidl_default_runtime"),
    "vision_opencv": ("cv_bridge",),
}
KNOWN = SYSTEM | {name for names in ROS.values() for name in names}


def keys() -> set[str]:
    """Return the keys of all packages, without the packages themselves."""
    files = list(ROOT.glob("gr00t_*/package.xml"))
    found = {each.text or "" for path in files for tag in TAGS for each in ET.parse(path).getroot().iter(tag)}
    return found - {path.parent.name for path in files}


def rosdistro() -> Path | None:
    folder = os.environ.get("GR00T_ROSDISTRO")
    return Path(folder) if folder else None


def resolves(key: str, release: str, rules: dict[str, Any], packages: set[str]) -> bool:
    """Whether rosdep finds something to install for a key on an Ubuntu."""
    if key in packages:
        return True
    rule = rules.get(key, {}).get("ubuntu")
    if isinstance(rule, dict) and not {"packages", "pip", "apt"} & set(rule):
        rule = rule.get(release, rule.get("*"))
    return bool(rule)


@cache
def system_rules(folder: Path) -> dict[str, Any]:
    names = ("base.yaml", "python.yaml")
    rules = [yaml.safe_load((folder / "rosdep" / name).read_text(encoding="utf-8")) for name in names]
    return {key: rule for each in rules for key, rule in each.items()}


def released(folder: Path, distribution: str) -> tuple[set[str], list[str]]:
    """Return the released packages of a distribution and its Ubuntu releases."""
    content = yaml.safe_load((folder / distribution / "distribution.yaml").read_text(encoding="utf-8"))
    packages = {
        name
        for repository, entry in content["repositories"].items()
        if entry.get("release", {}).get("version")
        for name in entry["release"].get("packages", [repository])
    }
    return packages, content["release_platforms"]["ubuntu"]


def test_keys_are_those_that_were_looked_up() -> None:
    assert keys() - KNOWN == set(), "look the key up in ros/rosdistro for every distribution, then add it here"
    assert KNOWN - keys() == set(), "no package uses it"


@every_distribution
def test_keys_resolve_in_rosdistro(distribution: str) -> None:
    folder = rosdistro()
    if folder is None:
        pytest.skip("GR00T_ROSDISTRO: a copy of github.com/ros/rosdistro")
    packages, releases = released(folder, distribution)
    assert PLATFORMS[distribution] in releases
    rules = system_rules(folder)
    missing = {key for key in keys() for release in releases if not resolves(key, release, rules, packages)}
    assert missing == set()


@every_distribution
def test_keys_resolve_with_rosdep(distribution: str) -> None:
    if shutil.which("rosdep") is None or not (Path.home() / ".ros/rosdep/sources.cache").is_dir():
        pytest.skip("rosdep, after rosdep update")
    options = ["--rosdistro", distribution, "--os", f"ubuntu:{PLATFORMS[distribution]}"]
    done = subprocess.run(["rosdep", "resolve", *options, *sorted(keys())], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_and_ended_keys_are_found(tmp_path: Path) -> None:
    """The reading of rosdistro's files, with files as they are there."""
    (tmp_path / "rosdep").mkdir()
    (tmp_path / "rosdep/base.yaml").write_text("curl: {ubuntu: [curl]}\n")
    rules = """
python3-numpy: {debian: [python3-numpy], ubuntu: [python3-numpy]}
python3-numba: {ubuntu: {bionic: [python3-numba], focal: [python3-numba]}}
python3-nlopt: {ubuntu: {'*': [python3-nlopt], xenial: null}}
python3-mlflow: {ubuntu: {pip: {packages: [mlflow]}}}
"""
    (tmp_path / "rosdep/python.yaml").write_text(rules)
    (tmp_path / "jazzy").mkdir()
    text = """
release_platforms: {ubuntu: [noble]}
repositories:
  vision_opencv: {release: {packages: [cv_bridge], version: 4.1.0-3}}
  control_msgs: {release: {version: 5.4.0-1}}
  dolly: {release: {packages: [dolly_gazebo]}}
"""
    (tmp_path / "jazzy/distribution.yaml").write_text(text)
    packages, releases = released(tmp_path, "jazzy")
    assert (packages, releases) == ({"cv_bridge", "control_msgs"}, ["noble"])
    found = system_rules(tmp_path)
    names = ("python3-numpy", "python3-numba", "python3-nlopt", "python3-mlflow", "cv_bridge", "dolly_gazebo", "absent")
    assert [resolves(name, "noble", found, packages) for name in names] == [True, False, True, True, True, False, False]
    assert not resolves("python3-nlopt", "xenial", found, packages)
