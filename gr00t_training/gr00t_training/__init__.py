# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets, GR00T models, fine-tuning, evaluation and the policy, without ROS.

The names below are the public interface. They are imported when they are used: a host that only reads datasets needs
no torch, one that only asks a policy needs no video library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gr00t_training.dataset.reader import EpisodeDataset
    from gr00t_training.dataset.writer import DatasetWriter
    from gr00t_training.embodiment import Embodiment, load_embodiment
    from gr00t_training.judge.evaluate import evaluate
    from gr00t_training.judge.settings import EvaluationSettings
    from gr00t_training.policy.policy import Policy
    from gr00t_training.serve.client import PolicyClient
    from gr00t_training.train.finetune import finetune
    from gr00t_training.train.settings import FinetuneSettings, TrainerSettings
    from gr00t_training.types import ActionChunk, Frame, Observation

__all__ = [
    "ActionChunk",
    "DatasetWriter",
    "Embodiment",
    "EpisodeDataset",
    "EvaluationSettings",
    "FinetuneSettings",
    "Frame",
    "Observation",
    "Policy",
    "PolicyClient",
    "TrainerSettings",
    "evaluate",
    "finetune",
    "load_embodiment",
]

_MODULES = {
    "ActionChunk": "types",
    "DatasetWriter": "dataset.writer",
    "Embodiment": "embodiment",
    "EpisodeDataset": "dataset.reader",
    "EvaluationSettings": "judge.settings",
    "FinetuneSettings": "train.settings",
    "Frame": "types",
    "Observation": "types",
    "Policy": "policy.policy",
    "PolicyClient": "serve.client",
    "TrainerSettings": "train.settings",
    "evaluate": "judge.evaluate",
    "finetune": "train.finetune",
    "load_embodiment": "embodiment",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
