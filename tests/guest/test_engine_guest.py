# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's module in each kernel: it loads, says what it can, and goes without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live import NEWER, PAYLOAD, booted, left_clean, verb
from tests.releases import REAL_TIME, RELEASES, flavours

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.module.engine import NAME

pytestmark = pytest.mark.guest

DIRECTORY = "/sys/kernel/livegraft"

TAINT = 1 << 12 | 1 << 13
"""Out of the tree, and unsigned: admin-guide/tainted-kernels."""

EXPECTED = (
    f"{NAME}: loading out-of-tree module taints kernel.",
    f"{NAME}: module verification failed: signature and/or required key missing - tainting kernel",
)
"""What the kernel says of any module that is not its own."""


@pytest.mark.parametrize("release", [*RELEASES, *flavours()])
def test_it_loads_and_unloads(release: str, engine: Callable[[Kernel], Path]) -> None:
    kernel = prepare(release)
    with boot(kernel.vmlinuz, kernel.modules) as guest:
        before = guest.kernel_log()[-1].sequence
        guest.insert(NAME, engine(kernel).read_bytes())
        assert guest.get(f"{DIRECTORY}/version") == b"1\n"
        models = dict(
            line.split(" ", 1) for line in guest.get(f"{DIRECTORY}/models").decode().splitlines()
        )
        assert models.keys() == {"hybrid", "stop", "task"}
        without = {name for name, word in models.items() if word != "yes"}
        # Softirqs can be preempted there, so an interrupt has no side of its own.
        assert without == ({"task"} if REAL_TIME in release else set())
        assert all(models[name].startswith("no ") for name in without)
        guest.check(["rmmod", NAME])
        assert guest.run(["test", "-e", DIRECTORY]).status != 0
        assert guest.run(["test", "-e", f"/sys/module/{NAME}"]).status != 0
        assert int(guest.get("/proc/sys/kernel/tainted")) == TAINT
        said = [each.text for each in guest.kernel_log() if each.sequence > before]
        assert [text for text in said if text not in EXPECTED] == []


def test_another_kernels_is_refused(one_kernel: Kernel, engine: Callable[[Kernel], Path]) -> None:
    other = next(each for each in RELEASES if each != one_kernel.release)
    with boot(one_kernel.vmlinuz, one_kernel.modules) as guest:
        guest.put("/root/engine.ko", engine(prepare(other)))
        assert guest.run(["insmod", "engine.ko"]).status != 0
        assert guest.run(["test", "-e", DIRECTORY]).status != 0


@pytest.fixture(scope="module")
def guest(
    one_kernel: Kernel,
    engine: Callable[[Kernel], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    more = {"root/engine.ko": engine(one_kernel)}
    with booted(one_kernel, tmp_path_factory.mktemp("modules"), more) as guest:
        yield guest


def test_it_loads_again_and_again(guest: Guest) -> None:
    before = guest.kernel_log()[-1].sequence
    guest.check(["sh", "-ec", f"for i in 1 2 3; do insmod engine.ko; rmmod {NAME}; done"])
    said = [each.text for each in guest.kernel_log() if each.sequence > before]
    assert [text for text in said if text not in EXPECTED] == []


def test_it_names_the_patches_that_need_it(guest: Guest) -> None:
    assert verb(guest, "unload", NAME)[1]["error"]["message"].startswith("is not loaded")
    guest.check(["insmod", "engine.ko"])
    for name, newer in (("lgt_payload", PAYLOAD), ("lgt_newer", NEWER)):
        status, document = verb(guest, "load", newer, "--model", "hybrid", "--replace")
        assert status == 0, document
        assert guest.run(["rmmod", NAME]).status != 0
        status, document = verb(guest, "unload", NAME)
        assert status == 1
        assert name in document["error"]["message"]
        assert "livegraft unload NAME" in document["error"]["remedy"]
    # The older one is off, and the engine's directory does not have it any more.
    assert "lgt_newer, lgt_payload need it" in document["error"]["message"]
    assert verb(guest, "unload", "--all")[0] == 0
    status, document = verb(guest, "unload", NAME)
    assert (status, document["unloaded"][0]["state"]) == (0, "unloaded")
    assert guest.run(["test", "-e", f"/sys/module/{NAME}"]).status != 0
    left_clean(guest)
