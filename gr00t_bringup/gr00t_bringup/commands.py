# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of this package."""

from gr00t_training.cli.entry import MODEL, ROS, TRAIN, Command, Job, Need

SIM = Need("mujoco", "pip install 'mujoco>=3.2'")
demo = Command(
    "gr00t_demo",
    "demo",
    "gr00t_bringup.demo:main",
    Job.RUN,
    "Run the shipped policy on the simulated robot.",
    needs=(*ROS, MODEL, SIM),
)
demo_driver = Command(
    "demo_driver",
    "",
    "gr00t_bringup.ros.demo_driver:main",
    Job.RUN,
    "Give tasks to the policy of gr00t_demo.",
    needs=ROS,
)
expert_node = Command(
    "expert_node",
    "expert",
    "gr00t_bringup.ros.expert_node:main",
    Job.COLLECT,
    "Demonstrate tasks on the simulated robot (node).",
    needs=ROS,
    is_node=True,
)
fake_robot_node = Command(
    "fake_robot_node",
    "fake",
    "gr00t_bringup.ros.fake_robot_node:main",
    Job.RUN,
    "Play the driver of a robot without hardware (node).",
    needs=ROS,
    is_node=True,
)
launch = Command(
    "gr00t_launch",
    "launch",
    "gr00t_bringup.launch_cli:main",
    Job.RUN,
    "Start a launch file of the suite without 'ros2 launch'.",
    needs=ROS,
    is_node=True,
)
loop = Command(
    "gr00t_loop",
    "loop",
    "gr00t_bringup.loop:main",
    Job.TRAIN,
    "Record, convert, fine-tune and run on the simulated robot, in small.",
    needs=(*ROS, TRAIN, SIM),
)
rollout = Command(
    "gr00t_rollout",
    "rollout",
    "gr00t_bringup.ros.rollout:main",
    Job.RUN,
    "Try a policy many times through ROS 2, and count its successes.",
    needs=(*ROS, MODEL, SIM),
)
sim_node = Command(
    "sim_node",
    "sim",
    "gr00t_bringup.ros.sim_node:main",
    Job.RUN,
    "Simulate a robot arm with cameras (node).",
    needs=(*ROS, SIM),
    is_node=True,
)
view = Command(
    "gr00t_view",
    "view",
    "gr00t_bringup.ros.view:main",
    Job.RUN,
    "Show a running robot in Rerun, Foxglove and RViz.",
    needs=ROS,
    is_node=True,
)

COMMANDS = (demo, demo_driver, expert_node, fake_robot_node, launch, loop, rollout, sim_node, view)
