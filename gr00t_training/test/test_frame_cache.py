# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Images from the cache equal those from the videos, and follow every change of them."""

import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.checkpoint import new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import ConfigError, DatasetError  # noqa: E402
from gr00t_training.io.cache_folder import CacheFolder  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.frame_cache import FrameCache, file_states  # noqa: E402
from gr00t_training.train.data.loader import make_loader  # noqa: E402
from gr00t_training.train.data.samples import Source, StepDataset, Stretch  # noqa: E402
from gr00t_training.transforms.images import QwenImages, SquareImages  # noqa: E402
from gr00t_training.transforms.processor import ProcessorOptions  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()
LENGTHS = (6, 5)
SQUARE = SquareImages(16, torch.float32, tokens=1)


def write_dataset(root, embodiment=EMBODIMENT, *, level=0, lengths=LENGTHS):
    with DatasetWriter(root, embodiment) as writer:
        for count in lengths:
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(embodiment, count, seed=count):
                for image in frame.images.values():
                    image[..., 0] += np.uint8(level) + 2 * np.arange(image.shape[1], dtype=np.uint8)
                    image[..., 1] += 3 * np.arange(image.shape[0], dtype=np.uint8)[:, None]
                episode.add_frame(frame)
            episode.save()
    return EpisodeDataset(root)


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset")


def make_cache(tmp_path, gib=1.0):
    return CacheFolder(tmp_path / "cache", gib, "frame_cache_gib")


def make_frame_cache(tmp_path, dataset, embodiment=EMBODIMENT, processor=SQUARE, **options):
    episodes = [episode.index for episode in dataset.episodes]
    return FrameCache(make_cache(tmp_path, **options), dataset, episodes, embodiment, processor)


def cached_files(tmp_path):
    return {path.name for path in (tmp_path / "cache").glob("*.npy")}


def make_samples(dataset, **options):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    return StepDataset([Source(dataset, checkpoint.pipeline(), **options)], seed=3)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_samples_are_the_same_with_and_without_the_cache(tmp_path, dataset):
    plain, cached = make_samples(dataset), make_samples(dataset)
    cached.cache_frames(str(tmp_path / "cache"), 1.0)
    for position in [(0, 3), (1, 3), (0, 10), (2, 0)]:
        assert_equal(cached[position], plain[position])
    assert len(cached_files(tmp_path)) == 2


def test_worker_processes_share_the_cache(tmp_path, dataset):
    plain, cached = make_samples(dataset), make_samples(dataset)
    cached.cache_frames(str(tmp_path / "cache"), 1.0)
    options = {"batch_size": 3, "seed": 1, "start": 0, "stop": 4}
    found = list(make_loader(cached, num_workers=2, **options))
    for batch, expected in zip(found, make_loader(plain, num_workers=0, **options), strict=True):
        assert_equal(batch, expected)
    assert len(cached_files(tmp_path)) == 2


def test_rows_outside_the_episode_are_clamped(tmp_path, dataset):
    rows = [-3, 0, 2, 9]
    found = make_frame_cache(tmp_path, dataset).images(dataset, 1, "front", rows)
    np.testing.assert_array_equal(found, dataset.images(1, "front", rows))
    assert type(found) is np.ndarray


def test_images_are_stored_in_the_size_before_the_random_crop(tmp_path):
    embodiment = make_embodiment(size=(300, 400))
    dataset = write_dataset(tmp_path / "large", embodiment, lengths=(3,))
    processor = QwenImages(ProcessorOptions(use_albumentations=True))
    found = make_frame_cache(tmp_path, dataset, embodiment, processor).images(dataset, 0, "front", [2])
    assert found.shape == (1, 256, 341, 3)
    np.testing.assert_array_equal(found[0], processor.stored(dataset.images(0, "front", [2])[0]))


def test_mapped_files_stay_closed(tmp_path, dataset):
    """A process may have a thousand open files; a dataset has more episodes."""
    cache, folder = make_frame_cache(tmp_path, dataset), tmp_path / "cache"
    cache.images(dataset, 0, "front", [0])
    cache.images(dataset, 1, "front", [0])
    opened = {os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)}
    assert not {str(folder.resolve() / name) for name in cached_files(tmp_path)} & opened


def test_error_in_a_worker_is_one_line_and_ends_the_workers(tmp_path, dataset):
    """The command waited forever for workers that ignore signals."""
    path = dataset.video_span(1, "front").path
    path.write_bytes(path.read_bytes()[:500])
    samples = make_samples(dataset, stretches=[Stretch(1, 0, 5)])
    with pytest.raises(
        DatasetError, match=rf"^{path}: not a readable video .*; record or copy the file again$"
    ) as found:
        list(make_loader(samples, batch_size=1, seed=0, start=0, stop=9, num_workers=1))
    assert "\n" not in str(found.value)
    eventually(lambda: not multiprocessing.active_children(), "end of the workers")


def test_workers_end_where_an_iteration_does(dataset):
    batches = iter(make_loader(make_samples(dataset), batch_size=1, seed=0, start=0, stop=10**6, num_workers=1))
    next(batches)
    assert multiprocessing.active_children()
    del batches
    eventually(lambda: not multiprocessing.active_children(), "end of the workers")


def test_unused_episodes_are_not_cached(tmp_path, dataset):
    samples = make_samples(dataset, stretches=[Stretch(1, 0, 5)])
    samples.cache_frames(str(tmp_path / "cache"), 100_000 / 2**30)
    assert samples[(0, 4)]
    assert len(cached_files(tmp_path)) == 1


def test_changed_video_gets_another_file(tmp_path, dataset):
    before = make_frame_cache(tmp_path, dataset).images(dataset, 0, "front", [0])
    shutil.rmtree(tmp_path / "dataset")
    changed = write_dataset(tmp_path / "dataset", level=90)
    after = make_frame_cache(tmp_path, changed).images(changed, 0, "front", [0])
    np.testing.assert_array_equal(after, changed.images(0, "front", [0]))
    assert not np.array_equal(before, after)
    assert len(cached_files(tmp_path)) == 2


def test_other_processing_gets_another_file(tmp_path):
    embodiment = make_embodiment(size=(300, 400))
    dataset = write_dataset(tmp_path / "large", embodiment, lengths=(3,))
    for options in (ProcessorOptions(use_albumentations=True), ProcessorOptions(shortest_image_edge=128)):
        processor = QwenImages(options) if options.use_albumentations else SQUARE
        make_frame_cache(tmp_path, dataset, embodiment, processor).images(dataset, 0, "front", [0])
    assert len(cached_files(tmp_path)) == 2


def test_copy_of_a_dataset_shares_its_files(tmp_path, dataset):
    make_frame_cache(tmp_path, dataset).images(dataset, 0, "front", [0])
    shutil.copytree(tmp_path / "dataset", tmp_path / "copy")
    copy = EpisodeDataset(tmp_path / "copy")
    make_frame_cache(tmp_path, copy).images(copy, 0, "front", [0])
    assert len(cached_files(tmp_path)) == 1


def test_video_that_changes_during_the_run_is_refused(tmp_path, dataset):
    cache = make_frame_cache(tmp_path, dataset)
    path = dataset.video_span(0, "front").path
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(DatasetError, match="changed during the run; start the run again"):
        cache.images(dataset, 0, "front", [0])
    assert cached_files(tmp_path) == set()


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_damaged_or_removed_file_is_made_again(tmp_path, dataset, damage):
    cache = make_frame_cache(tmp_path, dataset)
    expected = cache.images(dataset, 0, "front", [1])
    (name,) = cached_files(tmp_path)
    path = tmp_path / "cache" / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    worker = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(worker.images(dataset, 0, "front", [1]), expected)


def test_images_of_another_size_than_declared_are_refused(tmp_path, dataset):
    write_dataset(tmp_path / "other", make_embodiment(size=(64, 64)))
    shutil.copytree(tmp_path / "other/videos", tmp_path / "dataset/videos", dirs_exist_ok=True)
    with pytest.raises(DatasetError, match=r"images of 64x64, expected 48x32 as in meta/info.json"):
        make_frame_cache(tmp_path, dataset).images(dataset, 0, "front", [0])


def test_cache_that_is_too_small_is_refused_at_once(tmp_path, dataset):
    with pytest.raises(ConfigError, match="raise it, or train without this cache"):
        make_frame_cache(tmp_path, dataset, gib=10_000 / 2**30)


def test_digest_is_computed_again_only_for_a_changed_file(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"one")
    (first,) = file_states([path], tmp_path, tmp_path).values()
    (index,) = tmp_path.glob(".*.digests")
    index.write_text(index.read_text().replace(first.sha256, "believed"))
    (second,) = file_states([path], tmp_path, tmp_path).values()
    assert second.sha256 == "believed"
    path.write_bytes(b"other")
    (third,) = file_states([path], tmp_path, tmp_path).values()
    assert third.sha256 not in (first.sha256, "believed")
    index.write_text("damaged")
    assert file_states([path], tmp_path, tmp_path) == {path: third}
