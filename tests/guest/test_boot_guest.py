# SPDX-License-Identifier: GPL-2.0-or-later
"""Installed patches at boot: what is loaded, not after a crash, and not when switched off.

The guests have no disk: the second one is given what the first had on it when it went down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live import RUNTIME, booted, loaded, verb

from livegraft.kernel.kernel import Kernel
from livegraft.lab.guest import Guest
from livegraft.runtime.installed import MARKER, PLACE, RECORD

pytestmark = pytest.mark.guest

UNIT = Path(__file__).parents[2] / "systemd/livegraft-boot.service"

CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYSLOG": 34,
}
"""include/uapi/linux/capability.h."""

BOUNDED = """
import ctypes, os, sys
keep = set(map(int, sys.argv[1].split(",")))
last = int(open("/proc/sys/kernel/cap_last_cap").read())
for each in set(range(last + 1)) - keep:
    assert ctypes.CDLL(None).prctl(24, each, 0, 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Run a command with nothing but some capabilities: PR_CAPBSET_DROP, as a unit's
CapabilityBoundingSet."""


def boot_as_the_unit(guest: Guest) -> list[str]:
    """``livegraft boot`` with the capabilities that the unit leaves: its lines."""
    (words,) = re.findall(r"^CapabilityBoundingSet=(.*)", UNIT.read_text(), re.M)
    numbers = ",".join(str(CAPABILITIES[each]) for each in words.split())
    result = guest.python(BOUNDED, numbers, *RUNTIME, "boot", "--unsettled", timeout=120)
    assert result.status == 0, result
    return result.text.splitlines()


def states(guest: Guest) -> dict[str, str]:
    """What is installed, and its states."""
    status, document = verb(guest, "list")
    assert status == 0
    return {each["name"]: each["state"] for each in document["patches"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the modules of both guests are built: what is built twice has another build ID."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def crashed(one_kernel: Kernel, built: Path) -> dict[str, bytes]:
    """What a machine had on its disk when it went down with a patch loaded at boot."""
    with booted(one_kernel, built) as guest:
        guest.check(["mkdir", "-p", "/var/lib"])
        # Nothing unasked.
        assert verb(guest, "boot")[1]["patches"] == []
        assert guest.run(["test", "-e", "/var/lib/livegraft"]).status != 0

        status, document = verb(guest, "install", "/ko/other_kernel.ko")
        assert (status, document["error"]["kind"]) == (4, "IdentityMismatch")
        status, document = verb(guest, "install", "/ko/lgt_payload.ko")
        assert (status, document["patch"]["state"]) == (0, "waiting"), document
        assert loaded(guest) == {}

        assert boot_as_the_unit(guest)[0].startswith("lgt_payload: loaded, model native, every")
        assert loaded(guest) == {"lgt_payload": "enabled"}
        assert states(guest) == {"lgt_payload": "loaded"}
        status, document = verb(guest, "boot")
        assert (status, document["patches"][0]["outcome"]) == (0, "present")

        folder = f"{PLACE}/{one_kernel.release}/lgt_payload"
        disk = {
            f"{folder}/{name}": guest.get(f"/{folder}/{name}")
            for name in ("lgt_payload.ko", RECORD, MARKER)
        }
        # Settled, the marker is gone; it is as if the crash had come before that.
        assert verb(guest, "boot", "--settle")[1]["settled"] == ["lgt_payload"]
        assert guest.run(["test", "-e", f"/{folder}/{MARKER}"]).status != 0
        assert verb(guest, "unload", "--all")[0] == 0
        assert loaded(guest) == {}
        assert states(guest) == {"lgt_payload": "waiting"}
    return disk


@pytest.fixture(scope="module")
def guest(one_kernel: Kernel, crashed: dict[str, bytes], built: Path) -> Iterator[Guest]:
    with booted(one_kernel, built, crashed, "livegraft=off") as guest:
        yield guest


def test_switched_off_by_the_boot_loader(guest: Guest) -> None:
    assert states(guest) == {"lgt_payload": "crashed"}
    status, document = verb(guest, "status")
    assert (status, document["patches"]) == (0, [])
    assert [each["switch"] for each in document["off"]] == ["kernel-parameter"]
    status, document = verb(guest, "boot")
    assert (status, document["patches"][0]["outcome"]) == (0, "off")
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert (status, document["error"]["remedy"]) == (1, "boot without it")
    assert loaded(guest) == {}


def test_what_crashed_is_not_tried_again(guest: Guest) -> None:
    """As if the machine had been booted without the parameter."""
    guest.put("/root/cmdline", b"quiet\n")
    guest.check(["mount", "--bind", "/root/cmdline", "/proc/cmdline"])
    status, document = verb(guest, "boot")
    (patch,) = document["patches"]
    assert (status, patch["outcome"]) == (1, "crashed")
    assert "livegraft install --again lgt_payload" in patch["remedy"]
    assert loaded(guest) == {}

    status, document = verb(guest, "install", "/ko/lgt_payload.ko")
    assert (status, "the machine crashed" in document["error"]["message"]) == (1, True)
    status, document = verb(guest, "install", "--again", "lgt_payload")
    assert (status, document["patch"]["state"]) == (0, "waiting")
    status, document = verb(guest, "boot")
    assert (status, document["patches"][0]["outcome"]) == (0, "loaded")
    assert loaded(guest) == {"lgt_payload": "enabled"}

    # Off again, in the configuration: what is loaded stays, and status says so.
    guest.put("/etc/livegraft/livegraft.conf", b"[livegraft]\nenabled = no\n")
    text = guest.check([*RUNTIME, "status"]).text
    assert text.startswith("live patches are switched off: enabled = no in /etc/livegraft/")
    assert "livegraft unload --all" in text
    status, document = verb(guest, "uninstall", "lgt_payload")
    assert (status, document["loaded"]) == (0, True)
    assert verb(guest, "unload", "--all")[0] == 0
    assert (loaded(guest), states(guest)) == ({}, {})
