# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Clocks: synchronization of this machine, offset to others, and stamps of what is being published."""

from __future__ import annotations

from gr00t_training.doctor.findings import Finding, NotCheckedError, fault, ok, unknown, warning
from gr00t_training.doctor.machine import CHILDREN, PROGRAM_S, Machine
from gr00t_training.doctor.ros_checks import has_ros
from gr00t_training.doctor.use import Use

WARNING_S, FAULT_S = 0.02, 0.2  # the second is `max_ahead_s` of a topic map
MAX_AGE_S = 0.5  # `max_age_s` of a stream
LISTEN_S = 3.0
NO_SERVICE = "sudo apt install chrony, on every machine of the robot"


def check_clock(machine: Machine, use: Use) -> list[Finding]:
    """Whether this machine's clock follows a time server, and how far the clocks of other hosts are off."""
    found = [_synchronized(machine)]
    for host in use.hosts:
        try:
            answer = machine.ask(f"{CHILDREN}.host_clock", host, seconds=2 * PROGRAM_S)
        except NotCheckedError as error:
            found.append(unknown(f"offset to {host} ({error}); ssh {host} must work without a password"))
            continue
        found.append(_offset(host, answer["offset_s"], answer["uncertainty_s"]))
    return found


def _offset(host: str, offset_s: float, uncertainty_s: float) -> Finding:
    text = f"clock of {host} is {abs(offset_s) * 1e3:.0f} ms {'ahead' if offset_s > 0 else 'behind'}"
    text += f" (measured to {uncertainty_s * 1e3:.0f} ms)"
    certain = abs(offset_s) - uncertainty_s
    if certain > FAULT_S:
        return fault(f"{text}; the policy node holds from {FAULT_S * 1e3:.0f} ms on", NO_SERVICE)
    return warning(text, NO_SERVICE) if certain > WARNING_S else ok(text)


def _synchronized(machine: Machine) -> Finding:
    try:
        words = machine.program("chronyc", "-c", "tracking").strip().split(",")
        if len(words) >= 14:
            offset_s, status = abs(float(words[4])), words[13]
            if status == "Not synchronised":
                return warning("chrony has no time server", "check chronyc sources and the network")
            if offset_s > WARNING_S:
                return warning(
                    f"clock is {offset_s * 1e3:.0f} ms off its time server (chrony)", "wait, or: chronyc makestep"
                )
            return ok(f"follows a time server (chrony), {offset_s * 1e3:.1f} ms off")
    except NotCheckedError:
        pass
    try:
        value = machine.program("timedatectl", "show", "-p", "NTPSynchronized", "--value").strip()
    except NotCheckedError as error:
        return unknown(f"whether the clock follows a time server: no chrony, and {error}")
    if value == "no":
        text = "the clock follows no time server (timedatectl)"
        return warning(text, f"sudo timedatectl set-ntp true; for robots of several machines: {NO_SERVICE}")
    return ok("follows a time server (timedatectl)") if value == "yes" else unknown("timedatectl does not say")


def check_stamps(machine: Machine, use: Use) -> list[Finding]:
    """Compare stamps of the topics of a running graph with the clock of this machine."""
    if use.is_quick:
        raise NotCheckedError("left out by --quick")
    if not has_ros(machine) or not machine.import_module("gr00t_recorder").is_installed:
        raise NotCheckedError("needs ROS and gr00t_recorder")
    heard = machine.ask("gr00t_recorder.ros.stamp_ages", str(LISTEN_S), seconds=3 * PROGRAM_S)
    if heard["is_simulated"]:
        raise NotCheckedError("the graph has /clock: simulated time")
    if not heard["ages_s"]:
        raise NotCheckedError("no images and joint states are being published")
    found = []
    remedy = "synchronize the clocks (chrony); a camera driver may stamp with the clock of the device"
    for topic, age_s in sorted(heard["ages_s"].items()):
        if -age_s > FAULT_S:
            found.append(
                fault(f"stamps of {topic} are {-age_s:.2f} s ahead of the clock (limit {FAULT_S:g} s)", remedy)
            )
        elif age_s > MAX_AGE_S:
            found.append(fault(f"stamps of {topic} are {age_s:.2f} s old on arrival (limit {MAX_AGE_S:g} s)", remedy))
    worst = max(map(abs, heard["ages_s"].values()))
    return found or [ok(f"{len(heard['ages_s'])} topics, stamps at most {worst * 1e3:.0f} ms from the clock")]
