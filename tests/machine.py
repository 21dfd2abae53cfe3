# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine in a folder: what the runtime looks at when it keeps patches, and patches for it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.test_runtime_payload import MODINFO, manifest, payload

from livegraft.runtime import identity, installed

RUNNING = "6.1.0-55-amd64"
"""The kernel that tests/unit/test_runtime_payload.py makes patches for."""

OTHER = "6.1.0-56-amd64"
OLDER = "6.1.0-9-amd64"
"""As text it would come after the others."""

BOOT_ID = "11111111-2222-3333-4444-555555555555"


def build_id_note(build_id: str) -> bytes:
    """An ELF note with a build ID."""
    data = bytes.fromhex(build_id)
    return struct.pack("=III", 4, len(data), identity.NT_GNU_BUILD_ID) + b"GNU\0" + data


def patch_bytes(
    name: str = "livegraft_fix", release: str = RUNNING, build_id: str = "ab" * 20, fix: str = "ef"
) -> bytes:
    """A live patch of the kernel alone.

    Args:
        name: its module.
        release: the kernel that it is for.
        build_id: that kernel's.
        fix: two digits of the fix's SHA-256.
    """
    document = manifest()
    document["name"] = name
    document["kernel"] |= {"release": release, "build_id": build_id}
    document["objects"][0] |= {"name": "vmlinux", "build_id": build_id}
    document["fix"]["sha256"] = fix * 32
    return payload(MODINFO | {"name": name, "vermagic": f"{release} SMP"}, document)


class Machine:
    """A root folder that runs :data:`RUNNING`, with that and :data:`OTHER` installed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for each in ("run", "var/lib", "boot", "sys/kernel", "proc/sys/kernel/random"):
            (root / each).mkdir(parents=True)
        (root / "sys/kernel/notes").write_bytes(build_id_note("ab" * 20))
        for release in (RUNNING, OTHER):
            (root / f"boot/vmlinuz-{release}").touch()
        self.boots(BOOT_ID)
        self.command_line("quiet")
        monkeypatch.setattr(installed, "running_release", lambda: RUNNING)

    def boots(self, boot_id: str) -> None:
        """The next boot."""
        (self.root / installed.BOOT_ID).write_text(f"{boot_id}\n")

    def command_line(self, words: str) -> None:
        """The kernel's command line."""
        (self.root / "proc/cmdline").write_text(f"BOOT_IMAGE=/vmlinuz ro {words}\n")

    def loads(self, name: str, fix: str = "ef") -> None:
        """A patch that the kernel has."""
        parameters = self.root / "sys/module" / name / "parameters"
        parameters.mkdir(parents=True)
        (parameters / "livegraft").write_text(f"1:{fix * 32}\n")
        (parameters.parent / "initstate").write_text("live\n")

    @property
    def store(self) -> Path:
        """Where the patches are kept."""
        return self.root / installed.PLACE

    def states(self) -> dict[str, str]:
        """What is installed, and the state of each."""
        return {
            each.name: each.state(RUNNING, self.root).value
            for each in installed.installed(self.root)
        }


def files(machine: Machine) -> dict[str, bytes]:
    """All that is kept, by its path."""
    return {
        str(path.relative_to(machine.store)): path.read_bytes()
        for path in machine.store.rglob("*")
        if path.is_file()
    }


def in_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own; its wait status. 0: done, 256: an error."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]
