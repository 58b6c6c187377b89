# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""All checks, each in a thread of its own with a time limit: none can keep another one from reporting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from gr00t_training.doctor import (
    clock_checks,
    device_checks,
    gpu_checks,
    network_checks,
    python_checks,
    ros_checks,
    storage_checks,
)
from gr00t_training.doctor.findings import Finding, NotCheckedError, unknown
from gr00t_training.doctor.machine import Machine, end_programs
from gr00t_training.doctor.use import Use
from gr00t_training.io.text import one_line

Check = Callable[[Machine, Use], list[Finding]]
CHECKS: Mapping[str, Check] = {
    "python": python_checks.check_python,
    "python_path": python_checks.check_python_path,
    "numpy": python_checks.check_numpy,
    "ros": ros_checks.check_ros,
    "middleware": ros_checks.check_middleware,
    "profile": network_checks.check_profile,
    "shared_memory": network_checks.check_shared_memory,
    "socket_buffers": network_checks.check_socket_buffers,
    "domain": ros_checks.check_domain,
    "interfaces": ros_checks.check_interfaces,
    "gpu": gpu_checks.check_gpu,
    "torch": gpu_checks.check_torch,
    "flash_attention": gpu_checks.check_flash_attention,
    "video": gpu_checks.check_video,
    "nvenc": gpu_checks.check_nvenc,
    "disk": storage_checks.check_disk,
    "clock": clock_checks.check_clock,
    "stamps": clock_checks.check_stamps,
    "usb": device_checks.check_usb,
    "permissions": device_checks.check_permissions,
    "serial": device_checks.check_serial,
}
LIMIT_S = 300.0  # for all
AT_ONCE = 3  # imports of several large libraries at once would only wait for the disk


def examine(
    machine: Machine, use: Use, checks: Mapping[str, Check] = CHECKS, limit_s: float = LIMIT_S
) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of all checks in their order, with the name of the check."""
    results: dict[str, list[Finding]] = {}
    room, is_over = threading.Semaphore(AT_ONCE), threading.Event()

    def work(name: str, check: Check) -> None:
        with room:
            if is_over.is_set():
                return
            results[name] = _guarded(check, machine, use)

    threads = {
        # daemons: one that hangs in a file system does not keep the process
        name: threading.Thread(target=work, args=(name, check), name=name, daemon=True)
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    end = time.monotonic() + limit_s
    try:
        for name, thread in threads.items():
            thread.join(max(0.0, end - time.monotonic()))
            for finding in results.get(name, [unknown(f"it took longer than {limit_s:g} s")]):
                yield name, finding
    finally:
        is_over.set()
        end_programs()


def _guarded(check: Check, machine: Machine, use: Use) -> list[Finding]:
    try:
        return check(machine, use)
    except NotCheckedError as error:
        return [unknown(str(error))]
    except Exception as error:  # a file or program of a form that nobody has seen yet
        return [unknown(one_line(f"unexpected answer of the machine ({type(error).__name__}: {error})"))]
