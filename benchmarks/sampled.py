# SPDX-License-Identifier: GPL-2.0-or-later
"""From fix to module over the sample of a survey, as an administrator builds: one at a time, on all
cores, the kernel prepared, the start of the command included."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, livegraft
from livegraft.kernel.kernel import Kernel

LIMITS = {"compare": 6, "extract": 10}
"""Seconds, by the method."""


def sampled(_: Kernel, __: int, survey: Path) -> Iterator[Figure]:
    """Build each fix of a survey that could be loaded, with each method that the survey has tried.

    Args:
        survey: the survey's folder; one with ``--method both`` has tried extract as well.
    """
    release = json.loads((survey / "survey.json").read_text())["release"]
    lines = (survey / "results.jsonl").read_text().splitlines()
    results = [each for each in map(json.loads, lines) if each["outcome"] == "loaded"]
    extracted = [each for each in results if each.get("extract", {}).get("outcome") == "loaded"]
    for method, of in {"compare": results, "extract": extracted}.items():
        if not of:
            continue
        limit, seconds = LIMITS[method], []
        with tempfile.TemporaryDirectory() as folder:
            for name in (each["module"] for each in of):
                words = ("-k", release, "-o", Path(folder, f"{name}.ko"), "--method", method)
                fix = survey / "fixes" / f"{name}.patch"
                seconds.append(livegraft("build", fix, *words).seconds)
        median = statistics.median(seconds)
        tenths = statistics.quantiles(seconds, n=10)
        yield Figure(
            f"fix to .ko, {release}, by {method}, median of {len(seconds)} of {len(results)}",
            f"{median:.1f} s (90 % within {tenths[-1]:.1f} s)",
            f"<= {limit} s",
            median <= limit,
        )
