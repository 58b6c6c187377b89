# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of this package, and the umbrella `gr00t` over those of all packages."""

from gr00t_training.cli.entry import MODEL, TRAIN, Command, Job

checkpoint = Command(
    "gr00t_checkpoint",
    "checkpoint",
    "gr00t_training.cli.checkpoint:main",
    Job.TRAIN,
    "Inspect, verify, convert, export and publish checkpoints; start an embodiment file from one.",
    needs=(MODEL,),
)
dataset = Command(
    "gr00t_dataset",
    "dataset",
    "gr00t_training.cli.dataset:main",
    Job.DATASET,
    "Inspect, validate, repair, edit, convert, view and publish datasets.",
)
doctor = Command(
    "gr00t_doctor",
    "doctor",
    "gr00t_training.cli.doctor:main",
    Job.RUN,
    "Find out what is wrong with a machine, and say what to do.",
)
evaluate = Command(
    "gr00t_evaluate",
    "evaluate",
    "gr00t_training.cli.evaluate:main",
    Job.TRAIN,
    "Compare the actions of a checkpoint with recorded ones.",
    needs=(TRAIN,),
)
finetune = Command(
    "gr00t_finetune",
    "finetune",
    "gr00t_training.cli.finetune:main",
    Job.TRAIN,
    "Train a model on a dataset.",
    needs=(TRAIN,),
)
serve = Command(
    "gr00t_serve",
    "serve",
    "gr00t_training.cli.serve:main",
    Job.RUN,
    "Serve a policy over the network.",
    needs=(MODEL,),
)
umbrella = Command("gr00t", "", "gr00t_training.cli.umbrella:main", Job.RUN, "All commands of the suite.")

COMMANDS = (checkpoint, dataset, doctor, evaluate, finetune, serve)
