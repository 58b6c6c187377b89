# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the packages import is what they declare, for rosdep, for pip in a ROS installation, and for pip alone."""

import ast
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from gr00t_training.dataset.media.encoders import VideoCodec, VideoEncoder, VideoSettings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gr00t_training", "gr00t_recorder", "gr00t_policy_node", "gr00t_bringup", "gr00t_console")
TEST_SUPPORT = "gr00t_test_support"
pytestmark = pytest.mark.skipif(not (ROOT / "NOTICE").exists(), reason="this package is tested alone")

# module: (rosdep key, or None if there is none; requirement of pip, or None for what comes with ROS only)
MODULES: dict[str, tuple[str | None, str | None]] = {
    "PIL": ("python3-pil", "Pillow"),
    "av": (None, "av"),
    "cv2": ("python3-opencv", "opencv-python-headless"),
    "fastapi": (None, "fastapi"),
    "lz4": (None, "lz4"),
    "matplotlib": ("python3-matplotlib", "matplotlib"),
    "mcap": (None, "mcap"),
    "msgpack": (None, "msgpack"),
    "mujoco": (None, "mujoco"),
    "numpy": ("python3-numpy", "numpy"),
    "pyarrow": (None, "pyarrow"),
    "pytest": ("python3-pytest", "pytest"),
    "rosbags": (None, "rosbags"),
    "safetensors": (None, "safetensors"),
    "tensorboard": (None, "tensorboard"),
    "tokenizers": (None, "tokenizers"),
    "starlette": (None, "fastapi"),  # which is built on it
    "torch": (None, "torch"),
    "tqdm": (None, "tqdm"),
    "uvicorn": (None, "uvicorn"),
    "websockets": (None, "websockets"),
    "yaml": ("python3-yaml", "PyYAML"),
    "zmq": (None, "pyzmq"),
    "zstandard": (None, "zstandard"),
}
# used where they are installed, and said so where they are not
OPTIONAL = {
    "accelerate",
    "aiortc",
    "bitsandbytes",
    "flash_attn",
    "huggingface_hub",
    "ifaddr",  # comes with aiortc
    "peft",
    "prometheus_client",
    "rerun",
    "sentencepiece",
    "torchcodec",
    "transformers",
    "triton",
    "control_msgs",
}
TOOLS = {"hypothesis"}  # of requirements-dev.txt; its tests are skipped or not run elsewhere
# what a part of the library needs beyond its base
EXTRAS = {"serve": "serve", "policy": "model", "model": "model", "trainer": "train", "checkpoint": "model"}
ROS_ONLY = re.compile(r"rclpy|launch(_ros)?|\w+_(msgs|srvs|interfaces)")


def imported(folder: Path) -> dict[str, set[str]]:
    """Return the top-level modules that the files of a folder import, and which parts of gr00t_training."""
    modules: set[str] = set()
    parts: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
                parts |= {node.module.split(".")[1]} if node.module.startswith("gr00t_training.") else set()
            modules |= {name.split(".")[0] for name in names}
    own = {path.stem for path in folder.rglob("*.py")} | {folder.name}
    return {"modules": modules - set(sys.stdlib_module_names) - own - OPTIONAL - TOOLS, "parts": parts}


def depends(package: str, *tags: str) -> set[str]:
    root = ET.parse(ROOT / package / "package.xml").getroot()
    return {element.text or "" for tag in ("depend", "exec_depend", *tags) for element in root.iter(tag)}


def declared(package: str, argument: str) -> Any:
    """Return an argument of a setup.py, which is a literal."""
    for node in ast.walk(ast.parse((ROOT / package / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == argument:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{package}: {argument}")


def requirements(package: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return install_requires and extras_require of a setup.py."""
    return declared(package, "install_requires"), declared(package, "extras_require")


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=;\s]", requirement)[0]


def closure(package: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return the names of everything that pip installs with a package of the suite, with the extras of the library."""
    base, extra = requirements(package)
    names: set[str] = set()
    for requirement in [*base, *(each for name in extras for each in extra[name])]:
        names.add(name_of(requirement))
        if name_of(requirement) in PACKAGES:
            asked = re.search(r"\[(.*)\]", requirement)
            names |= closure(name_of(requirement), frozenset(asked[1].split(",")) if asked else frozenset())
            names |= {f"extra {each}" for each in asked[1].split(",")} if asked else set()
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_package_xml_lists_what_is_imported(package: str) -> None:
    missing = set()
    for folder, tags in ((package, ()), ("launch", ()), ("test", ("test_depend",))):
        declared = depends(package, *tags)
        for module in imported(ROOT / package / folder)["modules"] - {package}:
            is_ros = ROS_ONLY.fullmatch(module) or module in (*PACKAGES, TEST_SUPPORT)
            assert is_ros or module in MODULES, f"{package}/{folder} imports {module}: which rosdep key, which in pip?"
            key = module if is_ros else MODULES[module][0]
            if key is not None and key not in declared:
                missing.add((folder, key))
    assert not missing


@pytest.mark.parametrize("package", PACKAGES)
def test_setup_lists_what_is_imported(package: str) -> None:
    extras = frozenset(requirements(package)[1]) if package == "gr00t_training" else frozenset()
    installed = closure(package, extras) | {package}
    found = imported(ROOT / package / package)
    for module in found["modules"]:
        if module in PACKAGES:
            assert module in installed
        elif not ROS_ONLY.fullmatch(module):
            assert MODULES[module][1] in installed, f"{package} imports {module}"
    for part, extra in EXTRAS.items():
        if package != "gr00t_training" and part in found["parts"]:
            assert f"extra {extra}" in installed or (extra == "model" and "extra train" in installed)


def test_pip_has_in_a_workspace_what_rosdep_has_not() -> None:
    lines = (ROOT / "requirements-workspace.txt").read_text(encoding="utf-8").splitlines()
    listed = {name_of(line) for line in lines if line and not line.startswith("#")}
    for package in PACKAGES:
        for module in imported(ROOT / package / package)["modules"] & set(MODULES):
            key, requirement = MODULES[module]
            assert key is not None or requirement in listed, f"{package} imports {module}"


def test_all_packages_have_one_version() -> None:
    versions = {path.parent.name: ET.parse(path).findtext("version") or "" for path in ROOT.glob("*/package.xml")}
    assert len(versions) == 7
    assert len(set(versions.values())) == 1
    (version,) = set(versions.values())
    assert f'\nversion = "{version}"\n' in (ROOT / "gr00t_msgs/pyproject.toml").read_text(encoding="utf-8")
    for path in ROOT.glob("*/CHANGELOG.rst"):
        (newest, *_) = re.findall(r"^([0-9.]+)(?: \(.*\))?\n-+$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert newest == version, path
    for path in ROOT.glob("gr00t_*/setup.py"):
        assert 'with_name("package.xml")).findtext("version")' in path.read_text(encoding="utf-8"), path


def test_notice_names_every_encoder() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for codec in VideoCodec:
        for encoder in VideoEncoder:
            name = VideoSettings(codec=codec, encoder=encoder).encoder_name
            (line,) = [line for line in notice.splitlines() if line.split()[:3] == [codec.value, encoder.value, name]]
            assert ("GPL-2.0" in line) == (name in ("libx264", "libx265"))
