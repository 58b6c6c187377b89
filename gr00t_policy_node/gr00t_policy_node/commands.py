# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of this package."""

from gr00t_training.cli.entry import MODEL, ROS, Command, Job

bench_policy = Command(
    "gr00t_bench_policy",
    "bench-policy",
    "gr00t_policy_node.ros.shadow:main",
    Job.RUN,
    "Judge a policy on a bag, through its node; the same as 'gr00t evaluate --bag'.",
    needs=(*ROS, MODEL),
)
check = Command(
    "gr00t_check",
    "check",
    "gr00t_policy_node.onboard.check_cli:main",
    Job.COLLECT,
    "Explain what is wrong with a robot's files, and draw what a policy would see.",
)
init = Command(
    "gr00t_init",
    "init",
    "gr00t_policy_node.onboard.init_cli:main",
    Job.COLLECT,
    "Write topic map, embodiment and limits from a bag, a dataset or the running robot.",
)
policy_node = Command(
    "policy_node",
    "policy",
    "gr00t_policy_node.ros.policy_node:main",
    Job.RUN,
    "Drive a robot with a policy (node).",
    needs=(*ROS, MODEL),
    is_node=True,
)
replay = Command(
    "gr00t_replay",
    "replay",
    "gr00t_policy_node.ros.replay:main",
    Job.RUN,
    "Replay an episode on the robot, within the limits of the policy node.",
    needs=ROS,
)
teleop_node = Command(
    "teleop_node",
    "teleop",
    "gr00t_policy_node.ros.teleop_node:main",
    Job.RUN,
    "Take over from a policy by hand (node).",
    needs=ROS,
    is_node=True,
)

COMMANDS = (bench_policy, check, init, policy_node, replay, teleop_node)
