# SPDX-License-Identifier: GPL-2.0-or-later
"""The bug that the demo fixes shows on the kernel that has it, every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.releases import RELEASE

from livegraft.kernel.kernel import prepare
from livegraft.lab.boot import boot

pytestmark = pytest.mark.guest

BROKEN = "6.1.0-55-amd64"
SCRIPT = Path(__file__).parents[2] / "demo/reproduce-mballoc.sh"


def test_the_bug_shows_only_on_the_kernel_that_has_it() -> None:
    kernel = prepare(RELEASE)
    files: dict[str, bytes | Path] = {"/root/reproduce": SCRIPT}
    with boot(kernel.vmlinuz, kernel.modules, load=["ext4", "loop"], files=files) as guest:
        guest.check(["/root/reproduce", "setup"])
        writer = guest.start(["/root/reproduce", "load"])
        guest.check(["sleep", "0.5"])
        guest.check(["/root/reproduce", "stop"])
        assert writer.wait(20).status == 0
        result = guest.run(["/root/reproduce", "trigger"], timeout=30)
        oopses = [each.text for each in guest.kernel_log() if "NULL pointer" in each.text]
        if kernel.release == BROKEN:
            assert result.status == 1
            assert oopses
            assert any("ext4_mb_load_buddy" in each.text for each in guest.kernel_log())
            # The file system is stuck, the guest is not.
            assert guest.run(["sync"], timeout=1).timed_out
            assert guest.run(["true"]).status == 0
        else:
            assert (result.status, oopses) == (0, [])
            assert guest.check(["/root/reproduce", "check"]).status == 0
