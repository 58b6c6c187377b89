# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Ways of images between processes: the profile of the middleware, shared memory and socket buffers."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from xml.etree import ElementTree

from gr00t_training.doctor.findings import Finding, NotCheckedError, fault, ok, warning
from gr00t_training.doctor.machine import Machine
from gr00t_training.doctor.ros_checks import DEFAULT_RMW, has_ros
from gr00t_training.doctor.use import Use
from gr00t_training.io.text import size_text

# Fast DDS 2 (Humble, Jazzy) reads the first, Fast DDS 3 (Kilted, Lyrical) the second.
OLD_VARIABLE, NEW_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
DEFAULT_SEGMENT = 512 * 1024  # [bytes] of Fast DDS
BUFFER = 4 * 2**20  # [bytes] that the profile of gr00t_bringup asks for
MIN_SHARED = 256 * 2**20  # [bytes]: a dozen processes with segments of 16 MB
MAX_LEFT_SHARE = 0.25  # of the shared memory
PROFILE = "config/fastdds.xml"  # of gr00t_bringup


def check_profile(machine: Machine, use: Use) -> list[Finding]:
    """Whether a raw image of the cameras fits into the shared memory segment of the middleware."""
    if not has_ros(machine):
        raise NotCheckedError("no ROS here")
    chosen = machine.variable("RMW_IMPLEMENTATION") or DEFAULT_RMW
    if not chosen.startswith("rmw_fastrtps"):
        return [ok(f"{chosen} needs no profile; see socket_buffers")]
    if not use.raw_bytes:
        return [ok("all cameras publish compressed images")]
    variable = NEW_VARIABLE if machine.variable("ROS_DISTRO") in ("kilted", "lyrical") else OLD_VARIABLE
    other = OLD_VARIABLE if variable == NEW_VARIABLE else NEW_VARIABLE
    name = machine.variable(variable)
    export = f"export {variable}={_shipped_profile(machine)}"
    if not name and machine.variable(other):
        text = f"{other} is set, but Fast DDS of this distribution reads {variable}"
        return [fault(text, f'export {variable}="${other}"')]
    if not name and machine.variable("FASTDDS_BUILTIN_TRANSPORTS").startswith("LARGE_DATA"):
        return [ok("FASTDDS_BUILTIN_TRANSPORTS is LARGE_DATA")]
    size = size_text(use.raw_bytes)
    if not name:
        text = f"no profile in this shell: an image of {size} does not fit into {size_text(DEFAULT_SEGMENT)}"
        return [warning(f"{text}; launch files of the suite bring theirs, drivers and ros2 do not", export)]
    segments = _segments(machine, name)
    if segments is None:
        return [fault(f"{variable} names {name}, which is not a file with XML", export)]
    smallest = min(segments, default=0)
    if smallest < use.raw_bytes:
        text = f"shared memory segment of {size_text(smallest)} in {name} is smaller than an image of {size}"
        remedy = f"set segment_size to {8 * use.raw_bytes} or more there"
        return [
            fault(text if segments else f"{name} has no shared memory transport: images of {size} get lost", remedy)
        ]
    return [ok(f"segment of {size_text(smallest)}, images of {size}")]


def _shipped_profile(machine: Machine) -> Path:
    """Return the profile that launch files of the suite use."""
    package = machine.import_module("gr00t_bringup").file
    return Path(package or "<folder of the suite>/gr00t_bringup/gr00t_bringup/__init__.py").parent / PROFILE


def _segments(machine: Machine, name: str) -> list[int] | None:
    """Return the sizes of the shared memory segments of a profile [bytes], None if it is none."""
    text = machine.read(name)
    try:
        root = ElementTree.fromstring(text or "")
    except ElementTree.ParseError:
        return None
    found = []
    for descriptor in root.iter():
        values = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in descriptor}
        if values.get("type") == "SHM":
            size = values.get("segment_size", str(DEFAULT_SEGMENT))
            found.append(int(size) if size.isdigit() else 0)
    return found


def check_shared_memory(machine: Machine, use: Use) -> list[Finding]:
    """Size of /dev/shm, and what killed processes left there."""
    folder = machine.path("/dev/shm")
    if not folder.is_dir():
        raise NotCheckedError("there is no /dev/shm")
    found = []
    total, free = machine.space(folder)
    if total < MIN_SHARED:
        text = f"/dev/shm has {size_text(total)} (minimum {size_text(MIN_SHARED)})"
        found.append(fault(text, "start the container with --ipc=host or --shm-size=8g; else remount it larger"))
    files, size = _left_behind(folder)
    share = size / max(total, 1)
    text = f"{files} segments of ended processes take {size_text(size)} of {size_text(total)} in /dev/shm"
    if share > MAX_LEFT_SHARE:
        found.append(warning(text, "fastdds shm clean, while no node runs"))
    return found or [ok(f"{size_text(free)} of {size_text(total)} free in /dev/shm; {text.partition(' take ')[0]}")]


def _left_behind(folder: Path) -> tuple[int, int]:
    """Return number and size [bytes] of Fast DDS segments without an owner: owners hold a lock on the file `_el`."""
    count = size = 0
    for lock in folder.glob("fast*_el"):
        segment = lock.with_name(lock.name.removesuffix("_el"))
        if not re.fullmatch(r"fast(?:rtps|dds)_[0-9a-f]{16}", segment.name) or _is_locked(lock):
            continue
        try:
            size += segment.stat().st_size
        except OSError:  # removed meanwhile
            continue
        count += 1
    return count, size


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # also: not ours to open
        return True
    return False


def check_socket_buffers(machine: Machine, use: Use) -> list[Finding]:
    """How much of an image the kernel keeps for a busy receiver."""
    text = machine.read("/proc/sys/net/core/rmem_max")
    if text is None or not text.isdigit():
        raise NotCheckedError("the kernel does not show net.core.rmem_max here")
    size = int(text)
    if size >= BUFFER:
        return [ok(f"net.core.rmem_max is {size_text(size)}")]
    values = f"net.core.rmem_max={BUFFER} net.core.wmem_max={BUFFER}"
    remedy = f"sudo sysctl -w {values}; for good: /etc/sysctl.d/60-gr00t.conf"
    found = f"net.core.rmem_max is {size_text(size)} (minimum {size_text(BUFFER)})"
    if use.raw_bytes and machine.variable("RMW_IMPLEMENTATION") == "rmw_cyclonedds_cpp":
        return [fault(f"{found}: Cyclone DDS sends images through it, which get lost", remedy)]
    return [warning(f"{found}: images from other machines get lost", remedy)]
