# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Disk of the datasets: what kind it is, space and speed against the cameras."""

from __future__ import annotations

from gr00t_training.doctor.findings import Finding, fault, ok, warning
from gr00t_training.doctor.machine import CHILDREN, PROGRAM_S, Machine
from gr00t_training.doctor.use import Use
from gr00t_training.io.text import duration_text, size_text

MEMORY_TYPES = ("tmpfs", "ramfs")
MIN_FREE = 2e9  # [bytes] that the recorder leaves (min_free_disk_gb)
MIN_RECORDING_S = 3600.0
MARGIN = 3.0  # writing shares the disk with reading and with other programs


def check_disk(machine: Machine, use: Use) -> list[Finding]:
    """Measure the disk and compare it with what the cameras produce."""
    words = str(use.folder.absolute()), "quick" if use.is_quick else "measured"
    disk = machine.ask(f"{CHILDREN}.writing", *words, seconds=3 * PROGRAM_S)
    where, free = disk["folder"], disk["free"]
    found = []
    if disk["error"]:
        found.append(
            fault(f"{where} cannot be written: {disk['error']}", "choose another --dataset, or its permissions")
        )
    if disk["type"] in MEMORY_TYPES:
        found.append(fault(f"{where} is in memory ({disk['type']}): a restart loses it", "record to a disk"))
    if disk["type"] == "overlay":
        found.append(warning(f"{where} is inside a container and is removed with it", "mount a folder of the host"))
    left_s = max(0.0, free - MIN_FREE) / use.video_rate
    text = f"{size_text(free)} free at {where}, {duration_text(left_s)} of {use.camera_text}"
    if free < MIN_FREE:
        found.append(fault(f"{text}; the recorder refuses below {size_text(MIN_FREE)}", "free some space"))
    elif left_s < MIN_RECORDING_S:
        found.append(warning(text, "free some space, or record to a larger disk"))
    rate = disk["rate"]
    if rate:
        found += _speed(rate, use)
        text += f"; it writes {size_text(rate)}/s"
    return found or [ok(text)]


def _speed(rate: float, use: Use) -> list[Finding]:
    remedy = "record to an internal SSD, not to a card, a stick or a network folder"
    if rate < MARGIN * use.video_rate:
        text = (
            f"the disk writes {size_text(rate)}/s, datasets of {use.camera_text} grow by {size_text(use.video_rate)}/s"
        )
        return [fault(text, remedy)]
    if rate < use.topic_rate:
        text = (
            f"the disk writes {size_text(rate)}/s, too slow for bags of these cameras ({size_text(use.topic_rate)}/s)"
        )
        return [warning(text, f"record datasets, or {remedy}")]
    return []
