# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A task that needs both cameras, the instruction and the joints: a policy without one of them must be found."""

import dataclasses
import re

import numpy as np
import pytest

pytest.importorskip("av")

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey, load_embodiment
from gr00t_training.judge import judging
from gr00t_training.judge.judging import BASE, baseline_errors
from gr00t_training.judge.metrics import errors, gripper_timing, held, smoothness
from gr00t_training.judge.output import exit_code
from gr00t_training.judge.page import judgement_page, plain
from gr00t_training.judge.queries import Recording, answer_queries
from gr00t_training.judge.verdicts import change, is_robust, is_used, worst
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.types import ActionChunk, Frame, Verdict

TOY = Embodiment(
    name="toy",
    tag="new_embodiment",
    fps=10,
    state={"arm": VectorKey(names=("pan", "lift")), "gripper": VectorKey(names=("gripper",), unit="m")},
    action={"arm": VectorKey(names=("pan", "lift")), "gripper": VectorKey(names=("gripper",), unit="m")},
    video={"front": VideoKey(height=48, width=64), "wrist": VideoKey(height=48, width=64)},
    language="human.action.task_description",
    action_horizon=8,
)
TASKS = {"turn left": 1.0, "turn right": -1.0}
NUM_ROWS = 32
RATE = 0.2  # share of the way to the goal in one row
NEAR, OPEN, CLOSED = 0.3, 0.08, 0.01


def picture(value):
    """Return an image whose bar stands at the share that -1 to 1 gives."""
    image = np.full((48, 64, 3), 30, np.uint8)
    column = round((value + 1) / 2 * 59)
    image[:, column : column + 5] = 220
    return image


def seen(image):
    return (np.argmax(np.convolve(image.mean(axis=(0, 2)), np.ones(5), "valid")) / 59) * 2 - 1


def commands(joints, goal, count):
    """Return the next actions on the way to a goal, `(count, 3)`."""
    rows = []
    for _ in range(count):
        joints = joints + RATE * (goal - joints)
        rows.append([*joints, CLOSED if np.abs(goal - joints).max() < NEAR else OPEN])
    return np.array(rows)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, TOY) as writer:
        for number in range(8):
            task = list(TASKS)[number % 2]
            places, joints = rng.uniform(0.4, 1.0, 2) * rng.choice([-1, 1], 2), rng.uniform(-0.2, 0.2, 2)
            goal = np.array([TASKS[task] * seen(picture(places[0])), seen(picture(places[1]))])
            episode = writer.start_episode(task)
            for row, action in enumerate(commands(joints, goal, NUM_ROWS)):
                images = {"front": picture(places[0]), "wrist": picture(places[1])}
                state = {"arm": joints, "gripper": np.array([OPEN])}
                episode.add_frame(Frame(row * 10**8, state, {"arm": action[:2], "gripper": action[2:]}, images, task))
                joints = action[:2]
            episode.save()
    return Recording(EpisodeDataset(folder), TOY, range(8), 8)


class ToyPolicy(PolicyLike):
    """Does the task, as far as it looks."""

    embodiment = TOY

    def __init__(self, blind=(), noise=0.01, seed=0, change=lambda actions: actions):
        self.blind, self.noise, self.seed, self.change = blind, noise, seed, change
        self.reset()

    def reset(self, seed=None):
        self.rng = np.random.default_rng(self.seed)

    def infer_batch(self, observations, continuations=None):
        return [self.answer(observation) for observation in observations]

    def answer(self, observation):
        front, wrist = (0.5 if key in self.blind else seen(observation.images[key][-1]) for key in ("front", "wrist"))
        named = [sign for task, sign in TASKS.items() if task in observation.instruction]
        sign = 1.0 if "language" in self.blind else named[0]
        joints = np.zeros(2) if "state" in self.blind else observation.state["arm"][-1]
        goal = np.array([sign * front, wrist])
        rows = commands(joints, goal, 8)
        rows[:, :2] += self.noise * self.rng.standard_normal((8, 2)).cumsum(axis=0) / 8
        rows = self.change(rows)
        return ActionChunk({"arm": rows[:, :2], "gripper": rows[:, 2:]}, observation.stamp_ns, TOY.step_ns)


def judge(policy, recording, name):
    return judging.judge(policy, recording, name, answer_queries(policy, recording), baseline_errors(recording))


def found(judgement, group):
    return {finding.name: finding for finding in judgement.findings if finding.group == group}


@pytest.mark.parametrize("seed", range(10))
def test_an_honest_policy_raises_no_alarm(recording, seed):
    judgement = judge(ToyPolicy(seed=seed), recording, "honest")
    assert [(f.group, f.name, f.shown) for f in judgement.findings if f.verdict is Verdict.NO_GO] == []
    used = [f for f in judgement.findings if "wrong input" in f.threshold]
    assert {f.verdict for f in used} == {Verdict.GO} and len(used) == 5


@pytest.mark.parametrize(
    ("blind", "group", "name", "verdict"),
    [
        (("language",), "language", "instruction of another task", Verdict.NO_GO),
        (("front", "wrist"), "vision", "all images of another episode", Verdict.NO_GO),
        (("front",), "vision", "front of another episode", Verdict.LOOK),
        (("wrist",), "vision", "wrist of another episode", Verdict.LOOK),
        (("state",), "state", "state of another moment", Verdict.LOOK),
        (("front", "wrist", "language"), "vision", "all images of another episode", Verdict.NO_GO),
    ],
)
def test_a_policy_that_ignores_an_input_is_found(recording, blind, group, name, verdict):
    findings = found(judge(ToyPolicy(blind), recording, "blind"), group)
    assert findings[name].verdict is verdict, findings[name]
    assert findings[name].meaning


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda rows: rows[:, [1, 0, 2]], "arm/pan and arm/lift are exchanged"),
        (lambda rows: rows * [1, -1, 1], "arm/lift has the opposite sign"),
        (lambda rows: rows * [180 / np.pi, 1, 1], "arm/pan has degrees instead of radians"),
        (lambda rows: rows * [1, 1, 1000], "gripper has mm instead of m"),
    ],
)
def test_exchanged_channels_signs_and_units_are_named(recording, change, meaning):
    finding = found(judge(ToyPolicy(change=change), recording, "wrong"), "joints")["exchanged, sign, unit"]
    assert finding.verdict is Verdict.NO_GO
    assert finding.meaning.startswith(meaning)


def test_an_exchange_does_not_hide_that_the_other_channels_look(recording):
    """The arm's two joints are exchanged; the gripper closes in time only if the policy sees where to."""
    judgement = judge(ToyPolicy(change=lambda rows: rows[:, [1, 0, 2]]), recording, "exchanged")
    assert found(judgement, "vision")["all images of another episode"].verdict is Verdict.GO


def test_a_policy_that_shakes_or_jumps_at_the_start_is_found(recording):
    shaking = judge(ToyPolicy(change=lambda rows: rows + 0.1 * np.outer([1, -1] * 4, [1, 0, 0])), recording, "shaking")
    assert found(shaking, "motion")["jitter inside chunks"].verdict is Verdict.NO_GO
    jumping = judge(ToyPolicy(change=lambda rows: rows + np.array([0.0, 0.8, 0.0])), recording, "jumping")
    start = found(jumping, "motion")["first command of an episode"]
    assert start.verdict is not Verdict.GO and "arm/lift jumps" in start.shown


def test_late_grippers_are_counted(recording):
    chunks = [np.concatenate([query.truth]) for query in recording.queries]
    (timing,) = gripper_timing(recording, chunks)
    assert (timing.missed, timing.extra) == (0, 0) and timing.recorded == 8 and not timing.errors_s.any()
    never = [np.column_stack([query.truth[:, :2], np.full(len(query.truth), OPEN)]) for query in recording.queries]
    (timing,) = gripper_timing(recording, never)
    assert (timing.missed, timing.extra) == (8, 0)


def test_errors_are_those_of_the_definition(recording):
    table = errors(recording, held(recording))
    query_errors = [np.abs(query.hold - query.truth) for query in recording.queries]
    assert table.mae == pytest.approx(np.concatenate(query_errors).mean(axis=0))
    assert table.relative == pytest.approx((np.concatenate(query_errors) / recording.scale).mean())
    assert table.horizon[0] == pytest.approx(np.mean([e[0] / recording.scale for e in query_errors]))
    assert set(table.tasks) == set(TASKS)
    perfect = [query.truth for query in recording.queries]
    assert errors(recording, perfect).relative == 0
    motion = smoothness(recording, perfect)
    assert motion.jitter == pytest.approx(motion.recorded_jitter, rel=0.2)
    assert (motion.start == motion.recorded_start).all()


def test_intervals_are_over_episodes():
    episodes = np.repeat(np.arange(6), 5)
    right = np.ones(30)
    clear = change(right, right * 1.5, episodes)
    assert (clear.value, clear.low, clear.high) == pytest.approx((0.5, 0.5, 0.5))
    one_of_six = change(right, np.where(episodes == 0, 4.0, 1.0), episodes)
    assert one_of_six.value == pytest.approx(0.5) and one_of_six.low == 0
    assert is_used(clear, 0.05, 0.5) is Verdict.GO and is_used(one_of_six, 0.05, 0.5) is Verdict.LOOK
    assert is_used(change(right, right, episodes), 0.05, 0.5) is Verdict.NO_GO
    uneven = change(right, np.where(episodes % 2 == 0, 1.2, 0.9), episodes)  # what is left of an input by training
    assert uneven.low < 0 < uneven.value < uneven.high < 0.5 and is_used(uneven, 0.05, 0.5) is Verdict.NO_GO
    assert is_robust(clear, 0.4) is Verdict.LOOK and is_robust(one_of_six, 0.4) is Verdict.GO
    assert worst([Verdict.GO, Verdict.UNTESTED]) is Verdict.GO and worst([Verdict.LOOK, Verdict.GO]) is Verdict.LOOK


def test_the_page_shows_every_policy_and_is_self_contained(recording):
    judgements = [judge(ToyPolicy(), recording, "<good>"), judge(ToyPolicy(("language",)), recording, "deaf & dumb")]
    page = judgement_page(judgements, recording, "toy dataset")
    assert "&lt;good&gt;" in page and "deaf &amp; dumb" in page and "<good>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.index("NO-GO") < page.index("Tests")
    values = plain(judgements[1], recording)
    assert values["verdict"] == "no-go"
    assert set(values["errors"]) == {"deaf & dumb", "hold still", "mean action"}


@pytest.mark.parametrize(
    ("fail_on", "codes"), [("no-go", [0, 0, 1, 1]), ("look", [0, 1, 1, 1]), ("never", [0, 0, 0, 0])]
)
def test_the_worst_verdict_of_all_policies_decides_the_exit_code(recording, fail_on, codes):
    judged = judge(ToyPolicy(), recording, "toy")
    go, look, no_go = (
        dataclasses.replace(judged, findings=[dataclasses.replace(judged.findings[0], verdict=verdict)])
        for verdict in (Verdict.GO, Verdict.LOOK, Verdict.NO_GO)
    )
    assert [exit_code(given, fail_on) for given in ([go], [look, go], [no_go], [go, no_go, look])] == codes
    assert exit_code([], fail_on) == 0  # --no-tests


def test_one_task_leaves_the_language_untested(recording):
    alone = Recording(recording.dataset, TOY, (0, 2), 8)
    judgement = judge(ToyPolicy(), alone, "one task")
    assert found(judgement, "language")["instruction of another task"].verdict is Verdict.UNTESTED
    assert dataclasses.replace(judgement, findings=[]).verdict is Verdict.GO


def test_the_base_checkpoint_is_a_baseline_of_its_own(recording):
    answers = answer_queries(ToyPolicy(), recording)
    blind = errors(recording, answer_queries(ToyPolicy(("front",)), recording).chunks)
    for base, verdict in ((blind, Verdict.GO), (errors(recording, answers.chunks), Verdict.LOOK)):
        judgement = judging.judge_answers(recording, "own", answers, {**baseline_errors(recording), BASE: base})
        assert found(judgement, "accuracy")[f"error beside '{BASE}'"].verdict is verdict
        assert BASE in plain(judgement, recording)["errors"]
        assert BASE in judgement_page([judgement], recording, "toy")


def test_the_state_alone_is_that_of_the_observation(recording):
    expected = recording.observation(3, 5).state
    assert {key: values.tolist() for key, values in recording.state(3, 5).items()} == {
        key: values.tolist() for key, values in expected.items()
    }


@pytest.mark.filterwarnings("error")
def test_channels_that_never_move_take_no_part(data_dir):
    dataset = EpisodeDataset(data_dir / "lerobot_v20_gr1")
    recording = Recording(dataset, load_embodiment("gr1_arms_only"), (0,), 8, steps=16)
    assert not recording.moves.all()
    truth = recording.actions[0][:8]
    assert recording.error(truth + recording.moves, truth) == pytest.approx(
        np.mean(1 / recording.scale[recording.moves])
    )
    assert recording.error(truth + ~recording.moves, truth) == 0
