# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A machine as `gr00t doctor` sees it, made of files and answers that tests change."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.doctor.examining import examine
from gr00t_training.doctor.findings import Finding
from gr00t_training.doctor.machine import Answer, Interpreter, Machine
from gr00t_training.doctor.use import Camera, Use

SITE = "/opt/ros/jazzy/lib/python3.12/site-packages"
CAMERAS = (Camera("front", 480, 640, 30.0), Camera("wrist", 480, 640, 30.0))
PROFILE = """<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"><profiles><transport_descriptors>
<transport_descriptor><transport_id>a</transport_id><type>SHM</type><segment_size>{}</segment_size>
</transport_descriptor></transport_descriptors></profiles></dds>"""
HEADER = "| NVIDIA-SMI 570.86   Driver Version: 570.86   CUDA Version: {}   |"
V4L = """Format Video Capture:
\tWidth/Height      : {}/{}
\tPixel Format      : '{}' (YUYV 4:2:2)
Streaming Parameters Video Capture:
\tFrames per second: {} (30/1)
"""
TORCH = {
    "version": "2.7.0",
    "cuda": "12.6",
    "is_available": True,
    "reason": "",
    "architectures": ["sm_80", "sm_90"],
    "capability": [9, 0],
    "error": "",
}
ENCODERS = {f"{codec} {kind}": "" for codec in ("h264", "hevc", "av1") for kind in ("software", "nvenc", "decoder")}
DISK = {"folder": "/data", "free": 500_000_000_000, "type": "ext4", "rate": 500e6, "error": ""}


class Planted:
    """A healthy robot computer with ROS 2 Jazzy, an NVIDIA GPU, two cameras and an arm; tests change it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version = (3, 12)
        self.refused: set[str] = set()
        self.sizes: dict[str, int] = {}  # of sparse files [bytes]
        self.space = 16 * 10**9, 15 * 10**9
        self.use = Use(CAMERAS, "my_robot", Path("/data"), ("gpu-box",))
        self.imports: dict[str, dict[str, object]] = {"cv_bridge.boost.cv_bridge_boost": {}, "flash_attn": {}}
        for name, version in (("numpy", "1.26.4"), ("torch", "2.7.0"), ("av", "14.0.0")):
            self.imports[name] = {"version": version}
        self.asked: dict[str, object] = {
            "torch_build": dict(TORCH),
            "encoding": {"version": "14.0.0", "failures": dict(ENCODERS)},
            "writing": dict(DISK),
            "host_clock": {"offset_s": 0.001, "uncertainty_s": 0.0005},
            "stamp_ages": {"is_simulated": False, "ages_s": {"/front/image_raw": 0.03, "/joint_states": 0.001}},
            "built_interfaces": {"missing": [], "further": []},
        }
        self.programs: dict[str, Answer] = {
            "nvidia-smi --query": Answer(0, "NVIDIA RTX 4090, 570.86, 24564 MiB\n"),
            "nvidia-smi": Answer(0, HEADER.format("12.8")),
            "chronyc": Answer(0, "A9FEA97B,ntp,3,1.0,-0.000012,0.0,0.0,1.0,0.0,0.1,0.01,0.0,64.0,Normal\n"),
            "v4l2-ctl": Answer(0, V4L.format(640, 480, "YUYV", "30.000")),
        }
        self.environment = {
            "USER": "lab",
            "ROS_DISTRO": "jazzy",
            "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
            "PYTHONPATH": SITE,
            "FASTRTPS_DEFAULT_PROFILES_FILE": "/profile.xml",
        }
        self.files = {
            "opt/ros/jazzy/setup.bash": "",
            "opt/ros/jazzy/lib/librmw_fastrtps_cpp.so": "",
            "profile.xml": PROFILE.format(16 * 2**20),
            "dev/shm/other": "",
            "dev/nvidia0": "",
            "dev/video0": "",
            "dev/video2": "",
            "dev/ttyACM0": "",
            "dev/dri/renderD128": "",
            "dev/input/event0": "",
            "etc/group": "video:x:44:\ndialout:x:20:other",
            "proc/sys/net/core/rmem_max": "4194304",
            "proc/net/tcp": "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A",
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000",
            "sys/bus/usb-serial/devices/ttyUSB0/latency_timer": "1",
        }
        self.camera("1-1", bus=1, node=0)
        self.camera("3-1", bus=3, node=2)

    def camera(self, name: str, bus: int, node: int, speed: str = "480", product: str = "Webcam") -> None:
        """Plug a camera in."""
        base = f"sys/bus/usb/devices/{name}"
        found = {"speed": speed, "version": "2.10", "product": product, "busnum": str(bus)}
        self.files |= {f"{base}/{key}": value for key, value in found.items()}
        self.files[f"sys/bus/usb/devices/{name}:1.0/bInterfaceClass"] = "0e"
        self.files[f"sys/bus/usb/devices/{name}:1.0/video4linux/video{node}/name"] = product

    def machine(self) -> Machine:
        """Write the files and return the view."""
        for name, text in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.truncate(path, self.sizes.get(name, len(text)))
        python = Interpreter("python3", self.version, "/usr", "/usr")
        return Machine(
            self.root,
            self.environment,
            python,
            self.run,
            lambda path: path.name not in self.refused,
            lambda path: self.space,
        )

    def run(self, words: Sequence[str], seconds: float) -> Answer:
        """Answer as the program would."""
        line = " ".join(words)
        if words[1:2] == ["-m"]:
            module = words[2].rpartition(".")[2]
            if module == "importing":
                found = {"version": "", "file": f"{SITE}/{words[3]}.py", "error": "", "is_installed": True}
                return Answer(0, json.dumps({**found, **self.imports.get(words[3], {})}))
            answer = self.asked[module]
            return answer if isinstance(answer, Answer) else Answer(0, f"noise\n{json.dumps(answer)}")
        for name in sorted(self.programs, key=len, reverse=True):
            if line.startswith(name):
                return self.programs[name]
        return Answer(-1, "", failure="No such file or directory")

    def examine(self) -> list[tuple[str, Finding]]:
        """Return what the doctor says."""
        return list(examine(self.machine(), self.use))


def absent(name: str) -> dict[str, object]:
    return {"error": f"No module named '{name}'", "is_installed": False}


def left_segments(planted: Planted) -> None:
    planted.space = 10**9, 10**8
    for number in range(2):
        name = f"dev/shm/fastrtps_{number:016x}"
        planted.files |= {name: "x", f"{name}_el": ""}
        planted.sizes[name] = 150_000_000
