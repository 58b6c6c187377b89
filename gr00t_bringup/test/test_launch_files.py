# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files hand to the nodes, as the nodes' ROS reads it."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from launch_stand_ins import LAUNCH_FOLDER, declared_arguments, include, launch, launch_modules
from rclpy.context import Context

from gr00t_bringup.launch_files import launch_file
from gr00t_bringup.parameters_file import read_parameters
from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.runner import node_command
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_recorder.ros.bag_topics import BagScope
from gr00t_recorder.ros.processes import next_domain
from gr00t_training.errors import ConfigError

# What is needed besides the argument under test, as it would be in a lab's own file.
BASE = {
    "collect.launch.py": {"topics_file": "own_topics.yaml", "limits_file": "own.yaml", "teleop": "always"},
    "policy.launch.py": {"topics_file": "own_topics.yaml", "limits_file": "own.yaml", "checkpoint_path": "own_policy"},
    "record.launch.py": {"topics_file": "own_topics.yaml", "dataset_path": "own_data"},
    "replay.launch.py": {"topics_file": "own_topics.yaml", "limits_file": "own.yaml"},
    "rollout.launch.py": {"topics_file": "own_topics.yaml", "limits_file": "own.yaml", "checkpoint_path": "own_policy"},
    "sim.launch.py": {},
}
# argument: the parameter's value in the file; the words of the command line, and the parameter's value then
TABLE: dict[str, dict[str, tuple[Any, str, Any]]] = {
    "policy.launch.py": {
        "checkpoint_path": ("file/checkpoint", "line/checkpoint", "line/checkpoint"),
        "server": ("file:5555", "line:5556", "line:5556"),
        "topics_file": ("file/topics.yaml", "line/topics.yaml", "line/topics.yaml"),
        "limits_file": ("file/limits.yaml", "line/limits.yaml", "line/limits.yaml"),
        "urdf_file": ("file/robot.urdf", "line/robot.urdf", "line/robot.urdf"),
        "urdf_topic": ("file/description", "line/description", "line/description"),
        "instruction": ("from the file", "on: the line, # 1", "on: the line, # 1"),
        "device": ("cpu", "cuda:1", "cuda:1"),
        "teleop": ("never", "task", "task"),
        "dry_run": (True, "false", False),
        "autostart": (False, "true", True),
        "use_sim_time": (True, "false", False),
    },
    "record.launch.py": {
        "dataset_path": ("file/data", "line/data", "line/data"),
        "task": ("from the file", "yes", "yes"),
        "bag": ("all", "off", "off"),
        "joy_topic": ("file/joy", "line/joy", "line/joy"),
        "topics_file": ("file/topics.yaml", "line/topics.yaml", "line/topics.yaml"),
        "autostart": (False, "True", True),
        "use_sim_time": (True, "False", False),
    },
    # their policy nodes take all arguments as that of policy.launch.py does
    "collect.launch.py": {
        "device": ("cpu", "cuda:1", "cuda:1"),
        "autostart": (False, "true", True),
        "use_sim_time": (True, "false", False),
    },
    "replay.launch.py": {"use_sim_time": (True, "false", False)},
    "rollout.launch.py": {"device": ("cpu", "cuda:1", "cuda:1"), "use_sim_time": (True, "false", False)},
    "sim.launch.py": {"use_sim_time": (True, "false", False)},
}
TRIALS = {"instruction", "num_trials", "round_s", "output", "joy_topic", "joy_begin", "joy_success", "joy_failure"}
POLICY = {"checkpoint_path", "server", "topics_file", "limits_file", "urdf_file", "urdf_topic", "teleop"}
# what else a file needs on the command line
NEEDED = {
    "collect.launch.py": ["dataset_path:=data"],
    "replay.launch.py": ["pose:=home"],
    "rollout.launch.py": ["instruction:=fold the towel"],
}
# arguments that are not parameters; each has its own tests below
COMMON = {"robot", "params_file", "namespace", "log_level"}
COLLECT = {"dataset_path", "task", "bag", "joy_topic", "teleop_file", "console", "console_host", "console_port"}
OTHERS = {
    "collect.launch.py": {*COMMON, *COLLECT, *POLICY},
    "replay.launch.py": {
        *COMMON,
        *("dataset_path", "episode", "speed", "first_row_only", "pose"),
        *("topics_file", "limits_file", "urdf_file", "urdf_topic"),
    },
    "policy.launch.py": COMMON,
    "record.launch.py": COMMON,
    "rollout.launch.py": {*COMMON, "dataset_path", *TRIALS, *POLICY},
    "sim.launch.py": {"expert_episodes", "params_file", "namespace", "log_level"},
}
EXCLUDES = {"server": "checkpoint_path"}
ROWS = [(file, argument) for file, table in TABLE.items() for argument in table]
NODES = {
    "collect.launch.py": "policy",
    "replay.launch.py": "policy",
    "policy.launch.py": "policy",
    "record.launch.py": "recorder",
    "rollout.launch.py": "policy",
    "sim.launch.py": "sim",
}


def received(command: list[str]) -> dict[str, Any]:
    """Return the parameters that a node started by `command` is given, by the middleware's own reading."""
    context = Context()
    rclpy.init(args=command[1:], context=context, domain_id=next_domain())
    try:
        node = rclpy.create_node(
            "any", context=context, automatically_declare_parameters_from_overrides=True, enable_rosout=False
        )
        names = node.list_parameters([], 1).names
        values = {name: node.get_parameter(name).value for name in names}
        node.destroy_node()
    finally:
        context.try_shutdown()
    return values


def parameters_file(folder: Path, sections: dict[str, dict[str, Any]]) -> str:
    path = folder / "parameters.yaml"
    path.write_text(
        yaml.safe_dump({name: {"ros__parameters": each} for name, each in sections.items()}, sort_keys=False)
    )
    return f"params_file:={path}"


def parameters_of(file: str, *words: str) -> dict[str, Any]:
    return received(launch(file, *NEEDED.get(file, []), *words)[0].command())


@pytest.mark.parametrize("file", sorted(TABLE))
def test_every_argument_of_every_launch_file_is_in_the_table(file: str) -> None:
    assert sorted(path.name for path in LAUNCH_FOLDER.iterdir()) == sorted(TABLE)
    declared = declared_arguments(file)
    assert set(declared) == set(TABLE[file]) | OTHERS[file]
    assert all(argument.description.endswith(".") for argument in declared.values())


@pytest.mark.parametrize("section", ["/**", "node", "nested"])
@pytest.mark.parametrize(("file", "argument"), ROWS)
def test_command_line_wins_over_the_file_and_absence_over_nothing(
    file: str, argument: str, section: str, tmp_path: Path
) -> None:
    in_file, word, on_line = TABLE[file][argument]
    base = {name: value for name, value in BASE[file].items() if name not in (argument, EXCLUDES.get(argument))}
    name = {"/**": "/**", "node": f"/{NODES[file]}", "nested": f"/**/{NODES[file]}"}[section]

    def result(file_values: dict[str, Any], *words: str) -> dict[str, Any]:
        return parameters_of(file, parameters_file(tmp_path, {name: {**base, "seed": 3, **file_values}}), *words)

    file_alone = result({argument: in_file})
    assert file_alone[argument] == in_file
    line_alone = result({}, f"{argument}:={word}")
    assert line_alone[argument] == on_line
    both = result({argument: in_file}, f"{argument}:={word}")
    assert both[argument] == on_line
    for values in (file_alone, line_alone, both):
        assert {key: value for key, value in values.items() if key in base} == base
        assert values["seed"] == 3


@pytest.mark.parametrize("file", sorted(set(TABLE) - {"replay.launch.py"}))  # which needs no policy, whatever is given
def test_nothing_but_what_was_given_goes_over_a_file(file: str, tmp_path: Path) -> None:
    complete = {**BASE[file], "autostart": False}
    node, *_ = launch(file, parameters_file(tmp_path, {"/**": complete}), *NEEDED.get(file, []))
    assert node.parameters == [str(tmp_path / "parameters.yaml")]
    words = [f"{name}:={value}" for name, value in BASE[file].items()]
    if file != "sim.launch.py":  # which has a separate file
        node, *_ = launch(file, *words, *NEEDED.get(file, []))
        assert node.parameters == [{**BASE[file], "autostart": True}]


@pytest.mark.parametrize(
    ("file_value", "word", "expected"), [("server", "checkpoint_path", ""), ("checkpoint_path", "server", "")]
)
def test_an_argument_replaces_its_alternative_in_the_file(
    file_value: str, word: str, expected: str, tmp_path: Path
) -> None:
    base = {"topics_file": "t.yaml", "limits_file": "l.yaml", file_value: "host:1", "urdf_file": "robot.urdf"}
    file = parameters_file(tmp_path, {"/**": base})
    values = parameters_of("policy.launch.py", file, f"{word}:=host:2", "urdf_topic:=robot_description")
    assert (values[word], values[file_value]) == ("host:2", expected)
    assert (values["urdf_topic"], values["urdf_file"]) == ("robot_description", "")


def test_named_robot_gives_what_is_not_given_otherwise(tmp_path: Path) -> None:
    values = parameters_of("policy.launch.py", "robot:=sim_arm")
    assert values["topics_file"] == str(robot_file("sim_arm", "topics.yaml"))
    assert values["limits_file"] == str(robot_file("sim_arm", "limits.yaml"))
    assert values["checkpoint_path"] == str(compact_checkpoint())
    assert (values["inference_period_s"], values["autostart"]) == (0.4, True)
    values = parameters_of("policy.launch.py", "robot:=so101", "checkpoint_path:=own", "urdf_topic:=robot_description")
    assert values["topics_file"] == str(robot_file("so101", "topics.yaml"))
    # the shipped limits may be wider than those of the robot's own URDF
    assert "limits_file" not in values
    file = parameters_file(
        tmp_path, {"policy": {"server": "gpu:5555", "topics_file": "own.yaml", "control_rate_hz": 20.0}}
    )
    values = parameters_of("policy.launch.py", "robot:=sim_arm", file)
    assert "checkpoint_path" not in values
    assert (values["server"], values["topics_file"], values["control_rate_hz"]) == ("gpu:5555", "own.yaml", 20.0)
    assert values["limits_file"] == str(robot_file("sim_arm", "limits.yaml"))
    values = parameters_of("record.launch.py", "robot:=gr1_arms_only", "dataset_path:=~/data")
    assert values["topics_file"] == str(robot_file("gr1_arms_only", "topics.yaml"))
    assert values["dataset_path"] == str(Path.home() / "data")


def test_robot_without_parameter_files_has_the_defaults_of_the_nodes() -> None:
    values = parameters_of("policy.launch.py", "robot:=fr3", "server:=gpu:5555")
    files = {f"{name}_file": str(robot_file("fr3", f"{name}.yaml")) for name in ("topics", "limits")}
    assert {**files, "server": "gpu:5555", "autostart": True}.items() <= values.items()
    assert "control_rate_hz" not in values


def test_persons_alone_need_no_policy() -> None:
    values = parameters_of("policy.launch.py", "robot:=so101", "teleop:=always")
    assert values["teleop"] == "always" and not {"checkpoint_path", "server"} & set(values)


MISSING = [
    ("policy.launch.py", [], "missing: topics_file; limits_file, urdf_file or urdf_topic; checkpoint_path or server; "),
    (
        "policy.launch.py",
        ["topics_file:=own.yaml"],
        "missing: limits_file, urdf_file or urdf_topic; checkpoint_path or s",
    ),
    ("policy.launch.py", ["topics_file:=own.yaml", "urdf_topic:=d"], "missing: checkpoint_path or server; give each"),
    (
        "policy.launch.py",
        ["robot:=so101"],
        "missing: checkpoint_path or server; give each as an argument or in params_f",
    ),
    ("policy.launch.py", ["robot:=gr1_arms_only"], "missing: checkpoint_path or server; "),
    ("record.launch.py", [], "missing: dataset_path; topics_file; "),
    ("record.launch.py", ["robot:=sim_arm"], "missing: dataset_path; "),
    ("collect.launch.py", ["robot:=so101"], "missing: dataset_path; "),
    ("collect.launch.py", ["robot:=so101", "dataset_path:=d", "teleop:=task"], "missing: checkpoint_path or server; "),
    ("rollout.launch.py", ["instruction:=wave"], "missing: topics_file; limits_file, urdf_file or urdf_topic; check"),
]


@pytest.mark.parametrize(("file", "words", "message"), MISSING)
def test_what_comes_from_nowhere_is_named(file: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        launch(file, *words)
    text = str(refusal.value)
    assert text.startswith(f"{file}: {message}")
    assert "\n" not in text
    robots = f"or name a shipped robot with robot:= ({', '.join(shipped_robots())})"
    assert text.endswith(robots) == (not any(word.startswith("robot") for word in words))


COMPLETE = ["robot:=sim_arm"]


@pytest.mark.parametrize("word", ["on", "1", "yes", "TRUE", "sure", "off"])
@pytest.mark.parametrize("argument", ["dry_run", "autostart", "use_sim_time"])
def test_unknown_words_are_no_booleans(argument: str, word: str) -> None:
    with pytest.raises((RuntimeError, ConfigError), match=rf"(?s){argument}.*'?{word}"):
        launch("policy.launch.py", *COMPLETE, f"{argument}:={word}")


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("policy.launch.py", ["robot:=pr2"], r"robot.*pr2.*so101"),
        ("policy.launch.py", ["teleop:=sometimes"], r"teleop.*sometimes.*always"),
        ("record.launch.py", ["bag:=some"], r"bag.*some.*configured"),
        ("policy.launch.py", ["log_level:=loud"], r"log_level.*loud.*debug"),
        ("rollout.launch.py", ["robot:=sim_arm"], r"launch.py: missing: instruction; give the task of the trials"),
        ("replay.launch.py", ["robot:=sim_arm"], r"missing: dataset_path and episode, or pose; say where the robot"),
        ("replay.launch.py", ["robot:=sim_arm", "episode:=3"], r"missing: dataset_path; an episode is named by"),
        ("collect.launch.py", ["teleop:=never", "server:=a:1"], r"'server' needs policy_node, which teleop:=n"),
        ("sim.launch.py", ["expert_episodes:=-1"], r"expert_episodes': '-1' is not a whole number"),
        ("sim.launch.py", ["expert_episodes:=2.5"], r"expert_episodes': '2.5' is not a whole number"),
        ("policy.launch.py", ["server:=a:1", "checkpoint_path:=b"], r"'checkpoint_path' and 'server' are both given"),
        ("policy.launch.py", ["urdf_file:=a", "urdf_topic:=b"], r"'urdf_file' and 'urdf_topic' are both given"),
        ("policy.launch.py", ["params_file:=/no/such.yaml"], r"/no/such.yaml: cannot be read"),
        ("record.launch.py", ["params_file:=/no/such.yaml"], r"/no/such.yaml: cannot be read"),
        ("sim.launch.py", ["params_file:=/no/such.yaml"], r"/no/such.yaml: cannot be read"),
        ("policy.launch.py", ["params_file:=/dev/null"], r"/dev/null: is a character device"),
        ("policy.launch.py", [f"params_file:={LAUNCH_FOLDER}"], r"is a folder, expected a regular file"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(file: str, words: list[str], message: str) -> None:
    with pytest.raises((RuntimeError, ConfigError), match=message):
        launch(file, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recorder: {ros__parameters: {dry_run: true}}", r"no section is for node '/policy' \(found recorder\)"),
        ("/lab/policy: {ros__parameters: {dry_run: true}}", r"no section is for node '/policy' \(found /lab/policy\)"),
        ("/*/policy: {ros__parameters: {dry_run: true}}", r"no section is for node '/policy'"),
        ("dry_run: true", r"has no 'ros__parameters'"),
        ("policy: {dry_run: true}", r"has no 'ros__parameters'"),
        ("policy: {ros__parameters: true}", r"'ros__parameters' of 'policy' is not a mapping"),
        ("[1, 2]", r"is not a parameters file"),
        ("", r"is not a parameters file"),
        ("policy: {", r":1: not valid YAML"),
        ("a: &x 1\nb: *y", r":2: alias"),
        ("a: " + "[" * 5000, r":1: nested deeper"),
        ("policy: {ros__parameters: {dry_run: true, dry_run: false}}", r":1: duplicate key 'dry_run'"),
        ("a: \x00", r"not valid YAML"),
        (
            "/policy: {ros__parameters: {dry_run: true}}\n/**: {ros__parameters: {dry_run: true}}",
            r"section '/\*\*' after section '/policy' sets 'dry_run', so the launch argument could not override it",
        ),
    ],
)  # fmt: skip
def test_a_file_whose_settings_would_not_reach_the_node_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        launch("policy.launch.py", *COMPLETE, f"params_file:={path}", "dry_run:=false")


def test_damaged_parameters_files_are_one_error_or_are_read(tmp_path: Path) -> None:
    text = (
        "/**:\n  ros__parameters: {dry_run: true, task: 'a b'}\n/lab:\n  policy:\n    ros__parameters:\n      seed: 5\n"
    )
    rng = random.Random(3)
    pieces = [
        "ros__parameters",
        "/**",
        "policy",
        ":",
        "{",
        "}",
        "[",
        "]",
        "&a",
        "*a",
        "\t",
        "\n",
        "  ",
        "'",
        "!!int",
        "---",
    ]
    errors: list[str] = []
    for _ in range(1000):
        damaged = text
        for _ in range(rng.randint(1, 4)):
            at, width = rng.randrange(len(damaged)), rng.randint(0, 6)
            damaged = damaged[:at] + rng.choice([*pieces, chr(rng.randint(0, 0x2FFF))]) + damaged[at + width :]
        path = tmp_path / "damaged.yaml"
        path.write_text(damaged)
        try:
            read_parameters(path, "/policy")
        except ConfigError as error:
            errors.append(str(error))
    assert 100 < len(errors) < 1000
    assert all(str(path) in error and "\n" not in error for error in errors)


def test_misspelled_argument_is_refused_where_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*COMPLETE, "dryrun:=true"]
    launch("policy.launch.py", *words)  # included by another launch file, the words are not ours to judge
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "lab_bringup", "policy.launch.py", *words])
    launch("policy.launch.py", *words)
    for place in (["gr00t_bringup", "policy.launch.py"], [os.path.relpath(LAUNCH_FOLDER / "policy.launch.py")]):
        monkeypatch.setattr(sys, "argv", ["ros2", "launch", *place, *words])
        with pytest.raises(ConfigError, match="unknown launch argument 'dryrun'; did you mean 'dry_run'"):
            launch("policy.launch.py", *words)
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "gr00t_bringup", "policy.launch.py", *COMPLETE, "speed:=2"])
    with pytest.raises(ConfigError, match="unknown launch argument 'speed'; expected one of robot, checkpoint_path"):
        launch("policy.launch.py", *COMPLETE, "speed:=2")


def test_namespaces_find_their_section(tmp_path: Path) -> None:
    base = {"topics_file": "t.yaml", "limits_file": "l.yaml", "checkpoint_path": "c"}
    file = parameters_file(tmp_path, {"/**": base, "/lab/left/policy": {"dry_run": True}, "/lab/policy": {"seed": 5}})
    (node,) = launch("policy.launch.py", file, "namespace:=left", outer_namespace="/lab")
    assert node.full_name == "/lab/left/policy"
    values = received(node.command())
    assert (values["dry_run"], values.get("seed")) == (True, None)
    values = parameters_of("policy.launch.py", file, "namespace:=/lab/left", "dry_run:=false")
    assert values["dry_run"] is False


def test_launch_files_need_nothing_that_a_workspace_gets_from_pip() -> None:
    code = (
        "import sys; from launch_stand_ins import declared_arguments\n"
        f"for file in {sorted(TABLE)}: declared_arguments(file)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    pip_only = {"av", "lz4", "mcap", "mujoco", "pyarrow", "rosbags", "torch", "zmq", "zstandard", "tokenizers", "numpy"}
    assert pip_only.isdisjoint(loaded.stdout.split())
    assert "gr00t_bringup" in loaded.stdout.split()


def test_bag_scopes_are_those_of_the_recorder() -> None:
    assert declared_arguments("record.launch.py")["bag"].choices == ["", *(scope.value for scope in BagScope)]


def test_log_level_is_passed_only_when_given() -> None:
    assert "--log-level" not in launch("policy.launch.py", *COMPLETE)[0].command()
    command = launch("policy.launch.py", *COMPLETE, "log_level:=debug")[0].command()
    assert command[command.index("--log-level") + 1] == "debug"


def test_simulation_and_expert_share_a_clock(tmp_path: Path) -> None:
    (node,) = launch("sim.launch.py", "expert_episodes:=0")
    assert received(node.command())["seed"] == 8
    sim, expert = launch("sim.launch.py", "expert_episodes:=3", "use_sim_time:=true")
    assert received(sim.command())["clock"] == "sim"
    assert {"episodes": 3, "use_sim_time": True}.items() <= received(expert.command()).items()
    file = parameters_file(tmp_path, {"sim": {"clock": "sim", "seed": 2}})
    sim, expert = launch("sim.launch.py", "expert_episodes:=3", file)
    assert {"clock": "sim", "seed": 2}.items() <= received(sim.command()).items()
    assert received(expert.command())["use_sim_time"] is True
    sim, expert = launch("sim.launch.py", "expert_episodes:=3", file, "use_sim_time:=false")
    assert received(sim.command())["clock"] == "wall"
    assert received(expert.command())["use_sim_time"] is False
    file = parameters_file(tmp_path, {"/**": {"seed": 2}, "expert": {"pause_s": 0.5, "seed": 7, "episodes": 9}})
    sim, expert = launch("sim.launch.py", "expert_episodes:=3", file)
    assert received(sim.command())["seed"] == 2
    assert {"pause_s": 0.5, "seed": 7, "episodes": 3}.items() <= received(expert.command()).items()


def test_trials_end_the_launch_and_are_recorded_where_asked(tmp_path: Path) -> None:
    policy, trials = launch("rollout.launch.py", "robot:=so101", "checkpoint_path:=run/c1", "instruction:=-fold it")
    assert policy.parameters[-1]["topics_file"] == str(robot_file("so101", "topics.yaml"))
    assert "instruction" not in policy.parameters[-1]  # trials give it
    assert trials.command()[:4] == ["gr00t_rollout", "--judge=person", "--checkpoint=run/c1", "--instruction=-fold it"]
    assert (policy.ends_launch, trials.ends_launch) == (False, True)
    words = [
        "robot:=so101",
        "server:=gpu:5555",
        "instruction:=fold",
        "num_trials:=20",
        "joy_topic:=joy",
        "joy_success:=1",
    ]
    file = parameters_file(tmp_path, {"policy": {"seed": 3}, "recorder": {"min_free_disk_gb": 9.0}})
    policy, recorder, trials = launch("rollout.launch.py", *words, f"dataset_path:={tmp_path}", file)
    attempts = str(robot_file("so101", "topics_policy.yaml"))
    assert received(policy.command())["topics_file"] == attempts
    assert {"topics_file": attempts, "dataset_path": str(tmp_path), "min_free_disk_gb": 9.0}.items() <= received(
        recorder.command()
    ).items()
    assert "joy_topic" not in received(recorder.command())  # the buttons are those of the trials
    given = {
        "--checkpoint=gpu:5555",
        "--num-trials=20",
        "--joy-topic=joy",
        "--joy-success=1",
        f"--record-to={tmp_path}",
    }
    assert given <= set(trials.command())
    with pytest.raises(ConfigError, match=r"robot 'gr1_arms_only' has no file topics_policy\.yaml"):
        launch("rollout.launch.py", "robot:=gr1_arms_only", "server:=a:1", "instruction:=fold", "dataset_path:=data")


def commands_of(*words: str) -> dict[str, list[str]]:
    return {node.full_name: node.command() for node in launch("collect.launch.py", "console:=false", *words)}


def test_collecting_records_what_policy_node_commands_for_the_device(tmp_path: Path) -> None:
    words = ["robot:=so101", "dataset_path:=data", "task:=fold it", "namespace:=left"]
    commands = commands_of(*words)
    assert list(commands) == ["/left/policy", "/left/recorder", "/left/teleop"]
    policy, recorder, teleop = (received(command) for command in commands.values())
    attempts = str(robot_file("so101", "topics_policy.yaml"))
    assert {"topics_file": attempts, "teleop": "always", "autostart": True}.items() <= policy.items()
    assert {"topics_file": attempts, "dataset_path": "data", "task": "fold it"}.items() <= recorder.items()
    assert teleop["teleop_file"] == str(robot_file("so101", "teleop.yaml"))
    sections = {"policy": {"use_sim_time": True, "seed": 3}, "teleop": {"teleop_file": "own.yaml"}}
    policy, recorder, teleop = (
        received(command) for command in commands_of(*words[:2], parameters_file(tmp_path, sections)).values()
    )
    assert (policy["seed"], policy["use_sim_time"], recorder["use_sim_time"]) == (3, True, True)
    assert (teleop["teleop_file"], teleop["use_sim_time"]) == ("own.yaml", True)
    assert list(commands_of("robot:=xarm7", "dataset_path:=data")) == ["/policy", "/recorder"]  # the page is the device


def test_collecting_with_other_software_at_the_robot_starts_no_policy_node(tmp_path: Path) -> None:
    words = ["robot:=so101", "dataset_path:=data", "teleop:=never"]
    (recorder,) = commands_of(*words, parameters_file(tmp_path, {"recorder": {"min_free_disk_gb": 9.0}})).values()
    topics = str(robot_file("so101", "topics.yaml"))  # the action is the leader's
    assert {"topics_file": topics, "min_free_disk_gb": 9.0}.items() <= received(recorder).items()
    with pytest.raises(ConfigError, match=r"node '/policy', '/recorder', '/teleop' \(found reorder\)"):
        commands_of(*words, parameters_file(tmp_path, {"reorder": {"seed": 1}}))


def test_page_is_started_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["robot:=so101", "dataset_path:=data", "namespace:=left", "console_port:=8601"]
    *_, page = launch("collect.launch.py", *words)
    assert page.command()[:2] == ["gr00t_console", "--port=8601"]
    assert page.namespace == "/left"
    monkeypatch.setattr("gr00t_bringup.collecting.CONSOLE", "no_such_console")
    assert len(launch("collect.launch.py", *words)) == 3
    with pytest.raises(ConfigError, match="'console': no_such_console is not installed; build it, or give console:=fa"):
        launch("collect.launch.py", *words, "console:=true")


def test_replay_ends_the_launch_and_needs_no_policy() -> None:
    words = ["robot:=sim_arm", "dataset_path:=data", "episode:=3", "speed:=0.5", "pose:=home"]
    policy, replay = launch("replay.launch.py", *words)
    values = received(policy.command())
    assert values["teleop"] == "always" and "checkpoint_path" not in values
    assert replay.command()[:6] == ["gr00t_replay", "--wait-ready=120", "--speed=0.5", "--pose=home", "data", "3"]
    assert (policy.ends_launch, replay.ends_launch) == (False, True)


def test_what_a_file_declares_does_not_reach_the_files_after_it() -> None:
    with launch_modules():
        context = sys.modules["launch"].LaunchContext()
        context.launch_configurations |= {"robot": "so101", "teleop": "always", "autostart": "false"}
        (policy,) = include(context, "policy.launch.py")
    assert policy.parameters[-1]["autostart"] is False  # of the launch file around it
    assert context.launch_configurations == {"robot": "so101", "teleop": "always", "autostart": "false"}


@pytest.mark.parametrize("file", sorted(TABLE))
def test_the_runner_starts_what_launch_starts(file: str, tmp_path: Path) -> None:
    words = {name: str(value) for name, value in BASE[file].items()} | {"namespace": "left", "log_level": "warn"}
    words |= dict(word.split(":=") for word in NEEDED.get(file, []))
    launched = launch(file, *(f"{name}:={value}" for name, value in words.items()))
    nodes = launch_file(file).nodes(words, "/left")
    assert len(launched) == len(nodes)
    for theirs, ours in zip(launched, nodes, strict=True):
        command = node_command(ours, tmp_path, namespace="/left", log_level="warn")
        assert command[0] == theirs.command()[0]
        assert {word for word in theirs.command() if not word.endswith(".yaml")} == {
            word for word in command if not word.endswith(".yaml")
        }
        assert received(command) == received(theirs.command())


def test_own_fast_dds_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/lab/profiles.xml")
    (node,) = launch("policy.launch.py", *COMPLETE)
    environment = {**os.environ, **node.additional_env}
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/lab/profiles.xml"
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    (node,) = launch("policy.launch.py", *COMPLETE)
    assert Path(node.additional_env["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def test_nodes_hear_of_the_end_soon_and_are_given_time() -> None:
    (node,) = launch("policy.launch.py", *COMPLETE)
    soon_s, late_s = node.timeouts_s
    assert soon_s <= 5  # SIGINT to launch alone reaches no node
    assert late_s >= 60
    assert node.additional_env["GR00T_PARENT_PID"] == str(os.getpid())
