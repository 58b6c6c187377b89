# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, ModelKeys, Pose, VectorKey, VideoKey
from gr00t_training.errors import ConfigError
from gr00t_training.judge.open_loop import check_keys, compare_episode
from gr00t_training.judge.queries import Recording, answer_queries, channel_units
from gr00t_training.judge.report import format_table, make_report, plot_evaluation
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.types import ActionChunk
from gr00t_training.upstream.keys import UNKNOWN_UNIT


def vector(prefix, dim, **options):
    return VectorKey(names=tuple(f"{prefix}{i}" for i in range(dim)), **options)


TINY = Embodiment(
    name="tiny",
    tag="new_embodiment",
    fps=10,
    state={"arm": vector("a", 4), "quat": vector("q", 4), "hand": vector("h", 2, is_absolute=False)},
    action={"arm": vector("a", 4), "delta": vector("d", 3, is_absolute=False), "grip": vector("g", 1, unit="m")},
    video={"front": VideoKey(height=48, width=64)},
    language="human.action.task_description",
    model=ModelKeys(action=("arm", "grip")),
)


class DriftingPolicy(PolicyLike):
    """The reference's dummy: the arm drifts by 0.01 a row from where it is, the gripper stays half open."""

    embodiment = TINY

    def __init__(self):
        self.asked_ns = []

    def infer_batch(self, observations, continuations=None):
        return [self.answer(observation) for observation in observations]

    def answer(self, observation):
        self.asked_ns.append(observation.stamp_ns)
        assert observation.images["front"].shape == (1, 48, 64, 3)
        arm = observation.state["arm"][0] + 0.01 * np.arange(16)[:, None]
        return ActionChunk({"arm": arm, "grip": np.full((16, 1), 0.5)}, observation.stamp_ns, TINY.step_ns)


def evaluate_episode(policy, dataset, episode, steps=None, horizon=16, keys=()):
    recording = Recording(dataset, TINY, (episode,), horizon, steps)
    return compare_episode(recording, answer_queries(policy, recording).chunks, episode, keys)


@pytest.fixture(scope="module")
def dataset(fixtures_dir):
    return EpisodeDataset(fixtures_dir / "n1_dataset_tiny/dataset")


def test_mse_equals_that_of_the_reference(dataset, fixtures_dir):
    folder = fixtures_dir / "n1_dataset_tiny"
    compared = 0
    for name in ("expected_n1.json", "expected_n15.json"):
        for case, expected in json.loads((folder / name).read_text())["eval_mse"].items():
            if isinstance(expected, str):
                continue  # N1 needs a state with every action's name; we do not
            episode, steps, horizon, keys = re.fullmatch(r"traj(\d+).steps(\d+).horizon(\d+).(.*)", case).groups()
            found = evaluate_episode(
                DriftingPolicy(), dataset, int(episode), steps=int(steps), horizon=int(horizon), keys=keys.split("+")
            )
            assert found.mse == pytest.approx(expected, rel=1e-6), case
            compared += 1
    assert compared == 12 + 24


def test_policy_is_asked_at_every_chunk_start(dataset):
    policy = DriftingPolicy()
    found = evaluate_episode(policy, dataset, 0, horizon=5)
    assert policy.asked_ns == [row * 10**8 for row in (0, 5, 10, 15, 20)]
    assert found.num_rows == 23
    assert found.predicted["arm"].shape == (23, 4)
    np.testing.assert_allclose(found.predicted["arm"][7], dataset.state(0, "arm")[5] + 0.02)
    assert list(found.state) == ["arm"]  # there is no state named grip


def test_report_and_table(dataset):
    evaluations = [evaluate_episode(DriftingPolicy(), dataset, episode) for episode in (0, 1)]
    report = make_report(evaluations, TINY)
    assert json.loads(json.dumps(report)) == report
    first = report["episodes"][0]
    assert list(report["units"]) == list(first["units"]) == ["rad", "m"]  # which have no mean
    for key, unit in (("arm", "rad"), ("grip", "m")):
        squares = [np.square(e.predicted[key] - e.truth[key]).mean() for e in evaluations]
        assert report["units"][unit]["mse"] == pytest.approx(np.mean(squares))
        assert first["units"][unit]["mse"] == pytest.approx(squares[0])
    assert "mse" not in report
    assert "mse" not in first
    grip = dataset.action(0, "grip")
    assert first["keys"]["grip"]["units"]["m"]["mae"] == pytest.approx(np.abs(grip - 0.5).mean())
    lines = format_table(report).splitlines()
    assert len(lines) == 1 + 2 * (5 + 2 + 2) + 2
    assert "a3" in lines[5]
    meters = report["units"]["m"]
    assert lines[-1].split() == ["mean", "(all)", "m", f"{meters['mse']:.6g}", f"{meters['mae']:.6g}"]


def test_units_of_poses_and_of_published_keys():
    pose = vector("p", 6, unit="m", pose=Pose.XYZ_AXIS_ANGLE)
    assert channel_units("eef", pose) == ["m"] * 3 + ["rad"] * 3
    matrix = channel_units("eef", vector("p", 16, unit="m", pose=Pose.MATRIX))
    assert [place for place, unit in enumerate(matrix) if unit == "m"] == [3, 7, 11]
    assert channel_units("arm", vector("a", 2, unit=UNKNOWN_UNIT)) == ["arm (unknown)"] * 2


def test_plot_is_a_png_with_ink_in_it(dataset, tmp_path):
    from matplotlib.image import imread

    evaluation = evaluate_episode(DriftingPolicy(), dataset, 0, horizon=5)
    plot_evaluation(evaluation, TINY, tmp_path / "a.png")
    pixels = imread(tmp_path / "a.png")[..., :3]
    orange = np.abs(pixels - np.array([1.0, 0.498, 0.055])).max(axis=-1) < 0.05
    blue = np.abs(pixels - np.array([0.122, 0.467, 0.706])).max(axis=-1) < 0.05
    assert orange.sum() > 500
    assert blue.sum() > 200


def test_requests_beyond_the_data_are_refused(dataset):
    with pytest.raises(ConfigError, match="horizon is 17, a chunk of the policy has 16 ticks"):
        evaluate_episode(DriftingPolicy(), dataset, 0, horizon=17)
    with pytest.raises(ConfigError, match=r"action.delta: the policy does not produce it \(arm, grip\)"):
        check_keys(TINY, ["delta"])
