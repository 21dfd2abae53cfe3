# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of the flavours cloud and rt: prepared, built for, booted, patched and unpatched; with
real-time patches under each model that they allow.

``make flavours`` takes those of both lines.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.releases import REAL_TIME, flavours

from livegraft import pipeline
from livegraft.errors import PackageMissing, UnknownRelease
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.trial import FailedInGuest, try_patch
from livegraft.module.engine import build_engine

ROOT = Path(__file__).parents[2]
FIXES = [ROOT / "demo/sample.patch", ROOT / "tests/data/endbr.patch"]

SCRIPT = b"""\
grep -q livegraft.sample=1 /proc/cmdline || exit 1
cat /proc/uptime || exit 1
uname -v
"""

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(3600)]


@pytest.fixture(params=flavours())
def kernel(request: pytest.FixtureRequest) -> Kernel:
    try:
        return prepare(str(request.param))
    except (PackageMissing, UnknownRelease) as error:
        pytest.skip(f"{error}; name others in LIVEGRAFT_TEST_FLAVOURS")


def test_a_patch_is_built_and_runs(kernel: Kernel, tmp_path: Path) -> None:
    output = tmp_path / "fix.ko"
    outcome = pipeline.build(FIXES, kernel, output=output)
    changed = {each.target.name for each in outcome.inspection.redirections}
    assert changed == {"cmdline_proc_show", "uptime_proc_show"}
    attempt = partial(try_patch, kernel.vmlinuz, kernel.modules, output, script=SCRIPT, timeout=300)
    real_time = REAL_TIME in kernel.release
    trials = [attempt()]
    if real_time:
        engine = build_engine(kernel)
        trials += [attempt(model=model, engine=engine) for model in ("hybrid", "stop")]
        with pytest.raises(FailedInGuest, match="PREEMPT_RT"):
            attempt(model="task", engine=engine)
    assert [each.model for each in trials] == ["native", "hybrid", "stop"][: len(trials)]
    for trial in trials:
        assert trial.state == "enabled"
        assert trial.script is not None and trial.script.status == 0, trial.script
        assert (b"PREEMPT_RT" in trial.script.stdout) == real_time
        assert trial.faults == ()
