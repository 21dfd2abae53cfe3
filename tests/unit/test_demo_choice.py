# SPDX-License-Identifier: GPL-2.0-or-later
"""Which fix the demo shows when the archive no longer has the one with the bug."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from demo import demo as module

from livegraft import pipeline
from livegraft.errors import KernelError, NoNetwork, PackageMissing
from livegraft.kernel.listing import ListedKernel
from livegraft.kernel.release import Flavour
from livegraft.progress import SILENT
from livegraft.runtime.model import ModelName

LISTED = (
    ("6.1.0-9-amd64", "6.1.27-1", Flavour.AMD64, ""),
    ("6.1.0-56-amd64", "6.1.193-1", Flavour.AMD64, ""),
    ("6.1.0-55-amd64", "6.1.192-1", Flavour.AMD64, ""),
    ("6.1.0-53-amd64", "6.1.187-1", Flavour.AMD64, ""),
    ("6.1.0-54-amd64", "6.1.190-1", Flavour.AMD64, "needs a compiler"),
    ("6.1.0-56-rt-amd64", "6.1.193-2", Flavour.RT, ""),
    ("6.12.117+deb12-amd64", "6.12.117-1~deb12u1", Flavour.AMD64, ""),
    ("6.12.99+deb12-amd64", "6.12.99-1~deb12u1", Flavour.AMD64, ""),
)
ADJACENT = [
    ("6.1.0-55-amd64", "6.1.192-1", "6.1.193-1"),
    ("6.1.0-53-amd64", "6.1.187-1", "6.1.192-1"),
    ("6.1.0-9-amd64", "6.1.27-1", "6.1.187-1"),
    ("6.12.99+deb12-amd64", "6.12.99-1~deb12u1", "6.12.117-1~deb12u1"),
]
"""By number, not by name; what cannot be targeted, and other flavours, are no neighbours."""

Show = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Runs the choice where only some pairs yield a patch: the fix that is shown, and the notes."""
    listed = [ListedKernel(*each[:3], prepared=False, why_not=each[3]) for each in LISTED]
    monkeypatch.setattr(module, "list_kernels", lambda *_: listed)
    built: Any = None
    monkeypatch.setattr(
        module.Demo, "_built", lambda _, kernel, fix, show: module.Case(kernel, fix, built, show)
    )

    def run(yields: dict[str, Any], files: int = 1) -> tuple[str, list[str]]:
        def source_of(version: str, **_: object) -> str:
            return version

        def between(old: str, new: str, *_: object) -> object:
            found = yields.get(old, PackageMissing(f"linux {new}", "is in no list", ""))
            if isinstance(found, Exception):
                raise found
            return SimpleNamespace(files=["x"] * files, diff=b"--- a\n")

        monkeypatch.setattr(module, "source_of", source_of)
        monkeypatch.setattr(module, "between", between)
        monkeypatch.setattr(pipeline, "prepare", lambda release, **_: release)
        one = module.Demo(tmp_path, SILENT, pipeline.Method.COMPARE, ModelName.NATIVE)
        case = next(one._cases(module.BUG))
        way = getattr(case.show, "__name__", "")
        return f"{case.kernel} {case.fix.name} {way}", one.report.notes

    return run


def test_neighbours(show: Show, tmp_path: Path) -> None:
    one = module.Demo(tmp_path, SILENT, pipeline.Method.COMPARE, ModelName.NATIVE)
    assert list(one._adjacent()) == ADJACENT


def test_the_bug_comes_first(show: Show) -> None:
    shown, notes = show({"6.1.192-1": "a fix", "6.1.187-1": "another"})
    assert shown == "6.1.0-55-amd64 6.1.192-1_6.1.192-2.patch show_bug"
    assert notes == []


def test_the_newest_pair_that_yields_a_patch(show: Show) -> None:
    """Which it is, and what became of those before it, is told."""
    refused = KernelError("fs/x.c", "is refused", "")
    shown, notes = show({"6.1.192-1": refused, "6.1.187-1": "a fix", "6.1.27-1": "another"})
    assert shown == "6.1.0-53-amd64 6.1.187-1_6.1.192-1.patch show_redirection"
    assert notes[0] == str(refused)
    assert notes[1] == "6.1.192-1 -> 6.1.192-2 is not to be had; another fix is shown"
    assert notes[2] == str(refused)


@pytest.mark.parametrize(("yields", "files"), [({}, 1), ({"6.1.187-1": "an update"}, 999)])
def test_the_sample_is_left(show: Show, yields: dict[str, Any], files: int) -> None:
    shown, notes = show(yields, files)
    assert shown == "6.1.0-56-amd64 sample.patch show_sample"
    assert notes[-1] == "none of the 3 newest adjacent pairs yields a patch; the sample is shown"


def test_without_a_network_no_pair_would_fare_better(show: Show) -> None:
    with pytest.raises(NoNetwork):
        show({"6.1.192-1": NoNetwork("archive", "cannot be reached", "")})
