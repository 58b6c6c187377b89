# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy node reported during a bag: as text, as tables of the page, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gr00t_policy_node.timing import Quantiles, Stage, format_table
from gr00t_recorder.topics.streams import StreamState
from gr00t_training.judge.page import Section
from gr00t_training.judge.verdicts import Finding
from gr00t_training.types import Verdict

KINDS = ("holds", "stops", "gates", "clamps", "others")  # of counts
WAITING = StreamState.WAITING.value  # end of a gate's name
RUNNING_SHARE = 0.9  # of the bag; loading is over, so the first chunk comes soon
REFUSED_SHARE = 0.01  # of the observations
LATE_SHARE = (0.5, 1.0)  # age of a chunk when it comes, by its duration: look, no-go
LATE_TICK_S = 0.01  # what the node allows itself beyond a control period
LIMITED_HZ = 1.0  # commands that a limit changed


@dataclass(frozen=True)
class Replay:
    """What a node reported during a bag."""

    duration_s: float  # of the bag
    chunks: int
    state_s: Mapping[str, float]  # state -> how long it lasted
    reasons: Mapping[str, int]  # of holds and stops, as reported -> how often
    stages: Sequence[Quantiles]  # [s], of the last minute
    jitter: Sequence[Quantiles]
    counts: Mapping[str, Mapping[str, int]]  # one of `KINDS` -> name -> count

    @property
    def has_run(self) -> bool:
        """Whether the policy ever moved the robot, or would have."""
        return self.running > 0.0

    @property
    def running(self) -> float:
        """Share of the bag in which the policy had control."""
        return self.state_s.get("running", 0.0) / self.duration_s

    def stage(self, stage: Stage) -> Quantiles:
        """Return the distribution of one stage."""
        return next((found for found in self.stages if found.name == stage.value), Quantiles(stage.value))


def format_replay(replay: Replay) -> str:
    """Return the results for people."""
    late = replay.stage(Stage.TICK_LATENESS)
    lines = [
        f"{replay.duration_s:.1f} s of the bag: {_chunks(replay)}, {_states(replay)}",
        f"control ticks late by {1e3 * late.p99:.2f} ms at p99, {1e3 * late.worst:.2f} ms at worst",
        "",
        "stages and ages of the last minute [ms]",
        format_table(replay.stages, scale=1e3),
        "",
        "smoothness of the chunks",
        format_table(replay.jitter),
        "",
        *(f"{kind:8}{_count_text(replay.counts[kind])}" for kind in KINDS),
    ]
    lines += ["", *(f"{count:>4} x {reason}" for reason, count in replay.reasons.items())] if replay.reasons else []
    return "\n".join(lines)


def sections(replay: Replay) -> list[Section]:
    """Return the same as tables of a page."""
    rows = [(kind, _count_text(replay.counts[kind])) for kind in KINDS]
    rows += [("reasons", f"{count} x {reason}") for reason, count in replay.reasons.items()]
    head = ("", "count", "p50", "p95", "p99", "worst")
    return [
        Section("In the policy node", f"{_chunks(replay)}; {_states(replay)}", ("", "how often, by cause"), rows),
        Section("Stages and ages of inputs [ms]", "Last minute.", head, _rows(replay.stages, 1e3)),
        Section(
            "Smoothness of the chunks",
            "A boundary jump of 1 is a motion that continues unchanged; so is a velocity cosine of 1.",
            head,
            _rows(replay.jitter, 1.0),
        ),
    ]


def findings(replay: Replay, chunk_s: float) -> Iterator[Finding]:
    """Yield what the node's reports mean; `chunk_s`: duration of a chunk."""
    yield _running(replay)
    yield _gates(replay)
    late = replay.stage(Stage.OBSERVATION_TO_CHUNK)
    share = late.p95 / chunk_s
    yield Finding(
        "latency",
        "observation to chunk",
        Verdict.GO if share <= LATE_SHARE[0] else Verdict.LOOK if share <= LATE_SHARE[1] else Verdict.NO_GO,
        f"{1e3 * late.p50:.0f} ms, 95 % within {1e3 * late.p95:.0f} ms",
        "" if share <= LATE_SHARE[0] else "answers come late: use a faster machine, a server or fewer denoising steps",
        f"a chunk lasts {1e3 * chunk_s:.0f} ms: up to half of it is good, beyond it nothing is left to carry out",
        late.p95,
    )
    tick = replay.stage(Stage.TICK_LATENESS)
    is_prompt = tick.p99 <= LATE_TICK_S
    yield Finding(
        "latency",
        "control ticks",
        Verdict.GO if is_prompt else Verdict.LOOK,
        f"99 % within {1e3 * tick.p99:.1f} ms",
        "" if is_prompt else "the control loop is delayed: give the node cores of its own",
        f"99 % may be {1e3 * LATE_TICK_S:.0f} ms late",
        tick.p99,
    )
    limited = replay.counts["others"].get("limited commands", 0) / replay.duration_s
    is_within = limited <= LIMITED_HZ
    clamps = _count_text(replay.counts["clamps"])
    yield Finding(
        "motion",
        "commands within limits",
        Verdict.GO if is_within else Verdict.LOOK,
        f"{limited:.1f} changed per second",
        "" if is_within else f"limits change what the policy wants ({clamps}): compare limits and demonstrations",
        f"up to {LIMITED_HZ:g} per second",
        limited,
    )


def _running(replay: Replay) -> Finding:
    is_good = replay.running >= RUNNING_SHARE
    holds, stops = (_count_text(replay.counts[kind]) for kind in ("holds", "stops"))
    meaning = "" if is_good else f"it holds too often (holds: {holds}; stops: {stops})"
    if not replay.has_run:
        meaning = f"the policy never ran: {', '.join(replay.reasons) or _states(replay)}"
    return Finding(
        "node",
        "policy has control",
        Verdict.GO if is_good else Verdict.LOOK if replay.has_run else Verdict.NO_GO,
        f"{replay.running:.0%} of the time",
        meaning,
        f"at least {RUNNING_SHARE:.0%}; at the start it waits for the first chunk",
        replay.running,
    )


def _gates(replay: Replay) -> Finding:
    # inputs are waited for until the bag begins to play; those that never come end in a policy that never ran
    refused = sum(count for name, count in replay.counts["gates"].items() if not name.endswith(WAITING))
    share = refused / max(1, refused + replay.chunks)
    is_good = share <= REFUSED_SHARE
    meaning = "" if is_good else f"inputs cannot be used: {_count_text(replay.counts['gates'])}"
    threshold = f"up to {REFUSED_SHARE:.0%}"
    shown = f"{share:.1%} refused"
    return Finding("node", "observations", Verdict.GO if is_good else Verdict.LOOK, shown, meaning, threshold, share)


def _chunks(replay: Replay) -> str:
    return f"{replay.chunks} chunks ({replay.chunks / replay.duration_s:.1f}/s)"


def _states(replay: Replay) -> str:
    shares = {name: duration_s / replay.duration_s for name, duration_s in replay.state_s.items()}
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0) or "no state reported"


def _count_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _rows(found: Sequence[Quantiles], scale: float) -> list[tuple[str, ...]]:
    return [
        (each.name, str(each.count), *(f"{scale * value:.2f}" for value in (each.p50, each.p95, each.p99, each.worst)))
        for each in found
        if each.count
    ]
