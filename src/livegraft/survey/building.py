# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the fixes of a survey: each either becomes a module, or it is said why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from livegraft import pipeline
from livegraft.errors import (
    DoesNotApply,
    LivegraftError,
    NothingChanged,
    ProofFailed,
    Reason,
    Refused,
)
from livegraft.progress import Progress
from livegraft.survey.candidate import Candidate
from livegraft.survey.grouping import open_kernel


class Outcome(StrEnum):
    """What becomes of a fix."""

    BUILT = "built"
    """Its module waits to be loaded."""
    LOADED = "loaded"
    """Loaded, in transition, enabled, checked and unloaded in a guest."""
    UNCHANGED = "unchanged"
    """The code of this kernel is the same with it."""
    REFUSED = "refused"
    FAILED = "failed"
    """It ended in something that is no answer: a defect of livegraft."""
    UNFINISHED = "unfinished"
    """The time that the survey gives to one fix did not suffice: nothing is known of it."""
    INAPPLICABLE = "inapplicable"
    """It does not apply to this kernel's source: a commit that needs an earlier one."""
    WRONG = "wrong"
    """A relocation of the loaded module leads elsewhere than the patched object file says."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What building needs beside the fix.

    Args:
        release: the kernel.
        cache_root: where it is prepared.
        folder: the survey's: ``fixes``, ``modules`` and ``objects`` are below.
        units: refuse a fix of headers that more units read; None for no limit.
    """

    release: str
    cache_root: Path
    folder: Path
    units: int | None = None

    def fix(self, candidate: Candidate) -> Path:
        """The fix as a unified diff."""
        return self.folder / "fixes" / f"{candidate.name}.patch"

    def module(self, candidate: Candidate) -> Path:
        """The module."""
        return self.folder / "modules" / f"{candidate.name}.ko"

    def second(self, candidate: Candidate) -> Path:
        """The module that was cut out of the source."""
        return self.folder / "extracted" / f"{candidate.name}.ko"

    def objects(self, candidate: Candidate) -> Path:
        """The folder of its patched object files, for the oracle."""
        return self.folder / "objects" / candidate.name

    def second_objects(self, candidate: Candidate) -> Path:
        """The folder of its extracted object files, and the patched ones beside them."""
        return self.folder / "extracted" / candidate.name


def build(place: Workplace, candidate: Candidate) -> dict[str, Any]:
    """Build one fix, in a worker.

    Returns:
        the members of its line in the results.
    """
    progress = Progress()
    began = time.monotonic()
    if candidate.unfinished:
        found = unfinished(candidate.unfinished)
    elif candidate.reasons:
        found = refused(candidate.reasons)
    else:
        found = _build(place, candidate, progress)
    timings = {name: round(seconds, 3) for name, seconds in progress.timings.items()}
    return found | {"seconds": round(time.monotonic() - began, 3), "timings": timings}


def _build(place: Workplace, candidate: Candidate, progress: Progress) -> dict[str, Any]:
    try:
        built = pipeline.build(
            [place.fix(candidate)],
            open_kernel(place.release, place.cache_root),
            output=place.module(candidate),
            name=candidate.name,
            keep=place.objects(candidate),
            units=place.units,
            progress=progress,
        )
    except Refused as error:
        return refused(error.reasons)
    except ProofFailed as error:
        reasons = [
            Reason("proof", name, f"differs from the shipped code: {how}", error.remedy)
            for name, how in error.differing.items()
        ]
        return refused(reasons or [Reason("proof", error.subject, error.problem, error.remedy)])
    except NothingChanged as error:
        return {"outcome": Outcome.UNCHANGED, "error": str(error)}
    except DoesNotApply as error:
        return {"outcome": Outcome.INAPPLICABLE, "error": str(error)}
    except LivegraftError as error:
        return failed(f"{type(error).__name__}: {error}")
    functions = built.outcome.functions
    return {
        "outcome": Outcome.BUILT,
        "size": built.size,
        "units": sorted({each.unit for each in functions}),
        "objects": sorted({each.target.object for each in functions}),
        "functions": len(functions),
        "warnings": list(built.outcome.warnings),
    }


def refused(reasons: tuple[Reason, ...] | list[Reason]) -> dict[str, Any]:
    """The members of a fix that is refused."""
    return {
        "outcome": Outcome.REFUSED,
        "rules": sorted({reason.rule for reason in reasons}),
        "reasons": [reason.as_json() for reason in reasons],
    }


def unfinished(why: str) -> dict[str, Any]:
    """The members of a fix for which there was too little time."""
    return {"outcome": Outcome.UNFINISHED, "error": why}


def failed(error: str) -> dict[str, Any]:
    """The members of a fix that failed."""
    return {"outcome": Outcome.FAILED, "error": error}
