# SPDX-License-Identifier: GPL-2.0-or-later
"""How time and pauses grow with tasks, functions and patches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from livegraft.lab.comparison import figures
from livegraft.lab.comparison.scenarios import scenarios
from livegraft.lab.comparison.statistics import Fit, fit

FIGURES = ("apply", "undo", "gap-apply", "gap-undo")

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Growth:
    """A figure of a model, fitted against a size.

    Args:
        kernel: the release.
        family: tasks, functions or patches.
        model: the model.
        figure: its key.
        sizes: that were measured.
        found: the fit.
    """

    kernel: str
    family: str
    model: str
    figure: str
    sizes: tuple[int, ...]
    found: Fit

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            "kernel": self.kernel,
            "family": self.family,
            "model": self.model,
            "figure": self.figure,
            "sizes": list(self.sizes),
            "growth": self.found.growth.value,
            "exponent": self.found.exponent.as_json(),
            "at_smallest": round(self.found.at_smallest, 6),
            "each": round(self.found.each, 9),
        }


def growth(kernels: Sequence[str], models: Sequence[str], cells: Sequence[Cell]) -> list[Growth]:
    """All fits that there are at least three sizes for."""
    families = dict.fromkeys(each.family for each in scenarios().values() if each.family)
    found = []
    for kernel in kernels:
        for family in families:
            for model in models:
                own = _sizes(cells, kernel, family, model)
                for key in FIGURES:
                    samples = [figures.values(cell["measured"]).get(key, []) for _, cell in own]
                    sizes = tuple(size for size, _ in own)
                    made = fit(sizes, samples)
                    if made is not None:
                        found.append(Growth(kernel, family, model, key, sizes, made))
    return found


def _sizes(cells: Sequence[Cell], kernel: str, family: str, model: str) -> list[tuple[int, Cell]]:
    known = scenarios()
    own = [
        (known[cell["scenario"]].size or tasks(cell["measured"]), cell)
        for cell in cells
        if (cell["kernel"], cell["model"]) == (kernel, model)
        and cell["measured"]
        and cell["scenario"] in known
        and known[cell["scenario"]].family == family
    ]
    return sorted(own, key=lambda pair: pair[0])


def tasks(guests: figures.Guests) -> int:
    """How many tasks there were in a guest of a cell, in the middle one of them."""
    return int(statistics.median_low([each["tasks"] for each in guests]))
