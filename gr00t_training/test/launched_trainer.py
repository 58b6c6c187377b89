# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make training runs one after another, in this process or in those that a launcher started."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.data.fit import dataset_statistics
from gr00t_training.train.distributed import join
from gr00t_training.train.settings import TrainerSettings
from gr00t_training.train.trainer import Trainer


def train(run, dataset, processes):
    """Make one run; a dictionary: output, weights to resume (or None), stop_at and trainer settings."""
    settings = TrainerSettings(**{"device": "cpu", "log_every": 1, "seed": 1, "warmup_ratio": 0.0, **run["settings"]})
    if run["weights"]:
        checkpoint = load_checkpoint(run["weights"])
        model = load_model(checkpoint)
    else:
        embodiment = dataset.embodiment
        checkpoint = new_checkpoint("n1_compact", embodiment, dataset_statistics(dataset, embodiment))
        head = checkpoint.config.action_head
        # dropout has numbers of its own in each process; all other numbers are those of one process
        head = dataclasses.replace(head, dit=dataclasses.replace(head.dit, dropout=0.0))
        checkpoint = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, action_head=head))
        torch.manual_seed(settings.seed)
        model = Gr00tModel(checkpoint.config)
    trainer = Trainer(settings, dataset, checkpoint, model, Path(run["output"]), processes)
    if run["settings"].get("accumulate") and trainer._exchange:
        trainer._exchange.keep_gradients()  # as for an optimizer outside of a graph
    if run["weights"]:
        trainer.resume(Path(run["weights"]))
    return trainer.train(stop_at=run["stop_at"])


def main():
    """Make the runs of a JSON file on the dataset that it names."""
    torch.set_num_threads(1)
    todo = json.loads(Path(sys.argv[1]).read_text())
    processes = join()
    for run in todo["runs"]:
        train(run, EpisodeDataset(todo["dataset"]), processes)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
