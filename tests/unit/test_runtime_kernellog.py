# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's log says of transitions. The lines are those of a guest."""

from __future__ import annotations

import re
from pathlib import Path

from livegraft.runtime.kernellog import NEWS, KernelLog, Record, parse_record, transitions

LOADED = """\
5,700,9900882,-;livepatch: enabling patch 'one'
5,701,9926487,-;livepatch: 'one': starting patching transition
7,702,9950000,-;livepatch: 'one': completing patching transition
5,703,9961976,-;livepatch: 'one': patching complete
"""
REVERSED = """\
5,704,29722893,-;livepatch: 'one': starting patching transition
5,705,31804011,-;livepatch: 'one': starting unpatching transition
5,706,32265972,-;livepatch: 'one': unpatching complete
"""
REFUSED = """\
4,704,39000000,-;one: loading out-of-tree module taints kernel.
4,705,39000001,-;one: tainting kernel with TAINT_LIVEPATCH
5,706,39000002,-;one: module verification failed: signature and/or required key missing - \
tainting kernel
5,707,40000000,-;livepatch: enabling patch 'one'
3,708,40000001,-;livepatch: failed to register ftrace handler for function 'f' (-16)
5,709,40000009,-;livepatch: 'one': unpatching complete
"""


def records(text: str) -> list[Record]:
    return [record for line in text.splitlines() if (record := parse_record(line))]


def test_complete() -> None:
    (only,) = transitions(records(LOADED))
    assert (only.name, only.direction) == ("one", "patching")
    assert only.milliseconds == (9961976 - 9926487) / 1000
    assert only.tasks_milliseconds == (9950000 - 9926487) / 1000


def test_reversed_stays_incomplete() -> None:
    first, second = transitions(records(REVERSED))
    assert first.milliseconds is None
    assert second.milliseconds == (32265972 - 31804011) / 1000


def test_a_failure_is_no_transition() -> None:
    (only,) = transitions(records(LOADED + REFUSED))
    assert only.direction == "patching"


def test_other_patches_are_left_out() -> None:
    assert transitions(records(LOADED), "two") == []


def test_evidence_leaves_out_the_news() -> None:
    said = [each.message for each in records(REFUSED) if not re.match(NEWS, each.message)]
    assert said == ["livepatch: failed to register ftrace handler for function 'f' (-16)"]


def test_record_with_continuation_and_junk() -> None:
    record = parse_record("6,1,123,-;hello; world\n SUBSYSTEM=x\n")
    assert record is not None
    assert (record.microseconds, record.message) == (123, "hello; world")
    assert parse_record("no record") is None


def test_without_a_log_there_is_no_evidence(tmp_path: Path) -> None:
    with KernelLog(device=tmp_path / "missing") as log:
        assert log.read() == []


def test_this_kernels_log() -> None:
    with KernelLog(from_start=True) as log:
        found = log.read()
    assert all(record.microseconds >= 0 for record in found)
