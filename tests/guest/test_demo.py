# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo, as ``make demo`` runs it: the real bug, its live patch, and a report that holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.releases import RELEASE, RELEASES

from livegraft.errors import PackageMissing
from livegraft.kernel.kernel import source_of

pytestmark = [pytest.mark.guest, pytest.mark.build]

ROOT = Path(__file__).parents[2]


OFFLINE = ("unshare", "--net")


def demo(folder: Path, *words: str, within: tuple[str, ...] = ()) -> tuple[int, str]:
    """Its exit status and its report."""
    done = subprocess.run(
        [*within, sys.executable, str(ROOT / "demo/demo.py"), "-o", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert "Traceback" not in done.stderr, done.stderr
    report = (folder / "report.txt").read_text()
    assert report.strip() in done.stdout
    return done.returncode, report


MODELS = ("hybrid", "stop", "task")
LONG = [
    pytest.param(words, marks=pytest.mark.soak)
    for words in ("--method extract", *(f"--model {model}" for model in MODELS))
]


@pytest.mark.parametrize("words", ["--method compare", *LONG])
def test_the_bug_is_there_and_gone_and_there_again(tmp_path: Path, words: str) -> None:
    try:
        source_of("6.1.192-2")
    except PackageMissing as error:
        pytest.skip(f"{error.subject}: the archive has dropped it, and the cache lacks it")
    status, report = demo(tmp_path, *words.split())
    assert status == 0, report
    lines = [line.strip() for line in report.splitlines()]
    assert "every claim holds" in lines
    assert not [line for line in lines if line.startswith(("FAIL", "note:"))]
    claims = [line.removeprefix("ok").strip() for line in lines if line.startswith("ok ")]
    (control,) = [claim for claim in claims if claim.startswith("control:")]
    assert "NULL pointer dereference" in control
    (again,) = [claim for claim in claims if "old code is back" in claim]
    assert "NULL pointer dereference" in again
    for said in ("ext4_mb_load_buddy_gfp", "transition ", "read back intact", "log is clean"):
        assert any(said in claim for claim in claims), said


def test_a_claim_that_does_not_hold_fails_the_demo(tmp_path: Path) -> None:
    """The negative control: a release that is not to be had ends with a report that says so."""
    status, report = demo(tmp_path, "--kernel", "6.1.0-999-amd64")
    assert status == 1
    assert "NOT every claim holds" in report
    assert "6.1.0-999-amd64" in report


@pytest.mark.parametrize(
    ("release", "model"),
    [
        (RELEASE, "native"),
        *(pytest.param(RELEASES[-1], each, marks=pytest.mark.soak) for each in MODELS),
    ],
)
def test_the_sample_fix_is_shown_on_a_kernel_of_ones_choice(
    tmp_path: Path, release: str, model: str
) -> None:
    """Where a demo was before, it needs no network."""
    within = OFFLINE if release == RELEASE else ()
    status, report = demo(tmp_path, "--kernel", release, "--model", model, within=within)
    assert status == 0, report
    assert "ok   control: before, /proc/cmdline has no mark" in report
    assert "with the patch /proc/cmdline says livegraft.sample=1" in report
    assert "the mark is gone" in report


@pytest.mark.soak  # another two sources are fetched and unpacked
def test_without_the_bug_another_pair_or_the_sample_is_shown_and_told(tmp_path: Path) -> None:
    """What the archive no longer has: the report says which fix is shown instead."""
    status, report = demo(tmp_path, "--pair", RELEASE, "6.1.9999-1", "6.1.9999-2")
    assert status == 0, report
    assert "note: 6.1.9999-1 -> 6.1.9999-2 is not to be had" in report
    assert "ok   the old code is back" in report or "ok   the redirection is gone" in report
