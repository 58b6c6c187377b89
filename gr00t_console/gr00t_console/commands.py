# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of this package."""

from gr00t_training.cli.entry import ROS, Command, Job, Need

WEB = "pip install fastapi 'uvicorn>=0.30' websockets"
console = Command(
    "gr00t_console",
    "console",
    "gr00t_console.ros.console:main",
    Job.RUN,
    "Operate robot, recorder and policy in a browser.",
    needs=(*ROS, Need("fastapi", WEB), Need("uvicorn", WEB), Need("websockets", WEB)),
    is_node=True,
)

COMMANDS = (console,)
