# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Training from stored features gives the losses of training from images, and follows every change of their causes."""

import dataclasses
import pickle
import shutil
import threading

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("cv2")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import ConfigError, DatasetError  # noqa: E402
from gr00t_training.io.cache_folder import CacheFolder  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.train.data.feature_cache import FeatureCache, FeatureDataset, FeaturePlanner  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.samples import ImageChanges, Source, StepDataset, Stretch  # noqa: E402
from gr00t_training.train.optimizer import make_optimizer  # noqa: E402
from gr00t_training.train.planned_batch import BatchPlanner  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.step import GraphedStep, TrainStep  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.train.weights import TrainedWeights  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = dataclasses.replace(make_embodiment(size=(64, 80)), action_horizon=4)
COMPACT = dataclasses.replace(EMBODIMENT, action_horizon=16)
FAMILIES = ["n1_compact", "n1_6_tiny", "n1_7_tiny"]
FIXED = ImageChanges(are_on=False)
TASKS = ("lift the cube", "put the red cube into the drawer")


def write_dataset(root, *, tasks=TASKS, level=0, embodiment=EMBODIMENT):
    with DatasetWriter(root, embodiment) as writer:
        for count, task in zip((7, 6), tasks, strict=True):
            episode = writer.start_episode(task)
            for frame in make_frames(embodiment, count, seed=count, task=task):
                for image in frame.images.values():
                    image[..., 0] += level + torch.arange(image.shape[1], dtype=torch.uint8).numpy()
                episode.add_frame(frame)
            episode.save()
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("features") / "dataset")


class Setup:
    """Samples and a model with a frozen backbone, of one family."""

    def __init__(self, family, dataset, fixtures_dir=None, *, changes=FIXED, stretches=None):
        if family == "n1_compact":
            self.checkpoint = new_checkpoint(family, COMPACT, dataset_statistics(dataset, COMPACT))
            torch.manual_seed(0)
            self.model = Gr00tModel(self.checkpoint.config)
        else:
            statistics = dataset_statistics(dataset, EMBODIMENT)
            self.checkpoint = load_checkpoint(fixtures_dir / family, embodiment=EMBODIMENT, statistics=statistics)
            self.model = load_model(self.checkpoint)
        self.model.set_trainable(tune_visual=False)
        self.model.train()
        self.pipeline = self.checkpoint.pipeline()
        self.samples = StepDataset([Source(dataset, self.pipeline, stretches=stretches)], 3, changes)

    def cache(self, folder, gib=1.0, **options):
        return FeatureCache(CacheFolder(folder, gib, "feature_cache_gib"), self.samples, self.model, **options)

    def built(self, folder, **options):
        cache = self.cache(folder, **options)
        cache.build(self.model, batch_size=4, num_workers=0)
        return cache

    def batch(self, positions):
        dtype = self.model.backbone.language.embed_tokens.weight.dtype
        planner = BatchPlanner(self.pipeline, self.model.config, dtype)
        return planner([self.samples[position] for position in positions])

    def stored_batch(self, cache, positions):
        planner, samples = FeaturePlanner(self.pipeline, self.model.config), FeatureDataset(cache)
        return planner([samples[position] for position in positions])

    def loss(self, batch):
        torch.manual_seed(4)
        self.model.zero_grad()
        loss = self.model.planned_loss(batch.tensors, batch.plan)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return loss.item(), gradients


def files(folder):
    return {path.name for path in folder.glob("*.npy")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", [[(0, 0), (0, 2), (1, 1)], [(0, 1), (0, 8), (0, 3)]], ids=["one task", "two"])
def test_losses_and_gradients_are_those_with_images(family, positions, dataset, fixtures_dir, tmp_path):
    """Batches of other samples are computed in other orders, so last bits differ; of two tasks some are padded."""
    setup = Setup(family, dataset, fixtures_dir)
    positions = [(epoch, sample % len(setup.samples)) for epoch, sample in positions]
    with_images, stored = setup.batch(positions), setup.stored_batch(setup.built(tmp_path), positions)
    assert "pixel_values" not in stored.tensors
    for name in ("state", "action", "action_mask", "embodiment_id", "state_mask"):
        assert torch.equal(stored.tensors[name], with_images.tensors[name]), name
    (expected, gradients), (loss, found) = setup.loss(with_images), setup.loss(stored)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1))


def test_training_hides_padding(dataset, tmp_path):
    """A robot asks without."""
    setup, positions = Setup("n1_compact", dataset), [(0, 1), (0, 8)]
    with_images = setup.batch(positions).plan
    assert (~with_images.padding_mask).sum() >= 2
    for plan in (with_images, setup.stored_batch(setup.built(tmp_path), positions).plan):
        assert torch.equal(plan.token_mask[:, 0, 0], with_images.padding_mask)


def test_features_of_one_batch_are_stored_bit_by_bit(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    cache, batch = setup.built(tmp_path), setup.batch([(0, sample) for sample in range(4)])
    with torch.no_grad():
        expected = setup.model.hidden_features(batch.tensors["pixel_values"], batch.plan)
    for sample in range(4):
        assert torch.equal(cache.read(0, sample, 0)[0], expected[sample])


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_from_bfloat16_are_within_its_rounding(family, dataset, fixtures_dir, tmp_path):
    setup = Setup(family, dataset, fixtures_dir)
    positions = [(0, 0), (0, 2), (0, 1)]
    cache = setup.built(tmp_path, dtype=torch.bfloat16)
    rounded, exact = cache.read(0, 2, 0)[0], setup.batch(positions)
    assert rounded.dtype is torch.bfloat16
    assert setup.loss(setup.stored_batch(cache, positions))[0] == pytest.approx(setup.loss(exact)[0], rel=2**-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_backbone_in_bfloat16_loses_nothing(family, dataset, fixtures_dir, tmp_path):
    """As on a GPU: frozen parts compute in bfloat16, so what is stored is exact."""
    setup, positions = Setup(family, dataset, fixtures_dir), [(0, sample) for sample in range(4)]
    TrainedWeights(setup.model, [setup.pipeline.projector], torch.bfloat16)
    cache = setup.cache(tmp_path, dtype=torch.bfloat16)
    cache.build(setup.model, batch_size=4, num_workers=0, autocast=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert setup.loss(setup.stored_batch(cache, positions))[0] == setup.loss(setup.batch(positions))[0]


def test_fixed_views_are_those_of_the_first_epochs(dataset, tmp_path):
    setup = Setup("n1_compact", dataset, changes=ImageChanges(num_views=2))
    plain = StepDataset(setup.samples.sources, 3)
    cache = setup.built(tmp_path)
    assert len(files(tmp_path)) == 4  # two episodes, two views
    for epoch, view in [(0, 0), (1, 1), (2, 0), (5, 1)]:
        pixels = setup.samples[(epoch, 4)]["pixel_values"]
        assert torch.equal(pixels, plain[(view, 4)]["pixel_values"])
        stored = setup.stored_batch(cache, [(epoch, 4)])
        assert setup.loss(stored)[0] == pytest.approx(setup.loss(setup.batch([(epoch, 4)]))[0], rel=1e-5)
    assert not torch.equal(cache.read(0, 4, 0)[0], cache.read(0, 4, 1)[0])


def test_images_that_do_not_change_are_those_of_the_policy(dataset):
    setup = Setup("n1_compact", dataset)
    observation, _ = setup.samples.sources[0].recorded(4)
    assert torch.equal(setup.samples[(7, 4)]["pixel_values"], setup.pipeline.encode(observation)["pixel_values"])


def test_state_is_dropped_for_the_same_samples(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    setup.pipeline.inputs = dataclasses.replace(
        setup.pipeline.inputs, rules=dataclasses.replace(setup.pipeline.inputs.rules, state_dropout=0.5)
    )
    samples, positions = FeatureDataset(setup.built(tmp_path)), [(epoch, 3) for epoch in range(12)]
    states = [setup.samples[position]["state"] for position in positions]
    assert {bool(state.any()) for state in states} == {True, False}
    assert all(torch.equal(samples[p]["state"], state) for p, state in zip(positions, states, strict=True))


def test_features_are_computed_once(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    assert setup.cache(tmp_path).missing()
    setup.built(tmp_path)
    times = {path: path.stat().st_ctime_ns for path in tmp_path.glob("*.npy")}
    again = Setup("n1_compact", dataset).cache(tmp_path)
    assert not again.missing()
    again.build(setup.model, batch_size=3, num_workers=0)
    assert files(tmp_path) == {path.name for path in times}


def test_same_rows_of_two_episodes_are_computed_once(dataset, tmp_path):
    setup = Setup("n1_compact", dataset, stretches=[Stretch(0, 1, 2), Stretch(0, 1, 2)])
    assert len(setup.cache(tmp_path).missing()) == 1
    cache = setup.built(tmp_path)
    assert torch.equal(cache.read(0, 0, 0)[0], cache.read(0, 2, 0)[0])


@pytest.mark.slow
def test_worker_processes_read_the_images(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    setup.built(tmp_path / "alone")
    setup.cache(tmp_path / "workers").build(setup.model, batch_size=4, num_workers=2)
    for name in files(tmp_path / "alone"):
        assert (tmp_path / "workers" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_cache_that_was_sent_to_a_worker_reads(dataset, tmp_path):
    cache = Setup("n1_compact", dataset).built(tmp_path)
    features, prompt = pickle.loads(pickle.dumps(cache)).read(0, 9, 0)
    assert torch.equal(features, cache.read(0, 9, 0)[0])
    assert len(prompt) == len(features)


def test_change_of_a_cause_makes_features_again(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    setup.built(tmp_path / "cache")
    for change in ("weights", "head", "dtype", "instruction", "video"):
        changed, options = Setup("n1_compact", dataset), {}
        with torch.no_grad():
            if change == "weights":
                next(changed.model.backbone.vision.parameters()).flatten()[0] += 1e-3
            elif change == "head":
                changed.model.backbone.linear.weight[0] += 1
        if change == "dtype":
            options["dtype"] = torch.bfloat16
        if change == "instruction":
            other = write_dataset(tmp_path / "instruction", tasks=("lift the cube", "open the drawer"))
            changed = Setup("n1_compact", other)
        if change == "video":
            shutil.copytree(dataset.path, tmp_path / "video")
            other = write_dataset(tmp_path / "other", level=40)
            span = dataset.video_span(1, "front").path.relative_to(dataset.path)
            shutil.copyfile(other.path / span, tmp_path / "video" / span)
            changed = Setup("n1_compact", EpisodeDataset(tmp_path / "video"))
        expected = {"weights": 2, "head": 0, "dtype": 2, "instruction": 1, "video": 1}[change]
        assert len(changed.cache(tmp_path / "cache", **options).missing()) == expected, change


def test_rows_of_an_episode_that_are_left_out_are_not_computed(dataset, tmp_path):
    setup = Setup("n1_compact", dataset, stretches=[Stretch(0, 1, 2), Stretch(1, 3, 3)])
    cache = setup.built(tmp_path)
    whole = Setup("n1_compact", dataset).built(tmp_path / "whole")
    for sample, other in enumerate([1, 2, 10, 11, 12]):
        torch.testing.assert_close(cache.read(0, sample, 0)[0], whole.read(0, other, 0)[0])


def test_part_of_a_process_that_was_killed_is_computed_by_another(dataset, tmp_path):
    """Another process holds one file while this one computes the rest; then it gives up."""
    setup, other = Setup("n1_compact", dataset), CacheFolder(tmp_path, 1.0, "feature_cache_gib")
    cache = setup.cache(tmp_path)
    (_, block, view), _ = cache.missing()
    held = other.begin(block.names[view])

    def give_up():
        while len(files(tmp_path)) < 1:  # the other block
            waiting.wait(0.01)
        held.cancel()

    waiting = threading.Event()
    thread = threading.Thread(target=give_up)
    thread.start()
    cache.build(setup.model, batch_size=4, num_workers=0)
    thread.join()
    assert not cache.missing()
    assert not list(tmp_path.glob("*.part"))


def test_damaged_or_removed_features_are_one_clear_error(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    cache = setup.built(tmp_path)
    name = cache._sources[0].blocks[0].names[0]
    (tmp_path / name).write_bytes(b"damage")
    with pytest.raises(DatasetError, match="is damaged; remove it and resume"):
        cache.read(0, 0, 0)
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match="was removed during the run; resume the run"):
        cache.read(0, 0, 0)


def test_trained_backbone_is_refused(dataset, tmp_path):
    setup = Setup("n1_compact", dataset)
    for options in ({}, {"tune_visual": False, "tune_llm": True}, {"tune_visual": False, "tune_top_llm_layers": 1}):
        setup.model.set_trainable(**options)
        with pytest.raises(ConfigError, match=r"feature_cache: the backbone trains \(\d+ tensors, first backbone\."):
            setup.cache(tmp_path)


def test_images_that_change_are_refused(dataset, tmp_path):
    setup = Setup("n1_compact", dataset, changes=ImageChanges())
    with pytest.raises(ConfigError, match="pass --no-augment-images, or --image-views N"):
        setup.cache(tmp_path)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "--no-tune-visual"),
        ({"tune_visual": False, "tune_llm": True}, "--no-tune-llm"),
        ({"tune_visual": False, "tune_top_llm_layers": 1}, "--tune-top-llm-layers 0"),
        ({"tune_visual": False}, "--image-views N"),
    ],
)
def test_settings_that_change_features_are_refused_before_a_model_is_loaded(settings, remedy):
    with pytest.raises(ValueError, match=remedy):
        TrainerSettings(feature_cache="auto", **settings)


def test_cache_that_is_too_small_is_refused_at_once(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"feature_cache_gib is 0\.00 GiB; raise it"):
        Setup("n1_compact", dataset).cache(tmp_path, gib=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_graph_of_a_step_from_features_gives_the_losses_of_plain_steps_with_images(
    family, dataset, fixtures_dir, tmp_path
):
    found = {}
    for kind, is_stored in ((TrainStep, False), (TrainStep, True), (GraphedStep, True)):
        setup = Setup(family, dataset, fixtures_dir)
        TrainedWeights(setup.model, [setup.pipeline.projector], torch.bfloat16)
        setup.model.to("cuda")
        cache = setup.cache(tmp_path, dtype=torch.bfloat16)
        cache.build(setup.model, batch_size=4, num_workers=0, autocast=torch.bfloat16)
        positions = [(0, 0), (0, 1)]
        batch = setup.stored_batch(cache, positions) if is_stored else setup.batch(positions)
        optimizer = make_optimizer(setup.model, TrainerSettings(learning_rate=1e-3))
        step = kind(setup.model, optimizer, max_grad_norm=1.0, autocast=torch.bfloat16)
        torch.manual_seed(1)
        found[kind, is_stored] = torch.stack([step([batch])[0] for _ in range(6)]).cpu()
        step.check(6)
    assert step.num_graphs == 1
    torch.testing.assert_close(found[GraphedStep, True], found[TrainStep, True], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found[TrainStep, True], found[TrainStep, False], rtol=3e-2, atol=1e-2)


# A run ----------------------------------------------------------------------------------------------------------------


def make_trainer(dataset, output, *, weights=None, **changes):
    options = {"batch_size": 2, "max_steps": 4, "save_steps": 2, "device": "cpu", "seed": 1, "tune_visual": False}
    settings = TrainerSettings(**{**options, "augment_images": False, **changes})
    if weights:
        checkpoint = load_checkpoint(weights)
        return Trainer(settings, dataset, checkpoint, load_model(checkpoint), output)
    checkpoint = new_checkpoint("n1_compact", COMPACT, dataset_statistics(dataset, COMPACT))
    torch.manual_seed(1)
    return Trainer(settings, dataset, checkpoint, Gr00tModel(checkpoint.config), output)


@pytest.mark.slow
def test_run_with_caches_equals_one_without_and_resumes(dataset, tmp_path):
    caches = {"feature_cache": str(tmp_path / "features"), "frame_cache": str(tmp_path / "frames")}
    plain = make_trainer(dataset, tmp_path / "plain")
    start = {name: weight.clone() for name, weight in plain.model.state_dict().items()}
    expected = load_model(load_checkpoint(plain.train())).state_dict()
    cached = make_trainer(dataset, tmp_path / "cached", **caches)
    whole = load_model(load_checkpoint(cached.train())).state_dict()
    assert cached.loss == pytest.approx(plain.loss, rel=1e-5)
    for name, weight in expected.items():
        torch.testing.assert_close(whole[name], weight, rtol=1e-4, atol=1e-5)
        if name.startswith("backbone.") and not name.startswith("backbone.linear."):
            assert torch.equal(whole[name], start[name])
    make_trainer(dataset, tmp_path / "parts", **caches).train(stop_at=2)
    half = tmp_path / "parts/checkpoint-2"
    resumed = make_trainer(dataset, tmp_path / "parts", weights=half, **caches)
    resumed.resume(half)
    parts = load_model(load_checkpoint(resumed.train())).state_dict()
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    assert len(files(tmp_path / "features")) == 2  # two episodes: the resumed run found them


@pytest.mark.slow
def test_other_images_make_another_run(dataset, tmp_path):
    path = make_trainer(dataset, tmp_path, max_steps=2, feature_cache=str(tmp_path / "features")).train()
    resumed = make_trainer(dataset, tmp_path, weights=path, augment_images=True)
    with pytest.raises(ConfigError, match="augment_images: found False, expected True"):
        resumed.resume(path)
