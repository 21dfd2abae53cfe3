# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: the engine beside other changes, modules that come and go, and workers of others.

``python3 -m tests.guest.engine_company NAME MODEL``, as engine_scenarios.py.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.guest.engine_scenarios import begun, dozing, run, version

from livegraft.lab.witness.driver import NATIVE, Patch, insert, load, remove, unload

TARGET = "lgb_target"
PAIR = "lgc_pair"
"""Its functions are those of lgc_one, and one of lgb_target's."""

VHOST_SET_OWNER = 0xAF01
"""include/uapi/linux/vhost.h: makes the worker."""


def is_new() -> bool:
    """Whether this task calls the patched function of lgb_target."""
    hits = Path("/sys/module", PAIR, "parameters/hits")
    before = int(hits.read_text())
    Path("/sys/module", TARGET, "parameters/calls").write_text("1")
    return int(hits.read_text()) == before + 1


@contextmanager
def target() -> Iterator[None]:
    """lgb_target, for the time of the block."""
    assert insert(TARGET) == ""
    try:
        yield
    finally:
        assert remove(TARGET) == ""


def a_target_that_goes_in_the_middle(model: str) -> None:
    """While a task is in the way one of the patch's two targets goes, comes, and goes again."""
    with dozing() as dozer:
        with target():
            patch = begun(model, PAIR)
            assert patch.read(f"{TARGET}/patched") == "1"
        for _ in range(2):
            assert patch.changing
            assert patch.read(f"{TARGET}/patched") == "0"
            with target():
                assert patch.read(f"{TARGET}/patched") == "1"
        assert dozer.woken() == 0
        patch.settled(20)
    for _ in range(2):
        with target():
            assert is_new()
            assert version() == 1
    with target(), dozing() as dozer:
        assert patch.write("enabled", "0") == ""
        time.sleep(0.3)
        assert patch.changing
        assert remove(TARGET) == ""
        assert insert(TARGET) == ""
        assert dozer.woken() == 1
        patch.settled(20)
        patch.gone()


def a_function_that_is_not_there(model: str) -> None:
    """Nor one that ftrace cannot redirect: the payload is refused, or the target that comes."""
    for name, error in ((b"lgb_f999", "ENOENT"), (b"lgb_bare", "EINVAL")):
        data = Path(f"/ko/{PAIR}.ko").read_bytes()
        assert data.count(b"lgb_f000\0") >= 1
        Path("/ko/lgc_wrong.ko").write_bytes(data.replace(b"lgb_f000\0", name + b"\0"))
        with target():
            assert insert("lgc_wrong", model=model) == error
            assert not Path("/sys/module", PAIR).exists()
            assert version() == 0
        assert insert("lgc_wrong", model=model) == ""
        patch = Patch(PAIR, model)
        patch.settled(20)
        assert insert(TARGET) == error
        assert patch.read(f"{TARGET}/patched") == "0"
        assert version() == 1
        unload(patch)


def beside_a_change_of_the_kernels_core(model: str) -> None:
    """That is under way for as long as a task sleeps; functions of its own change sides. Under task
    they wait as well: the task has to leave the kernel."""
    with target(), dozing() as dozer:
        assert insert("lgc_two", model="native") == ""
        theirs = Patch("lgc_two", "native")
        assert theirs.changing
        ours = Patch("lgb_patch_1", model)
        ours.insert()
        if model == "task":
            time.sleep(0.3)
            assert ours.changing
        else:
            ours.settled(20)
            unload(ours, 20)
        assert theirs.changing
        assert dozer.woken() == 0
        if model == "task":
            ours.settled(20)
            unload(ours, 20)
        theirs.settled(60)
        assert version() == 2
        ours = load("lgb_patch_1", model, 20)
        unload(theirs)
        unload(ours, 20)
    assert not any(each.is_dir() for each in NATIVE.iterdir())


def beside_a_worker_of_vhost(model: str) -> None:
    """A kernel thread on 6.1; since 6.4 a thread of the process, which never returns from there."""
    device = os.open("/dev/vhost-vsock", os.O_RDWR)
    try:
        fcntl.ioctl(device, VHOST_SET_OWNER)
        names = set()
        for each in Path("/proc").glob("[0-9]*/task/*/comm"):
            with suppress(OSError):  # it has ended
                names.add(each.read_text().strip())
        assert f"vhost-{os.getpid()}" in names
        patch = load("lgc_one", model, 20)
        assert version() == 1
        unload(patch, 20)
    finally:
        os.close(device)


def main(words: Sequence[str]) -> None:
    """Run one of these: its name, and the model's."""
    run(globals(), words)


if __name__ == "__main__":
    main(sys.argv[1:])
