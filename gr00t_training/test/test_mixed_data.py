# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Several datasets in a run: what of each is trained on, with which statistics, texts and embodiments."""

import dataclasses
import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model  # noqa: E402
from gr00t_training.checkpoint.training_data import read_training_data  # noqa: E402
from gr00t_training.cli import finetune as command  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.schema import quality_path  # noqa: E402
from gr00t_training.dataset.statistics.compute import compute_statistics, merge_statistics  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import Normalization, VectorKey, VideoKey, to_mapping  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError  # noqa: E402
from gr00t_training.judge.evaluate import prepare_evaluation  # noqa: E402
from gr00t_training.judge.settings import EvaluationSettings  # noqa: E402
from gr00t_training.train.data.choice import choose_data, trained_embodiments  # noqa: E402
from gr00t_training.train.data.hub_dataset import find_dataset  # noqa: E402
from gr00t_training.train.data.samples import Stretch  # noqa: E402
from gr00t_training.train.data.selection import select  # noqa: E402
from gr00t_training.train.data.statistics import moved_channels, selected_statistics  # noqa: E402
from gr00t_training.train.data_settings import (  # noqa: E402
    Marks,
    SourceSettings,
    StatisticsFrom,
    read_data_file,
    read_instructions,
)
from gr00t_training.train.finetune import prepare_finetuning  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402

torch.set_num_threads(1)
ARM = make_embodiment()
# another robot: another tag, rate, camera size, number of cameras and number of channels
TWO_ARMS = dataclasses.replace(
    make_embodiment(fps=20, size=(48, 64)),
    name="two_arms",
    tag="gr1",
    state={
        "left": VectorKey(names=("l0", "l1"), normalization=Normalization.MIN_MAX),
        "right": VectorKey(names=("r0", "r1"), normalization=Normalization.MIN_MAX),
    },
    action={"left": VectorKey(names=("l0", "l1"), normalization=Normalization.MIN_MAX)},
    video={"head": VideoKey(height=48, width=64), "wrist": VideoKey(height=32, width=32)},
)
QUICK = TrainerSettings(max_steps=2, batch_size=4, device="cpu", seed=1, tune_llm=True, tune_visual=False)


def record(root, embodiment, lengths, *, tasks=("lift the cube",), seed=0, version="v2.1"):
    with DatasetWriter(root, embodiment, version=version) as writer:
        for number, count in enumerate(lengths):
            episode = writer.start_episode(tasks[number % len(tasks)])
            for frame in make_frames(embodiment, count, seed=seed + number, task=""):
                episode.add_frame(frame)
            episode.save()
    return root


def mark(root, episode, **members):
    path = root / quality_path(episode)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **members}))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "first", ARM, (6, 5, 4), tasks=("lift the cube", "open the door"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "second", ARM, (7, 3), seed=50, version="v3.0")


@pytest.fixture(scope="module")
def other_robot(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "other", TWO_ARMS, (6, 6), seed=90, version="v2.0")


def chosen(root, **settings):
    dataset = EpisodeDataset(root)
    return select(dataset, dataset.embodiment, SourceSettings(dataset=str(root), **settings))


# -- choice of episodes and rows


def test_all_of_a_dataset_is_one_stretch_per_episode(first):
    found = chosen(first)
    assert found.stretches == [Stretch(0, 0, 6), Stretch(1, 0, 5), Stretch(2, 0, 4)]
    assert found.left_out == []
    assert found.texts is None


def test_episodes_are_chosen_by_number_and_task(first):
    found = chosen(first, episodes=("0-1",))
    assert found.episodes == [0, 1]
    assert list(map(str, found.left_out)) == ["1 episode not chosen"]
    assert chosen(first, tasks=("open*",)).episodes == [1]
    assert chosen(first, tasks=("open the door", "lift *")).episodes == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"no episode has a task 'fold' \(tasks: lift the cube; open the door\)"):
        chosen(first, tasks=("fold",))
    with pytest.raises(DatasetError, match="first: episodes '7': not all of them are in the dataset"):
        chosen(first, episodes=("7",))


def test_marks_choose_episodes_and_nothing_is_left_out_silently(tmp_path):
    root = record(tmp_path / "marked", ARM, (3, 3, 3, 3))
    mark(root, 0, success=True)
    mark(root, 1, valid=False, success=True)
    mark(root, 2, success=False)
    found = chosen(root)
    assert found.episodes == [0, 2, 3]
    assert [(part.reason, part.episodes, part.rows) for part in found.left_out] == [("marked as not valid", 1, 3)]
    assert chosen(root, marks=Marks.ALL).episodes == [0, 1, 2, 3]
    found = chosen(root, marks=Marks.SUCCESS)
    assert found.episodes == [0]
    assert list(map(str, found.left_out)) == ["1 episode marked as not valid", "2 episodes not marked as a success"]
    mark(root, 0, success=None)
    with pytest.raises(ConfigError, match=r"no rows are left to train on \(1 episode marked as not valid; 3 episodes"):
        chosen(root, marks=Marks.SUCCESS)


def test_rows_with_old_inputs_are_left_out_and_counted_by_stream(tmp_path):
    root = record(tmp_path / "stale", ARM, (8, 4))
    ages = {"state.arm": [1] * 8, "video.front": [1, 1, None, 1, 1, 1, 1, 1], "action.arm": [1] * 8}
    mark(root, 0, row_ages_ns=ages, filled_rows={"state.arm": [2, 5], "action.arm": [0, 1]})
    found = chosen(root)
    assert found.stretches == [Stretch(0, 0, 2), Stretch(0, 3, 2), Stretch(0, 6, 2), Stretch(1, 0, 4)]
    # row 2 has two reasons and is counted once; actions are held on purpose where a command lasts
    assert list(map(str, found.left_out)) == [
        "1 row with video.front missing or too old",
        "1 row with state.arm missing or too old",
    ]
    assert chosen(root, leave_out_filled=False).stretches == [Stretch(0, 0, 8), Stretch(1, 0, 4)]


def test_a_row_that_shows_an_old_sample_in_its_history_is_left_out(tmp_path):
    root = record(tmp_path / "history", ARM, (6,))
    mark(root, 0, row_ages_ns={"state.arm": [1] * 6}, filled_rows={"state.arm": [1]})
    embodiment = dataclasses.replace(ARM, state_history=(-2, 0))
    found = select(EpisodeDataset(root), embodiment, SourceSettings(dataset=str(root)))
    assert found.stretches == [Stretch(0, 0, 1), Stretch(0, 2, 1), Stretch(0, 4, 2)]


def test_episodes_with_faults_are_left_out_by_option(tmp_path, caplog):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = record(tmp_path / "faulty", ARM, (4, 4, 4))
    file = EpisodeDataset(root).data_file(1)
    table = pq.read_table(file)
    times = pa.array([0.0, 0.1, 0.5, 0.6], table.schema.field("timestamp").type)
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", times), file)
    assert chosen(root).episodes == [0, 1, 2]
    found = chosen(root, leave_out_faults=True)
    assert found.episodes == [0, 2]
    assert list(map(str, found.left_out)) == ["1 episode with faults"]
    (message,) = caplog.messages
    assert "fault: meta/stats.json: max of 'timestamp'" in message
    assert "concerns no single episode: nothing is left out for it" in message


# -- statistics


def test_statistics_of_two_datasets_are_those_of_all_their_rows(first, second):
    parts = [chosen(first), chosen(second, episodes=("0",))]
    found = selected_statistics(parts)["action"]["arm"]
    rows = [part.dataset.action(episode, "arm") for part in parts for episode in part.episodes]
    expected = compute_statistics(np.concatenate(rows))
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, err_msg=name)
    shares = np.array([15, 7]) / 22
    quantiles = [selected_statistics([part])["action"]["arm"].q99 for part in parts]
    np.testing.assert_allclose(found.q99, shares @ np.stack(quantiles))


def test_merging_by_hand():
    low, high = compute_statistics(np.array([[0.0], [2.0]])), compute_statistics(np.array([[4.0]] * 6))
    found = merge_statistics([low, high], [2, 6])
    assert (found.min, found.max, found.mean) == ([0.0], [4.0], [3.25])
    np.testing.assert_allclose(found.std, np.std([0, 2, *[4] * 6]))
    assert merge_statistics([low], [2]) is low


def test_relative_actions_are_merged_by_chunks(first, second):
    relative = dataclasses.replace(ARM.action["arm"], relative_to="arm")
    embodiment = dataclasses.replace(ARM, action={**ARM.action, "arm": relative}, action_horizon=3)
    data = [
        select(EpisodeDataset(root), embodiment, SourceSettings(dataset=str(root), episodes=("0",)))
        for root in (first, second)
    ]
    found = selected_statistics(data)["relative_action"]["arm"]
    steps = [
        part.dataset.action(0, "arm")[start + np.arange(3)] - part.dataset.state(0, "arm")[start]
        for part, length in zip(data, (6, 7), strict=True)
        for start in range(length - 2)
    ]
    np.testing.assert_allclose(found.mean, np.mean(steps, axis=0), atol=1e-6)
    assert not list(first.glob("meta/relative_stats.json"))  # of some episodes only: not those of the dataset


def test_channels_that_a_base_checkpoint_knows_with_another_range_are_named(first):
    now = selected_statistics([chosen(first)])
    arm = now["state"]["arm"]
    assert moved_channels(ARM, now, now, 2.0) == []
    wide = dataclasses.replace(arm, min=arm.min * [1, 3, 1], max=arm.max * [1, 3, 1])
    narrow = dataclasses.replace(arm, min=arm.min * [1, 1, 0.3], max=arm.max * [1, 1, 0.3])
    for base, channel in ((wide, "j1"), (narrow, "j2")):
        (item,) = moved_channels(ARM, now, {**now, "state": {**now["state"], "arm": base}}, 2.0)
        assert item.startswith(f"state.arm.{channel} (")


def test_statistics_of_the_base_are_kept_by_option_and_a_warning_names_what_moves(first, tmp_path, caplog):
    base = make_checkpoint(tmp_path / "base", ARM)  # its statistics are -1 to 1
    data = [chosen(first)]
    (own,) = trained_embodiments(data, base, StatisticsFrom.DATASET)
    assert own.statistics["state"]["arm"].max.tolist() == selected_statistics(data)["state"]["arm"].max.tolist()
    caplog.clear()
    (kept,) = trained_embodiments(data, base, StatisticsFrom.BASE)
    assert kept.statistics["state"]["arm"].max.tolist() == [1, 1, 1]
    caplog.clear()
    trained_embodiments([chosen(scaled_dataset(tmp_path))], base, StatisticsFrom.DATASET)
    (message,) = caplog.messages
    assert "ranges of 8 channels of 'new_embodiment' differ more than 2 times" in message
    assert "state.arm.j0 (-1 to 1 -> " in message
    changed = dataclasses.replace(data[0], embodiment=dataclasses.replace(ARM, tag="gr1"))
    with pytest.raises(CheckpointError, match="no statistics for embodiment tag 'gr1'"):
        trained_embodiments([changed], base, StatisticsFrom.BASE)


def scaled_dataset(tmp_path):
    frames = [
        dataclasses.replace(
            frame,
            state={key: 50 * value for key, value in frame.state.items()},
            action={key: 50 * value for key, value in frame.action.items()},
        )
        for frame in make_frames(ARM, 6)
    ]
    with DatasetWriter(tmp_path / "scaled", ARM) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in frames:
            episode.add_frame(frame)
        episode.save()
    return tmp_path / "scaled"


# -- texts


def test_texts_are_drawn_by_seed_epoch_and_sample_and_images_stay(first):
    checkpoint = load_for(first)
    pipeline = checkpoint.pipeline()
    texts = ("raise the cube", "pick up the cube", "lift the cube")
    varied = chosen(first, instructions={"lift the cube": texts}).source(pipeline)
    plain = chosen(first).source(pipeline)
    drawn = []
    for number in range(60):
        seed = [3, number, 0]
        found, expected = (source.encode(0, np.random.default_rng(seed)) for source in (varied, plain))
        again = varied.encode(0, np.random.default_rng(seed))
        assert torch.equal(found["input_ids"], again["input_ids"])
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
        drawn.append(pipeline.tokenizer.decode(found["input_ids"].tolist()))
    counts = Counter(next(text for text in texts if text in prompt) for prompt in drawn)
    assert set(counts) == set(texts)
    assert min(counts.values()) > 8
    door = varied.encode(6, np.random.default_rng(0))  # of a task without variants
    assert "open the door" in pipeline.tokenizer.decode(door["input_ids"].tolist())


def test_several_annotations_are_drawn_from(tmp_path):
    root = record(tmp_path / "annotated", ARM, (3,))
    modality = json.loads((root / "meta/modality.json").read_text())
    modality["annotation"]["human.other"] = {"original_key": "annotation.other"}
    (root / "meta/modality.json").write_text(json.dumps(modality))
    add_annotation(root, "annotation.other", "raise it")
    found = chosen(root, language=("human.task_description", "human.other"))
    texts = {found.texts.draw(found.dataset, 0, 0, np.random.default_rng(seed)) for seed in range(20)}
    assert texts == {"lift the cube", "raise it"}
    with pytest.raises(ConfigError, match=r"has no annotation 'human\.none'"):
        chosen(root, language=("human.none",))


def add_annotation(root, column, text):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = EpisodeDataset(root).data_file(0)
    table = pq.read_table(file)
    pq.write_table(table.append_column(column, pa.array([text] * table.num_rows)), file)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][column] = {"dtype": "string", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def test_instructions_for_other_tasks_are_refused(first):
    with pytest.raises(ConfigError, match=r"instructions are for none of its tasks \(tasks: lift the cube; open"):
        chosen(first, instructions={"lift a cube": ("raise it",)})


# -- data files


def test_a_data_file_is_read_with_paths_relative_to_it(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps({"lift": ["raise", "pick up"]}))
    (folder / "robot.yaml").write_text("")
    (folder / "mix.yaml").write_text(
        "datasets:\n"
        "  - {dataset: first, weight: 3, episodes: [0, 2-4], marks: success, instructions: texts.json}\n"
        "  - {dataset: /far/second, embodiment: robot.yaml, tag: gr1}\n"
    )
    first, second = read_data_file(folder / "mix.yaml").datasets
    assert first == SourceSettings(
        dataset=str(folder / "first"),
        weight=3.0,
        episodes=("0", "2-4"),
        marks=Marks.SUCCESS,
        instructions={"lift": ("raise", "pick up")},
    )
    assert (second.dataset, second.embodiment, second.tag) == ("/far/second", str(folder / "robot.yaml"), "gr1")
    for source in (first, second):
        assert SourceSettings.from_mapping(json.loads(json.dumps(source.to_mapping())), "checkpoint") == source


def test_the_data_file_of_the_documentation_is_accepted(tmp_path):
    page = Path(__file__).parents[2] / "docs/finetune.md"
    if not page.exists():
        pytest.skip("a package alone has no documentation")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "mix.yaml").write_text(text)
    kitchen, attempts, other = read_data_file(tmp_path / "mix.yaml").datasets
    assert attempts.intervention_weight == 3
    assert (kitchen.episodes, kitchen.tasks) == (("0-199", "205"), ("open *", "pick up the cup"))
    assert other.instructions["lift the cube"] == ("lift the cube", "pick up the cube", "raise the block")
    assert (other.leave_out_faults, other.leave_out_filled) == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: []", "datasets is empty"),
        ("datasets: [{weight: 1}]", "missing key 'dataset'"),
        ("datasets: [{dataset: a, epsodes: [1]}]", "unknown key 'epsodes'; did you mean 'episodes'"),
        ("datasets: [{dataset: a, weight: 0}]", "weight is 0.0, expected a number above 0"),
        ("datasets: [{dataset: a, marks: good}]", "'good' is not one of all, valid, success"),
        ("datasets: [{dataset: a, instructions: {b: []}}]", "instructions of 'b' are"),
        ("datasets: [{dataset: a, instructions: nowhere.yaml}]", "nowhere.yaml"),
        ("- dataset: a", "expected a mapping"),
    ],
)
def test_a_wrong_data_file_is_refused_with_one_line(text, message, tmp_path):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_data_file(tmp_path / "mix.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "lift: raise", "lift: []", "lift: [1]", "lift: ['']"])
def test_a_wrong_file_of_instructions_is_refused(text, tmp_path):
    (tmp_path / "texts.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"texts\.yaml: .*expected"):
        read_instructions(tmp_path / "texts.yaml")


# -- datasets of the hub


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(first, tmp_path, monkeypatch):
    """Return the hub's cache with a dataset, whose files are links into a folder of blobs."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "cache/datasets--lab--kitchen"
    for name in ("refs", "blobs"):
        (repository / name).mkdir(parents=True)
    for name in ("main", "v2.1"):
        (repository / "refs" / name).write_text(REVISION)
    for number, file in enumerate(sorted(path for path in first.rglob("*") if path.is_file())):
        link = repository / "snapshots" / REVISION / file.relative_to(first)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, repository / "blobs" / str(number))
        link.symlink_to(os.path.relpath(repository / "blobs" / str(number), link.parent))
    return repository


@pytest.mark.parametrize("name", ["lab/kitchen", "lab/kitchen@v2.1"])
def test_a_dataset_of_the_hub_is_read_from_the_cache(name, cache, first):
    dataset = EpisodeDataset(find_dataset(name))
    assert len(dataset) == 3
    np.testing.assert_array_equal(dataset.images(0, "front", [2]), EpisodeDataset(first).images(0, "front", [2]))
    with pytest.raises(DatasetError, match="no such folder, and not available from the hub: not in the local cache"):
        find_dataset("lab/nowhere")


def test_a_run_on_a_dataset_of_the_hub_is_resumed(cache, tmp_path):
    (tmp_path / "mix.yaml").write_text("datasets: [{dataset: lab/kitchen, episodes: [0]}]")
    assert read_data_file(tmp_path / "mix.yaml").datasets[0].dataset == "lab/kitchen"
    run = prepare_finetuning(settings_for(tmp_path / "run", data=tmp_path / "mix.yaml"))
    path = run.train().checkpoint
    (source,) = read_training_data(path).sources
    assert (source.path, source.settings["dataset"]) == (str(cache / "snapshots" / REVISION), "lab/kitchen")
    (found,) = choose_data(FinetuneSettings(output=tmp_path / "run", resume=True), path)
    assert found.dataset.path == cache / "snapshots" / REVISION
    assert found.episodes == [0]


def test_a_folder_is_taken_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab/kitchen").mkdir(parents=True)
    assert find_dataset("lab/kitchen") == Path("lab/kitchen")
    assert find_dataset("nowhere") == Path("nowhere")
    with pytest.raises(DatasetError, match=r"install huggingface_hub \(pip install 'gr00t_training\[hub\]'\)"):
        find_dataset("lab/office")


# -- runs


def load_for(root):
    from gr00t_training.checkpoint import new_checkpoint

    dataset = EpisodeDataset(root)
    return new_checkpoint("n1_compact", dataset.embodiment, selected_statistics([chosen(root)]))


def settings_for(output, **given):
    return FinetuneSettings(output=output, variant="n1_compact", trainer=QUICK, **given)


def test_one_dataset_trains_on_the_samples_that_it_always_did(first, tmp_path):
    run = prepare_finetuning(settings_for(tmp_path / "run", dataset=first))
    samples = run.trainer.samples
    assert [samples.sources[0].step(sample) for sample in (0, 5, 6, 14)] == [(0, 0), (0, 5), (1, 0), (2, 3)]
    assert samples.mixture.shares == (1.0,)


def test_two_embodiments_train_in_one_run_and_each_can_be_served(first, second, other_robot, tmp_path, capsys):
    """The mixture is recorded, a resumed run goes on with it, and another one is refused naming the items."""
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n  - {{dataset: {first}, weight: 2, episodes: [0-1]}}\n  - {{dataset: {second}, weight: 1}}\n"
        f"  - {{dataset: {other_robot}, weight: 1, instructions: {{lift the cube: [raise it]}}}}\n"
    )
    words = ["--variant", "n1_compact", "--output", str(tmp_path / "run"), "--device", "cpu", "--batch-size", "4"]
    words += ["--no-tune-visual", "--seed", "1"]
    data = ["--data", str(tmp_path / "mix.yaml")]
    assert command.main([*words, *data, "--max-steps", "2", "--save-steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"dataset     {first}: 50.0% of the samples, 2 of 3 episodes, 11 of 15 rows at 10 Hz; left out: 1 episode"
        in printed
    )
    assert f"dataset     {second}: 25.0% of the samples, 2 episodes, 10 rows" in printed
    assert "embodiment  test_arm" in printed
    assert "embodiment  two_arms" in printed

    path = tmp_path / "run/checkpoint-2"
    assert load_checkpoint(path, embodiment="two_arms").embodiment == TWO_ARMS
    found = load_checkpoint(path, embodiment=ARM)
    assert [each.embodiment for each in found.others] == [TWO_ARMS]
    trained = read_training_data(path)
    assert [(part.tag, part.episodes, part.share) for part in trained.sources] == [
        ("new_embodiment", "0-1", 0.5),
        ("new_embodiment", "0-1", 0.25),
        ("gr1", "0-1", 0.25),
    ]
    assert len(trained.episodes) == 6
    assert len({part.data_digest for part in trained.sources}) == 3

    for root, number in ((first, 3), (other_robot, 2)):
        asked = EvaluationSettings(checkpoint=path, dataset=root, device="cpu", episodes=("0-",), steps=1)
        run = prepare_evaluation(asked)  # the embodiment that the dataset fits
        assert run.policy.embodiment == run.dataset.embodiment
        assert run.trained == (0, 1)
        assert len(run.episodes) == number
        assert prepare_evaluation(dataclasses.replace(asked, embodiment=run.policy.embodiment.tag)).trained == (0, 1)

    resume = ["--resume", "--output", str(tmp_path / "run"), "--max-steps", "3"]
    assert command.main(resume) == 0
    assert "2 of 3 episodes, 11 of 15 rows" in capsys.readouterr().out
    text = (tmp_path / "mix.yaml").read_text()
    (tmp_path / "mix.yaml").write_text(text.replace("weight: 2", "weight: 6").replace("raise it", "hold it"))
    assert command.main([*resume[:-1], "4", *data]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "dataset 1 share: found 0.5, expected 0.75; dataset 1 weight: found 2.0, expected 6.0" in line
    assert (
        "dataset 3 instructions: found {'lift the cube': ['raise it']}, expected {'lift the cube': ['hold it']}" in line
    )


def test_a_batch_mixes_embodiments_and_trains_the_rows_of_both(first, other_robot, tmp_path):
    run = prepare_finetuning(settings_for(tmp_path / "run", dataset=(first, other_robot)))
    before = {name: value.clone() for name, value in run.trainer._weights.whole({}).items()}
    batch = next(run.trainer._batches(1))[0]
    assert len(set(batch.tensors["embodiment_id"].tolist())) == 2
    run.train()
    after = run.trainer._weights.whole({})
    table = "action_head.state_encoder.layer1.W"
    moved = {row for row in range(len(before[table])) if not torch.equal(before[table][row], after[table][row])}
    assert moved == {source.pipeline.projector for source in run.trainer.samples.sources}
    assert len(moved) == 2


def test_batches_have_one_shape_where_each_share_of_a_batch_is_a_whole_number(first, other_robot, tmp_path):
    """So a GPU replays one graph for them."""
    (tmp_path / "mix.yaml").write_text(
        f"datasets: [{{dataset: {first}, weight: 3, tasks: [lift the cube]}}, {{dataset: {other_robot}, weight: 1}}]"
    )
    trainer = prepare_finetuning(settings_for(tmp_path / "run", data=tmp_path / "mix.yaml")).trainer
    batches = [parts[0] for parts in trainer._batches(6)]
    assert len({batch.layout() for batch in batches}) == 1
    assert all((batch.tensors["embodiment_id"] == batches[0].tensors["embodiment_id"]).all() for batch in batches)


@pytest.mark.slow
def test_a_resumed_mixture_equals_the_whole_run_bit_by_bit(first, second, other_robot, tmp_path):
    """With weights, drawn instructions, left-out episodes and a worker."""
    texts = "instructions: {lift the cube: [raise it, lift it, pick it up]}"
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n  - {{dataset: {first}, weight: 5, {texts}}}\n"
        f"  - {{dataset: {second}, weight: 2, episodes: [0]}}\n  - {{dataset: {other_robot}, weight: 3, {texts}}}\n"
    )
    how = dataclasses.replace(QUICK, max_steps=4, batch_size=3, save_steps=2, report_to=("none",), num_workers=1)
    given = {"variant": "n1_compact", "data": tmp_path / "mix.yaml", "trainer": how}
    whole = prepare_finetuning(FinetuneSettings(output=tmp_path / "whole", **given)).train()
    stops = iter([False, True])
    parts = FinetuneSettings(output=tmp_path / "parts", **given)
    assert prepare_finetuning(parts).train(lambda: next(stops)).step == 2
    torch.manual_seed(99)  # whatever the new process did before
    resumed = FinetuneSettings(output=tmp_path / "parts", resume=True)  # with the data of the run
    ended = prepare_finetuning(dataclasses.replace(resumed, trainer=dataclasses.replace(how, num_workers=0))).train()
    assert ended.loss == whole.loss
    found, expected = (
        load_model(load_checkpoint(path.checkpoint, embodiment=ARM)).state_dict() for path in (ended, whole)
    )
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_two_embodiments_of_one_tag_are_refused(first, other_robot, tmp_path):
    same_tag = dataclasses.replace(TWO_ARMS, tag="new_embodiment")
    (tmp_path / "robot.json").write_text(json.dumps(to_mapping(same_tag)))
    (tmp_path / "mix.yaml").write_text(
        f"datasets: [{{dataset: {first}}}, {{dataset: {other_robot}, embodiment: robot.json}}]"
    )
    with pytest.raises(ConfigError, match="different embodiments of tag 'new_embodiment': name: found test_arm, exp"):
        choose_data(settings_for(tmp_path / "run", data=tmp_path / "mix.yaml"), None)
    text = (tmp_path / "mix.yaml").read_text().replace("robot.json", "robot.json, tag: gr1")
    (tmp_path / "mix.yaml").write_text(text)
    found = choose_data(settings_for(tmp_path / "run", data=tmp_path / "mix.yaml"), None)
    assert [selection.embodiment.tag for selection in found] == ["new_embodiment", "gr1"]


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset and data are both given"):
        FinetuneSettings(output=tmp_path, dataset="a", data="b.yaml")
    with pytest.raises(ValueError, match="statistics is base, and variant"):
        FinetuneSettings(output=tmp_path, dataset="a", variant="n1_compact", statistics=StatisticsFrom.BASE)
    assert FinetuneSettings(output=tmp_path, dataset=("a", "b")).datasets == ("a", "b")
    assert FinetuneSettings(output=tmp_path, dataset="a").datasets == ("a",)
    assert FinetuneSettings(output=tmp_path).datasets == ()
