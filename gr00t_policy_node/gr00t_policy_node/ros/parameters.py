# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the policy node."""

from __future__ import annotations

from dataclasses import dataclass

from gr00t_training.settings import setting


@dataclass(frozen=True)
class PolicyParameters:
    """What the policy node can be told at start; `instruction` also later."""

    checkpoint_path: str = setting("", "Checkpoint directory; empty is refused at configure.", read_only=True)
    topics_file: str = setting("", "Topic map (YAML); empty is refused at configure.", read_only=True)
    limits_file: str = setting("", "Joint limits (YAML); empty is refused at configure.", read_only=True)
    instruction: str = setting("", "Task to start with at activation; empty: wait for one.")
    device: str = setting("auto", "Where the model runs: auto, cpu, cuda, cuda:1.", read_only=True)
    num_threads: int = setting(0, "Threads of a model on the CPU; 0: PyTorch's choice.", ge=0, le=256, read_only=True)
    denoising_steps: int = setting(4, "Steps of the flow-matching sampler.", ge=1, le=100, read_only=True)
    seed: int = setting(-1, "Seed of the sampler's noise; -1: another one every time.", ge=-1, read_only=True)
    inference_period_s: float = setting(0.2, "Shortest time between policy queries [s].", ge=0.0, le=10.0)
    control_rate_hz: float = setting(50.0, "Rate of commands [Hz].", ge=1.0, le=1000.0, read_only=True)
    dry_run: bool = setting(False, "Publish chunks and status, but no commands.", read_only=True)
    autostart: bool = setting(False, "Configure and activate at start, without a lifecycle manager.", read_only=True)
