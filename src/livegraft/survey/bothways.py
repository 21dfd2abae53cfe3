# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the fixes of a survey in the second way too, and compare both function by function."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from livegraft import pipeline
from livegraft.errors import LivegraftError, Refused
from livegraft.extract.extraction import Extracted
from livegraft.extract.twoways import Difference
from livegraft.extract.work import COMPARING
from livegraft.kernel.kernel import Kernel
from livegraft.progress import Progress
from livegraft.survey.building import Outcome, Workplace, failed, refused
from livegraft.survey.candidate import Candidate
from livegraft.survey.grouping import open_kernel

SECOND = "extract"
"""The member of a fix's line that tells of the second way."""


def build_again(place: Workplace, candidate: Candidate) -> dict[str, Any]:
    """Cut one fix out of the source, which ``compare`` has made a module of; in a worker.

    Returns:
        what its line tells of the second way; `seconds` are those of this way alone.
    """
    progress = Progress()
    began = time.monotonic()
    try:
        found = _build(place, candidate, progress)
    except Refused as error:
        found = refused(error.reasons)
    except LivegraftError as error:
        found = failed(f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - began - progress.timings.get(COMPARING, 0.0)
    return found | {"seconds": round(seconds, 3)}


def _build(place: Workplace, candidate: Candidate, progress: Progress) -> dict[str, Any]:
    kernel = open_kernel(place.release, place.cache_root)
    fixes = [place.fix(candidate)]
    outcome = pipeline.check(
        fixes,
        kernel,
        keep=place.second_objects(candidate),
        method=pipeline.Method.BOTH,
        progress=progress,
    )
    told = {
        "files": [_file(kernel, each) for each in outcome.extracted],
        "functions": list(_functions(outcome.extracted)),
    }
    if outcome.verdict is pipeline.Verdict.REFUSED:
        return refused(outcome.reasons) | told
    if outcome.second is None:
        return failed("nothing was cut out of the source") | told
    alone = replace(outcome, changes=outcome.second, second=None)
    output, name = place.second(candidate), candidate.name
    built = pipeline.make(alone, kernel, output=output, name=name, progress=progress)
    return {"outcome": Outcome.BUILT, "size": built.size} | told


def _file(kernel: Kernel, each: Extracted) -> dict[str, Any]:
    whole = (kernel.source / each.unit).read_bytes().count(b"\n")
    return {
        "unit": each.unit,
        "lines": each.text.count("\n"),
        "of": whole,
        "patched": len(each.patched),
    }


def _functions(extracted: Iterable[Extracted]) -> Iterable[dict[str, Any]]:
    for each in extracted:
        for one in each.ways:
            found: dict[str, Any] = {"function": one.function, "equal": one.is_equal}
            if isinstance(one, Difference):
                found |= {"class": one.kind.value, "where": one.where, "proof": one.proof}
            yield found
