# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Corrections in fine-tuning: rows are chosen and weighted by who commanded them."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.cli import finetune as command  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.schema import quality_path  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.train.data.order import BatchOrder  # noqa: E402
from gr00t_training.train.data.samples import Stretch  # noqa: E402
from gr00t_training.train.data.selection import select  # noqa: E402
from gr00t_training.train.data_settings import Interventions, SourceSettings, read_data_file  # noqa: E402
from gr00t_training.train.finetune import prepare_finetuning  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402

torch.set_num_threads(1)
ARM = make_embodiment()
SOURCES = ([1, 1, 2, 2, 4, 1], [1, 1, 1, 1], [2, 2, 2])
PERSON = {(0, 2), (0, 3), (2, 0), (2, 1), (2, 2)}  # rows by a person
QUICK = TrainerSettings(max_steps=2, batch_size=4, device="cpu", seed=1, tune_llm=True, tune_visual=False)


def record(root, sources=SOURCES, has_source=True):
    with DatasetWriter(root, ARM, has_source=has_source) as writer:
        for number, codes in enumerate(sources):
            episode = writer.start_episode("lift the cube")
            for frame, code in zip(make_frames(ARM, len(codes), seed=number), codes, strict=True):
                episode.add_frame(dataclasses.replace(frame, command_source=code if has_source else None, task=""))
            episode.save()
    return root


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "attempts")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "demonstrations", ([0] * 5, [0] * 5), has_source=False)


def chosen(root, **settings):
    dataset = EpisodeDataset(root)
    return select(dataset, dataset.embodiment, SourceSettings(dataset=str(root), **settings))


def rows_of(selection):
    """How often each (episode, row) is a sample."""
    return Counter(
        (stretch.episode, row)
        for stretch in selection.stretches
        for row in range(stretch.first, stretch.first + stretch.count)
    )


def run_of(tmp_path, text, **changes):
    (tmp_path / "mix.yaml").write_text(text)
    trainer = dataclasses.replace(QUICK, report_to=("none",), **changes)
    return FinetuneSettings(variant="n1_compact", data=tmp_path / "mix.yaml", output=tmp_path / "run", trainer=trainer)


def test_only_rows_by_a_person(attempts):
    found = chosen(attempts, interventions=Interventions.ONLY)
    assert found.stretches == [Stretch(0, 2, 2), Stretch(2, 0, 3)]
    assert found.episodes == [0, 2]
    assert list(map(str, found.left_out)) == ["8 rows not commanded by a person"]
    assert found.num_corrected == 5


def test_without_rows_by_a_person(attempts):
    found = chosen(attempts, interventions=Interventions.WITHOUT)
    assert found.stretches == [Stretch(0, 0, 2), Stretch(0, 4, 2), Stretch(1, 0, 4)]
    assert list(map(str, found.left_out)) == ["5 rows commanded by a person"]
    assert found.num_corrected == 0


def test_rows_by_a_person_count_as_often_as_their_weight(attempts):
    found = rows_of(chosen(attempts, intervention_weight=3))
    assert {place for place, count in found.items() if count == 3} == PERSON
    assert {count for place, count in found.items() if place not in PERSON} == {1}
    assert len(found) == 13
    assert rows_of(chosen(attempts)) == Counter(dict.fromkeys(found, 1))


def test_rows_with_old_inputs_are_left_out_before_and_counted_once(tmp_path):
    root = record(tmp_path / "attempts")
    path = root / quality_path(0)
    content = json.loads(path.read_text())
    ages = {"state.arm": [1] * 6, "video.front": [1] * 6}
    path.write_text(json.dumps({**content, "row_ages_ns": ages, "filled_rows": {"state.arm": [1, 2]}}))
    found = chosen(root, interventions=Interventions.ONLY)
    assert found.stretches == [Stretch(0, 3, 1), Stretch(2, 0, 3)]
    assert list(map(str, found.left_out)) == [
        "2 rows with state.arm missing or too old",
        "7 rows not commanded by a person",
    ]


def test_samples_of_a_run_have_exactly_these_shares(attempts, demonstrations, tmp_path):
    """Weight 3: of 8 rows and 5 by a person 23 samples an epoch, 15 by a person; and 2 of 3 draws are attempts."""
    text = (
        f"datasets:\n  - {{dataset: {attempts}, intervention_weight: 3, weight: 2}}\n"
        f"  - {{dataset: {demonstrations}, weight: 1}}\n"
    )
    samples = prepare_finetuning(run_of(tmp_path, text)).trainer.samples
    assert [len(source) for source in samples.sources] == [23, 10]
    order = BatchOrder(samples.mixture, 3, 7, 0, 23 * 2)  # 138 draws, 92 of them of the attempts: four epochs
    drawn = Counter()
    for batch in order:
        for position in batch:
            source, own = samples.place(position[1])
            drawn[(source is samples.sources[0], *source.step(own))] += 1
    of_attempts = {place[1:]: count for place, count in drawn.items() if place[0]}
    assert sum(of_attempts.values()) == 92
    assert all(of_attempts[place] == (12 if place in PERSON else 4) for place in of_attempts)
    assert len(of_attempts) == 13


def test_copies_of_a_row_get_their_own_augmentation(attempts, tmp_path):
    text = f"datasets:\n  - {{dataset: {attempts}, intervention_weight: 2}}\n"
    samples = prepare_finetuning(run_of(tmp_path, text)).trainer.samples
    copies = [i for i in range(len(samples)) if samples.sources[0].step(i) == (2, 1)]
    assert len(copies) == 2
    first, second = (samples[(0, number)] for number in copies)
    assert torch.equal(first["action"], second["action"])
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_held_out_episodes_keep_all_copies_of_their_rows(attempts, tmp_path):
    text = f"datasets:\n  - {{dataset: {attempts}, intervention_weight: 4}}\n"
    trainer = prepare_finetuning(run_of(tmp_path, text, validation_episodes=("2",), validate_every=1)).trainer
    assert {source.step(i)[0] for source in trainer.samples.sources for i in range(len(source))} == {0, 1}
    assert [len(source) for source in trainer.held_out] == [12]


def test_counts_are_printed(attempts, demonstrations, tmp_path, capsys):
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n  - {{dataset: {attempts}, intervention_weight: 3}}\n"
        f"  - {{dataset: {attempts}, interventions: only}}\n  - {{dataset: {demonstrations}}}\n"
    )
    given = ["--data", str(tmp_path / "mix.yaml"), "--variant", "n1_compact", "--output", str(tmp_path / "run")]
    options = ["--max-steps", "1", "--batch-size", "2", "--device", "cpu", "--report-to", "none", "--no-preflight"]
    assert command.main([*given, *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dataset ")]
    assert lines[0].endswith("3 episodes, 23 samples of 13 rows at 10 Hz, 5 rows by a person, 3 times each")
    assert lines[1].endswith(
        "2 of 3 episodes, 5 of 13 rows at 10 Hz, 5 rows by a person; left out: 8 rows not commanded by a person"
    )
    assert lines[2].endswith("2 episodes, 10 rows at 10 Hz")


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("intervention_weight: 3", "intervention_weight: 2", "intervention_weight: found 3, expected 2"),
        ("interventions: only", "weight: 1", "interventions: found only, expected none"),
    ],
)
def test_a_resumed_run_refuses_another_choice(attempts, tmp_path, before, after, found):
    run = run_of(tmp_path, f"datasets:\n  - {{dataset: {attempts}, {before}}}\n", save_steps=1, max_steps=1)
    prepare_finetuning(run).train()
    (tmp_path / "mix.yaml").write_text(f"datasets:\n  - {{dataset: {attempts}, {after}}}\n")
    more = dataclasses.replace(run, resume=True, trainer=dataclasses.replace(run.trainer, max_steps=2))
    with pytest.raises((CheckpointError, ConfigError), match=found):
        prepare_finetuning(more)
    as_before = prepare_finetuning(dataclasses.replace(more, data=None))
    assert as_before.trainer.samples.sources[0].chosen_by == read_settings(attempts, before).to_mapping()


def read_settings(root, text):
    path = root.parent / "read.yaml"
    path.write_text(f"datasets:\n  - {{dataset: {root}, {text}}}\n")
    (found,) = read_data_file(path).datasets
    return found


def test_a_dataset_that_does_not_say_who_commanded_is_refused(demonstrations):
    for settings in ({"interventions": Interventions.WITHOUT}, {"intervention_weight": 2}):
        with pytest.raises(ConfigError, match="has no column 'intervention', so nobody knows which rows a person"):
            chosen(demonstrations, **settings)


def test_a_choice_without_rows_is_refused(attempts):
    with pytest.raises(ConfigError, match=r"no rows are left to train on \(2 episodes not chosen; 4 rows not"):
        chosen(attempts, episodes=("1",), interventions=Interventions.ONLY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interventions: some", "'some' is not one of all, only, without"),
        ("intervention_weight: 0", "intervention_weight is 0"),
        ("intervention_weight: 1.5", "intervention_weight"),
        ("intervention_weight: 3, interventions: only", "intervention_weight is 3 with interventions 'only'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    (tmp_path / "mix.yaml").write_text(f"datasets: [{{dataset: a, {text}}}]\n")
    with pytest.raises(ConfigError, match=message):
        read_data_file(tmp_path / "mix.yaml")


def test_a_flag_of_lerobots_own_form_is_understood(attempts, tmp_path):
    """A column of lists of one, as some writers store it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = record(tmp_path / "lists")
    for episode in range(3):
        file = EpisodeDataset(root).data_file(episode)
        table = pq.read_table(file).drop_columns(["command_source"])
        flags = table["intervention"].to_numpy()
        column = pa.array([[bool(flag)] for flag in flags], pa.list_(pa.bool_()))
        pq.write_table(table.set_column(table.column_names.index("intervention"), "intervention", column), file)
    assert np.array_equal(EpisodeDataset(root).interventions(0), [False, False, True, True, False, False])
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["command_source"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert chosen(root, interventions=Interventions.ONLY).stretches == [Stretch(0, 2, 2), Stretch(2, 0, 3)]
