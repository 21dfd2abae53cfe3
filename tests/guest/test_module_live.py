# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of the builder, loaded for real: both kinds of livepatch relocations, and the models.

The pieces are made by hand, so that a defect of the comparison cannot hide one of the builder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.live import verb
from tests.module_pieces import NAME, PROVENANCE, build, changes, cmdline_piece, ext4_piece
from tests.releases import RELEASE, preferring

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT

pytestmark = pytest.mark.guest

PARAMETERS = f"/sys/module/{NAME}/parameters"
PARAMETER_FILES = ("fixes", "hasten", "kick", "model", "replace")
STATS = "/proc/fs/ext4/loop0/mb_stats"
NEW_STATS = "patched ext4 ext4 61626364 1"
"""What the new function prints: a string of ext4's data, twice, ``abcd`` as ext4's hash function
sees it, and whether the kernel has a command line."""

FAULTS = ("livepatch: failed", "Invalid")


@pytest.fixture(scope="module", params=preferring(RELEASE))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return prepare(str(request.param))


@pytest.fixture(scope="module")
def module(kernel: Kernel) -> bytes:
    return build(kernel, changes(cmdline_piece(kernel), ext4_piece(kernel))).data


@pytest.fixture(scope="module")
def guest(kernel: Kernel, module: bytes) -> Iterator[Guest]:
    files: dict[str, bytes | Path] = {f"ko/{NAME}.ko": module}
    with boot(kernel.vmlinuz, kernel.modules, load=["loop"], files=files) as guest:
        yield guest
        found = [
            message.text
            for message in guest.kernel_log()
            if FAULT.search(message.text) or any(fault in message.text for fault in FAULTS)
        ]
        assert not found, found


def load(guest: Guest) -> dict[str, Any]:
    status, document = verb(guest, "load", f"/ko/{NAME}.ko")
    assert status == 0, document
    return document


def unload(guest: Guest) -> None:
    assert verb(guest, "unload", NAME)[0] == 0
    assert NAME not in guest.run(["cat", "/proc/modules"]).text


def mount(guest: Guest) -> None:
    guest.modprobe("ext4")
    done = guest.shell(
        "dd if=/dev/zero of=/tmp/image bs=1M count=8 2>/dev/null; mke2fs -qF -t ext4 /tmp/image;"
        "mkdir -p /mnt; mount -o loop -t ext4 /tmp/image /mnt"
    )
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("model", ["hybrid", "stop", "task"])
def test_a_model_without_its_engine_changes_nothing(guest: Guest, model: str) -> None:
    done = guest.run(["insmod", f"/ko/{NAME}.ko", f"model={model}"])
    assert done.status != 0
    assert b"No such device" in done.stderr
    assert not guest.get("/proc/cmdline").startswith(b"patched")
    assert guest.run(["ls", "/sys/kernel/livepatch"]).text == ""


def test_an_unknown_model_and_a_forged_mark_are_refused(guest: Guest) -> None:
    unknown = guest.run(["insmod", f"/ko/{NAME}.ko", "model=magic"])
    assert b"Invalid argument" in unknown.stderr
    forged = guest.run(["insmod", f"/ko/{NAME}.ko", "livegraft=1:00"])
    assert forged.status != 0
    assert NAME not in guest.run(["cat", "/proc/modules"]).text


def test_the_kernel_is_patched_and_the_module_when_it_comes(guest: Guest) -> None:
    plain = guest.get("/proc/cmdline")
    assert "ext4" not in guest.run(["cat", "/proc/modules"]).text
    load(guest)
    assert guest.get("/proc/cmdline") == b"patched " + plain
    mount(guest)
    assert guest.get(STATS).decode().strip() == NEW_STATS
    unload(guest)
    assert guest.get("/proc/cmdline") == plain
    assert guest.get(STATS).startswith(b"mballoc:")


def test_the_loaded_module_is_patched_too(guest: Guest) -> None:
    assert guest.get(STATS).startswith(b"mballoc:")
    load(guest)
    assert guest.get(STATS).decode().strip() == NEW_STATS
    unload(guest)
    assert guest.get(STATS).startswith(b"mballoc:")


def test_the_parameters_say_whose_it_is_and_kick(guest: Guest) -> None:
    load(guest)
    assert guest.get(f"{PARAMETERS}/model") == b"native\n"
    assert guest.get(f"{PARAMETERS}/livegraft") == f"1:{PROVENANCE.fix_sha256}\n".encode()
    assert guest.get(f"{PARAMETERS}/fixes") == b"CVE-2026-1234 CVE-2026-12345\n"
    modes = guest.run(["stat", "-c", "%a", *(f"{PARAMETERS}/{p}" for p in PARAMETER_FILES)])
    assert modes.text.split() == ["444", "600", "200", "444", "444"]
    looks = guest.get(f"{PARAMETERS}/hasten")
    # Without a transition neither does anything, however often.
    for parameter in ("kick", "hasten"):
        done = guest.shell(f"for n in 1 2 3 4 5; do echo 100 > {PARAMETERS}/{parameter}; done")
        assert done.status == 0, done.stderr
    assert guest.get(f"{PARAMETERS}/hasten") == looks
    assert guest.shell(f"echo soon > {PARAMETERS}/hasten").status != 0
    unload(guest)


NESTING = """
import struct
with open("/proc/kallsyms") as file:
    at = next(int(line.split()[0], 16) for line in file if " rcu_expedited_nesting" in line)
with open("/proc/kcore", "rb", 0) as core:
    start, size, count = struct.unpack_from("<Q14xHH", core.read(64), 32)
    core.seek(start)
    for _ in range(count):
        kind, _, offset, address, _, length, _, _ = struct.unpack("<IIQQQQQQ", core.read(56))
        if kind == 1 and address <= at < address + length:
            core.seek(offset + at - address)
            print(struct.unpack("<i", core.read(4))[0])
            break
"""
"""How often grace periods were asked to be expedited and not given back yet."""


def test_hastening_expedites_the_undo_and_is_given_back(kernel: Kernel, guest: Guest) -> None:
    before = guest.python(NESTING).text
    assert before.strip() == "0"
    hastened = []
    for _ in range(3):
        load(guest)
        hastened.append(verb(guest, "unload", NAME)[1]["unloaded"][0]["transition_ms"])
    assert guest.python(NESTING).text == before
    # A second run of the same, without the payload's help: grace periods take their time.
    slow = undo(guest, KICK)[0] * 1000
    print(f"undone in {min(hastened):.0f} ms hastened, {slow:.0f} ms kicked only")
    if not rewrites_preemption(kernel):
        assert min(hastened) < slow


def rewrites_preemption(kernel: Kernel) -> bool:
    """From 6.6 on a transition spends its time on preemption's static calls, kicked or not."""
    major, minor = (int(part) for part in str(kernel.release).split(".")[:2])
    return (major, minor) >= (6, 6)


UNDO = f"""
import time
def write(path, value):
    with open(path, "w") as file:
        file.write(value)
folder = "/sys/kernel/livepatch/{NAME}"
def transition():
    with open(folder + "/transition") as file:
        return file.read().strip() == "1"
while transition():
    time.sleep(0.01)
tracing = "/sys/kernel/tracing/"
write(tracing + "set_ftrace_filter", "klp_try_complete_transition")
write(tracing + "current_tracer", "function")
time.sleep(0.1)
began = time.monotonic()
write(folder + "/enabled", "0")
try:
    while transition():
        ACTION
        time.sleep(0.002)
except OSError:
    pass
print(time.monotonic() - began)
with open(tracing + "trace") as file:
    for line in file:
        if "klp_try_complete_transition" in line:
            print(line.split(": ")[0].split()[-1])
write(tracing + "current_tracer", "nop")
write(tracing + "set_ftrace_filter", "")
"""
"""Undoes the patch. Prints how long that took, and when the core looked whether all had moved."""


def undo(guest: Guest, action: str) -> list[float]:
    """Undo the patch by hand, without the runtime.

    Args:
        action: Python, done again and again meanwhile.

    Returns:
        Seconds until it is complete; then the time of each look of the core, in seconds.
    """
    guest.check(["insmod", f"/ko/{NAME}.ko"])
    printed = guest.python(UNDO.replace("ACTION", action)).text
    guest.check(["rmmod", NAME])
    return [float(each) for each in printed.split()]


KICK = f"open('{PARAMETERS}/kick', 'w').write('1')"


def test_a_kick_hastens_the_second_look(kernel: Kernel, guest: Guest) -> None:
    """The core looks again a second later by itself, to the round (``klp_transition_work``)."""
    if rewrites_preemption(kernel):
        pytest.skip("all have moved at the first look; beside one that computes it takes minutes")

    def waits(action: str) -> Iterator[float]:
        found = 0
        for _ in range(10):
            _, first, *others = undo(guest, action)
            if others:  # else the one that computes did not run at the first look
                yield others[0] - first
                found += 1
            if found == 3:
                break

    # The core judges no task that runs: one that computes is in the way of the first look.
    busy = guest.start(["sh", "-c", "while :; do :; done"])
    kicked, waited = min(waits(KICK)), min(waits("pass"))
    busy.kill()
    print(f"second look after {kicked * 1000:.0f} ms kicked, {waited * 1000:.0f} ms not")
    assert kicked < 0.4 < waited
