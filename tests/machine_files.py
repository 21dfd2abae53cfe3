# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a machine, before and after: what is left of a package that was purged."""

from __future__ import annotations

import json
from collections.abc import Sequence

from livegraft.lab.guest import Guest

LISTED = """
import hashlib, json, os, stat, sys
found = {}
def walk(folder):
    for each in os.scandir(folder):
        path, status = each.path, each.stat(follow_symlinks=False)
        if path.startswith(("/proc", "/sys", "/dev", "/run", "/tmp", "/srv", "/lost+found")):
            continue
        what = [oct(status.st_mode), status.st_uid, status.st_gid]
        if each.is_symlink():
            what.append(os.readlink(path))
        elif each.is_dir():
            walk(path)
        else:
            what += [status.st_size]
            if path.startswith(("/etc", "/var")) or "livegraft" in path:
                what += [hashlib.sha256(open(path, "rb").read()).hexdigest()]
        found[path] = what
walk("/")
json.dump(found, sys.stdout)
"""
"""All files of the machine but those that it forgets; what they hold where that is of a package."""

WORKING = (
    "/etc/mtab",
    "/root/",
    "/var/cache/apt/",
    "/var/cache/ldconfig/",
    "/var/lib/apt/",
    "/var/lib/dbus/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/log/",
    "/var/tmp/",
)
"""Where dpkg, apt and systemd write by themselves; there no file may be called after livegraft."""


def files(guest: Guest) -> dict[str, Sequence[object]]:
    """The machine's files."""
    found: dict[str, Sequence[object]] = json.loads(guest.python(LISTED, timeout=300).stdout)
    assert len(found) > 5000
    return found


def differences(
    before: dict[str, Sequence[object]], after: dict[str, Sequence[object]]
) -> set[str]:
    """What is not as it was; where dpkg, apt and systemd write, only what is ours."""
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {
        path
        for path in changed
        if "livegraft" in path
        or not any(path.startswith(each) or f"{path}/" == each for each in WORKING)
    }
