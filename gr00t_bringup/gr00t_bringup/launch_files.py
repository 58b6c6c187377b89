# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What each launch file declares and starts: the one description of `ros2 launch` and of `gr00t launch`.

The files in `launch/` hand these to launch (ros/launching.py); `runner.py` starts them where there is no launch. As
launch_settings.py, it imports nothing that a workspace installs with pip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gr00t_bringup.collecting import collect_settings
from gr00t_bringup.launch_settings import (
    BAG_SCOPES,
    BOOLEANS,
    LEVELS,
    NO_SETTINGS,
    TELEOP_MODES,
    Argument,
    NodeSettings,
    check_arguments,
    expanded,
    policy_settings,
    recorder_settings,
    replay_settings,
    rollout_settings,
    simulation_settings,
)
from gr00t_policy_node.onboard.robot_names import shipped_robots


@dataclass(frozen=True)
class SuiteNode:
    """One process of the suite."""

    package: str
    executable: str
    name: str  # of the node
    settings: NodeSettings = NO_SETTINGS
    options: tuple[str, ...] = ()  # of its command line
    ends_launch: bool = False  # all others end with it

    def with_parameters(self, **values: Any) -> SuiteNode:
        """Return the node with these parameters over its own."""
        return replace(self, settings=replace(self.settings, overrides={**self.settings.overrides, **values}))

    def without_parameters(self, *names: str) -> SuiteNode:
        """Return the node with these parameters as in its file."""
        kept = {name: value for name, value in self.settings.overrides.items() if name not in names}
        return replace(self, settings=replace(self.settings, overrides=kept))


@dataclass(frozen=True)
class LaunchFile:
    """Arguments, and the nodes that follow from them. No argument has a default: empty means as in the file."""

    purpose: str
    own_arguments: Mapping[str, Argument]
    make: Callable[[Mapping[str, str], str], list[SuiteNode]]  # values by name, namespace without a final slash

    @property
    def arguments(self) -> dict[str, Argument]:
        """Every argument by name."""
        return {**self.own_arguments, **COMMON_ARGUMENTS}

    def nodes(self, given: Mapping[str, str], namespace: str) -> list[SuiteNode]:
        """Return what is to be started.

        Args:
            given: arguments by name; absent or empty: as in the parameters file.
            namespace: full name, beginning with a slash.

        Raises:
            ConfigError: an argument is wrong or missing; names it.
        """
        values = {name: given.get(name, "") for name in self.arguments}
        check_arguments(values, self.arguments)
        return self.make({**values, "robot": expanded(values.get("robot", ""))}, namespace.rstrip("/"))


# the same in every launch file
COMMON_ARGUMENTS = {
    "params_file": Argument("Parameters of the nodes; empty: those of the robot."),
    "namespace": Argument("Namespace of the nodes."),
    "use_sim_time": Argument("Follow /clock; empty: as in params_file, else false.", BOOLEANS),
    "log_level": Argument("Log level of the nodes; empty: info.", LEVELS),
}
ROBOT = {
    "robot": Argument(
        "Robot that gives topic map, limits and parameters: a folder with topics.yaml, or one of "
        f"{', '.join(shipped_robots())}."
    )
}
POLICY = {
    "checkpoint_path": Argument("Checkpoint: folder or hub id; empty with robot:=sim_arm: its policy."),
    "server": Argument("Policy server, host:port, instead of a checkpoint."),
}
TOPICS = {"topics_file": Argument("Topic map.")}
LIMITS = {
    "limits_file": Argument("Joint limits."),
    "urdf_file": Argument("URDF with joint limits; instead of the robot's limits, or with limits_file."),
    "urdf_topic": Argument("Topic of that URDF, such as robot_description; instead of urdf_file."),
}
DEVICE = {"device": Argument("Where the model runs: auto, cpu, cuda, cuda:1.")}
AUTOSTART = {"autostart": Argument("Configure and activate at start; empty: as in params_file, else true.", BOOLEANS)}
RECORDING = {
    "dataset_path": Argument("Folder of the dataset; created or extended."),
    "task": Argument("Task text of the episodes; empty: from the task topic or the start request."),
    "bag": Argument("Raw messages kept with the dataset.", BAG_SCOPES),
    "joy_topic": Argument("Joystick topic; the parameters assign the buttons."),
}


def _policy(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    return [_policy_node(policy_settings(given, f"{prefix}/policy"))]


def _record(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    return [_recorder_node(recorder_settings(given, f"{prefix}/recorder"))]


def _collect(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    settings = collect_settings(given, prefix)
    nodes = [_recorder_node(settings.recorder)]
    if settings.policy is not None:
        nodes.insert(0, _policy_node(settings.policy))
    if settings.teleop is not None:
        nodes.append(SuiteNode("gr00t_policy_node", "teleop_node", "teleop", settings.teleop))
    if settings.console is not None:
        nodes.append(SuiteNode("gr00t_console", "gr00t_console", "console", options=settings.console))
    return nodes


def _replay(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    policy, options = replay_settings(given, f"{prefix}/policy")
    replay = SuiteNode("gr00t_policy_node", "gr00t_replay", "replay", options=options, ends_launch=True)
    return [_policy_node(policy), replay]


def _rollout(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    policy, recorder, options = rollout_settings(given, f"{prefix}/policy", f"{prefix}/recorder")
    nodes = [_policy_node(policy)]
    if recorder is not None:
        nodes.append(_recorder_node(recorder))
    return [*nodes, SuiteNode("gr00t_bringup", "gr00t_rollout", "rollout", options=options, ends_launch=True)]


def _sim(given: Mapping[str, str], prefix: str) -> list[SuiteNode]:
    simulation, expert = simulation_settings(given, f"{prefix}/sim", f"{prefix}/expert")
    nodes = [SuiteNode("gr00t_bringup", "sim_node", "sim", simulation)]
    if expert is not None:
        nodes.append(SuiteNode("gr00t_bringup", "expert_node", "expert", expert))
    return nodes


def _policy_node(settings: NodeSettings) -> SuiteNode:
    return SuiteNode("gr00t_policy_node", "policy_node", "policy", settings)


def _recorder_node(settings: NodeSettings) -> SuiteNode:
    return SuiteNode("gr00t_recorder", "recorder_node", "recorder", settings)


LAUNCH_FILES: Mapping[str, LaunchFile] = {
    "policy": LaunchFile(
        "Drive a robot with a policy.",
        {
            **ROBOT,
            **POLICY,
            **TOPICS,
            **LIMITS,
            "instruction": Argument("Task at start; empty: wait for one."),
            **DEVICE,
            "teleop": Argument("When a person may command: never, task, always (needs no policy).", TELEOP_MODES),
            "dry_run": Argument("Publish chunks and status, but no commands.", BOOLEANS),
            **AUTOSTART,
        },
        _policy,
    ),
    "record": LaunchFile(
        "Record demonstrations; operate the recorder with 'gr00t record' in another terminal, or with a joystick.",
        {**ROBOT, **RECORDING, **TOPICS, **AUTOSTART},
        _record,
    ),
    "collect": LaunchFile(
        "Collect demonstrations: a person moves the robot through policy_node, recorder_node records, a page operates.",
        {
            **ROBOT,
            **RECORDING,
            "topics_file": Argument(
                "Topic map of policy and recorder; empty: the robot's, topics_policy.yaml where it has one."
            ),
            "teleop": Argument(
                "When a person may command; never: your own software moves the robot, without policy_node. Empty: as "
                "in params_file, else always.",
                TELEOP_MODES,
            ),
            "teleop_file": Argument("Device of the person; empty: the robot's teleop.yaml, or the page alone."),
            "checkpoint_path": Argument("Checkpoint of a policy that the person corrects: folder or hub id."),
            "server": Argument("Policy server, host:port, instead of a checkpoint."),
            **DEVICE,
            **LIMITS,
            "console": Argument("Start the operator page; empty: where gr00t_console is installed.", BOOLEANS),
            "console_host": Argument("Address of the page; empty: this computer only."),
            "console_port": Argument("TCP port of the page; empty: 8600."),
            **AUTOSTART,
        },
        _collect,
    ),
    "replay": LaunchFile(
        "Replay an episode on the robot within its limits, or move it to a pose; ends when the robot is there.",
        {
            **ROBOT,
            "dataset_path": Argument("Dataset with the episode."),
            "episode": Argument("Index of the episode."),
            "speed": Argument("Share of the recorded speed, above 0 to 1; empty: 1."),
            "first_row_only": Argument("Only move to the first row of the episode; empty: false.", BOOLEANS),
            "pose": Argument("Pose of the limits to move to at the end, such as home; without an episode only that."),
            **TOPICS,
            **LIMITS,
        },
        _replay,
    ),
    "rollout": LaunchFile(
        "Try a policy on a robot that runs; a person judges by services of 'rollout', or by buttons of a joystick.",
        {
            **ROBOT,
            **POLICY,
            "topics_file": Argument(
                "Topic map of policy and recorder; empty: the robot's, with dataset_path topics_policy.yaml."
            ),
            **LIMITS,
            **DEVICE,
            "teleop": Argument("When a person may take over: never, task, always.", TELEOP_MODES),
            "instruction": Argument("Task of the trials."),
            "num_trials": Argument("Number of trials; empty: 10."),
            "round_s": Argument("Longest time of a trial in seconds; empty: 20."),
            "output": Argument("Folder of the table; trials in it are not repeated. Empty: out/rollout."),
            "dataset_path": Argument("Dataset that keeps each trial as an episode; empty: none is kept."),
            "joy_topic": Argument("Joystick of the person who judges."),
            "joy_begin": Argument("Button that begins a trial."),
            "joy_success": Argument("Button that says success."),
            "joy_failure": Argument("Button that says failure."),
        },
        _rollout,
    ),
    "sim": LaunchFile(
        "Start the simulated robot, and on request the scripted expert that demonstrates its task; with use_sim_time "
        "the robot drives /clock.",
        {"expert_episodes": Argument("Demonstrations of the scripted expert; 0 or empty: not started.")},
        _sim,
    ),
}


def launch_file(path: Path | str) -> LaunchFile:
    """Return the description of a file such as `launch/policy.launch.py`."""
    return LAUNCH_FILES[Path(path).name.partition(".")[0]]
