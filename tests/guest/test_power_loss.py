# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails while a patch is installed, loaded or unloaded: the machine boots, and no patch
is half installed.

A guest with a disk is killed at a moment that a seed decides; the next one gets its disk. ``make
soak`` does so until a hundred losses have fallen in the middle of installing, loading or unloading
(LIVEGRAFT_TEST_LOSSES, LIVEGRAFT_TEST_SEED).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.live import booted

from livegraft.kernel.kernel import Kernel
from livegraft.lab.guest import BackgroundJob, Guest
from livegraft.lab.trial import FAULT
from livegraft.run import run

pytestmark = [pytest.mark.guest, pytest.mark.soak, pytest.mark.timeout(0)]

SEED = int(os.environ.get("LIVEGRAFT_TEST_SEED", "1"))
LOSSES = int(os.environ.get("LIVEGRAFT_TEST_LOSSES", "100"))
"""In the middle of :data:`COUNTED`."""

MOST = 2 * LOSSES + 20
"""Within as many losses it has to come to that."""

DISK_BYTES = 16 << 20
LONG = {"install": 1.0, "load": 4.0, "unload": 1.5, "uninstall": 0.25}
"""Seconds that an operation takes in an emulated guest; the power fails within them."""

OPERATIONS = tuple(LONG)
COUNTED = ("install", "load", "unload")

ANSWERS = {(): 1, ("lgt_payload",): 2, ("lgt_newer",): 3, ("lgt_payload", "lgt_newer"): 3}
"""What lgt_target answers, by the patches that are loaded."""

IN_GUEST = """
import json, sys, time
from pathlib import Path
from livegraft.runtime import booting, status, unload_all
from livegraft.runtime.installed import installed, running_release
from livegraft.runtime.installing import enable_again, install, uninstall

def states():
    return {each.name: each.as_json(running_release())["state"] for each in installed()}

def installing():
    install(Path("/ko/lgt_payload.ko"))
    install(Path("/ko/lgt_newer.ko"))
    install(Path("/ko/lgt_payload.ko"), order=1)

def uninstalling():
    uninstall("lgt_payload")
    uninstall("lgt_newer")

loading, unloading = booting.boot, unload_all

# What the loss has left; then all of it goes.
found = {"states": states()}
for name, state in found["states"].items():
    if state == "crashed":
        enable_again(name)
found["outcomes"] = [each.outcome.value for each in booting.boot().patches]
found["loaded"] = {each.name: each.state.value for each in status()}
found["answer"] = int(Path("/sys/module/lgt_target/parameters/answer").read_text())
unload_all()
for name in found["states"]:
    uninstall(name)
found["files"] = [str(each) for each in Path("/var/lib/livegraft").rglob("*.ko")]
print(json.dumps(found), flush=True)

operation = sys.argv[1]
if operation != "install":
    installing()
if operation == "unload":
    loading()
    booting.settle()
work = globals()[operation + "ing"]
print("ready", flush=True)
sys.stdin.readline()
work()
print("ended", flush=True)
time.sleep(1000)
"""
"""Looks at what the last loss has left, and begins the next operation when it gets a line."""


class PowerLoss(Exception):
    """Leave the guest, which ends it as SIGKILL does."""


@dataclass(slots=True)
class Machine:
    """Guests that have the same disk, one after the other.

    Args:
        kernel: what they boot.
        modules: where the modules are built.
        disk: their disk.
    """

    kernel: Kernel
    modules: Path
    disk: Path

    @contextmanager
    def on(self) -> Iterator[Guest]:
        """The machine, until the power fails."""
        with suppress(PowerLoss), booted(self.kernel, self.modules, disk=self.disk) as guest:
            for module in ("virtio_blk", "ext4"):
                guest.modprobe(module)
            guest.check(["mkdir", "-p", "/var/lib/livegraft"])
            guest.check(["mount", "-t", "ext4", "/dev/vda", "/var/lib/livegraft"])
            yield guest
            raise PowerLoss


@pytest.fixture(scope="module")
def machine(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("power")
    disk = folder / "disk"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    run(["mkfs.ext4", "-q", disk])
    return Machine(one_kernel, folder, disk)


def ready(guest: Guest, operation: str, before: str = "") -> tuple[BackgroundJob, dict[str, Any]]:
    """The job that begins an operation when it is fed, and what it has found before."""
    job = guest.start(["python3", "-c", before + IN_GUEST, operation])
    come_to(job, b"ready\n")
    found: dict[str, Any] = json.loads(job.output().split(b"\n")[0])
    return job, found


def come_to(job: BackgroundJob, line: bytes) -> None:
    """Wait until it has printed a line."""
    end = time.monotonic() + 300
    while not job.output().endswith(line):
        assert job.running, job.wait()
        assert time.monotonic() < end, "it does not go on"
        time.sleep(0.01)


def require_whole(found: dict[str, Any], operation: str) -> tuple[str, ...]:
    """What the loss has left is whole, and can be loaded: the patches that were there."""
    names: tuple[str, ...] = tuple(found["states"])
    crashed = {"crashed"} if operation == "load" else set()
    assert set(found["states"].values()) <= {"waiting"} | crashed, found
    if operation in ("load", "unload"):
        assert names == ("lgt_payload", "lgt_newer")
    assert found["outcomes"] == ["loaded"] * len(names), found
    assert found["loaded"] == dict.fromkeys(names, "enabled")
    assert found["answer"] == ANSWERS[names]
    # What was made by half, not in its place, goes with the next change.
    assert all("/.new/" in each for each in found["files"]), found
    assert not (names and found["files"]), found
    return names


def test_the_power_fails(machine: Machine) -> None:
    chance = random.Random(SEED)
    last, how, counts = "install", "before", False
    seen: dict[str, set[tuple[str, ...]]] = {each: set() for each in OPERATIONS}
    during = 0
    for number in range(MOST + 1):
        operation = OPERATIONS[number % len(OPERATIONS)]
        moment = chance.uniform(0, LONG[operation])
        with machine.on() as guest:
            job, found = ready(guest, operation)
            left = require_whole(found, last)
            assert not [each for each in guest.kernel_log() if FAULT.search(each.text)]
            job.feed(b"\n")
            time.sleep(moment)
            ended = job.running and b"ended" in job.output()
        seen[last].add(left)
        print(f"{number}: {how} {last}: left {left}", flush=True)
        during += counts
        if during == LOSSES:
            break
        last, how = operation, f"{moment * 1000:.0f} ms, {'after' if ended else 'during'}"
        counts = not ended and operation in COUNTED
    assert during == LOSSES, f"only {during} of {MOST} came in between"
    if LOSSES >= 40:
        assert len(seen["install"]) > 1 and len(seen["uninstall"]) > 1, seen


IN_PLACE = """
import os, time
from livegraft.runtime import durable
from livegraft.runtime import installing as keeping

def put(store, release, name, files, root):
    durable.make_folder(store, release)
    folder = root / keeping.PLACE / release / name
    folder.mkdir()
    for each, data in files.items():
        (folder / each).write_bytes(data[:1000])
        os.sync()
        print("half", flush=True)
        time.sleep(1000)

keeping._put = put
"""


def test_a_loss_can_be_seen(machine: Machine) -> None:
    """The control: written in place, a patch is half there."""
    with machine.on() as guest:
        job, _ = ready(guest, "install", IN_PLACE)
        job.feed(b"\n")
        come_to(job, b"half\n")
    with machine.on() as guest:
        _, found = ready(guest, "install")
        assert found["states"] == {"lgt_payload": "damaged"}
        with pytest.raises(AssertionError):
            require_whole(found, "install")
