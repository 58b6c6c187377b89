# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge a policy by its answers along recorded episodes: measure, and say what the numbers mean.

`judge_answers` needs the answers alone; `judge` asks the policy again, with changed inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.judge.metrics import (
    ErrorTable,
    GripperTiming,
    Smoothness,
    averaged,
    errors,
    gripper_timing,
    held,
    smoothness,
)
from gr00t_training.judge.probes import AGES_S, LEAST_USED, MOST_GROWTH, MUCH_USED, Probe, probes
from gr00t_training.judge.queries import Answers, Demonstration, Recording, ask
from gr00t_training.judge.verdicts import Finding, change, is_robust, is_used, worst
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.types import Verdict

BASE = "base checkpoint"  # name of a baseline
PROBED_PER_EPISODE = 4  # queries of each episode that are repeated with changed inputs
WRONG_PER_EPISODE = 8  # and with wrong ones, which must be told from chance
NUM_SEEDS = 4
EXPLAINS = 0.5  # an error that a swap, sign or unit makes this much smaller is due to it
BAD_CHANNEL = 0.25  # standard deviations: smaller errors are not searched for such a cause
GOOD_SKILL, NO_SKILL = 0.7, 1.0  # error beside that of holding still
BOUNDARY = (2.0, 6.0)  # step from chunk to chunk, in steps inside a chunk: look, no-go
JITTER = (2.0, 6.0)  # second differences, in those of the recording
START = (3.0, 10.0)  # first command's distance from the joints, in the recorded one's
SMALL_START = 0.05  # standard deviations: a start that is this near is fine
JUDGED_AGE_S = 0.2
LATE = 0.5  # growth of errors at that age
FEWEST_EPISODES = 3  # that give an interval
_FEW = f"needs {FEWEST_EPISODES} episodes"
UNITS = {  # factors that correct it
    "degrees instead of radians": np.pi / 180,
    "radians instead of degrees": 180 / np.pi,
    "mm instead of m": 1e-3,
    "m instead of mm": 1e3,
}


@dataclass(frozen=True)
class Judgement:
    """All results of one policy."""

    name: str
    chunks: Sequence[np.ndarray]  # (H, C) for each query
    errors: ErrorTable
    baselines: Mapping[str, ErrorTable]
    smoothness: Smoothness
    gripper: Sequence[GripperTiming]
    findings: Sequence[Finding]
    ages: Mapping[float, float]  # age of the observation [s] -> error of the rows to come, by that of a new answer
    seconds: float  # median of an answer

    @property
    def verdict(self) -> Verdict:
        """The most serious verdict of all findings."""
        return worst([finding.verdict for finding in self.findings])


def baseline_errors(recording: Demonstration) -> dict[str, ErrorTable]:
    """Return the errors of the baselines that need no policy."""
    return {
        "hold still": errors(recording, held(recording)),
        "mean action": errors(recording, averaged(recording)),
    }


def judge(
    policy: PolicyLike, recording: Recording, name: str, answers: Answers, baselines: Mapping[str, ErrorTable]
) -> Judgement:
    """Judge a policy on recorded episodes.

    Args:
        policy: to judge; `reset` starts its noise again.
        recording: episodes it was not trained on.
        name: of the policy, for the report.
        answers: of the policy to the queries of the recording.
        baselines: `baseline_errors`, and those of `BASE` if they are known.

    Raises:
        Gr00tError: an episode cannot be read, or the policy cannot answer.
    """
    chunks = answers.chunks
    probed, contradicted = (_probed(recording, count) for count in (PROBED_PER_EPISODE, WRONG_PER_EPISODE))
    explained = _channels(recording, chunks)[1]
    sound = recording.moves & ~explained  # the errors of others would hide whether an input is used
    findings = [
        _run(policy, recording, probe, contradicted if probe.is_wrong else probed, chunks, sound)
        for probe in probes(recording)
    ]
    if len(recording.tasks) < 2:
        findings.append(
            Finding("language", "instruction of another task", Verdict.UNTESTED, "-", "all episodes have one task", "")
        )
    ages, late = _latency(policy, recording, probed, chunks)
    findings += [late, _seeds(policy, recording, probed, chunks)]
    return judge_answers(recording, name, answers, baselines, findings, ages)


def judge_answers(
    recording: Demonstration,
    name: str,
    answers: Answers,
    baselines: Mapping[str, ErrorTable],
    others: Sequence[Finding] = (),
    ages: Mapping[float, float] | None = None,
) -> Judgement:
    """Judge by the answers alone.

    Args:
        recording: that the answers are compared with.
        name: of the policy, for the report.
        answers: to the queries of the recording.
        baselines: as for `judge`.
        others: findings of further tests.
        ages: see `Judgement`.
    """
    chunks = answers.chunks
    table = errors(recording, chunks)
    motion = smoothness(recording, chunks)
    gripper = gripper_timing(recording, chunks)
    findings = [*_accuracy(table, baselines), _channels(recording, chunks)[0], *others]
    findings += [*_motion(recording, motion), *_gripper(gripper)]
    return Judgement(name, chunks, table, baselines, motion, gripper, findings, ages or {}, answers.seconds)


def _probed(recording: Recording, count: int) -> list[int]:
    """Return the places of so many queries of each episode, spread over it."""
    places: list[int] = []
    for episode in recording.episodes:
        own = [place for place, query in enumerate(recording.queries) if query.episode == episode]
        places += [own[round(i)] for i in np.linspace(0, len(own) - 1, min(count, len(own)))]
    return places


def _run(
    policy: PolicyLike,
    recording: Recording,
    probe: Probe,
    probed: Sequence[int],
    chunks: Sequence[np.ndarray],
    sound: np.ndarray,
) -> Finding:
    """Run a test with a changed input; `sound`: `(C,)` channels whose errors count."""
    counted = sound if sound.any() else recording.moves
    right, wrong, episodes = [], [], []
    for place in probed:
        query = recording.queries[place]
        observation = probe.change(recording, query)
        if observation is not None:
            right.append(recording.error(chunks[place], query.truth, counted))
            wrong.append(recording.error(ask(policy, observation, recording), query.truth, counted))
            episodes.append(query.episode)
    threshold = (
        f"growth with a wrong input: surely above {LEAST_USED:.0%} is good, else surely below {MUCH_USED:.0%} is bad "
        f"(95 % interval over episodes)"
        if probe.is_wrong
        else f"the error may grow by {MOST_GROWTH:.0%}"
    )
    if len(set(episodes)) < FEWEST_EPISODES:
        return Finding(probe.group, probe.name, Verdict.UNTESTED, _FEW, "", threshold)
    found = change(np.array(right), np.array(wrong), np.array(episodes))
    verdict = is_used(found, LEAST_USED, MUCH_USED) if probe.is_wrong else is_robust(found, MOST_GROWTH)
    meaning = "" if verdict is Verdict.GO else probe.meaning
    if verdict is Verdict.LOOK and probe.is_wrong:
        meaning = "too few episodes to tell: judge more of them, or " + probe.meaning
    if verdict is Verdict.NO_GO and not probe.is_decisive:
        verdict = Verdict.LOOK
    return Finding(probe.group, probe.name, verdict, f"error {found}", meaning, threshold, found.value)


def _accuracy(table: ErrorTable, baselines: Mapping[str, ErrorTable]) -> Iterator[Finding]:
    for name, baseline in baselines.items():
        ratio = table.relative / max(baseline.relative, 1e-12)
        if name == BASE:
            yield _beside_base(ratio)
            continue
        verdict = Verdict.GO if ratio <= GOOD_SKILL else Verdict.LOOK if ratio < NO_SKILL else Verdict.NO_GO
        meaning = (
            "" if verdict is Verdict.GO else f"hardly better than the baseline '{name}': train longer, or on more data"
        )
        if verdict is Verdict.NO_GO:
            meaning = f"worse than the baseline '{name}': wrong statistics, embodiment or dataset, or not trained"
        yield Finding(
            "accuracy",
            f"error beside '{name}'",
            verdict,
            f"{ratio:.2f} times",
            meaning,
            f"up to {GOOD_SKILL} is good, from {NO_SKILL:g} on nothing was learned",
            ratio,
        )


def _beside_base(ratio: float) -> Finding:
    is_better = ratio < NO_SKILL
    meaning = "" if is_better else "no better than the checkpoint that training started from: train longer or otherwise"
    verdict = Verdict.GO if is_better else Verdict.LOOK
    threshold = f"below {NO_SKILL:g} training has helped"
    return Finding("accuracy", f"error beside '{BASE}'", verdict, f"{ratio:.2f} times", meaning, threshold, ratio)


def _channels(recording: Demonstration, chunks: Sequence[np.ndarray]) -> tuple[Finding, np.ndarray]:
    """Find channels whose error a swap, a sign or a unit explains; also return which they are, `(C,)`."""
    pairs = [
        (chunk[: len(query.truth)], query.truth[: len(chunk)])
        for query, chunk in zip(recording.queries, chunks, strict=True)
    ]
    predicted, truth = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    moving = [place for place in range(len(recording.channels)) if recording.moves[place]]

    def error(values: np.ndarray, place: int) -> float:
        return float(np.mean(np.abs(values - truth[:, place])) / recording.scale[place])

    own = {place: error(predicted[:, place], place) for place in moving}
    bad = [place for place in moving if own[place] > BAD_CHANNEL]
    causes: list[tuple[float, str, str, tuple[int, ...]]] = []  # remaining share of the error, shown, meaning, channels
    for first, second in itertools.combinations(bad, 2):
        swapped = error(predicted[:, second], first) + error(predicted[:, first], second)
        before = own[first] + own[second]
        names = f"{recording.channels[first]} and {recording.channels[second]}"
        meaning = f"{names} are exchanged: compare the joint order of dataset and robot"
        causes.append((swapped / before, f"error {before:.2f} -> {swapped:.2f}", meaning, (first, second)))
    for place in bad:
        for cause, factor in {"the opposite sign": -1.0, **UNITS}.items():
            changed = error(predicted[:, place] * factor, place)
            meaning = f"{recording.channels[place]} has {cause}: compare units and directions of dataset and robot"
            causes.append((changed / own[place], f"error {own[place]:.2f} -> {changed:.2f}", meaning, (place,)))
    threshold = (
        f"an explanation must remove {1 - EXPLAINS:.0%} of an error of at least {BAD_CHANNEL:g} standard deviations"
    )
    explained: set[int] = set()
    found = []
    for share, shown, meaning, places in sorted(causes):
        if share < EXPLAINS and explained.isdisjoint(places):
            explained.update(places)
            found.append((shown, meaning))
    finding = Finding(
        "joints",
        "exchanged, sign, unit",
        Verdict.NO_GO if found else Verdict.GO,
        ", ".join(shown for shown, _ in found) or "none",
        "; ".join(meaning for _, meaning in found),
        threshold,
    )
    return finding, np.isin(np.arange(len(recording.channels)), list(explained))


def _latency(
    policy: PolicyLike, recording: Recording, probed: Sequence[int], chunks: Sequence[np.ndarray]
) -> tuple[dict[float, float], Finding]:
    """Return how errors of the rows that are still to come grow when an answer comes late, and what it means."""
    fps = recording.embodiment.fps
    aged: dict[float, float] = {}
    late = None
    for age_s in AGES_S:
        rows = max(1, round(age_s * fps))
        right, wrong, episodes = [], [], []
        for place in probed:
            query = recording.queries[place]
            if query.row < rows or rows >= recording.embodiment.action_horizon:
                continue
            chunk = ask(policy, recording.observation(query.episode, query.row - rows), recording)[rows:]
            right.append(recording.error(chunks[place][: len(chunk)], query.truth))
            wrong.append(recording.error(chunk, query.truth))
            episodes.append(query.episode)
        if right:
            aged[age_s] = float(np.mean(wrong) / max(np.mean(right), 1e-12))
            if age_s == JUDGED_AGE_S and len(set(episodes)) >= FEWEST_EPISODES:
                late = change(np.array(right), np.array(wrong), np.array(episodes))
    threshold = f"the error may grow by {LATE:.0%}"
    if late is None:
        return aged, Finding(
            "latency",
            f"answer {JUDGED_AGE_S:g} s late",
            Verdict.UNTESTED,
            "-",
            "too few episodes, or chunks too short",
            threshold,
        )
    verdict = is_robust(late, LATE)
    meaning = "" if verdict is Verdict.GO else "late answers spoil the actions; use a faster machine or shorter chunks"
    return aged, Finding(
        "latency", f"answer {JUDGED_AGE_S:g} s late", verdict, f"error {late}", meaning, threshold, late.value
    )


def _seeds(policy: PolicyLike, recording: Recording, probed: Sequence[int], chunks: Sequence[np.ndarray]) -> Finding:
    """Compare the spread over the sampler's noise with the error."""
    spreads, own = [], []
    for place in probed:
        query = recording.queries[place]
        observation = recording.observation(query.episode, query.row)
        policy.reset()
        drawn = np.stack([recording.joined(policy.infer(observation)) for _ in range(NUM_SEEDS)])
        spreads.append(float(np.mean((drawn.std(axis=0) / recording.scale)[:, recording.moves])))
        own.append(recording.error(chunks[place], query.truth))
    ratio = float(np.mean(spreads)) / max(float(np.mean(own)), 1e-12)
    verdict = Verdict.GO if ratio <= 1.0 else Verdict.LOOK
    meaning = (
        ""
        if verdict is Verdict.GO
        else "chunks differ by chance more than from the demonstrations: expect jerks; train longer"
    )
    return Finding(
        "seed", "spread over noise", verdict, f"{ratio:.2f} of the error", meaning, "up to the error itself", ratio
    )


def _motion(recording: Demonstration, motion: Smoothness) -> Iterator[Finding]:
    boundary = motion.boundary / max(motion.inside, 1e-12)
    step = "step from chunk to chunk"
    if not motion.boundary:
        yield Finding("motion", step, Verdict.UNTESTED, "-", "no rows of one chunk follow those of another", "")
    else:
        yield _graded(
            "motion",
            step,
            boundary,
            BOUNDARY,
            f"{boundary:.1f} times the steps inside",
            "the robot jerks at every new chunk; use real-time chunking, carry out more of each chunk, or train longer",
        )
    jitter = motion.jitter / max(motion.recorded_jitter, 1e-12)
    yield _graded(
        "motion",
        "jitter inside chunks",
        jitter,
        JITTER,
        f"{jitter:.1f} times the demonstrations'",
        "the robot shakes: train longer, or smooth the demonstrations",
    )
    start, recorded = np.abs(motion.start) / recording.scale, np.abs(motion.recorded_start) / recording.scale
    place = int(np.argmax(start.mean(axis=0)))
    value, expected = float(start[:, place].mean()), float(recorded[:, place].mean())
    ratio = 0.0 if value <= SMALL_START else value / max(expected, SMALL_START)
    channel = recording.channels[place]
    jump = float(np.abs(motion.start[:, place]).mean())
    yield _graded(
        "motion",
        "first command of an episode",
        ratio,
        START,
        f"{channel} jumps by {jump:.3g} {channel.unit}",
        f"the first command is far from the position of {channel}: the robot jerks when the policy starts",
    )


def _graded(group: str, name: str, value: float, limits: tuple[float, float], shown: str, meaning: str) -> Finding:
    verdict = Verdict.GO if value <= limits[0] else Verdict.LOOK if value <= limits[1] else Verdict.NO_GO
    threshold = f"up to {limits[0]:g} times is smooth, beyond {limits[1]:g} times is dangerous"
    return Finding(group, name, verdict, shown, "" if verdict is Verdict.GO else meaning, threshold, value)


def _gripper(timings: Sequence[GripperTiming]) -> Iterator[Finding]:
    for timing in timings:
        if not timing.recorded:
            continue
        wrong = (timing.missed + timing.extra) / timing.recorded
        late_ms = 1e3 * float(np.median(np.abs(timing.errors_s))) if timing.errors_s.size else float("nan")
        verdict = Verdict.GO if wrong <= 0.1 else Verdict.LOOK if wrong <= 0.5 else Verdict.NO_GO
        meaning = (
            ""
            if verdict is Verdict.GO
            else "it opens and closes at other moments than the demonstrations: grasps will fail"
        )
        yield Finding(
            "gripper",
            timing.name,
            verdict,
            f"{timing.missed} of {timing.recorded} missed, {timing.extra} extra, {late_ms:.0f} ms off",
            meaning,
            "up to 10 % missed or extra is good, beyond 50 % no grasp is right",
            wrong,
        )
