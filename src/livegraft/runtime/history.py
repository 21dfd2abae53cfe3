# SPDX-License-Identifier: GPL-2.0-or-later
"""What was loaded and unloaded on this machine, as the journal tells it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import CommandMissing, PatchError, RunFailed
from livegraft.runtime import proctext
from livegraft.runtime.records import MESSAGE_IDS

PROGRAM = Path("/usr/bin/journalctl")

NOTHING = "No journal files were found"
HIDDEN = "not seeing messages from other users"
"""What journalctl says on standard error (systemd's src/shared/journal-util.c)."""

SYSLOG = "if the machine keeps another log: grep livegraft /var/log/syslog"

PREFIX = "LIVEGRAFT_"


class Entry(NamedTuple):
    """One load or unload.

    Args:
        time: when it ended, seconds since the epoch.
        fields: those of the record, without prefix, in lower case.
    """

    time: float
    fields: Mapping[str, tuple[str, ...]]

    def get(self, name: str) -> str | None:
        """A field's first value, or None if the record has none of that name."""
        values = self.fields.get(name)
        return values[0] if values else None

    def number(self, name: str) -> int | None:
        """A field's value as a number."""
        text = self.get(name)
        return int(text) if text is not None and text.isdecimal() else None

    def as_json(self) -> dict[str, object]:
        """The entry in the document of ``history``."""
        microseconds = self.number("duration_usec")
        moment = datetime.datetime.fromtimestamp(self.time, datetime.UTC)
        return {
            "time": moment.isoformat(timespec="milliseconds"),
            **{
                name: self.get(name)
                for name in (
                    *("operation", "name", "result", "state", "model", "file", "file_sha256"),
                    *("manifest_sha256", "fix_sha256", "kernel_release", "kernel_build_id"),
                    "reason",
                )
            },
            "duration_ms": None if microseconds is None else microseconds / 1000,
            "cves": list(self.fields.get("cve", ())),
            "upstream": list(self.fields.get("upstream", ())),
            "signers": list(self.fields.get("signer", ())),
            "replaced": list(self.fields.get("replaced", ())),
            "after_stall": list(self.fields.get("after_stall", ())),
            "uid": self.number("uid"),
            "loginuid": self.number("loginuid"),
        }


def history(name: str | None = None, program: Path = PROGRAM) -> list[Entry]:
    """What the journal tells, the oldest first.

    Only what root has written is taken: anybody may write to the journal, but not as root.

    Args:
        name: only this patch.
        program: journalctl.

    Raises:
        PatchError: there is no journal, or this user may not read it.
    """
    from livegraft.run import run  # seldom needed, and start-up time counts

    ids = [f"MESSAGE_ID={each}" for each in MESSAGE_IDS.values()]
    which = [] if name is None else [f"{PREFIX}NAME={name}"]
    argv: list[str | Path] = [
        program,
        "--output=json",
        "--no-pager",
        "--all",
        "_UID=0",
        *ids,
        *which,
    ]
    try:
        done = run(argv)
    except CommandMissing as error:
        problem = "is not installed: this machine has no journal"
        raise PatchError(str(program), problem, SYSLOG) from error
    except RunFailed as error:
        raise PatchError("journal", f"cannot be read: {error.problem}", SYSLOG) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines and NOTHING in done.stderr:
        raise PatchError("journal", "there is none on this machine", SYSLOG)
    if not lines and HIDDEN in done.stderr:
        raise PatchError("journal", "this user may not read it", "run as root")
    return [entry(json.loads(line)) for line in lines]


def entry(document: Mapping[str, object]) -> Entry:
    """A record as ``journalctl -o json`` writes it.

    A value is a string; of a field that is there several times an array of them; of bytes that are
    no text an array of numbers; null if it is too long.
    """
    stamp = str(document.get("__REALTIME_TIMESTAMP", "0"))
    fields = {
        name.removeprefix(PREFIX).lower(): values
        for name, value in document.items()
        if name.startswith(PREFIX) and (values := _values(value))
    }
    return Entry(int(stamp) / 1e6 if stamp.isdecimal() else 0.0, fields)


def _values(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (proctext.printable(value),)
    if not isinstance(value, list):
        return ()
    if value and all(isinstance(each, int) for each in value):
        return (proctext.printable(bytes(value).decode("utf-8", "backslashreplace")),)
    return tuple(one for each in value for one in _values(each))
