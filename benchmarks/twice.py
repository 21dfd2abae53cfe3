# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports of ``livegraft lab models`` on the same kernel, held against each other.

    python -m benchmarks.twice REPORT OTHER

Tells of each figure in how many cells the 95 % intervals of both reports overlap, and how wide they
are; then each pair that does not overlap. Ends with 1 if there is one, or too few repetitions.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ENOUGH = 10
"""Repetitions of each cell."""


class Pair(NamedTuple):
    """A figure of a cell, measured twice.

    Args:
        cell: scenario and model.
        figure: its key in the report.
        first: with ``value``, ``low``, ``high`` and ``n``.
        second: the same of the other report.
    """

    cell: str
    figure: str
    first: dict[str, float]
    second: dict[str, float]

    @property
    def overlap(self) -> bool:
        """Whether the two intervals have a point in common."""
        first, second = self.first, self.second
        return first["low"] <= second["high"] and second["low"] <= first["high"]

    @property
    def width(self) -> float:
        """Of the wider interval, in parts of its value; 0 of a value that is 0."""
        both = (self.first, self.second)
        return max((e["high"] - e["low"]) / e["value"] if e["value"] else 0.0 for e in both)

    def __str__(self) -> str:
        both = (f"{e['value']:.3g} [{e['low']:.3g}, {e['high']:.3g}]" for e in self[2:])
        return f"{self.cell}, {self.figure}: {' and '.join(both)}"


def cells(folder: str) -> dict[str, Any]:
    """The measured cells of a report."""
    report = json.loads(Path(folder, "report.json").read_text())
    return {
        f"{each['kernel']} {each['scenario']} {each['model']}": each["figures"]
        for each in report["cells"]
        if each["status"] == "done"
    }


def pairs(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Pair]:
    """The figures that both reports have."""
    for cell, figures in first.items():
        for key, found in figures.items():
            other = second.get(cell, {}).get(key)
            if found is not None and other is not None:
                yield Pair(cell, key, found, other)


def main(first: str, second: str) -> int:
    """Compare, and print."""
    found = list(pairs(cells(first), cells(second)))
    print(f"{len({each.cell for each in found})} cells in both reports")
    print("| figure | cells | overlap | width, median | width, largest |")
    print("|---|---|---|---|---|")
    for key in dict.fromkeys(each.figure for each in found):
        here = [each for each in found if each.figure == key]
        widths = [each.width for each in here]
        overlap = sum(each.overlap for each in here)
        middle, most = statistics.median(widths), max(widths)
        print(f"| {key} | {len(here)} | {overlap} | {middle:.0%} | {most:.0%} |")
    apart = [each for each in found if not each.overlap]
    few = [each for each in found if min(each.first["n"], each.second["n"]) < ENOUGH]
    for title, each_of in (("do not overlap", apart), ("fewer than ten values", few)):
        for each in each_of:
            print(f"{title}: {each}")
    return 1 if apart or few or not found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
