# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""GPU, driver, the torch that is installed, attention kernels and video encoders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gr00t_training.doctor.findings import Finding, NotCheckedError, fault, ok, unknown, warning
from gr00t_training.doctor.machine import CHILDREN, Machine
from gr00t_training.doctor.use import Use

NVIDIA = "0x10de"
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
JETSON_FILE = "/etc/nv_tegra_release"
JETSON_INDEX = "pip install torch --index-url https://pypi.jetson-ai-lab.io/jp6/cu126, for JetPack 6"
CODECS = {"h264 software": True, "h264 decoder": True, "av1 software": False, "av1 decoder": False}  # needed?


@dataclass(frozen=True)
class Gpu:
    """What is known about the GPU without torch."""

    name: str
    driver: str = ""
    cuda: tuple[int, int] | None = None  # newest version that the driver runs
    is_jetson: bool = False


def find_gpu(machine: Machine) -> Gpu | None:
    """Return the first GPU of NVIDIA, None if there is none.

    Raises:
        NotCheckedError: there is one, but no driver reaches it.
    """
    release = machine.read(JETSON_FILE)
    try:
        rows = machine.program(*QUERY).strip().splitlines()
        header = machine.program("nvidia-smi")
    except NotCheckedError:
        if release is not None:
            return Gpu("Jetson", is_jetson=True)
        if not _has_card(machine):
            return None
        raise
    name, driver, memory = (word.strip() for word in rows[0].rsplit(",", 2))
    version = re.search(r"CUDA(?: \w+)? Version:\s*(\d+)\.(\d+)", header)
    cuda = (int(version[1]), int(version[2])) if version else None
    count = f"{len(rows)} x " if len(rows) > 1 else ""
    return Gpu(f"{count}{name}, {memory}", driver, cuda, release is not None)


def _has_card(machine: Machine) -> bool:
    """Whether the PCI bus has a display or 3D controller of NVIDIA."""
    for path in machine.glob("sys/bus/pci/devices/*/vendor"):
        name = str(path.relative_to(machine.root).parent)
        if machine.read(f"{name}/vendor") == NVIDIA and (machine.read(f"{name}/class") or "").startswith("0x03"):
            return True
    return False


def check_gpu(machine: Machine, use: Use) -> list[Finding]:
    """Whether the driver reaches the GPU."""
    try:
        gpu = find_gpu(machine)
    except NotCheckedError as error:
        if "version mismatch" in str(error):
            return [fault("driver and its libraries differ in version, as after an update", "restart the machine")]
        if not machine.glob("dev/nvidia[0-9]*") and machine.path("/.dockerenv").exists():
            remedy = "start the container with --gpus all (nvidia-container-toolkit)"
            return [fault("the container has no access to the GPU of this machine", remedy)]
        remedy = "sudo ubuntu-drivers install, then restart; with Secure Boot enroll its key"
        return [fault(f"there is a GPU of NVIDIA, but no working driver ({error})", remedy)]
    if gpu is None:
        return [ok("none of NVIDIA; policies run on the CPU or on another machine (gr00t serve)")]
    cuda = " up to CUDA {}.{}".format(*gpu.cuda) if gpu.cuda else ""
    return [ok(f"{gpu.name}{f', driver {gpu.driver}' if gpu.driver else ''}{cuda}")]


def check_torch(machine: Machine, use: Use) -> list[Finding]:
    """Whether torch was built for the GPU and the driver."""
    torch = machine.import_module("torch")
    if not torch.is_installed:
        return [ok("torch is not installed; a host that only records needs none")]
    if torch.error:
        return [_broken("torch", torch.error)]
    build = machine.ask(f"{CHILDREN}.torch_build")
    try:
        gpu = find_gpu(machine)
    except NotCheckedError:
        gpu = None  # check_gpu says so
    name = f"torch {build['version']}"
    if gpu is None:
        return [ok(f"{name}; no GPU")]
    if not build["cuda"]:
        remedy = JETSON_INDEX if gpu.is_jetson else "pip install --force-reinstall torch, from PyPI"
        return [fault(f"{name} is a build for the CPU, but there is a GPU ({gpu.name})", remedy)]
    if not build["is_available"]:
        return [_unreachable(name, build, gpu)]
    return [_runs(name, build)]


def _unreachable(name: str, build: dict[str, Any], gpu: Gpu) -> Finding:
    built = tuple(int(word) for word in build["cuda"].split(".")[:2])
    if gpu.cuda and built[0] > gpu.cuda[0]:
        newest = "{}.{}".format(*gpu.cuda)
        text = f"{name} was built for CUDA {build['cuda']}, driver {gpu.driver} runs CUDA up to {newest}"
        index = f"https://download.pytorch.org/whl/cu{newest.replace('.', '')}"
        return fault(text, f"update the driver, or pip install torch --index-url {index}")
    reason = build["reason"].split("(")[0].strip() or "no reason given"
    return fault(
        f"{name} does not reach the GPU: {reason}", "check CUDA_VISIBLE_DEVICES; restart after a driver update"
    )


def _runs(name: str, build: dict[str, Any]) -> Finding:
    major, minor = build["capability"]
    text = f"{name} for CUDA {build['cuda']}, GPU sm_{major}{minor}"
    if build["error"] or not _covers(build["architectures"], major, minor):
        why = build["error"] or f"it has code for {', '.join(build['architectures'])}"
        remedy = "install a torch that was built for this GPU: pip install --upgrade torch"
        return fault(f"{text} does not run: {why}", remedy)
    return ok(text)


def _covers(architectures: Sequence[str], major: int, minor: int) -> bool:
    """Whether there is machine code for the GPU, or code that the driver can compile for it."""
    for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(architectures)):
        built = int(digits[:-1]), int(digits[-1])
        if built <= (major, minor) and (kind == "compute" or built[0] == major):
            return True
    return False


def check_flash_attention(machine: Machine, use: Use) -> list[Finding]:
    """Whether flash-attn, where it is installed, fits torch."""
    found = machine.import_module("flash_attn")
    if not found.is_installed:
        return [ok("flash-attn is not installed; torch has attention of its own")]
    if found.error:
        return [_broken("flash_attn", found.error)]
    return [ok(f"flash-attn {found.version}")]


def _broken(module: str, error: str) -> Finding:
    text = " ".join(error.split())[:200]
    if "took longer" in text:
        return unknown(text)
    if module == "flash_attn":
        remedy = (
            "pip uninstall flash-attn, or build it again: pip install --no-build-isolation --force-reinstall flash-attn"
        )
        cause = " (built for another torch)" if "undefined symbol" in text else ""
        return fault(f"flash-attn cannot be imported{cause}: {text}", remedy)
    return fault(f"{module} cannot be imported: {text}", f"pip install --force-reinstall {module}")


def check_video(machine: Machine, use: Use) -> list[Finding]:
    """Encode a few frames with every encoder."""
    av = machine.import_module("av")
    if av.error:
        return [fault(f"av cannot be imported: {' '.join(av.error.split())[:200]}", "pip install 'av>=14'")]
    camera = max(use.cameras, key=lambda each: each.raw_bytes)
    sizes = str(camera.height), str(camera.width), str(max(1, round(camera.rate_hz)))
    failures = machine.ask(f"{CHILDREN}.encoding", *sizes)["failures"]
    found = []
    for name, is_needed in CODECS.items():
        if failures[name]:
            make = fault if is_needed else warning
            remedy = "pip install --force-reinstall av: its wheels contain ffmpeg with every codec"
            found.append(make(f"{name} does not work for {camera.width}x{camera.height}: {failures[name]}", remedy))
    works = [codec for codec in ("h264", "hevc", "av1") if not failures[f"{codec} nvenc"]]
    return found or [ok(f"PyAV {av.version}: h264 and av1 by software; NVENC: {', '.join(works) or 'none'}")]


def check_nvenc(machine: Machine, use: Use) -> list[Finding]:
    """Whether a container passes the video encoder of its GPU on."""
    granted = machine.variable("NVIDIA_DRIVER_CAPABILITIES")
    if granted and not {"all", "video"} & set(granted.split(",")):
        text = f"NVIDIA_DRIVER_CAPABILITIES is '{granted}': the container has no NVENC"
        return [warning(text, "set it to compute,utility,video, if you record with video_encoder: nvenc")]
    return [ok(f"NVIDIA_DRIVER_CAPABILITIES is {granted or 'not set'}, which holds no encoder back")]
