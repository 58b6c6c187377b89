# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of this package."""

from gr00t_training.cli.entry import ROS, Command, Job

convert_bag = Command(
    "gr00t_convert_bag",
    "convert",
    "gr00t_recorder.bag.convert_cli:main",
    Job.DATASET,
    "Convert bags to a dataset.",
)
play_bag = Command(
    "gr00t_play_bag",
    "play",
    "gr00t_recorder.ros.play_bag:main",
    Job.COLLECT,
    "Publish the messages of a bag.",
    needs=ROS,
)
record = Command(
    "gr00t_record",
    "record",
    "gr00t_recorder.ros.terminal:main",
    Job.COLLECT,
    "Operate a running recorder from a terminal.",
    needs=ROS,
)
record_bag = Command(
    "gr00t_record_bag",
    "record-bag",
    "gr00t_recorder.ros.record_bag:main",
    Job.COLLECT,
    "Record topics into a bag.",
    needs=ROS,
    is_node=True,
)
recorder_node = Command(
    "recorder_node",
    "recorder",
    "gr00t_recorder.ros.recorder_node:main",
    Job.COLLECT,
    "Record topics into a dataset, episode by episode (node).",
    needs=ROS,
    is_node=True,
)
suggest = Command(
    "gr00t_suggest",
    "suggest",
    "gr00t_recorder.bag.suggest_cli:main",
    Job.COLLECT,
    "Write a first topic map, embodiment and limits file from a bag.",
)

COMMANDS = (convert_bag, play_bag, record, record_bag, recorder_node, suggest)
