# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Try a policy on a robot that runs; a person judges by services of `rollout`, or by buttons of a joystick."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.launch_settings import TELEOP_MODES, Argument, NodeSettings, rollout_settings
from gr00t_bringup.robots import shipped_robots
from gr00t_bringup.ros.launching import describe, suite_node

ARGUMENTS = {
    "robot": Argument("Shipped robot that gives topic map, limits and parameters.", tuple(shipped_robots())),
    "checkpoint_path": Argument("Checkpoint: folder or hub id; empty with robot:=sim_arm: its policy."),
    "server": Argument("Policy server, host:port, instead of a checkpoint."),
    "topics_file": Argument(
        "Topic map of policy and recorder; empty: the robot's, with dataset_path topics_policy.yaml."
    ),
    "limits_file": Argument("Joint limits."),
    "urdf_file": Argument("URDF with joint limits; instead of the robot's limits, or with limits_file."),
    "urdf_topic": Argument("Topic of that URDF, such as robot_description; instead of urdf_file."),
    "device": Argument("Where the model runs: auto, cpu, cuda, cuda:1."),
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
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node, for a dataset recorder_node, and gr00t_rollout, which ends all."""
    return describe(__file__, ARGUMENTS, _start)


def _start(given: dict[str, str], namespace: str) -> list[Node]:
    prefix = namespace.rstrip("/")
    policy, recorder, options = rollout_settings(given, f"{prefix}/policy", f"{prefix}/recorder")
    nodes = [suite_node(given, "gr00t_policy_node", "policy_node", "policy", policy)]
    if recorder is not None:
        nodes.append(suite_node(given, "gr00t_recorder", "recorder_node", "recorder", recorder))
    none = NodeSettings(None, {})
    trials = suite_node(given, "gr00t_bringup", "gr00t_rollout", "rollout", none, options=options, ends_launch=True)
    return [*nodes, trials]
