# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Train LeRobot's ACT on the dataset of the benchmark, and try it in the same scenes, by direct calls.

Network, loss and optimizer are LeRobot's (`lerobot.policies.act`); the rows are read by this suite's own loader, and
what follows LeRobot's trainer is said where it is done. The network gets the task as one of five numbers
(`observation.environment_state`), since ACT reads no text. Two things differ from LeRobot's defaults:

* No pretrained ResNet: its batch norms, which ACT keeps frozen, have statistics of ImageNet that random weights do not
  fit. As in LeRobot's diffusion policy (`use_group_norm`), group norms take their place. Trained batch norms would be
  worse: ACT feeds one camera at a time, so they would learn from each camera's images and act by the mean of both.
* 5 rows a second instead of ACT's 50, and few steps of many samples: see the constants.

Runs in the environment of the simulator, with the requirements of requirements_act.txt in it. Training needs no
simulator.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import metaworld_trials
import numpy as np
import torch
from metaworld_tasks import CAMERAS, TASKS
from safetensors.torch import load_file, save_file

from gr00t_bringup.sim.simulation import Simulation
from gr00t_training.cli.arguments import positive_int
from gr00t_training.cli.command import run_command
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError

# LeRobot's trainer has 100,000 steps of 8 samples at 1e-5, on a pretrained ResNet. Here are about as many samples in
# fewer steps, as many as the policy of finetune.yaml sees. 1e-4 is the learning rate with which LeRobot's diffusion
# policy trains a ResNet from random weights.
STEPS, BATCH_SIZE, LEARNING_RATE = 7000, 128, 1e-4
# [rows]: 3.2 s, as the policy of finetune.yaml has it. LeRobot's 100 are 2 s of its robots and would be 20 s here.
CHUNK_SIZE = 16
# LeRobot's trainer scales images by ImageNet's statistics whatever the dataset (`use_imagenet_stats`)
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATE, TASK, ACTION = "observation.state", "observation.environment_state", "action"
NUM_CHECKED = 128  # rows whose actions are compared after the training
WEIGHTS, DESCRIPTION = "model.safetensors", "act.json"


@dataclass(frozen=True)
class Rows:
    """All rows of a dataset, episode after episode."""

    state: torch.Tensor  # (N, 4) float32: hand [m], gripper
    action: torch.Tensor  # (N, 4) float32, likewise
    task: torch.Tensor  # (N,) int64, index in TASKS
    last: torch.Tensor  # (N,) int64, row at which the episode ends
    images: dict[str, torch.Tensor]  # camera -> (N, H, W, 3) uint8 RGB

    def __len__(self) -> int:
        return len(self.last)

    def to(self, device: str) -> Rows:
        """Return them on a device: the benchmark's are 8 GB, and reading them from there takes no time."""
        images = {camera: shown.to(device) for camera, shown in self.images.items()}
        return Rows(self.state.to(device), self.action.to(device), self.task.to(device), self.last.to(device), images)

    def chunks(self, rows: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actions from `rows` (B,) on, `(B, size, 4)`, and which are beyond the episode, `(B, size)`."""
        asked = rows[:, None] + torch.arange(size, device=rows.device)
        last = self.last[rows][:, None]
        return self.action[torch.minimum(asked, last)], asked > last


def read_rows(path: Path) -> Rows:
    """Read a dataset and decode all images of it, once.

    Raises:
        DatasetError: it cannot be read, or an instruction is none of Meta-World's.
    """
    dataset = EpisodeDataset(path)
    episodes = [episode.index for episode in dataset.episodes if episode.length]
    if not episodes:
        raise DatasetError(f"{path}: has no rows; record episodes with record.py")
    lengths = [dataset.episode(index).length for index in episodes]
    ends = np.cumsum(lengths)
    tasks = [_task_index(path, dataset.task(index, 0)) for index in episodes]
    vectors = {
        name: np.concatenate([np.hstack([read(index, "hand"), read(index, "gripper")]) for index in episodes])
        for name, read in (("state", dataset.state), ("action", dataset.action))
    }
    images = {camera: np.empty((ends[-1], *dataset.video_size(camera), 3), np.uint8) for camera in CAMERAS}
    starts = dict(zip(episodes, (ends - lengths).tolist(), strict=True))
    with ThreadPoolExecutor() as pool:  # a dataset is for one thread
        parts = [starts.keys() & set(part) for part in np.array_split(episodes, os.cpu_count() or 1)]
        for _ in pool.map(partial(_decode, path, starts, images), parts):
            pass
    return Rows(
        torch.from_numpy(vectors["state"]).float(),
        torch.from_numpy(vectors["action"]).float(),
        torch.from_numpy(np.repeat(tasks, lengths)),
        torch.from_numpy(np.repeat(ends - 1, lengths)),
        {camera: torch.from_numpy(shown) for camera, shown in images.items()},
    )


def _task_index(path: Path, text: str) -> int:
    if text not in TASKS:
        raise DatasetError(
            f"{path}: instruction '{text}' is no task of Meta-World, expected one of: {'; '.join(TASKS)}"
        )
    return list(TASKS).index(text)


def _decode(path: Path, starts: Mapping[int, int], images: Mapping[str, np.ndarray], episodes: set[int]) -> None:
    dataset = EpisodeDataset(path)
    for index in sorted(episodes):
        length = dataset.episode(index).length
        for camera, shown in images.items():
            shown[starts[index] : starts[index] + length] = dataset.images(index, camera, range(length))


class Act:
    """LeRobot's ACT in the units of the robot; what it is trained on and what it is asked goes the same way to it."""

    def __init__(self, description: Mapping[str, Any], device: str = "cpu") -> None:
        """Make the network with random weights.

        Args:
            description: `settings` of ACTConfig that differ from LeRobot's, `image_size` (H, W), and `mean` and `std`
                of `state` and `action`.
            device: where it runs.

        Raises:
            ConfigError: LeRobot is not installed.
        """
        self.description, self.device = dict(description), device
        self.model = _network(description["settings"], description["image_size"]).to(device)
        self._scales = {
            name: [torch.tensor(values, dtype=torch.float32, device=device) for values in description[name].values()]
            for name in ("state", "action")
        }
        image_scale = [torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD)]
        self._scales |= dict.fromkeys(CAMERAS, image_scale)

    @classmethod
    def load(cls, folder: Path) -> Act:
        """Load what `save` wrote; CheckpointError if it is not there."""
        for name in (DESCRIPTION, WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder}: has no {name}; expected a folder that 'act.py train' wrote")
        policy = cls(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
        policy.model.load_state_dict(load_file(folder / WEIGHTS))
        return policy

    def save(self, folder: Path) -> None:
        """Write weights and description."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / WEIGHTS)
        (folder / DESCRIPTION).write_text(json.dumps(self.description, indent=2) + "\n", encoding="utf-8")

    def loss(self, rows: Rows, at: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Return LeRobot's loss on the rows `at` (B,), and its parts."""
        action, is_pad = rows.chunks(at, self.model.config.chunk_size)
        batch = self._inputs(rows, at)
        return self.model.forward(batch | {ACTION: self._scaled("action", action), "action_is_pad": is_pad})

    def predict(self, rows: Rows, at: torch.Tensor) -> torch.Tensor:
        """Return the actions from the rows `at` (B,) on, `(B, H, 4)` in the units of the dataset."""
        mean, std = self._scales["action"]
        return self.model.predict_action_chunk(self._inputs(rows, at)) * std + mean

    def reset(self, seed: int) -> None:
        """Do nothing: ACT draws no noise and keeps no state."""

    def rows(self, robot: Simulation) -> np.ndarray:
        """Answer what the robot sees now with a chunk, `(H, 4)`."""
        state = torch.from_numpy(robot.joint_positions())[None].float()
        images = {camera: torch.from_numpy(image[None].copy()) for camera, image in robot.images().items()}
        task, last = torch.tensor([list(TASKS).index(robot.task)]), torch.zeros(1, dtype=torch.int64)
        seen = Rows(state, state, task, last, images).to(self.device)
        return self.predict(seen, last.to(self.device))[0].double().cpu().numpy()

    def _inputs(self, rows: Rows, at: torch.Tensor) -> dict[str, torch.Tensor]:
        task = torch.nn.functional.one_hot(rows.task[at], len(TASKS)).float()
        inputs = {STATE: self._scaled("state", rows.state[at]), TASK: task}
        for camera in CAMERAS:
            inputs[_feature(camera)] = self._scaled(camera, rows.images[camera][at].permute(0, 3, 1, 2).float() / 255)
        return inputs

    def _scaled(self, name: str, values: torch.Tensor) -> torch.Tensor:
        mean, std = self._scales[name]
        return (values - mean) / std


def _feature(camera: str) -> str:
    return f"observation.images.{camera}"


def _network(settings: Mapping[str, Any], image_size: tuple[int, int]) -> Any:
    try:
        from lerobot.configs.types import FeatureType, PolicyFeature
        from lerobot.policies.act.configuration_act import ACTConfig
        from lerobot.policies.act.modeling_act import ACTPolicy
    except ImportError as error:
        raise ConfigError(f"LeRobot cannot be imported ({error}); install requirements_act.txt") from error
    inputs = {
        STATE: PolicyFeature(FeatureType.STATE, (4,)),
        TASK: PolicyFeature(FeatureType.ENV, (len(TASKS),)),
        **{_feature(camera): PolicyFeature(FeatureType.VISUAL, (3, *image_size)) for camera in CAMERAS},
    }
    outputs = {ACTION: PolicyFeature(FeatureType.ACTION, (4,))}
    config = ACTConfig(
        input_features=inputs, output_features=outputs, pretrained_backbone_weights=None, device="cpu", **settings
    )
    policy = ACTPolicy(config)
    _use_group_norm(policy.model.backbone)
    return policy


def _use_group_norm(backbone: torch.nn.Module) -> None:
    """Replace frozen batch norms by group norms of 16 channels each, as LeRobot's diffusion policy does."""
    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "FrozenBatchNorm2d":
                channels = child.get_buffer("weight").numel()
                setattr(module, name, torch.nn.GroupNorm(max(channels // 16, 1), channels))


def train(rows: Rows, given: argparse.Namespace, **settings: Any) -> Act:
    """Train as LeRobot's trainer does: AdamW, gradients clipped, a constant learning rate, no changes of images.

    Args:
        rows: of the dataset, on the device of `given`.
        given: `steps`, `batch_size`, `learning_rate`, `chunk_size`, `seed`, `max_s`, `device`.
        settings: of ACTConfig.
    """
    torch.manual_seed(given.seed)
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    settings |= {"chunk_size": given.chunk_size, "n_action_steps": min(metaworld_trials.ROWS, given.chunk_size)}
    settings |= {"optimizer_lr": given.learning_rate, "optimizer_lr_backbone": given.learning_rate}
    policy = Act(
        {"settings": settings, "image_size": next(iter(rows.images.values())).shape[1:3], **_scales(rows)}, given.device
    )
    preset = policy.model.config.get_optimizer_preset()
    optimizer = preset.build(policy.model.get_optim_params())
    policy.model.train()
    begun, step = time.monotonic(), 0
    for step, at in enumerate(_batches(len(rows), given), start=1):
        loss, parts = policy.loss(rows, at.to(given.device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), preset.grad_clip_norm)
        optimizer.step()
        passed_s = time.monotonic() - begun
        is_last = step == given.steps or passed_s > given.max_s
        if is_last or step % max(given.steps // 50, 1) == 0 or step == 1:
            told = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
            print(f"step {step}: {told}; {step * given.batch_size / passed_s:.0f} samples/s", flush=True)
        if is_last:
            break
    policy.description["training"] = {
        "steps": step,
        **{name: str(value) for name, value in vars(given).items() if name != "run"},
    }
    return policy


def _scales(rows: Rows) -> dict[str, Any]:
    vectors = {"state": rows.state, "action": rows.action}
    # 1e-8 as in LeRobot, for a channel that never changes
    return {
        name: {"mean": values.mean(0).tolist(), "std": (values.std(0, correction=0) + 1e-8).tolist()}
        for name, values in vectors.items()
    }


def _batches(num_rows: int, given: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Yield rows in random order, each once before any comes again."""
    drawn, order = torch.Generator().manual_seed(given.seed), torch.empty(0, dtype=torch.int64)
    for _ in range(given.steps):
        while len(order) < given.batch_size:
            order = torch.cat([order, torch.randperm(num_rows, generator=drawn)])
        yield order[: given.batch_size]
        order = order[given.batch_size :]


def differences(policy: Act, rows: Rows) -> dict[str, tuple[float, float]]:
    """Compare what is carried out of chunks with the recording, over rows of all episodes.

    Returns:
        mean absolute difference of hand [m] and gripper: of the policy, of the policy told another task, and of the
        mean action.
    """
    at = torch.linspace(0, len(rows) - 1, min(NUM_CHECKED, len(rows)), device=policy.device).long()
    others = Rows(rows.state, rows.action, (rows.task + 1) % len(TASKS), rows.last, rows.images)
    found = {}
    for name, told in (("policy", rows), ("policy, told another task", others), ("mean action", None)):
        errors = []
        for part in at.split(64):
            action, is_pad = rows.chunks(part, metaworld_trials.ROWS)
            answer = rows.action.mean(0) if told is None else policy.predict(told, part)[:, : metaworld_trials.ROWS]
            errors.append((answer - action).abs()[~is_pad])
        mean = torch.cat(errors).mean(0)
        found[name] = (mean[:3].mean().item(), mean[3].item())
    return found


def main() -> int:
    """Parse; train, or carry out the trials that are missing."""
    parser = argparse.ArgumentParser(description="Train LeRobot's ACT on a dataset of the benchmark, and try it.")
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="Train on a dataset.")
    training.add_argument("dataset", type=Path, help="That record.py wrote.")
    training.add_argument("output", type=Path, help="Folder of the policy.")
    training.add_argument("--steps", type=positive_int, default=STEPS, metavar="N")
    training.add_argument("--batch-size", type=positive_int, default=BATCH_SIZE, metavar="N")
    training.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    training.add_argument("--chunk-size", type=positive_int, default=CHUNK_SIZE, metavar="N", help="Rows of an answer.")
    training.add_argument("--seed", type=int, default=1, metavar="N", help="Of weights and order.")
    training.add_argument("--max-s", type=float, default=float("inf"), help="Stop earlier, after so many seconds.")
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    training.set_defaults(run=_train)
    trying = commands.add_parser("try", help="Try a policy.")
    metaworld_trials.add_arguments(trying)
    trying.set_defaults(run=_try)
    given = parser.parse_args()
    return run_command("act.py", lambda: given.run(given))


def _train(given: argparse.Namespace) -> None:
    begun = time.monotonic()
    rows = read_rows(given.dataset)
    print(f"{given.dataset}: {len(rows)} rows, images decoded in {time.monotonic() - begun:.0f} s", flush=True)
    rows = rows.to(given.device)
    policy = train(rows, given)
    policy.save(given.output)
    print("mean difference to the recorded actions that are carried out, on rows of the training:")
    for name, (hand_m, gripper) in differences(policy, rows).items():
        print(f"  {name}: hand {1000 * hand_m:.1f} mm, gripper {gripper:.3f}")


def _try(given: argparse.Namespace) -> None:
    metaworld_trials.carry_out(partial(Act.load, given.checkpoint), given)


if __name__ == "__main__":
    sys.exit(main())
