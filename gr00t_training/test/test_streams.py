# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gr00t_training.checkpoint import new_checkpoint  # noqa: E402
from gr00t_training.dataset.media import video  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.embodiment import load_embodiment  # noqa: E402
from gr00t_training.train.data import access  # noqa: E402
from gr00t_training.train.data.decoded_frames import DecodedFrames  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.loader import make_loader  # noqa: E402
from gr00t_training.train.data.mixture import Mixture  # noqa: E402
from gr00t_training.train.data.order import LANES, BatchOrder, StreamOrder, StreamShape  # noqa: E402
from gr00t_training.train.data.samples import Source, StepDataset  # noqa: E402
from gr00t_training.train.settings import Shuffle  # noqa: E402

torch.set_num_threads(1)
CAMERA = "ego_view"


@pytest.fixture(scope="module")
def gr1(data_dir):
    """The GR1 demonstrations, whose videos have a key frame every 250 frames."""
    return EpisodeDataset(data_dir / "lerobot_v20_gr1")


def make_samples(dataset, seed=3):
    embodiment = load_embodiment("gr1_arms_only")
    checkpoint = new_checkpoint("n1_compact", embodiment, dataset_statistics(dataset, embodiment))
    return StepDataset([Source(dataset, checkpoint.pipeline())], seed)


def streams(lengths, batch_size, seed=1, *, lanes=LANES, segment=8, segments=32):
    """Return a mixture of one source of episodes of these lengths, and its order."""
    mixture = Mixture([sum(lengths)])
    shape = StreamShape(lanes=lanes, segment=segment, segments=segments)
    return mixture, StreamOrder(mixture, 0, lengths, batch_size, seed, shape)


@pytest.mark.parametrize(
    ("lengths", "batch_size"), [([100, 3, 0, 57], 4), ([7], 3), ([416, 470, 328], 32), ([500] * 20, 6)]
)
def test_every_sample_comes_once_per_epoch_in_one_segment(lengths, batch_size):
    _, order = streams(lengths, batch_size)
    found = [order(epoch) for epoch in range(3)]
    for samples in found:
        assert sorted(samples[:, 0]) == list(range(sum(lengths)))
        for first, end in {(first, end) for _, first, end in samples.tolist()}:
            own = samples[(samples[:, 1] == first) & (samples[:, 2] == end), 0]
            assert sorted(own) == list(range(first, end))
            assert len(np.unique(np.searchsorted(np.cumsum(lengths), own, side="right"))) == 1  # of one episode
            assert end - first <= 8
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], order(0))


def test_batches_of_streams_do_not_depend_on_where_a_run_starts():
    mixture, order = streams([60, 45, 51], 4)
    whole = list(BatchOrder(mixture, 4, 1, 0, 90, [order]))
    assert list(BatchOrder(mixture, 4, 1, 33, 90, [order])) == whole[33:]
    samples = [position[1] for batch in whole for position in batch]
    assert sorted(samples[:156]) == sorted(samples[156:312]) == list(range(156))


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batches_of_one(is_streamed, count):
    mixture, order = streams([300, 200], 8)
    orders = [order] if is_streamed else []
    whole = list(BatchOrder(mixture, 8, 1, 3, 90, orders))
    parts = [list(BatchOrder(mixture, 8, 1, 3, 90, orders, rank, count)) for rank in range(count)]
    assert {len(batch) for part in parts for batch in part} == {8 // count}
    assert [[position for part in batch for position in part] for batch in zip(*parts, strict=True)] == whole


def test_a_segment_stays_in_one_lane():
    mixture, order = streams([500] * 40, 8)
    lane_of = {}
    for number, batch in enumerate(BatchOrder(mixture, 8, 1, 0, 2500, [order])):
        for _, _, first, end in batch:
            assert lane_of.setdefault((first, end), number % LANES) == number % LANES


def test_an_epoch_of_a_source_in_a_mixture_comes_from_its_own_draws():
    mixture = Mixture([50, 70], [3, 1])
    for source, epoch in itertools.product((0, 1), (0, 1, 2)):
        size = mixture.sizes[source]
        draws = [mixture.draw(int(number)) for number in mixture.slots(source, epoch)]
        assert draws == [(source, epoch * size + place) for place in range(size)]


def test_streams_mix_almost_like_a_permutation():
    """200 episodes of 100 rows in batches of 32: as many episodes and distances in a batch as 64 segments allow."""
    lengths = [100] * 200
    shape = StreamShape.within(10**6, sum(lengths), 32)
    mixture, order = streams(lengths, 32, lanes=shape.lanes, segment=shape.segment, segments=shape.segments)

    def describe(batches):
        episodes = [len({position[1] // 100 for position in batch}) for batch in batches]
        pairs = [abs(one[1] - other[1]) < 32 for batch in batches for one, other in itertools.combinations(batch, 2)]
        hits = np.bincount([position[1] // 100 for batch in batches for position in batch], minlength=200)
        return np.mean(episodes), np.mean(pairs), hits

    true = describe(list(BatchOrder(mixture, 32, 1, 0, 600)))
    mixed = describe(list(BatchOrder(mixture, 32, 1, 0, 600, [order])))
    assert true[0] > 29  # different episodes in a batch
    assert mixed[0] > 22
    assert mixed[1] < 0.04  # share of pairs from one neighborhood: two of 32 that fall on 64 segments
    # over a part of an epoch, episodes are as frequent as chance and segments allow
    assert mixed[2].min() > 0.5 * true[2].mean()


def test_shape_follows_the_room():
    def shape(num_rows, num_samples):
        found = StreamShape.within(num_rows, num_samples, 32)
        return found.lanes, found.segment, found.segments

    assert shape(10**6, 10**6) == (48, 32, 64)
    assert shape(10**6, 20_000) == (48, 13, 64)  # 4 segments in each of 384 sub-streams
    assert shape(10**6, 2096) == (6, 10, 64)  # 65 batches in an epoch, 8 of each lane
    assert shape(4000, 10**6) == (48, 8, 20)  # 83 rows of a lane, half of each segment
    assert shape(1, 10) == (1, 8, 1)


def test_images_of_segments_are_those_of_the_video_and_decoded_once(gr1):
    ticks, segment = (-10, 0), range(300, 316)
    decoded = DecodedFrames(ticks, 10**9, keeps_episodes=False)
    for row in [305, 300, *range(306, 316), *range(301, 305)]:
        rows = [row + tick for tick in ticks]
        found = decoded.images(gr1, 1, CAMERA, rows, segment)
        assert np.array_equal(found, gr1.images(1, CAMERA, rows))
    assert decoded.num_decoded == 26  # rows 290 to 315
    assert decoded.num_bytes == 0  # all samples are made
    again = decoded.images(gr1, 1, CAMERA, [300], segment)
    assert np.array_equal(again, gr1.images(1, CAMERA, [300]))


def test_rows_outside_the_episode_are_clamped(gr1):
    decoded = DecodedFrames((-2, 0), 10**9, keeps_episodes=False)
    for row in (1, 0):
        assert np.array_equal(
            decoded.images(gr1, 2, CAMERA, [row - 2, row], range(2)), gr1.images(2, CAMERA, [row - 2, row])
        )
    assert decoded.num_bytes == 0


def test_memory_of_decoded_frames_is_bounded(gr1):
    decoded = DecodedFrames((0,), 20 * 256 * 256 * 3 // 2, keeps_episodes=False)
    for row in (0, 40, 80, 1):  # the first segment was forgotten for the third
        found = decoded.images(gr1, 0, CAMERA, [row], range(row // 8 * 8, row // 8 * 8 + 8))
        assert np.array_equal(found, gr1.images(0, CAMERA, [row]))
        assert decoded.num_bytes <= 24 * 256 * 256 * 3 // 2
    assert decoded.num_decoded == 32


def test_episodes_are_kept_where_they_fit(gr1):
    samples = make_samples(gr1)
    loader = make_loader(samples, batch_size=4, seed=5, start=0, stop=3, num_workers=0, shuffle=Shuffle.AUTO)
    batches = list(loader)
    decoded = samples.sources[0].decoded
    assert decoded is not None and decoded.keeps_episodes
    plain = list(make_loader(make_samples(gr1), batch_size=4, seed=5, start=0, stop=3, num_workers=0))
    for one, other in zip(batches, plain, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_auto_takes_streams_for_distant_key_frames_only(gr1, data_dir, monkeypatch):
    assert gr1.first_video(CAMERA).key_frame_distance > 100
    near = EpisodeDataset(data_dir / "lerobot_v21_reference").first_video("front")
    assert near.key_frame_distance < access.NEAR_FRAMES
    samples = make_samples(gr1)
    options = {"batch_size": 4, "seed": 1, "num_workers": 0}

    def order(shuffle):
        return access.choose_access(samples, shuffle=shuffle, **options)[0]

    assert order(Shuffle.AUTO) is None  # all decoded frames fit
    monkeypatch.setattr(access, "KEPT_BYTES", 0)
    assert isinstance(order(Shuffle.AUTO), StreamOrder)
    assert order(Shuffle.FULL) is None
    monkeypatch.setattr(access, "NEAR_FRAMES", 1000)
    assert order(Shuffle.AUTO) is None
    assert isinstance(order(Shuffle.STREAMS), StreamOrder)


def test_batches_of_streams_are_the_same_with_workers(gr1):
    def batches(num_workers):
        loader = make_loader(
            make_samples(gr1), batch_size=4, seed=5, start=3, stop=7, num_workers=num_workers, shuffle=Shuffle.STREAMS
        )
        return list(loader)

    for one, other in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_frame_on_the_way_is_skipped_only_if_no_other_needs_it(gr1, monkeypatch):
    """Frames after a jump ahead are those of a decoder that skips nothing."""
    path = gr1.video_span(3, CAMERA).path
    rows = [240, 244, 251, 300, 302, 303, 411]
    found = video.VideoReader(path).read(rows)
    monkeypatch.setattr(video, "_SKIPPING_DECODERS", ())
    assert np.array_equal(found, video.VideoReader(path).read(rows))


def learning_curve(batches, inputs, targets, steps=240):
    """Return losses on all samples while a small network learns actions from states, batch by batch."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs.shape[1], 64), torch.nn.GELU(), torch.nn.Linear(64, targets.shape[1])
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for number, batch in enumerate(itertools.islice(batches, steps)):
        chosen = torch.tensor([position[1] for position in batch])
        optimizer.zero_grad()
        (model(inputs[chosen]) - targets[chosen]).square().mean().backward()
        optimizer.step()
        if (number + 1) % 40 == 0:
            with torch.no_grad():
                losses.append(float((model(inputs) - targets).square().mean()))
    return np.array(losses)


@pytest.fixture(scope="module")
def vectors(gr1):
    """State and flat chunk of each sample."""
    source = make_samples(gr1).sources[0]
    rows = [source.recorded(number, with_images=False) for number in range(len(source))]
    inputs = torch.stack([source.pipeline.vectors(observation)[0].flatten() for observation, _ in rows])
    targets = torch.stack([source.pipeline.encode_actions(actions, observation) for observation, actions in rows])
    return [stretch.count for stretch in source.stretches], inputs, targets.flatten(1)


@pytest.mark.parametrize("repeats", [1, 24])
def test_a_network_learns_from_streams_as_from_a_permutation(vectors, repeats):
    """In the order of the recording it does not: the test would notice."""
    lengths, inputs, targets = vectors
    count, lengths = len(inputs), lengths * repeats
    mixture = Mixture([sum(lengths)])
    shape = StreamShape.within(10**6, sum(lengths), 32)

    def curve(order_of):
        losses = []
        for seed in range(3):
            batches = BatchOrder(mixture, 32, seed, 0, 240, [order_of(seed)])
            chosen = ([(0, position[1] % count) for position in batch] for batch in batches)
            losses.append(learning_curve(chosen, inputs, targets))
        return np.mean(losses, axis=0)

    true = curve(lambda _: None)
    mixed = curve(lambda seed: StreamOrder(mixture, 0, lengths, 32, seed, shape))
    recorded = curve(lambda _: lambda epoch: np.arange(sum(lengths)))
    assert true[-1] < 0.6 * true[0]
    np.testing.assert_allclose(mixed, true, rtol=0.08)
    assert (recorded > 1.5 * true).all()
