# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of vectors and images, in the three forms that readers of a dataset need.

`KeyStatistics` is what a model normalizes with (GR00T's `stats.json`); `describe_rows` and `ImageStatistics` give the
per-episode entries of lerobot's `episodes_stats.jsonl`. Sums are in float64 over the stored float32 values, so a
joint that never moves has a deviation of exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.errors import DatasetError

STATISTIC_NAMES = ("min", "max", "mean", "std", "q01", "q99")
# quantiles that lerobot keeps since v3.0, in its order
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

# lerobot samples between these many images of an episode for its image statistics
MIN_SAMPLED_IMAGES = 100
MAX_SAMPLED_IMAGES = 10_000
# and thins images whose longer side is at least the first number to about the second [px]
THIN_FROM_PX = 300
THIN_TO_PX = 150

_SORTED_ROWS = 10_000  # up to which sorting is faster than `numpy.quantile`

_LEVELS = np.arange(256) / 255
_CHANNEL_OFFSETS = np.array([0, 256, 512], np.intp)


@dataclass(frozen=True, eq=False)
class KeyStatistics:
    """Statistics of one vector per channel: six `(D,)` float64 arrays in the dataset's units.

    Those of relative actions (`gr00t_training.dataset.statistics.relative`) are per step of the chunk too: `(H, D)`.
    """

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray  # population (ddof 0)
    q01: np.ndarray
    q99: np.ndarray

    @property
    def dim(self) -> int:
        """Number of channels."""
        return self.min.shape[-1]

    def part(self, start: int, end: int) -> KeyStatistics:
        """Return the statistics of channels `start` to `end` (half open)."""
        return KeyStatistics(**{name: getattr(self, name)[..., start:end] for name in STATISTIC_NAMES})

    def first_steps(self, count: int) -> KeyStatistics:
        """Return the statistics of the first `count` steps; unchanged if they are the same for all steps."""
        if self.min.ndim == 1:
            return self
        return KeyStatistics(**{name: getattr(self, name)[:count] for name in STATISTIC_NAMES})

    def to_mapping(self) -> dict[str, list]:
        """Return plain lists, as in `stats.json`; `from_mapping` reads them back equal."""
        return {name: getattr(self, name).tolist() for name in STATISTIC_NAMES}

    @classmethod
    def from_mapping(cls, lists: Mapping[str, Any], subject: str) -> KeyStatistics:
        """Read the lists of `stats.json` or `relative_stats.json`; `subject` names them in errors.

        Raises:
            DatasetError: a statistic is missing, not D or H x D numbers, not finite, or shapes differ.
        """
        arrays = {}
        if not isinstance(lists, Mapping):
            raise DatasetError(f"{subject}: is a {type(lists).__name__}, expected an object; restore the file")
        for name in STATISTIC_NAMES:
            if name not in lists:
                raise DatasetError(f"{subject}: '{name}' is missing; delete the file to have it computed again")
            try:
                arrays[name] = np.atleast_1d(np.asarray(lists[name], dtype=np.float64))
            except (TypeError, ValueError) as error:
                raise DatasetError(
                    f"{subject}: '{name}' is not a list of numbers ({error}); restore the file"
                ) from error
            if arrays[name].ndim > 2 or not arrays[name].size:
                raise DatasetError(
                    f"{subject}: '{name}' has shape {arrays[name].shape}, expected one number per channel, or steps of "
                    "them; restore the file"
                )
            if arrays[name].shape != arrays["min"].shape:
                raise DatasetError(
                    f"{subject}: '{name}' has shape {arrays[name].shape}, min has {arrays['min'].shape}; "
                    "restore the file"
                )
            if not np.isfinite(arrays[name]).all():
                raise DatasetError(f"{subject}: '{name}' holds NaN or infinity; correct the rows it comes from")
        return cls(**arrays)


def compute_statistics(rows: np.ndarray) -> KeyStatistics:
    """Compute the statistics over `rows` `(N, D)`, N > 0, rounded to float32 first.

    Quantiles are exact, with linear interpolation.
    """
    values = np.asarray(rows, dtype=np.float32).astype(np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return KeyStatistics(
        min=values.min(axis=0),
        max=values.max(axis=0),
        mean=values.mean(axis=0),
        std=values.std(axis=0),
        q01=q01,
        q99=q99,
    )


def merge_statistics(parts: Sequence[KeyStatistics], counts: Sequence[int]) -> KeyStatistics:
    """Merge statistics of one key over several sets of rows, with `counts` rows each.

    All are exact but the quantiles, which are means weighted by count, as lerobot and GR00T merge them.
    """
    if len(parts) == 1:
        return parts[0]
    share = np.array(counts, np.float64) / sum(counts)
    stacked = {name: np.stack([getattr(part, name) for part in parts], -1) for name in STATISTIC_NAMES}
    mean = stacked["mean"] @ share
    variance = (stacked["std"] ** 2 + (stacked["mean"] - mean[..., None]) ** 2) @ share
    return KeyStatistics(
        min=stacked["min"].min(-1),
        max=stacked["max"].max(-1),
        mean=mean,
        std=np.sqrt(variance),
        q01=stacked["q01"] @ share,
        q99=stacked["q99"] @ share,
    )


def describe_rows(rows: np.ndarray, *, quantiles: bool = False) -> dict[str, list]:
    """Return lerobot's per-episode statistics of a column `(N,)` or `(N, D)`; extremes of integers stay integers.

    Quantiles (v3.0) are exact, where lerobot estimates them from a histogram.
    """
    values = rows.reshape(len(rows), -1)
    wide = values.astype(np.float64)
    entry = {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": wide.mean(axis=0).tolist(),
        "std": wide.std(axis=0).tolist(),
        "count": [len(rows)],
    }
    if quantiles:
        found = _quantiles(wide, list(QUANTILES.values())).tolist()
        entry |= dict(zip(QUANTILES, found, strict=True))
    return entry


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return what `numpy.quantile` does of `(N, D)` float64 along N; of few rows in a tenth of its time."""
    if len(values) > _SORTED_ROWS:
        return np.quantile(values, shares, axis=0)
    ordered, last = np.sort(values, axis=0), len(values) - 1
    places = np.array(shares) * last
    below = np.floor(places).astype(np.intp)
    low, high = ordered[below], ordered[np.minimum(below + 1, last)]
    share = (places - below)[:, None]
    step = high - low
    return np.where(share < 0.5, low + step * share, high - step * (1 - share))


def join_described(parts: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Join statistics of one feature in several episodes as lerobot does.

    Quantiles are the means of the episodes' quantiles weighted by count: an approximation that lerobot makes too.

    Raises:
        DatasetError: they have different forms.
    """
    try:
        return _join_described(parts)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DatasetError(
            f"statistics of episodes have different forms ({error}); compute them again with gr00t_dataset stats"
        ) from error


def _join_described(parts: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    count = np.array([part["count"][0] for part in parts], np.float64)
    share = count / count.sum()
    names = [name for name in (*STATISTIC_NAMES, *QUANTILES) if all(name in part for part in parts)]
    stacked = {name: np.stack([np.asarray(part[name]) for part in parts], -1) for name in names}
    mean = stacked["mean"] @ share
    variance = (stacked["std"] ** 2 + (stacked["mean"] - mean[..., None]) ** 2) @ share
    joined = {"min": stacked["min"].min(-1), "max": stacked["max"].max(-1), "mean": mean, "std": np.sqrt(variance)}
    joined |= {name: stacked[name] @ share for name in QUANTILES if name in stacked}
    return {name: value.tolist() for name, value in joined.items()} | {"count": [int(count.sum())]}


class ImageStatistics:
    """Lerobot's per-episode statistics of one camera, collected while images arrive.

    Which images are sampled depends on their final number, so four small vectors are kept per image. Quantiles are
    those of all images together, exact to one level.
    """

    def __init__(self) -> None:
        self._per_image: list[np.ndarray] = []  # each (4, 3): min, max, mean, mean of squares of the values / 255
        self._counts = np.zeros((3, 256), np.int64)  # pixels of each level in all images

    def add(self, image: np.ndarray) -> None:
        """Add one `(H, W, 3)` uint8 image."""
        pixels = _thin(image).reshape(-1, 3)
        # one count for all channels: a third of the time of three
        counts = np.bincount((pixels + _CHANNEL_OFFSETS).ravel(), minlength=768).reshape(3, 256)
        self._counts += counts
        is_present = counts > 0
        low, high = is_present.argmax(axis=1) / 255, (255 - is_present[:, ::-1].argmax(axis=1)) / 255
        mean, mean_square = (counts @ levels / len(pixels) for levels in (_LEVELS, _LEVELS**2))
        self._per_image.append(np.stack([low, high, mean, mean_square]))

    def describe(self, *, quantiles: bool = False) -> dict[str, list]:
        """Return `min`, `max`, `mean`, `std` of shape [3, 1, 1] and `count`, and v3.0's quantiles if asked."""
        sampled = np.stack(self._per_image)[sampled_images(len(self._per_image))]  # (N, 4, 3)
        low, high = sampled[:, 0].min(axis=0), sampled[:, 1].max(axis=0)
        mean, mean_square = sampled[:, 2].mean(axis=0), sampled[:, 3].mean(axis=0)
        std = np.sqrt(np.maximum(mean_square - mean**2, 0))
        entry: dict[str, list] = {
            name: value.reshape(3, 1, 1).tolist()
            for name, value in zip(("min", "max", "mean", "std"), (low, high, mean, std), strict=True)
        }
        entry["count"] = [len(sampled)]
        if quantiles:
            ranks = np.cumsum(self._counts, axis=1)
            for name, share in QUANTILES.items():
                levels = [int(np.searchsorted(rank, share * rank[-1])) / 255 for rank in ranks]
                entry[name] = np.reshape(levels, (3, 1, 1)).tolist()
        return entry


def sampled_images(num_images: int) -> np.ndarray:
    """Return the images that lerobot samples out of `num_images`: evenly spaced, both ends included."""
    count = int(min(max(num_images**0.75, min(num_images, MIN_SAMPLED_IMAGES)), MAX_SAMPLED_IMAGES))
    return np.round(np.linspace(0, num_images - 1, count)).astype(int)


def stack_rows(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join the rows of several episodes, each `(n,)` or `(n, D)`, into one `(N, D)` float32 array."""
    return np.concatenate([np.asarray(part, dtype=np.float32).reshape(len(part), -1) for part in parts])


def _thin(image: np.ndarray) -> np.ndarray:
    longer = max(image.shape[:2])
    factor = int(longer / THIN_TO_PX) if longer >= THIN_FROM_PX else 1
    return image[::factor, ::factor]
