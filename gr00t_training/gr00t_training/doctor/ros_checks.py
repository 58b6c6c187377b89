# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""ROS: distribution, what was sourced, the middleware, domain and interfaces."""

from __future__ import annotations

import re

from gr00t_training.doctor.findings import Finding, NotCheckedError, fault, ok, unknown, warning
from gr00t_training.doctor.machine import Machine
from gr00t_training.doctor.use import Use

DISTRIBUTIONS = ("humble", "jazzy", "kilted", "lyrical")
DEFAULT_RMW = "rmw_fastrtps_cpp"
ZENOH_PORT = 7447
MAX_DOMAIN = 232  # RTPS: ports end at 65535
SAFE_DOMAIN = 101  # Linux hands out the ports of higher ones to any program (ip_local_port_range)
RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")


def check_ros(machine: Machine, use: Use) -> list[Finding]:
    """Distribution, what was sourced, and whether rclpy can be imported."""
    distribution = machine.variable("ROS_DISTRO")
    prefixes = machine.paths_of("AMENT_PREFIX_PATH")
    found = _sourced(machine, distribution, prefixes)
    rclpy = machine.import_module("rclpy")
    if not rclpy.error:
        if distribution and distribution not in DISTRIBUTIONS:
            text = f"ROS 2 {distribution} is not one that the suite is made for"
            found.append(warning(text, f"use one of {', '.join(DISTRIBUTIONS)}"))
        return found or [ok(f"{distribution or 'ROS 2 from PyPI'}, rclpy from {rclpy.file}")]
    if rclpy.is_installed:
        remedy = "source the setup.bash of ROS in a new shell; if it stays, reinstall ros-<distribution>-rclpy"
        return [*found, fault(f"rclpy cannot be imported: {' '.join(rclpy.error.split())[:200]}", remedy)]
    return [*found, *_absent(machine, use, distribution, bool(found))]


def has_ros(machine: Machine) -> bool:
    """Whether a node could be started here."""
    return not machine.import_module("rclpy").error


def _sourced(machine: Machine, distribution: str, prefixes: list[str]) -> list[Finding]:
    found = []
    named = sorted({match[1] for entry in prefixes if (match := re.match(r"/opt/ros/([^/]+)", entry))})
    if len({*named, distribution} - {""}) > 1:
        text = f"ROS_DISTRO is {distribution}, but what is sourced is of {', '.join(named)}"
        found.append(fault(text, "open a new shell and source one; look for 'source' in ~/.bashrc"))
    gone = [entry for entry in prefixes if not machine.path(entry).is_dir()]
    if gone:
        text = f"AMENT_PREFIX_PATH names {gone[0]}, which does not exist"
        found.append(warning(text, "build the workspace again and source its setup.bash in a new shell"))
    return found


def _absent(machine: Machine, use: Use, distribution: str, is_explained: bool) -> list[Finding]:
    """Say why there is no rclpy."""
    installed = [path.parent.name for path in machine.glob("opt/ros/*/setup.bash")]
    others = {found for entry in machine.paths_of("PYTHONPATH") for found in re.findall(r"python3\.\d+", entry)}
    if distribution and others and "python{}.{}".format(*machine.python.version) not in others:
        text = f"ROS 2 {distribution} is of {', '.join(sorted(others))}, but this is {machine.python.name}"
        remedy = "create the virtual environment with /usr/bin/python3 -m venv --system-site-packages"
        return [fault(text, remedy)]
    if distribution and not is_explained:
        text = f"ROS_DISTRO is {distribution}, but {machine.python.name} does not find rclpy"
        remedy = f". /opt/ros/{distribution}/setup.bash; in a virtual environment use --system-site-packages"
        return [fault(text, remedy)]
    if installed and not distribution:
        return [fault(f"{', '.join(installed)} is installed, but not sourced", f". /opt/ros/{installed[0]}/setup.bash")]
    if use.robot:
        return [fault("no ROS 2 on this machine", "install ROS 2, or run 'make setup', which takes it from PyPI")]
    return [] if is_explained else [ok("none on this machine; datasets, training and serving need none")]


def check_middleware(machine: Machine, use: Use) -> list[Finding]:
    """Whether the middleware that the environment chooses is installed and can work."""
    if not has_ros(machine):
        raise NotCheckedError("no ROS here")
    chosen = machine.variable("RMW_IMPLEMENTATION") or DEFAULT_RMW
    prefixes = [*machine.paths_of("AMENT_PREFIX_PATH"), machine.python.prefix]
    if not any((machine.path(prefix) / "lib" / f"lib{chosen}.so").exists() for prefix in prefixes):
        package = f"ros-{machine.variable('ROS_DISTRO') or '<distribution>'}-{chosen.replace('_', '-')}"
        text = f"RMW_IMPLEMENTATION is {chosen}, which is not installed"
        return [fault(text, f"apt install {package}, or unset RMW_IMPLEMENTATION")]
    if chosen == "rmw_zenoh_cpp" and not _listens(machine, ZENOH_PORT):
        text = f"{chosen} without a router on this machine (port {ZENOH_PORT})"
        return [warning(text, "ros2 run rmw_zenoh_cpp rmw_zenohd, unless the router runs on another machine")]
    return [ok(chosen)]


def _listens(machine: Machine, port: int) -> bool:
    """Whether anything listens on a TCP port."""
    lines = [line for name in ("tcp", "tcp6") for line in (machine.read(f"/proc/net/{name}") or "").splitlines()]
    return any(
        len(words := line.split()) > 3 and words[1].endswith(f":{port:04X}") and words[3] == "0A" for line in lines
    )


def check_domain(machine: Machine, use: Use) -> list[Finding]:
    """Domain, and who can be reached."""
    text = machine.variable("ROS_DOMAIN_ID") or "0"
    if not text.isdigit() or int(text) > MAX_DOMAIN:
        return [fault(f"ROS_DOMAIN_ID is '{text}', expected 0 to {MAX_DOMAIN}", "export ROS_DOMAIN_ID=0")]
    found = []
    if int(text) > SAFE_DOMAIN:
        remedy = f"use a domain up to {SAFE_DOMAIN}"
        found.append(warning(f"domain {text} has ports that Linux gives to other programs, too", remedy))
    reach = machine.variable("ROS_AUTOMATIC_DISCOVERY_RANGE")
    is_local = machine.variable("ROS_LOCALHOST_ONLY") == "1"
    if reach and reach not in RANGES:
        remedy = f"use one of {', '.join(RANGES)}"
        found.append(fault(f"ROS_AUTOMATIC_DISCOVERY_RANGE is '{reach}', which is ignored", remedy))
    elif is_local and reach in ("SUBNET", "SYSTEM_DEFAULT"):
        remedy = "unset ROS_LOCALHOST_ONLY, which counts more"
        found.append(fault(f"ROS_LOCALHOST_ONLY is 1, but ROS_AUTOMATIC_DISCOVERY_RANGE is {reach}", remedy))
    elif reach == "OFF":
        found.append(fault("ROS_AUTOMATIC_DISCOVERY_RANGE is OFF: no node finds another", "set it to SUBNET"))
    elif is_local or reach == "LOCALHOST":
        name = "ROS_LOCALHOST_ONLY" if is_local else "ROS_AUTOMATIC_DISCOVERY_RANGE"
        if use.hosts:
            found.append(fault(f"{name} hides the nodes of {', '.join(use.hosts)}", f"unset {name}"))
        else:
            found.append(ok(f"domain {text}, this machine only ({name})"))
    return found or [ok(f"domain {text}")]


def check_interfaces(machine: Machine, use: Use) -> list[Finding]:
    """Whether gr00t_msgs is built, and from the sources that the installed code was written for."""
    if not has_ros(machine):
        raise NotCheckedError("no ROS here")
    built = machine.import_module("gr00t_msgs.msg")
    remedy = "colcon build --packages-select gr00t_msgs and source the workspace, or make setup"
    if built.error:
        text = "not built or not sourced" if not built.is_installed else " ".join(built.error.split())[:200]
        return [fault(f"gr00t_msgs: {text}", remedy)]
    if not machine.import_module("gr00t_recorder").is_installed:
        return [unknown("whether gr00t_msgs fits the nodes: gr00t_recorder is not installed")]
    differing = machine.ask("gr00t_recorder.ros.built_interfaces")
    text = "gr00t_msgs was built from other sources"
    if differing["missing"]:
        return [fault(f"{text}: {'; '.join(differing['missing'][:3])}", remedy)]
    if differing["further"]:
        return [warning(f"{text}: {'; '.join(differing['further'][:3])}; other machines need the same", remedy)]
    return [ok(f"gr00t_msgs from {built.file}")]
