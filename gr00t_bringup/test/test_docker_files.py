# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles and their scripts: the scripts are run here, the rest is compared with the files that it names.

No image is built: that needs a container engine and a network.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ROOT = DOCKER.parent
if not DOCKER.exists():
    pytest.skip("this package is tested alone", allow_module_level=True)

SCRIPTS = sorted(DOCKER.glob("*.sh"))
FILES = sorted(DOCKER.glob("Dockerfile.*"))
EXECUTABLES = Path(sys.executable).parent
every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{EXECUTABLES}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name}: pip install -r requirements-dev.txt")
    return found


def run(script: str, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [DOCKER / script, *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, with continued lines joined and without comments."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def of(file: Path, name: str) -> list[str]:
    return [text for instruction, text in instructions(file) if instruction == name]


def test_scripts_have_no_known_mistake() -> None:
    done = subprocess.run([tool("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@every_file
def test_dockerfile_has_no_known_mistake(file: Path) -> None:
    done = subprocess.run([tool("hadolint"), "--failure-threshold", "info", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@every_file
def test_what_is_copied_and_run_exists(file: Path) -> None:
    copied = set()
    for text in of(file, "COPY"):
        *sources, target = text.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            copied.add(f"{target.rstrip('/')}/{Path(source).name}")
            assert not source.endswith(".sh") or os.access(ROOT / source, os.X_OK), source
    used = set(re.findall(r"/opt/scripts/\w+\.sh", " ".join(of(file, "RUN") + of(file, "ENTRYPOINT"))))
    assert used <= copied
    assert {word for word in copied if word.endswith(".sh")} == used


@every_file
def test_image_is_named_and_runs_as_a_user(file: Path) -> None:
    (base,) = [text.partition("=")[2] for text in of(file, "ARG") if text.startswith("BASE=")]
    assert re.fullmatch(r"[\w./-]+(:[\w.${}-]+|@sha256:[0-9a-f]{64})", base)
    assert not base.endswith(":latest")
    names = [name for name, _ in instructions(file)]
    assert of(file, "USER") == ["1000"]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_all_packages_are_in_the_robots_images() -> None:
    packages = {path.parent.name for path in ROOT.glob("gr00t_*/package.xml")} - {"gr00t_test_support"}
    for name in ("Dockerfile.robot", "Dockerfile.jetson"):
        copied = {text.split()[0] for text in of(DOCKER / name, "COPY") if text.startswith("gr00t_")}
        assert copied == packages
        environment = " ".join(of(DOCKER / name, "ENV"))
        for path in re.findall(r"/workspace/src/(\S+\.xml)", environment):
            assert (ROOT / path).is_file()


def test_requirements_of_the_images() -> None:
    train = run("requirements.sh", "train", ROOT / "requirements-run.txt").stdout
    names = re.findall(r"^([\w-]+)[=\[]", train, re.MULTILINE)
    assert "torch" in names
    assert not [name for name in names if name.startswith("ros-") or name == "mujoco"]
    jetson = run("requirements.sh", "jetson", ROOT / "requirements-workspace.txt", "2.8.0").stdout
    given = (ROOT / "requirements-workspace.txt").read_text(encoding="utf-8")
    assert [line for line in jetson.splitlines() if line not in given.splitlines()] == ["torch==2.8.0"]
    assert len(jetson.splitlines()) == len(given.splitlines())
    done = run("requirements.sh", "toaster", "x")
    assert (done.returncode, done.stderr) == (2, "requirements.sh: image is 'toaster', expected train or jetson\n")


@pytest.mark.slow
def test_environment_takes_libraries_next_to_the_systems(tmp_path: Path) -> None:
    """A wheel that is made here is installed without a network."""
    wheel = tmp_path / "for_docker_test-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("for_docker_test.py", "value = 7\n")
        info = "for_docker_test-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: for_docker_test\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    (tmp_path / "requirements.txt").write_text("for_docker_test==1.0\n")
    words = (tmp_path / "gr00t", tmp_path / "requirements.txt", "--no-index", "--find-links", tmp_path)
    done = run("make_environment.sh", *words)
    assert done.returncode == 0, done.stderr
    code = "import for_docker_test; print(for_docker_test.value)"
    python = tmp_path / "gr00t/bin/python"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "7\n"
    assert "include-system-site-packages = true" in (tmp_path / "gr00t/pyvenv.cfg").read_text()


@pytest.mark.slow
def test_workspace_is_built_and_the_entry_point_finds_it(tmp_path: Path) -> None:
    tool("colcon")
    source = tmp_path / "src" / "gr00t_training"
    shutil.copytree(ROOT / "gr00t_training", source, ignore=shutil.ignore_patterns("test", "__pycache__", "*.egg-info"))
    setup = tmp_path / "setup.bash"
    setup.write_text(f'export AMENT_PREFIX_PATH="{sys.prefix}"\n')
    variables = {
        "ROS_SETUP": str(setup),
        "PATH": f"{EXECUTABLES}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": "",
        "COLCON_HOME": str(tmp_path / "colcon"),
    }
    words = ["--packages-up-to", "gr00t_training"]
    built = subprocess.run(
        [DOCKER / "build_workspace.sh", *words],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "install/gr00t_training/lib/gr00t_training/gr00t_doctor").exists()
    libraries = tmp_path / "gr00t/lib/python3.10/site-packages"
    libraries.mkdir(parents=True)
    code = "import sys, gr00t_training; print(sys.argv[1:], gr00t_training.__file__, sys.path[1])"
    command = ["python3", "-c", code, "robot:=so101", "instruction:="]
    places = {"WORKSPACE": str(tmp_path), "ENVIRONMENT": str(tmp_path / "gr00t")}
    done = run("entrypoint.sh", *command, **variables, **places)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"['robot:=so101'] {tmp_path}/install/")
    assert done.stdout.strip().endswith(str(libraries))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="root, and useradd")
@pytest.mark.parametrize("taken", ["", "ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n"], ids=["free", "taken"])
def test_user_of_the_images(tmp_path: Path, taken: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"root:x:0:0:root:/root:/bin/bash\n{taken}")
    (tmp_path / "etc/group").write_text("root:x:0:\n" + ("ubuntu:x:1000:\n" if taken else ""))
    (tmp_path / "etc/login.defs").write_text("USERGROUPS_ENAB yes\n")
    done = run("make_user.sh", "gr00t", 1000, tmp_path)
    assert done.returncode == 0, done.stderr
    users = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    assert [(user[0], user[5], user[6]) for user in users if user[2] == "1000"] == [
        ("gr00t", "/home/gr00t", "/bin/bash")
    ]
    assert (tmp_path / "home/gr00t").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.skipif(shutil.which("dpkg") is None or shutil.which("curl") is None, reason="dpkg and curl")
def test_repository_of_ros(tmp_path: Path) -> None:
    key = tmp_path / "ros.key"
    key.write_text("a key")
    done = run("add_ros_repository.sh", "jammy", tmp_path, key.as_uri())
    assert done.returncode == 0, done.stderr
    (source,) = (tmp_path / "etc/apt/sources.list.d/ros2.list").read_text().splitlines()
    assert re.fullmatch(r"deb \[arch=\w+ signed-by=(\S+)\] http://packages.ros.org/ros2/ubuntu jammy main", source)
    keyring = re.search(r"signed-by=/(\S+)\]", source)
    assert keyring
    assert (tmp_path / keyring[1]).read_text() == "a key"
    assert run("add_ros_repository.sh", "jammy", tmp_path, (tmp_path / "absent").as_uri()).returncode != 0


def test_training_starts_without_arguments() -> None:
    """The default command takes the folders that compose mounts, and its options exist."""
    (command,) = of(DOCKER / "Dockerfile.train", "CMD")
    name, *words = json.loads(command)
    assert name == "gr00t_finetune"
    pytest.importorskip("torch")
    code = "import sys; from gr00t_training.cli.finetune import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2  # nothing is mounted here
    assert re.search(r"error: .*/(datasets/demo|base_model)", done.stderr), done.stderr
