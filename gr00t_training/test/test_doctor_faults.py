# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t doctor` finds every planted fault by name, with its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from planted_machine import ENCODERS, HEADER, PROFILE, Planted, absent, left_segments

from gr00t_training.doctor.examining import CHECKS
from gr00t_training.doctor.findings import Level
from gr00t_training.doctor.machine import Answer

# printed by NumPy 2.2.6 and opencv-python-headless 4.9, and by NumPy 1.26.4 and a library that was built for 2
BUILT_FOR_1 = (
    "AttributeError: _ARRAY_API not found ImportError: numpy.core.multiarray failed to import "
    "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.2.6 as it may crash."
)
BUILT_FOR_2 = "RuntimeError: module compiled against ABI version 0x2000000 but this version of numpy is 0x1000009"
UNDEFINED = (
    "ImportError: flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so: undefined symbol: _ZN3c105ErrorC2ENS_14Source"
)


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def imports(module: str, error: str) -> Callable[[Planted], object]:
    return lambda planted: planted.imports.update({module: {"error": error}})


def asks(child: str, **values: object) -> Callable[[Planted], object]:
    return lambda planted: planted.asked.update({child: {**planted.asked[child], **values}})  # type: ignore[dict-item]


def sets(**variables: str) -> Callable[[Planted], object]:
    return lambda planted: planted.environment.update(variables)


def writes(**files: str) -> Callable[[Planted], object]:
    return lambda planted: planted.files.update({name.replace("__", "/"): text for name, text in files.items()})


def answers(name: str, answer: Answer) -> Callable[[Planted], object]:
    return lambda planted: planted.programs.update({name: answer})


def python_3_14(planted: Planted) -> None:
    planted.version = (3, 14)


def numpy_2(planted: Planted) -> None:
    planted.imports |= {"numpy": {"version": "2.2.6"}, "cv2": {"error": BUILT_FOR_1}}


def not_sourced(planted: Planted) -> None:
    planted.environment = {}
    planted.imports["rclpy"] = absent("rclpy")


def other_python(planted: Planted) -> None:
    planted.version = (3, 11)
    planted.imports["rclpy"] = absent("rclpy")


def two_distributions(planted: Planted) -> None:
    planted.environment["AMENT_PREFIX_PATH"] = "/opt/ros/jazzy:/opt/ros/humble"
    planted.files["opt/ros/humble/setup.bash"] = ""


def moved_workspace(planted: Planted) -> None:
    planted.environment["AMENT_PREFIX_PATH"] += ":/home/lab/ws/install/gr00t_msgs"


def wrong_variable(planted: Planted) -> None:
    planted.environment["ROS_DISTRO"] = "kilted"
    planted.environment["AMENT_PREFIX_PATH"] = ""
    planted.files["usr/lib/librmw_fastrtps_cpp.so"] = ""


def no_profile(planted: Planted) -> None:
    del planted.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]


def small_memory(planted: Planted) -> None:
    planted.space = 64 * 2**20, 60 * 2**20


def cyclone(planted: Planted) -> None:
    planted.environment["RMW_IMPLEMENTATION"] = "rmw_cyclonedds_cpp"
    planted.files["opt/ros/jazzy/lib/librmw_cyclonedds_cpp.so"] = ""
    planted.files["proc/sys/net/core/rmem_max"] = "212992"


def zenoh(planted: Planted) -> None:
    planted.environment["RMW_IMPLEMENTATION"] = "rmw_zenoh_cpp"
    planted.files["opt/ros/jazzy/lib/librmw_zenoh_cpp.so"] = ""


def container_without_gpu(planted: Planted) -> None:
    planted.programs = {}
    planted.files[".dockerenv"] = ""
    del planted.files["dev/nvidia0"]


def no_driver(planted: Planted) -> None:
    planted.programs = {}


def crowded_bus(planted: Planted) -> None:
    planted.camera("1-2", bus=1, node=4)
    planted.camera("1-3", bus=1, node=6)


def two_on_a_bus(planted: Planted) -> None:
    planted.camera("1-2", bus=1, node=4)


def slow_link(planted: Planted) -> None:
    planted.camera("2-1", bus=2, node=4, product="Intel RealSense D435")


def refuses(name: str) -> Callable[[Planted], object]:
    return lambda planted: planted.refused.add(name)


F, W = Level.FAULT, Level.WARNING
FAULTS = [
    # plant, check, level, what is found, remedy
    (python_3_14, "python", F, r"Python 3\.14 .*expected 3\.10 to 3\.12", "3.10 to 3.12"),
    (other_python, "python_path", F, r"site-packages, of python3\.12, but this is Python 3\.11", "unset PYTHONPATH"),
    (numpy_2, "numpy", F, "NumPy 2.2.6 is installed, but opencv.* was built for NumPy 1", "pip install 'numpy<2'"),
    (
        imports("cv_bridge.boost.cv_bridge_boost", BUILT_FOR_2),
        "numpy",
        F,
        "cv_bridge was built for NumPy 2",
        "numpy>=2",
    ),
    (
        imports("cv2", "ImportError: libGL.so.1: cannot open shared object file: No such file"),
        "numpy",
        F,
        "libGL",
        "libgl1",
    ),
    (not_sourced, "ros", F, "jazzy is installed, but not sourced", r"\. /opt/ros/jazzy/setup\.bash"),
    (other_python, "ros", F, r"jazzy is of python3\.12, but this is Python 3\.11", "system-site-packages"),
    (two_distributions, "ros", F, "ROS_DISTRO is jazzy, but .* of humble, jazzy", "bashrc"),
    (moved_workspace, "ros", W, "install/gr00t_msgs, which does not exist", "build the workspace"),
    (
        imports("rclpy", "ImportError: librcl.so"),
        "ros",
        F,
        "rclpy cannot be imported: ImportError: librcl",
        "reinstall",
    ),
    (sets(RMW_IMPLEMENTATION="rmw_nothing_cpp"), "middleware", F, "is not installed", "ros-jazzy-rmw-nothing-cpp"),
    (zenoh, "middleware", W, "without a router", "rmw_zenohd"),
    (
        writes(**{"profile.xml": PROFILE.format(524288)}),
        "profile",
        F,
        "524.3 kB .*smaller than .* 921.6 kB",
        "segment_size",
    ),
    (writes(**{"profile.xml": "<dds>"}), "profile", F, "not a file with XML", "export FASTRTPS"),
    (no_profile, "profile", W, "no profile in this shell", "export FASTRTPS_DEFAULT_PROFILES_FILE="),
    (wrong_variable, "profile", F, "Fast DDS of this distribution reads FASTDDS_", 'export FASTDDS_.*="\\$FASTRTPS_'),
    (small_memory, "shared_memory", F, "/dev/shm has 67.1 MB", "--ipc=host"),
    (left_segments, "shared_memory", W, "2 segments of ended processes take 300.0 MB", "fastdds shm clean"),
    (writes(proc__sys__net__core__rmem_max="212992"), "socket_buffers", W, "rmem_max is 213.0 kB", "sysctl -w"),
    (cyclone, "socket_buffers", F, "Cyclone DDS sends images through it", "sysctl -w net.core.rmem_max=4194304"),
    (sets(ROS_DOMAIN_ID="300"), "domain", F, "'300', expected 0 to 232", "ROS_DOMAIN_ID"),
    (sets(ROS_DOMAIN_ID="150"), "domain", W, "domain 150", "up to 101"),
    (sets(ROS_LOCALHOST_ONLY="1"), "domain", F, "hides the nodes of gpu-box", "unset ROS_LOCALHOST_ONLY"),
    (sets(ROS_AUTOMATIC_DISCOVERY_RANGE="OFF"), "domain", F, "no node finds another", "SUBNET"),
    (
        lambda p: p.imports.update({"gr00t_msgs.msg": absent("gr00t_msgs")}),
        "interfaces",
        F,
        "not built",
        "colcon build",
    ),
    (
        asks("built_interfaces", missing=["msg/PolicyStatus has no field 'x'"]),
        "interfaces",
        F,
        "PolicyStatus",
        "colcon",
    ),
    (asks("built_interfaces", further=["msg/A has a field 'x' more"]), "interfaces", W, "other machines", "colcon"),
    (no_driver, "gpu", F, "a GPU of NVIDIA, but no working driver", "ubuntu-drivers"),
    (
        answers("nvidia-smi --query", Answer(18, "", "Failed to initialize NVML: Driver/library version mismatch")),
        "gpu",
        F,
        "differ in version",
        "restart",
    ),
    (container_without_gpu, "gpu", F, "container has no access", "--gpus all"),
    (
        asks("torch_build", cuda="", is_available=False, version="2.7.0+cpu"),
        "torch",
        F,
        "build for the CPU",
        "pip install",
    ),
    (
        lambda p: (
            asks("torch_build", cuda="13.0", is_available=False)(p),
            answers("nvidia-smi", Answer(0, HEADER.format("12.4")))(p),
        ),
        "torch",
        F,
        r"built for CUDA 13\.0, driver 570\.86 runs CUDA up to 12\.4",
        "whl/cu124",
    ),
    (
        asks("torch_build", capability=[12, 0]),
        "torch",
        F,
        "sm_120 does not run: it has code for sm_80",
        "--upgrade torch",
    ),
    (asks("torch_build", is_available=False, reason="CUDA unknown error"), "torch", F, "CUDA unknown", "CUDA_VISIBLE"),
    (imports("flash_attn", UNDEFINED), "flash_attention", F, "built for another torch", "uninstall flash-attn"),
    (imports("av", "ModuleNotFoundError"), "video", F, "av cannot be imported", "pip install 'av>=14'"),
    (
        asks("encoding", failures={**ENCODERS, "h264 software": "Unknown encoder"}),
        "video",
        F,
        "h264 software does not work for 640x480: Unknown encoder",
        "force-reinstall av",
    ),
    (asks("encoding", failures={**ENCODERS, "av1 software": "Not there"}), "video", W, "av1 software", "reinstall av"),
    (sets(NVIDIA_DRIVER_CAPABILITIES="compute,utility"), "nvenc", W, "no NVENC", "compute,utility,video"),
    (asks("writing", free=10**9), "disk", F, "1.0 GB free .* refuses below 2.0 GB", "free some space"),
    (asks("writing", free=6 * 10**9), "disk", W, "min of 2 cameras", "larger disk"),
    (asks("writing", rate=4e6), "disk", F, "writes 4.0 MB/s, datasets .* grow by 2.8 MB/s", "SSD"),
    (asks("writing", rate=20e6), "disk", W, r"too slow for bags of these cameras \(55.3 MB/s\)", "record datasets"),
    (asks("writing", type="tmpfs"), "disk", F, "in memory", "record to a disk"),
    (asks("writing", type="overlay"), "disk", W, "inside a container", "mount a folder"),
    (asks("writing", error="Read-only file system"), "disk", F, "Read-only", "choose another"),
    (asks("host_clock", offset_s=-0.31), "clock", F, "clock of gpu-box is 310 ms behind", "chrony"),
    (asks("host_clock", offset_s=0.05), "clock", W, "50 ms ahead", "chrony"),
    (
        answers("chronyc", Answer(0, "00000000,,0" + ",0.0" * 10 + ",Not synchronised")),
        "clock",
        W,
        "no time server",
        "chronyc sources",
    ),
    (asks("stamp_ages", ages_s={"/front": 3605.0}), "stamps", F, "3605.00 s old on arrival", "clock of the device"),
    (asks("stamp_ages", ages_s={"/front": -0.4}), "stamps", F, "0.40 s ahead", "chrony"),
    (crowded_bus, "usb", F, r"3 cameras at bus 1 send 55.3 MB/s, it carries 60.0 MB/s", "different controllers"),
    (two_on_a_bus, "usb", W, "2 cameras at bus 1 send 36.9 MB/s", "MJPG"),
    (slow_link, "usb", W, "RealSense D435 is a USB 3 device, but linked at USB 2", "USB 3 cable"),
    (refuses("ttyACM0"), "permissions", F, r"no access to /dev/ttyACM0 \(arms", "usermod -aG .* log out and in"),
    (refuses("event0"), "permissions", W, "/dev/input/event0", "usermod"),
    (writes(**{"sys__bus__usb-serial__devices__ttyUSB0__latency_timer": "16"}), "serial", W, "16 ms", "latency_timer"),
]


def test_fifteen_faults_at_least() -> None:
    assert len({(check, text) for _, check, _, text, _ in FAULTS}) >= 15
    assert {check for _, check, _, _, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize(
    ("plant", "check", "level", "text", "remedy"), FAULTS, ids=[f"{c}-{i}" for i, (_, c, *_) in enumerate(FAULTS)]
)
def test_planted_fault_is_found_with_its_remedy(
    planted: Planted, plant: Callable[[Planted], object], check: str, level: Level, text: str, remedy: str
) -> None:
    plant(planted)
    found = [(finding.level, finding) for name, finding in planted.examine() if name == check]
    matching = [finding for each, finding in found if each is level and re.search(text, finding.text)]
    assert len(matching) == 1, found
    assert re.search(remedy, matching[0].remedy), matching[0]
