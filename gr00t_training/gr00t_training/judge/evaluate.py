# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge a checkpoint or a policy server on recorded episodes: prepare an evaluation and run it.

`evaluate` does both at once. A caller that warns of trained episodes before an hour of work calls `prepare_evaluation`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.folder import read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.training_data import read_training_data
from gr00t_training.dataset.episode_ranges import parse_episodes
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, embodiment_or_tag
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable
from gr00t_training.judge.judging import BASE, Judgement, baseline_errors, judge
from gr00t_training.judge.metrics import ErrorTable, errors
from gr00t_training.judge.open_loop import EpisodeEvaluation, check_keys, compare_episode
from gr00t_training.judge.output import write_page, write_report
from gr00t_training.judge.page import judgement_page, plain
from gr00t_training.judge.queries import Answers, Recording, answer_queries
from gr00t_training.judge.report import make_report, plot_evaluation
from gr00t_training.judge.settings import EvaluationSettings
from gr00t_training.policy.device import explained_memory
from gr00t_training.policy.policy import Policy
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.client import PolicyClient
from gr00t_training.train.data.fit import check_match, mismatches
from gr00t_training.train.output import make_folder

logger = logging.getLogger(__name__)

DEFAULT_EPISODES = 10
SHOWN_PLOTS = 3  # on the page; the folder has all
_LESS_MEMORY = "close other programs, or choose --device cpu"


@dataclass(frozen=True)
class EvaluationResult:
    """Errors of a policy on recorded episodes, and what they mean."""

    episodes: tuple[EpisodeEvaluation, ...]
    judgements: tuple[Judgement, ...]  # of the policy, then of those compared with it; empty without tests
    report: Mapping[str, Any]  # all errors as plain JSON values (`make_report`); `format_table` shows them
    plots: tuple[Path, ...]  # PNG of each episode; empty without an output folder
    page: Path | None  # of the judgements


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation that is ready to run."""

    settings: EvaluationSettings
    policy: PolicyLike
    dataset: EpisodeDataset
    episodes: tuple[int, ...]  # that are compared
    trained: tuple[int, ...]  # those of them that the checkpoint was trained on: errors on others will be larger

    def run(self) -> EvaluationResult:
        """Compare each episode and judge; write report, page and plots if there is an output folder.

        Raises:
            Gr00tError: an episode cannot be read, out of memory, or a result cannot be written.
        """
        with explained_memory(_LESS_MEMORY):
            recording = self._recording()
            answers = answer_queries(self.policy, recording)
            keys = self.settings.modality_keys
            evaluations = tuple(compare_episode(recording, answers.chunks, each, keys) for each in self.episodes)
            is_judged = self.settings.tests
            if is_judged and not recording.moves.any():
                logger.warning("%s: no joint moves in these rows; there is nothing to judge", self.dataset.path)
                is_judged = False
            judgements = tuple(self._judge(recording, answers)) if is_judged else ()
        report = make_report(evaluations, self.policy.embodiment)
        if judgements:
            report["judgements"] = [plain(judgement, recording) for judgement in judgements]
        folder = Path(self.settings.output) if self.settings.output else None
        if folder is None:
            return EvaluationResult(evaluations, judgements, report, (), None)
        plots = _write(folder, evaluations, report, self.policy.embodiment)
        page = None
        if judgements:
            subject = f"{self.dataset.path.resolve().name}: may the policy move the robot?"
            page = write_page(folder, judgement_page(judgements, recording, subject, _shown(evaluations, plots)))
        return EvaluationResult(evaluations, judgements, report, plots, page)

    def _recording(self) -> Recording:
        embodiment = self.policy.embodiment
        horizon = self.settings.action_horizon or embodiment.action_horizon
        return Recording(self.dataset, embodiment, self.episodes, horizon, self.settings.steps)

    def _judge(self, recording: Recording, answers: Answers) -> Iterator[Judgement]:
        baselines = {**baseline_errors(recording), **self._base(recording)}
        yield judge(self.policy, recording, str(self.settings.checkpoint or self.settings.server), answers, baselines)
        for checkpoint in self.settings.compare:  # one after another: two may not fit into memory
            policy = _load(self.settings, checkpoint, self.policy.embodiment)
            yield judge(policy, recording, checkpoint, answer_queries(policy, recording), baselines)

    def _base(self, recording: Recording) -> dict[str, ErrorTable]:
        """Return the errors of the checkpoint that training started from, in the policy's units."""
        if not self.settings.baseline:
            return {}
        assert isinstance(self.policy, Policy)  # `EvaluationSettings` refuses it with a server
        policy = self.policy.before_training(self.settings.baseline, tokenizer=self.settings.tokenizer)
        return {BASE: errors(recording, answer_queries(policy, recording).chunks)}


def evaluate(settings: EvaluationSettings) -> EvaluationResult:
    """Judge a policy on recorded episodes (open loop; nothing moves).

    Args:
        settings: policy, dataset and episodes.

    Raises:
        Gr00tError: settings, dataset and policy do not fit each other; says what to change.
    """
    return prepare_evaluation(settings).run()


def prepare_evaluation(settings: EvaluationSettings) -> EvaluationRun:
    """Open the dataset, load the policy and check that they fit each other.

    Raises:
        Gr00tError: settings, dataset and policy do not fit each other; says what to change.
    """
    dataset = EpisodeDataset(settings.dataset)
    embodiment = embodiment_or_tag(settings.embodiment) if settings.embodiment else None
    with explained_memory(_LESS_MEMORY):
        policy: PolicyLike
        if settings.server:
            if isinstance(embodiment, str):
                raise ConfigError(
                    f"--embodiment {printable(embodiment)}: a server needs its name or YAML file, not a tag"
                )
            policy = _client(settings.server, embodiment or dataset.embodiment, dataset)
        else:
            checkpoint = settings.checkpoint or ""
            policy = _load(settings, checkpoint, embodiment or _fitting(checkpoint, dataset))
    check_match(dataset, policy.embodiment)
    present = [episode.index for episode in dataset.episodes]
    chosen = parse_episodes(settings.episodes, present) if settings.episodes else present
    trained = _trained(policy, dataset, chosen)
    if not settings.episodes:
        chosen = ([episode for episode in chosen if episode not in set(trained)] or chosen)[:DEFAULT_EPISODES]
        trained = [episode for episode in trained if episode in set(chosen)]
    if not chosen:
        raise ConfigError(f"{dataset.path}: has no episodes to evaluate; record some")
    check_keys(policy.embodiment, settings.modality_keys)
    if settings.output:
        make_folder(Path(settings.output))
    return EvaluationRun(settings, policy, dataset, tuple(chosen), tuple(trained))


def _fitting(checkpoint: str | Path, dataset: EpisodeDataset) -> str | None:
    """Return the tag to run of a checkpoint of several embodiments: that which the dataset fits."""
    known = read_folder(find_folder(checkpoint), needs_statistics=False).embodiments
    fitting = [tag for tag, embodiment in known.items() if not mismatches(dataset, embodiment)]
    return fitting[0] if len(known) > 1 and len(fitting) == 1 else None


def _load(settings: EvaluationSettings, checkpoint: str | Path, embodiment: Embodiment | str | None) -> Policy:
    return Policy.from_checkpoint(
        checkpoint,
        embodiment=embodiment,
        device=settings.device,
        denoising_steps=settings.denoising_steps,
        seed=settings.seed,
        tokenizer=settings.tokenizer,
    )


def _client(address: str, embodiment: Embodiment | None, dataset: EpisodeDataset) -> PolicyClient:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"server '{address}': expected HOST:PORT, such as 127.0.0.1:5555")
    if embodiment is None:
        raise ConfigError(
            f"{dataset.path}: has no embodiment (another tool wrote it); 'gr00t init {dataset.path} --output my_robot' "
            "writes one: pass --embodiment my_robot/embodiment.yaml"
        )
    client = PolicyClient(embodiment, host, int(port))
    client.check_embodiment()
    return client


def _trained(policy: PolicyLike, dataset: EpisodeDataset, episodes: Sequence[int]) -> list[int]:
    path = policy.checkpoint.path if isinstance(policy, Policy) else None
    known = read_training_data(path) if path else None
    return known.known_episodes(dataset, episodes, policy.embodiment.action_keys) if known else []


def _shown(evaluations: Sequence[EpisodeEvaluation], plots: Sequence[Path]) -> list[Path]:
    """Return the plots of the episodes with the largest errors."""
    order = sorted(range(len(plots)), key=lambda place: -evaluations[place].mse)
    return [plots[place] for place in order[:SHOWN_PLOTS]]


def _write(
    folder: Path, evaluations: tuple[EpisodeEvaluation, ...], report: Mapping[str, Any], embodiment: Embodiment
) -> tuple[Path, ...]:
    write_report(folder, report)
    plots = tuple(folder / f"episode_{evaluation.episode:06d}.png" for evaluation in evaluations)
    try:
        for evaluation, path in zip(evaluations, plots, strict=True):
            plot_evaluation(evaluation, embodiment, path)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error
    return plots
