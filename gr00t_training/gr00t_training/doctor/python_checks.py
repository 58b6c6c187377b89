# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Python, what leaks into it, and libraries that were built for another NumPy."""

from __future__ import annotations

import re

from gr00t_training.doctor.findings import Finding, fault, ok, unknown, warning
from gr00t_training.doctor.machine import Imported, Machine
from gr00t_training.doctor.use import Use

OLDEST, NEWEST = (3, 10), (3, 12)
HIDING = ("numpy", "cv2", "torch", "yaml", "av")  # of an environment, by PYTHONPATH
# module: what it is of
EXTENSIONS = {
    "cv2": "opencv-python-headless",
    "pyarrow": "pyarrow",
    "matplotlib.ft2font": "matplotlib",
    "cv_bridge.boost.cv_bridge_boost": "cv_bridge",
    "sensor_msgs.msg": "the messages of ROS",
}
CLASH = re.compile(
    r"compiled using NumPy 1|_ARRAY_API not found|numpy\.core\.multiarray failed to import"
    r"|compiled against (?:API|ABI) version"
)
LIBRARY = re.compile(r"ImportError: (\S+\.so[.\d]*): cannot open shared object file")


def check_python(machine: Machine, use: Use) -> list[Finding]:
    """Version and environment."""
    python = machine.python
    where = f"{python.name} in {'the virtual environment ' if python.is_virtual else ''}{python.prefix}"
    if OLDEST <= python.version <= NEWEST:
        return [ok(where)]
    remedy = "use Python 3.10 to 3.12, on a robot the one of its ROS distribution"
    return [fault(f"{where}, expected 3.10 to 3.12", remedy)]


def check_python_path(machine: Machine, use: Use) -> list[Finding]:
    """What PYTHONPATH brings in: modules of another Python, or others than those of the virtual environment."""
    python, found = machine.python, []
    entries = machine.paths_of("PYTHONPATH")
    own = "python{}.{}".format(*python.version)
    for entry in entries:
        (other,) = re.findall(r"python3\.\d+", entry)[-1:] or ("",)
        if other and other != own:
            found.append(
                fault(
                    f"PYTHONPATH has {entry}, of {other}, but this is {python.name}",
                    "run 'unset PYTHONPATH', or use the Python of the ROS distribution whose setup was sourced",
                )
            )
    packages = f"{python.prefix}/lib/{own}/site-packages"
    for name in HIDING if python.is_virtual else ():
        hiding = [entry for entry in entries if entry != packages and (machine.path(entry) / name).is_dir()]
        if hiding and (machine.path(packages) / name).is_dir():
            text = f"PYTHONPATH puts {name} of {hiding[0]} before that of the virtual environment"
            found.append(warning(text, f"remove {hiding[0]} from PYTHONPATH (look in ~/.bashrc)"))
    return found or [ok(f"{len(entries)} entries in PYTHONPATH, none of another Python")]


def check_numpy(machine: Machine, use: Use) -> list[Finding]:
    """Import what is compiled against NumPy."""
    numpy = machine.import_module("numpy")
    if numpy.error:
        return [fault(f"cannot be imported: {numpy.error}", "pip install 'numpy>=1.26'")]
    found: list[Finding] = []
    tried = []
    for module, package in EXTENSIONS.items():
        imported = machine.import_module(module)
        if not imported.is_installed:
            continue
        tried.append(package)
        if imported.error:
            found.append(_explain(module, package, imported, numpy.version))
    return found or [ok(f"{numpy.version}; it fits {', '.join(tried) or 'what is installed'}")]


def _explain(module: str, package: str, imported: Imported, numpy: str) -> Finding:
    if CLASH.search(imported.error):
        is_new = not numpy.startswith("1.")
        built, remedy = (
            ("1", "pip install 'numpy<2'")
            if is_new
            else ("2", f"pip install 'numpy>=2', or an older {package} that was built for NumPy 1")
        )
        return fault(f"NumPy {numpy} is installed, but {package} was built for NumPy {built}", remedy)
    library = LIBRARY.search(imported.error)
    if library:
        remedy = "apt install libgl1 libglib2.0-0, or pip install opencv-python-headless"
        return fault(
            f"{module} cannot be imported: {library[1]} is missing", remedy if module == "cv2" else "install it"
        )
    if "took longer" in imported.error:
        return unknown(imported.error)
    return fault(f"{module} cannot be imported: {_first(imported.error)}", f"reinstall {package}")


def _first(text: str) -> str:
    return " ".join(text.split())[:200]
