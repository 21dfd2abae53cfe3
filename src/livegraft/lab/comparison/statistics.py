# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians with 95 % bootstrap intervals, and how a figure grows.

The same values give the same interval: the generator is seeded. Source of the percentile bootstrap:
Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
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


def estimate(values: Sequence[float], statistic: Statistic = numpy.median) -> Estimate | None:
    """A statistic of a sample with its interval; None of no values."""
    if not values:
        return None
    sample = numpy.asarray(values, dtype=float)
    return _estimate(float(statistic(sample, axis=0)), _resampled(sample, statistic), len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate | None:
    """Of two medians; None if there are no values, or the second median can be 0."""
    if not above or not below:
        return None
    first = _resampled(numpy.asarray(above, dtype=float), numpy.median)
    second = _resampled(numpy.asarray(below, dtype=float), numpy.median, 1)
    middle = float(numpy.median(below))
    if middle == 0 or not second.all():
        return None
    value = float(numpy.median(above)) / middle
    return _estimate(value, first / second, min(len(above), len(below)))


def difference(more: Sequence[float], less: Sequence[float]) -> Estimate | None:
    """Of two medians; None if there are no values."""
    if not more or not less:
        return None
    first = _resampled(numpy.asarray(more, dtype=float), numpy.median)
    second = _resampled(numpy.asarray(less, dtype=float), numpy.median, 1)
    value = float(numpy.median(more) - numpy.median(less))
    return _estimate(value, first - second, min(len(more), len(less)))


def _resampled(
    sample: NDArray[numpy.float64], statistic: Statistic, stream: int = 0
) -> NDArray[numpy.float64]:
    """The statistic of many samples drawn from this one with replacement."""
    generator = numpy.random.default_rng((_SEED, stream))
    drawn = generator.integers(0, len(sample), size=(RESAMPLES, len(sample)))
    found: NDArray[numpy.float64] = statistic(sample[drawn], axis=1)
    return found


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


def fit(sizes: Sequence[float], samples: Sequence[Sequence[float]]) -> Fit | None:
    """Fit a figure's growth: what is there at the smallest size, and a power of what is added.

    Args:
        sizes: at least three, growing.
        samples: the values at each.

    Returns:
        None of fewer than three sizes, or if a sample is empty.
    """
    if len(sizes) < 3 or not all(samples):
        return None
    drawn = numpy.stack(
        [
            _resampled(numpy.asarray(sample, dtype=float), numpy.median, stream)
            for stream, sample in enumerate(samples)
        ]
    )
    medians = numpy.array([float(numpy.median(sample)) for sample in samples])
    more = numpy.log(numpy.asarray(sizes[1:], dtype=float) - sizes[0])

    def exponent(column: NDArray[numpy.float64]) -> float:
        # What is added has to be positive to have a logarithm: a thousandth of it all stands for 0.
        added = numpy.maximum(column[1:] - column[0], column[-1] / 1000 + 1e-12)
        return float(numpy.polyfit(more, numpy.log(added), 1)[0])

    every = numpy.array([exponent(column) for column in drawn.T[::8]])
    power = _estimate(exponent(medians), every, min(map(len, samples)))
    if medians[-1] < SAME * medians[0]:
        growth = Growth.CONSTANT
    elif power.high <= LINEAR_MOST:
        growth = Growth.LINEAR
    else:
        growth = Growth.WORSE if power.low > LINEAR_MOST else Growth.OPEN
    each = float((medians[-1] - medians[0]) / (sizes[-1] - sizes[0]))
    return Fit(growth, power, float(medians[0]), each)
