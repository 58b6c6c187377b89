# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the compact model on a dataset for a few steps, on the CPU: a test of the path, not a useful policy."""

import argparse
import tempfile
from pathlib import Path

from write_dataset import write_dataset

from gr00t_training import FinetuneSettings, TrainerSettings, finetune


def train(dataset: Path, output: Path, steps: int) -> Path:
    """Train from fresh weights and return the newest checkpoint; for a real robot give `base_model` instead."""
    trainer = TrainerSettings(max_steps=steps, batch_size=2, device="cpu", tune_llm=True)
    settings = FinetuneSettings(dataset=dataset, output=output, variant="n1_compact", trainer=trainer)
    result = finetune(settings)
    print(f"{result.step} steps, loss {result.loss:.3f}, saved {result.checkpoint}")
    return result.checkpoint


def main() -> None:
    """Parse, and train on the given dataset or a tiny one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="new folder for checkpoints and logs")
    parser.add_argument("--dataset", type=Path, help="folder of a dataset (default: a tiny one is written)")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.dataset is None:
            write_dataset(Path(scratch))
        train(options.dataset or Path(scratch), options.output, options.steps)


if __name__ == "__main__":
    main()
