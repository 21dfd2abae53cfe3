# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a comparison takes, by the size of the objects.

The plot and the line through it are of CPU seconds, which is what one waits for on an idle machine,
and which depend less on what else the machine does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Figure, livegraft
from benchmarks.objects import Pair, moved, pairs
from benchmarks.plot import Points, draw
from livegraft.kernel.kernel import Kernel

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000, 10_000_000, 20_000_000]
"""Bytes of an object."""

TARGETS = {300_000: 0.25, 1_000_000: 0.3, 3_000_000: 0.45, 5_000_000: 0.7}
"""Seconds that a comparison may take, by size."""

ESTABLISHED = [(0.3e6, 0.014), (1e6, 0.07), (2.8e6, 0.49), (4.9e6, 3.6)]
"""Bytes and seconds of the established comparer (C), measured on another machine."""

SMALL = 120
"""How many small pairs are compared in one process."""

SMALL_BYTES = 50_000
"""What a small object has at most."""

MANY = """
import json, sys
from pathlib import Path
from livegraft.compare.comparison import compare_objects
from livegraft.elf import object as elf
from livegraft.verdict.judge import judge
for before, after in json.load(sys.stdin):
    found = judge(compare_objects(elf.read(Path(before)), elf.read(Path(after))))
    print(found.verdict)
"""


@dataclass(frozen=True, slots=True)
class Growth:
    """A line through measured points: ``start + per_megabyte * MB`` seconds."""

    start: float
    per_megabyte: float

    @classmethod
    def of(cls, points: list[tuple[float, float]]) -> Growth:
        """The line whose relative distances from the points (bytes, seconds) are smallest."""
        weights = [1 / seconds**2 for _, seconds in points]
        total = sum(weights)
        sizes = [size / 1e6 for size, _ in points]
        mean = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
        level = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
        slope = sum(
            w * (x - mean) * (y - level)
            for w, x, (_, y) in zip(weights, sizes, points, strict=True)
        ) / sum(w * (x - mean) ** 2 for w, x in zip(weights, sizes, strict=True))
        return cls(level - slope * mean, slope)

    def at(self, size: float) -> float:
        """Seconds for so many bytes."""
        return self.start + self.per_megabyte * size / 1e6


def comparing(kernel: Kernel, rounds: int, fix: Path, plot: Path) -> Iterator[Figure]:
    """The command on two objects, process start included; many pairs in one process."""
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for wanted, pair in zip(SIZES, pairs(kernel, fix, SIZES, Path(folder)), strict=True):
            seconds, own = _compare(pair, rounds)
            points.append((float(pair.size), own))
            limit = TARGETS.get(wanted)
            yield Figure(
                f"compare two objects of {pair.size / 1e6:.2g} MB",
                f"{seconds:.2f} s ({own:.2f} s CPU)",
                f"<= {limit} s" if limit else "",
                not limit or seconds <= limit,
            )
        growth = Growth.of(points)
        worst = max(seconds / growth.at(size) for size, seconds in points)
        yield Figure(
            "  growth",
            f"{growth.start:.2f} s + {growth.per_megabyte:.3f} s CPU per MB; the points lie"
            f" at most {100 * (worst - 1):.0f} % above",
            "linear: at most 25 % above",
            worst <= 1.25,
        )
        yield _many(list(moved(kernel, Path(folder), SMALL, SMALL_BYTES)), rounds)
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(_picture(points, growth), "utf-8")


def _compare(pair: Pair, rounds: int) -> tuple[float, float]:
    costs = [livegraft("compare", pair.before, pair.after) for _ in range(rounds)]
    changed = costs[0].document["changed"]
    if costs[0].document["verdict"] != "changed" or len(changed) != 1:
        raise RuntimeError(f"the comparison found {changed or 'nothing'}, not the fix's function")
    seconds = statistics.median(cost.seconds for cost in costs)
    return seconds, min(cost.own_seconds for cost in costs)


def _many(small: list[Pair], rounds: int) -> Figure:
    given = json.dumps([[str(pair.before), str(pair.after)] for pair in small])
    seconds = []
    for _ in range(rounds):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", MANY], input=given, capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - began)
        if done.stdout.split() != ["unchanged"] * len(small):
            raise RuntimeError(f"a moved line is no change: {done.stdout}")
    median = statistics.median(seconds)
    mean = sum(pair.size for pair in small) / len(small) / 1000
    return Figure(
        f"compare {len(small)} pairs of {mean:.0f} kB on average in one process",
        f"{median:.2f} s",
        "<= 1.5 s",
        median <= 1.5,
    )


def _picture(points: list[tuple[float, float]], growth: Growth) -> str:
    fit = [(size, growth.at(size)) for size in _steps(points[0][0], points[-1][0])]
    return draw(
        "livegraft compare: seconds by size of an object",
        ("size of each object", "CPU seconds, process start included"),
        [
            Points("livegraft", points, "#1f6feb"),
            Points(
                f"{growth.start:.2f} s + {growth.per_megabyte:.3f} s per MB", fit, "#1f6feb", True
            ),
            Points("the established comparer (C), another machine", ESTABLISHED, "#b35900"),
        ],
    )


def _steps(first: float, last: float) -> Iterator[float]:
    """Sizes at equal distances on a logarithmic axis."""
    count = 60
    return (first * (last / first) ** (step / count) for step in range(count + 1))
