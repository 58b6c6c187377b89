# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""USB bandwidth of cameras, and devices that this user may not open."""

from __future__ import annotations

import grp
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from gr00t_training.doctor.findings import Finding, NotCheckedError, fault, ok, warning
from gr00t_training.doctor.machine import Machine
from gr00t_training.doctor.use import Camera, Use
from gr00t_training.io.text import size_text

VIDEO_CLASS = "0e"
USB_2_MBIT = 480
PERIODIC_SHARE = 0.8  # USB 2.0, 5.5.4: isochronous and interrupt transfers of a microframe
WARNING_SHARE = 0.5  # cameras reserve more than they send
COMPRESSED_FORMATS = ("MJPG", "JPEG", "H264", "HEVC")
# pattern below /dev: group that Ubuntu gives it to, what it is for
DEVICES = {
    "video[0-9]*": ("video", "cameras"),
    "ttyUSB*": ("dialout", "arms and grippers"),
    "ttyACM*": ("dialout", "arms and grippers"),
    "dri/renderD*": ("render", "rendering and video decoding"),
    "input/event*": ("input", "gamepads and pedals"),
    "input/js*": ("input", "gamepads"),
}
USB_3_NAME = re.compile(r"USB ?3|RealSense")  # such a device reports version 2.10 at a USB 2 link
FTDI_LATENCY_MS = 2  # the driver's default of 16 limits a bus of Dynamixel servos to 60 exchanges per second


@dataclass(frozen=True)
class UsbCamera:
    """A camera at a USB bus."""

    name: str
    bus: str
    speed_mbit: float
    is_slowed: bool  # a USB 3 device at a USB 2 link
    rate: float  # [bytes/s]


def check_usb(machine: Machine, use: Use) -> list[Finding]:
    """Compare what the cameras of each bus send with what it carries."""
    cameras = _usb_cameras(machine, use)
    if not cameras:
        raise NotCheckedError("no USB camera here")
    found = [
        warning(f"{each.name} is a USB 3 device, but linked at USB 2", "use a USB 3 cable and a USB 3 port")
        for each in cameras
        if each.is_slowed
    ]
    buses = defaultdict(list)
    for each in cameras:
        buses[each.bus].append(each)
    for bus, members in buses.items():
        speed = min(each.speed_mbit for each in members)
        rate, limit = sum(each.rate for each in members), speed * 1e6 / 8
        text = f"{len(members)} cameras at bus {bus} send {size_text(rate)}/s, it carries {size_text(limit)}/s"
        remedy = "connect them to ports of different controllers (lsusb -t), or choose MJPG or a lower rate"
        if rate > PERIODIC_SHARE * limit:
            found.append(fault(text, remedy))
        elif rate > WARNING_SHARE * limit:
            found.append(warning(f"{text}, of which cameras may not start if they reserve more", remedy))
    return found or [ok(f"{len(cameras)} cameras at {len(buses)} buses, all with bandwidth left")]


def _usb_cameras(machine: Machine, use: Use) -> list[UsbCamera]:
    found = []
    for path in machine.glob("sys/bus/usb/devices/*"):
        device = str(path.relative_to(machine.root))
        interfaces = path.parent.glob(f"{path.name}:*/bInterfaceClass")
        if not any(_text(each) == VIDEO_CLASS for each in interfaces):
            continue
        speed = float(machine.read(f"{device}/speed") or USB_2_MBIT)
        version = float(machine.read(f"{device}/version") or 2.0)
        name = machine.read(f"{device}/product") or path.name
        bus = machine.read(f"{device}/busnum") or path.name
        is_slowed = speed <= USB_2_MBIT and version >= 2.1 and bool(USB_3_NAME.search(name))
        found.append(UsbCamera(name, bus, speed, is_slowed, _rate(machine, path, use)))
    return found


def _rate(machine: Machine, device: Path, use: Use) -> float:
    """Return what a camera sends in its present format [bytes/s], else what the largest expected one would."""
    for node in sorted(device.parent.glob(f"{device.name}:*/video4linux/video*")):
        try:
            text = machine.program("v4l2-ctl", "-d", f"/dev/{node.name}", "--get-fmt-video", "--get-parm")
        except NotCheckedError:
            continue
        size = re.search(r"Width/Height\s*:\s*(\d+)/(\d+)", text)
        kind = re.search(r"Pixel Format\s*:\s*'(\w+)'", text)
        rate = re.search(r"Frames per second:\s*([\d.]+)", text)
        if size and kind and rate:
            is_compressed = kind[1] in COMPRESSED_FORMATS
            return Camera(node.name, int(size[2]), int(size[1]), float(rate[1]), is_compressed).usb_rate
    return max(camera.usb_rate for camera in use.cameras)


def check_permissions(machine: Machine, use: Use) -> list[Finding]:
    """Whether this user may open cameras, serial ports, GPU and input devices."""
    found, seen = [], 0
    for pattern, (group, purpose) in DEVICES.items():
        paths = machine.glob(f"dev/{pattern}")
        seen += len(paths)
        refused = [path for path in paths if not machine.may_use(path)]
        if not refused:
            continue
        name = _group(machine, refused[0]) or group
        remedy = f"sudo usermod -aG {name} $USER, then log out and in"
        if _is_member(machine, name):
            remedy = f"log out and in: this session began before the user came into group {name}"
        shown = ", ".join("/" + str(path.relative_to(machine.root)) for path in refused[:3])
        make = fault if group in ("video", "dialout") else warning
        found.append(make(f"no access to {shown} ({purpose})", remedy))
    if not seen and not found:
        raise NotCheckedError("no cameras, serial ports, GPUs or input devices below /dev")
    return found or [ok(f"{seen} devices can be opened")]


def _group(machine: Machine, path: Path) -> str:
    """Return the group of a device; root's helps nobody."""
    try:
        name = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return "" if name == "root" else name


def _is_member(machine: Machine, group: str) -> bool:
    """Whether /etc/group, not yet this session, has the user in a group."""
    user = machine.variable("USER")
    for line in (machine.read("/etc/group") or "").splitlines():
        name, *_, members = line.split(":")
        if name == group:
            return user in members.split(",")
    return False


def check_serial(machine: Machine, use: Use) -> list[Finding]:
    """Delay of USB serial adapters, which limits the rate of servos on them."""
    found, seen = [], 0
    for path in machine.glob("sys/bus/usb-serial/devices/*/latency_timer"):
        seen += 1
        text = _text(path)
        if text.isdigit() and int(text) > FTDI_LATENCY_MS:
            name = path.parent.name
            rate = 1000 // int(text)
            text = f"{name} delays what it receives by up to {text} ms, which limits Dynamixel servos to {rate} Hz"
            remedy = f"echo 1 | sudo tee /sys/bus/usb-serial/devices/{name}/latency_timer, or a udev rule"
            found.append(warning(text, remedy))
    if not seen:
        raise NotCheckedError("no FTDI adapter here")
    return found or [ok(f"{seen} adapters answer at once")]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
