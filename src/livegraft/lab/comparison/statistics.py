# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians with 95 % bootstrap intervals, and how a figure grows.

The same values give the same interval: the generator is seeded. Sources: Efron and Tibshirani, An
Introduction to the Bootstrap, chapter 13 (percentiles); Davison and Hinkley, Bootstrap Methods and
their Application, section 3.8 (drawing in two stages, with replacement in both: of the two ways
there the wider one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 4000
_SEED = 7

Statistic = Callable[..., Any]
"""Takes an array and an axis: :func:`numpy.median`, :func:`numpy.mean`."""

Sample = Sequence[Sequence[float]]
"""Values by the guest that they were measured in: those of one guest are alike, as its memory, its
clock's phase and the machine's speed of that minute were the same for all."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval.

    Args:
        value: of the sample itself.
        low: lower end of the 95 % interval.
        high: upper end.
        count: how many values there were.
    """

    value: float
    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high

    def as_json(self) -> dict[str, float | int]:
        """As it stands in the report; whatever is smaller than a millionth is noise."""
        return {
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "n": self.count,
        }


def estimate(sample: Sample, statistic: Statistic = numpy.median) -> Estimate | None:
    """A statistic of a sample with its interval; None of no values."""
    if not (values := together(sample)):
        return None
    return _estimate(float(statistic(values, axis=0)), _resampled(sample, statistic), len(values))


def ratio(above: Sample, below: Sample) -> Estimate | None:
    """Of two medians; None if there are no values, or the second median can be 0."""
    counts = len(together(above)), len(together(below))
    if not all(counts):
        return None
    first, second = _resampled(above, numpy.median), _resampled(below, numpy.median, 1)
    if median(below) == 0 or not second.all():
        return None
    return _estimate(median(above) / median(below), first / second, min(counts))


def difference(more: Sample, less: Sample) -> Estimate | None:
    """Of two medians; None if there are no values."""
    counts = len(together(more)), len(together(less))
    if not all(counts):
        return None
    first, second = _resampled(more, numpy.median), _resampled(less, numpy.median, 1)
    return _estimate(median(more) - median(less), first - second, min(counts))


def mean_of_means(samples: Sequence[Sample]) -> Estimate | None:
    """The mean of the means of several samples, each of which counts the same; samples without a
    value do not count. None if there is none."""
    some = [sample for sample in samples if together(sample)]
    if not some:
        return None
    drawn = [_resampled(sample, numpy.mean, stream) for stream, sample in enumerate(some)]
    value = float(numpy.mean([numpy.mean(together(sample)) for sample in some]))
    count = sum(len(together(sample)) for sample in some)
    return _estimate(value, numpy.mean(drawn, axis=0), count)


def together(sample: Sample) -> list[float]:
    """The values of all guests."""
    return [value for guest in sample for value in guest]


def median(sample: Sample) -> float:
    """Of the values of all guests; there is one at least."""
    return float(numpy.median(together(sample)))


def _resampled(sample: Sample, statistic: Statistic, stream: int = 0) -> NDArray[numpy.float64]:
    """The statistic of many samples drawn from this one with replacement: guests first, and then
    as many values of each guest that was drawn as it has."""
    generator = numpy.random.default_rng((_SEED, stream))
    guests = [guest for guest in sample if len(guest)]
    sizes = numpy.array([len(guest) for guest in guests])
    begins = numpy.cumsum(sizes) - sizes
    drawn = generator.integers(0, len(guests), size=(RESAMPLES, len(guests)))
    own = sizes[drawn][:, :, None]
    most = int(sizes.max())
    places = generator.integers(0, own, size=(RESAMPLES, len(guests), most))
    values = numpy.asarray(together(guests), dtype=float)
    every = values[begins[drawn][:, :, None] + places]
    if sizes.min() < most:
        every = numpy.where(numpy.arange(most) < own, every, numpy.nan)
        statistic = _WITH_HOLES[statistic]
    found: NDArray[numpy.float64] = statistic(every.reshape(RESAMPLES, -1), axis=1)
    return found


_WITH_HOLES: dict[Statistic, Statistic] = {
    numpy.median: numpy.nanmedian,
    numpy.mean: numpy.nanmean,
}


def _estimate(value: float, resampled: NDArray[numpy.float64], count: int) -> Estimate:
    tail = 100 * (1 - LEVEL) / 2
    low, high = numpy.percentile(resampled, (tail, 100 - tail))
    return Estimate(value, float(low), float(high), count)


class Growth(StrEnum):
    """How a figure grows with a size."""

    CONSTANT = "constant"
    LINEAR = "linear"
    WORSE = "worse than linear"
    OPEN = "cannot be told"
    """Linear or worse."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a figure grows.

    Args:
        growth: the kind.
        exponent: of the power law that fits the growing part, with its interval; 1 is linear.
        at_smallest: the figure at the smallest size.
        each: by how much it is more for each one more, on average, up to the largest size.
    """

    growth: Growth
    exponent: Estimate
    at_smallest: float
    each: float


SAME = 1.5
"""A figure that is not that many times larger at the largest size is constant."""

LINEAR_MOST = 1.2
"""A power of the size up to which growth is linear: caches and tree lookups are in it."""


def fit(sizes: Sequence[float], samples: Sequence[Sample]) -> Fit | None:
    """Fit a figure's growth: what is there at the smallest size, and a power of what is added.

    Args:
        sizes: at least three, growing.
        samples: the values at each.

    Returns:
        None of fewer than three sizes, or if a sample is empty.
    """
    counts = [len(together(sample)) for sample in samples]
    if len(sizes) < 3 or not all(counts):
        return None
    drawn = numpy.stack(
        [_resampled(sample, numpy.median, stream) for stream, sample in enumerate(samples)]
    )
    medians = numpy.array([median(sample) for sample in samples])
    more = numpy.log(numpy.asarray(sizes[1:], dtype=float) - sizes[0])

    def exponent(column: NDArray[numpy.float64]) -> float:
        # What is added has to be positive to have a logarithm: a thousandth of it all stands for 0.
        added = numpy.maximum(column[1:] - column[0], column[-1] / 1000 + 1e-12)
        return float(numpy.polyfit(more, numpy.log(added), 1)[0])

    every = numpy.array([exponent(column) for column in drawn.T[::8]])
    power = _estimate(exponent(medians), every, min(counts))
    if medians[-1] < SAME * medians[0]:
        growth = Growth.CONSTANT
    elif power.high <= LINEAR_MOST:
        growth = Growth.LINEAR
    else:
        growth = Growth.WORSE if power.low > LINEAR_MOST else Growth.OPEN
    each = float((medians[-1] - medians[0]) / (sizes[-1] - sizes[0]))
    return Fit(growth, power, float(medians[0]), each)
