# SPDX-License-Identifier: GPL-2.0-or-later
"""What each load and unload leaves in the journal, also one that was refused or undone.

Its fields are what ``livegraft history`` reads; docs/evidence.md lists them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from livegraft.errors import Exit, LivegraftError, PatchError, TransitionTimeout
from livegraft.runtime import identity, journal
from livegraft.runtime.interruption import undisturbed
from livegraft.runtime.known import Known
from livegraft.runtime.livepatch import Mark
from livegraft.runtime.payload import Payload

NOTICE, WARNING = 5, 4
"""``LOG_NOTICE`` and ``LOG_WARNING`` of syslog(3)."""

UNSET = "4294967295"
"""Of ``/proc/self/loginuid`` where nobody has logged in: -1 as a u32."""


class Operation(StrEnum):
    """What was asked for."""

    LOAD = "load"
    UNLOAD = "unload"


MESSAGE_IDS = {
    Operation.LOAD: "8f95837809fa49b0925712c2a272c8ce",
    Operation.UNLOAD: "cdee73a0597a4c94baaaae2799bd4146",
}
"""By which the journal knows them (systemd.journal-fields(7)): random, and never changed."""


class Result(StrEnum):
    """What became of it."""

    DONE = "done"
    UNDONE = "undone"
    """It had begun, was late or interrupted, and was taken back."""
    REFUSED = "refused"
    """The file is not for this machine, or not trusted: the kernel never saw it."""
    FAILED = "failed"


class Record:
    """One operation, filled in as it goes on.

    Args:
        operation: what was asked for.
        model: the consistency model.
        root: where run/, dev/, proc/ and sys/ are.

    Attributes:
        name: the patch; of a load, its file tells.
        path: the patch's file.
        payload: what was read from it.
        known: what its file told, now or when it was loaded.
        mark: what a loaded patch says of itself.
        state: what it is in after that, if all went well.
        replaced: older patches that a load has undone, or undoes in a transition that goes on.
        after_stall: what was done to tasks in the way: ``signal`` or ``force``.
    """

    def __init__(self, operation: Operation, model: str, root: Path) -> None:
        self.operation = operation
        self.model = model
        self.root = root
        self.name = ""
        self.path: Path | None = None
        self.payload: Payload | None = None
        self.known: Known | None = None
        self.mark: Mark | None = None
        self.state = ""
        self.replaced: tuple[str, ...] = ()
        self.after_stall: tuple[str, ...] = ()

    def fields(self) -> list[tuple[str, str]]:
        """What is known of the patch, the machine and the user; without prefix, none empty."""
        found = [
            ("OPERATION", self.operation.value),
            ("NAME", self.payload.name if self.payload else self.name),
            ("MODEL", self.model),
            ("STATE", self.state),
            ("FILE", str(self.path or "")),
            *(("REPLACED", each) for each in self.replaced),
            *(("AFTER_STALL", each) for each in self.after_stall),
        ]
        manifest = self.payload.manifest if self.payload else None
        for tells in (manifest, self.mark):
            if tells is not None:
                found.append(("FIX_SHA256", tells.fix_sha256))
                found += [("CVE", each) for each in tells.cves]
        if self.known is not None:
            found += self.known.fields()
        found += [("UID", str(os.getuid())), ("LOGINUID", _loginuid(self.root))]
        found.append(("KERNEL_RELEASE", os.uname().release))
        with suppress(PatchError):
            found.append(("KERNEL_BUILD_ID", identity.kernel_build_id(self.root)))
        return [(name, value) for name, value in found if value]

    def leave(self, result: Result, seconds: float, error: BaseException | None) -> None:
        """Send it."""
        what = self.payload.name if self.payload else self.name or str(self.path)
        done = result is Result.DONE
        how = self.state if done else f"{result}: {error or 'interrupted'}"
        fields = [
            ("RESULT", result.value),
            ("DURATION_USEC", str(round(seconds * 1e6))),
            *self.fields(),
        ]
        if error is not None:
            fields += [("ERROR", type(error).__name__), ("REASON", str(error))]
        journal.send(
            f"{what}: {self.operation} under {self.model}: {how}",
            NOTICE if done else WARNING,
            [
                ("MESSAGE_ID", MESSAGE_IDS[self.operation]),
                *((f"LIVEGRAFT_{name}", value) for name, value in fields),
            ],
            self.root,
        )


@contextmanager
def left(operation: Operation, model: str, root: Path) -> Iterator[Record]:
    """Leave a record of what happens inside, however it ends.

    Args:
        operation: what was asked for.
        model: the consistency model.
        root: where run/, dev/, proc/ and sys/ are.
    """
    record = Record(operation, model, root)
    began = time.monotonic()
    try:
        yield record
    except BaseException as error:
        with undisturbed():
            record.leave(_result(error), time.monotonic() - began, error)
        raise
    with undisturbed():
        record.leave(Result.DONE, time.monotonic() - began, None)


def _result(error: BaseException) -> Result:
    if isinstance(error, KeyboardInterrupt | TransitionTimeout):
        return Result.UNDONE
    refused = isinstance(error, LivegraftError) and error.exit_code is Exit.REFUSED
    return Result.REFUSED if refused else Result.FAILED


def _loginuid(root: Path) -> str:
    """Who has logged in, whatever they have become since by su(1) or sudo(8)."""
    try:
        text = (root / "proc/self/loginuid").read_text().strip()
    except OSError:
        return ""
    return "" if text == UNSET else text
