# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's changes when things do not go by themselves (engine_scenarios.py says what)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.releases import RELEASE, RELEASES

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT
from livegraft.lab.witnesses import package_files

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
EXT4_FIX = HERE.parent / "data/ext4-mballoc.patch"
BROKEN = "6.1.0-55-amd64"
PATCH = "/sys/kernel/livegraft/livegraft_ext4"

MODELS = ("hybrid", "stop", "task")
SCENARIOS = (
    "applying_is_reversed",
    "undoing_is_reversed",
    "a_task_that_sleeps_on",
    "a_signal_ends_a_call",
    "a_signal_restarts_a_call",
    "a_process_that_is_stopped",
    "two_patches",
    "a_patch_that_replaces",
    "ftrace_handlers",
    "redirected_by_another",
    "a_callback_that_fails",
    "ftrace_switched_off",
    "loaded_again_at_once",
)


def faults(guest: Guest) -> list[str]:
    return [each.text for each in guest.kernel_log() if FAULT.search(each.text)]


@pytest.fixture(scope="module", params=RELEASES)
def guest(
    request: pytest.FixtureRequest, witnesses: Callable[[Kernel], dict[str, bytes | Path]]
) -> Iterator[Guest]:
    kernel = prepare(str(request.param))
    files: dict[str, bytes | Path] = {**witnesses(kernel)}
    files["/root/tests/guest/engine_scenarios.py"] = HERE / "engine_scenarios.py"
    with boot(kernel.vmlinuz, kernel.modules, files=files, timeout=180) as guest:
        for name in ("livegraft_engine", "lgc_target"):
            guest.check(["insmod", f"/ko/{name}.ko"])
        yield guest
        assert faults(guest) == []


def scenario(guest: Guest, name: str, model: str) -> None:
    words = ["python3", "-m", "tests.guest.engine_scenarios", name, model]
    result = guest.run(words, timeout=300)
    log = "\n".join(each.text for each in guest.kernel_log()[-15:])
    if result.status != 0:
        pytest.fail(f"{result.stderr.decode()}\n{log}", pytrace=False)
    assert faults(guest) == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, model: str, guest: Guest) -> None:
    scenario(guest, name, model)


@pytest.mark.parametrize("model", ["hybrid", "task"])
def test_forced(model: str, guest: Guest) -> None:
    """The last of a guest: what was forced stays."""
    scenario(guest, "forced", model)


@pytest.mark.skipif(
    RELEASE != BROKEN,
    reason=f"the ext4 fix is for one kernel alone: LIVEGRAFT_TEST_RELEASES={BROKEN} runs it",
)
def test_a_target_module_that_comes_and_goes(
    engine: Callable[[Kernel], Path], tmp_path: Path
) -> None:
    """With relocations to it, which the kernel's own core on 6.1 can apply once only."""
    kernel = prepare(BROKEN)
    built = pipeline.build([EXT4_FIX], kernel, output=tmp_path / "ext4.ko").path
    files: dict[str, bytes | Path] = {
        "/ko/ext4.ko": built,
        "/ko/engine.ko": engine(kernel),
        **package_files(),
    }
    with boot(kernel.vmlinuz, kernel.modules, load=["loop"], files=files, timeout=180) as guest:
        guest.check(["insmod", "/ko/engine.ko"])
        guest.modprobe("ext4")
        guest.check(["rmmod", "ext4"])
        again = f"/lib/modules/{BROKEN}/kernel/ext4.ko"
        for model in MODELS:
            guest.check(["insmod", "/ko/ext4.ko", f"model={model}"], timeout=120)
            assert guest.get(f"{PATCH}/ext4/patched") == b"0\n"
            for _ in range(2):
                guest.check(["insmod", again], timeout=120)
                assert guest.get(f"{PATCH}/ext4/patched") == b"1\n"
                guest.check(["sh", "-ec", USE], timeout=120)
                guest.check(["rmmod", "ext4"], timeout=120)
                assert guest.get(f"{PATCH}/ext4/patched") == b"0\n"
            # It goes again while the module is there.
            guest.check(["insmod", again], timeout=120)
            guest.python(GO, model, timeout=120)
            assert guest.run(["test", "-e", PATCH]).status != 0
            guest.check(["rmmod", "ext4"], timeout=120)
        guest.check(["rmmod", "livegraft_engine"])
        assert faults(guest) == []


USE = """
dd if=/dev/zero of=/root/image bs=1M count=0 seek=64 2> /dev/null
mkfs.ext4 -q /root/image
mkdir -p /mnt
mount -o loop -t ext4 /root/image /mnt
dd if=/dev/zero of=/mnt/one bs=1M count=1 2> /dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/zero of=/mnt/other bs=1M count=1 2> /dev/null
sync
umount /mnt
"""
"""What ends in a fault without the fix."""

GO = """
import sys
from livegraft.lab.witness.driver import Patch, unload
unload(Patch("livegraft_ext4", sys.argv[1]))
"""
