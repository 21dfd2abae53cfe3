# SPDX-License-Identifier: GPL-2.0-or-later
"""A live patch tried in a guest. The patch is written by hand, so that only the trial is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from livegraft.errors import Exit, LostGuest
from livegraft.kernel.kernel import Kernel
from livegraft.lab.trial import FailedInGuest, Trial, try_patch

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]

TAINT_LIVEPATCH = 1 << 15
TAINT_DIE = 1 << 7


def attempt(one_kernel: Kernel, foreign_patch: Path, script: str, *, foreign: bool = True) -> Trial:
    return try_patch(
        one_kernel.vmlinuz,
        one_kernel.modules,
        foreign_patch,
        targets=["ext4"],
        script=script.encode(),
        foreign=foreign,
    )


def test_a_patch_is_on_while_the_script_runs_and_off_afterwards(
    one_kernel: Kernel, foreign_patch: Path
) -> None:
    trial = attempt(
        one_kernel, foreign_patch, "cat /proc/cmdline; grep -c ^ext4 /proc/modules; exit 3"
    )
    assert (trial.name, trial.model, trial.state) == ("lgt_foreign", "native", "enabled")
    assert trial.script is not None
    assert trial.script.stdout == b"lgt_foreign was here\n1\n"
    assert trial.script.status == 3
    assert trial.transition_ms is not None and trial.transition_ms > 0
    assert trial.unload_transition_ms is not None and trial.unload_transition_ms > 0
    assert trial.tainted & TAINT_LIVEPATCH
    messages = [each.text for each in trial.log]
    assert "livepatch: 'lgt_foreign': patching complete" in messages
    assert "livepatch: 'lgt_foreign': unpatching complete" in messages
    assert not any("Linux version" in each for each in messages)
    assert trial.faults == ()
    assert {"boot", "load", "script", "unload"} == set(trial.timings)
    assert trial.as_json()["script_status"] == 3


def test_the_engine_is_there_before_the_patch(
    one_kernel: Kernel, foreign_patch: Path, engine: Callable[[Kernel], Path]
) -> None:
    trial = try_patch(
        one_kernel.vmlinuz,
        one_kernel.modules,
        foreign_patch,
        script=b"cat /sys/kernel/livegraft/version",
        engine=engine(one_kernel),
        foreign=True,
    )
    assert trial.script is not None
    assert trial.script.stdout == b"1\n"
    assert {"boot", "engine", "load", "script", "unload"} == set(trial.timings)
    told = [each.text for each in trial.log]
    loaded = told.index("livegraft_engine: loading out-of-tree module taints kernel.")
    assert loaded < told.index("livepatch: 'lgt_foreign': patching complete")
    assert trial.faults == ()


def test_faults_in_the_kernel_are_told(one_kernel: Kernel, foreign_patch: Path) -> None:
    trial = attempt(one_kernel, foreign_patch, "echo 'BUG: of mine' > /dev/kmsg")
    assert trial.faults == ("BUG: of mine",)


def test_a_refusal_in_the_guest_keeps_its_reason(one_kernel: Kernel, foreign_patch: Path) -> None:
    with pytest.raises(FailedInGuest) as failed:
        attempt(one_kernel, foreign_patch, "true", foreign=False)
    assert failed.value.exit_code in (Exit.FAILED, Exit.REFUSED)
    assert "foreign" in str(failed.value)


def test_a_script_that_panics_the_kernel_loses_the_guest(
    one_kernel: Kernel, foreign_patch: Path
) -> None:
    with pytest.raises(LostGuest, match="sysrq triggered crash"):
        attempt(one_kernel, foreign_patch, "echo c > /proc/sysrq-trigger")
