# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The mistakes of the bench of blind policies, and how it reads a report."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from gr00t_training.types import Frame

bench = pytest.importorskip("bench.blind_policies", reason="the benches are not part of an installed package")


def make_episode(number: int) -> list[Frame]:
    def image(row: int, camera: int) -> np.ndarray:
        return np.full((2, 2, 3), 100 * number + 10 * camera + row, np.uint8)

    return [
        Frame(
            row,
            {"single_arm": np.arange(5.0), "gripper": np.zeros(1)},
            {"single_arm": np.arange(5.0) + row, "gripper": np.ones(1)},
            {"front": image(row, 0), "wrist": image(row, 1)},
            "put the red cube in the bin",
        )
        for row in range(8)
    ]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("language-blind", {"task"}),
        ("vision-blind", {"front", "wrist"}),
        ("state-only", {"task", "front", "wrist"}),
        ("wrist-frozen", {"wrist"}),
        ("joint-swapped", {"single_arm"}),
    ],
)
def test_a_mistake_changes_what_it_is_about_and_nothing_else(name: str, changed: set[str]) -> None:
    frames, others = make_episode(0), make_episode(1)
    found: set[str] = set()
    for seed in range(8):  # a drawn instruction may be the right one
        wrong = bench.MISTAKES[name].change(frames, others, np.random.default_rng(seed))
        for before, after in zip(frames, wrong, strict=True):
            assert after.state is before.state and after.tick_ns == before.tick_ns
            found |= {"task"} if after.task != before.task else set()
            found |= {key for key in before.images if (after.images[key] != before.images[key]).any()}
            found |= {key for key in before.action if (after.action[key] != before.action[key]).any()}
        if name == "wrist-frozen":
            assert len({frame.images["wrist"][0, 0, 0] for frame in wrong}) == 1
        if name == "joint-swapped":
            assert wrong[2].action["single_arm"].tolist() == [6, 3, 4, 5, 2]
    assert found == changed


def judgement(about: str, test: str, verdict: str, meaning: str) -> dict:
    return {"findings": [{"about": about, "test": test, "verdict": verdict, "meaning": meaning}]}


def test_a_mistake_counts_as_found_when_the_report_names_it() -> None:
    mistake = bench.MISTAKES["wrist-frozen"]
    named = judgement(mistake.group, mistake.test, "look", "camera 'wrist' is not used: it was dark")
    assert bench.outcome("wrist-frozen", named) == "named"
    assert bench.outcome("vision-blind", named) == "missed"
    assert bench.outcome(bench.HONEST, named) == "wrongly named wrist-frozen"
    unsure = judgement(mistake.group, mistake.test, "go", "")
    assert bench.outcome("wrist-frozen", unsure) == "missed"
    assert bench.outcome(bench.HONEST, unsure) == "nothing named"
