# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip("torch")

from gr00t_training.train.data.mixture import Mixture
from gr00t_training.train.data.order import BatchOrder


def test_one_source_gives_all_draws_in_order():
    mixture = Mixture([7])
    assert [mixture.draw(n) for n in range(9)] == [(0, n) for n in range(9)]
    assert mixture.shares == (1.0,)


def test_draws_by_hand():
    mixture = Mixture([10, 10], [3, 1])
    assert [mixture.draw(n)[0] for n in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert [mixture.draw(n)[1] for n in range(8)] == [0, 1, 0, 2, 3, 4, 1, 5]


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.1], [1, 1, 1, 1, 1], [1e-3, 1.0], [5, 0.01, 3, 1e-6, 2]])
def test_shares_follow_the_weights_at_any_time(weights):
    mixture = Mixture([50] * len(weights), weights)
    counts = [0] * len(weights)
    for n in range(3000):
        assert mixture.counts(n) == tuple(counts)
        source, draw = mixture.draw(n)
        assert draw == counts[source]  # every draw of a source comes once, in order
        counts[source] += 1
        expected = [weight / sum(weights) * (n + 1) for weight in weights]
        assert all(abs(found - want) <= len(weights) / 2 for found, want in zip(counts, expected, strict=True))
    assert mixture.shares == pytest.approx([weight / sum(weights) for weight in weights])


def test_without_weights_all_samples_are_as_frequent():
    """After as many draws as there are samples, every source has ended its epoch."""
    mixture = Mixture([30, 7, 63])
    for epoch in (1, 2, 5):
        assert mixture.counts(100 * epoch) == (30 * epoch, 7 * epoch, 63 * epoch)


def test_positions_of_a_run_follow_the_weights_and_each_source_has_its_own_epochs():
    mixture = Mixture([40, 10], [0.25, 0.75])
    positions = [position for batch in BatchOrder(mixture, 8, 3, 0, 200) for position in batch]
    of_first = [(epoch, sample) for epoch, sample in positions if sample < 40]
    of_second = [(epoch, sample - 40) for epoch, sample in positions if sample >= 40]
    assert len(of_second) / len(positions) == pytest.approx(0.75, rel=0.01)
    for found, size in ((of_first, 40), (of_second, 10)):
        for epoch in range(len(found) // size):
            part = found[epoch * size : (epoch + 1) * size]
            assert sorted(part) == [(epoch, sample) for sample in range(size)]
    assert list(BatchOrder(mixture, 8, 3, 150, 200)) == list(BatchOrder(mixture, 8, 3, 0, 200))[150:]


def test_sources_of_one_size_do_not_go_in_step():
    positions = [position for batch in BatchOrder(Mixture([20, 20]), 4, 1, 0, 10) for position in batch]
    first, second = ([sample % 20 for _, sample in positions if sample // 20 == part] for part in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_that_mean_nothing_are_refused(weight):
    with pytest.raises(ValueError, match="expected a number above 0"):
        Mixture([1, 1], [1, weight])
