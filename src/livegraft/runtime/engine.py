# SPDX-License-Identifier: GPL-2.0-or-later
"""The models of livegraft's engine module: ``hybrid``, ``stop`` and ``task``.

The engine's directory is /sys/kernel/livegraft; kmod/README.md says what is in it. The engine tells
of each change of ``transition`` by POLLPRI (Documentation/filesystems/sysfs.rst), so nothing is
looked at over and over; a look now and then is for an event that was lost.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import TYPE_CHECKING

from livegraft.errors import KernelRefused, PatchError, UsageError
from livegraft.runtime import blockers, syscalls
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import ENGINE, ENGINE_MODULE, LivePatch, Livepatches
from livegraft.runtime.model import (
    Detail,
    Model,
    ModelName,
    Options,
    Phase,
    Wait,
    give_order,
    set_enabled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from livegraft.runtime.payload import Payload

LOOK = 1.0
"""Seconds between two looks at ``transition`` if no event comes."""

COUNTS = ("signalled", "interrupted", "restarted")


def availability(patches: Livepatches) -> dict[str, str]:
    """The engine's models and why each cannot be had here, "" if it can; empty without engine."""
    text = patches.attribute("", "models")
    found = {}
    for line in (text or "").splitlines():
        name, answer, *reason = line.split(None, 2)
        found[name] = "" if answer == "yes" else " ".join(reason) or "the engine says no"
    return found


def remove(patches: Livepatches) -> None:
    """Remove the engine's module; the kernel alone only says that something needs it.

    Raises:
        PatchError: it is not loaded, or live patches need it: named, those that are off too.
        KernelRefused: the kernel keeps it.
    """
    if not patches.is_loaded(ENGINE_MODULE):
        raise PatchError(
            ENGINE_MODULE, "is not loaded", "'livegraft models' says which models there are"
        )
    users = _users(patches)
    if users:
        raise _needed(users)
    try:
        syscalls.delete_module(ENGINE_MODULE)
    except KernelRefused as error:
        if error.errno_name != "EAGAIN":
            raise
        raise _needed(_users(patches) or ["another module"]) from error


def _users(patches: Livepatches) -> list[str]:
    """The live patches of the engine, the newest first."""
    return [name for name in patches.names() if patches.of(name).core == ENGINE]


def _needed(users: Sequence[str]) -> PatchError:
    return PatchError(
        ENGINE_MODULE,
        f"cannot be removed: {', '.join(users)} {'needs' if len(users) == 1 else 'need'} it",
        "unload what needs it first (livegraft unload NAME); what was forced stays until a reboot",
    )


def remedy() -> str:
    """How to get the engine."""
    release = os.uname().release
    return (
        f"livegraft engine build -k {release} -o livegraft_engine.ko; insmod livegraft_engine.ko; "
        f"or use --model native"
    )


class EngineModel(Model):
    """A model of the engine.

    Args:
        name: which.
        patches: the engine's directory.
    """

    FORGETTING = 30.0
    """It waits for RCU tasks, and that takes a machine under load a while."""

    def __init__(self, name: ModelName, patches: Livepatches | None = None) -> None:
        self.name = name
        self.patches = patches or Livepatches(core=ENGINE)

    def require(self) -> None:
        subject = f"model {self.name}"
        if not self.patches.folder.is_dir():
            raise PatchError(
                subject, "needs livegraft's engine module, which is not loaded", remedy()
            )
        reason = availability(self.patches).get(self.name, "this engine does not know it")
        if reason:
            raise PatchError(
                subject, f"is not to be had on this machine: {reason}", "use another model"
            )

    def accept(self, payload: Payload, options: Options) -> None:
        if payload.manifest is None:
            raise UsageError(
                str(payload.path),
                f"a foreign patch cannot use model {self.name}",
                "use --model native",
            )

    def insert(self, payload: Payload, options: Options) -> None:
        # Always written: what a loader that was killed has left there is taken back by it.
        words = ["replace"] * options.replace + ["no-direct"] * (not options.direct)
        code = self.patches.write("options", " ".join((payload.name, *words)))
        if code:
            raise PatchError(
                payload.name,
                f"the engine does not take its options [{errno.errorcode.get(code, code)}]",
                "run as root; 'cat /sys/kernel/livegraft/options' shows those that wait",
            )
        parameters = f"model={self.name}"
        try:
            with KernelLog() as log:
                syscalls.init_module(
                    payload.name, payload.data, parameters, model=self.name, log=log
                )
        except BaseException:
            if words:
                self.patches.write("options", payload.name)
            raise

    def wait(self, name: str, seconds: float) -> Wait:
        began = time.monotonic()
        try:
            descriptor = os.open(
                self.patches.folder / name / "transition", os.O_RDONLY | os.O_CLOEXEC
            )
        except OSError:
            return Wait(True, True, 0, 0.0)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLPRI | select.POLLERR)
            while True:
                state = _read_again(descriptor)
                passed = time.monotonic() - began
                if state != "1":
                    return Wait(True, state is None, 0, passed, self._times(name))
                if passed >= seconds:
                    return Wait(False, False, 0, passed)
                poll.poll(1000 * min(LOOK, seconds - passed))
        finally:
            os.close(descriptor)

    def turn_off(self, name: str, seconds: float) -> None:
        set_enabled(self.patches, name, lambda: self.patches.set_enabled(name, False), seconds)

    def turn_on_again(self, name: str) -> bool:
        return self.patches.set_enabled(name, True) == 0

    def signal(self, name: str) -> None:
        refusal = "the engine does not signal what sleeps in its way"
        give_order(self.patches, name, "signal", refusal)

    def force(self, name: str) -> None:
        give_order(self.patches, name, "force", "the engine does not force its transition")

    def was_forced(self, name: str) -> bool:
        return self.patches.attribute(name, "forced") == "1"

    def detail(self, patch: LivePatch) -> Detail:
        name = patch.name

        def number(attribute: str) -> int:
            return int(self.patches.attribute(name, attribute) or 0)

        direct = self.patches.attribute(name, "direct")
        return Detail(
            phase=Phase(self.patches.attribute(name, "phase") or Phase.FORGOTTEN),
            moved=number("moved"),
            left=number("left"),
            blockers=tuple(
                blockers.listed(
                    self.patches.attribute(name, "blockers") or "", self.patches.root / "proc"
                )
            ),
            forced=self.was_forced(name),
            direct=None if direct is None else direct == "1",
            counts={each: number(each) for each in COUNTS},
            times=self._times(name),
        )

    def _times(self, name: str) -> dict[str, float]:
        return times(self.patches.attribute(name, "times") or "")


def times(text: str) -> dict[str, float]:
    """The engine's ``times``: microseconds become ``WORD_ms``; a count stays one. What comes after
    the change of sides is left out until it is over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        word, value = line.split()
        if word == "tries":
            found[word] = int(value)
        elif (word, value) != ("finish", "0"):
            found[f"{word}_ms"] = int(value) / 1000
    return found


def _read_again(descriptor: int) -> str | None:
    """An attribute's value now, which also arms its next event; None if it is gone."""
    try:
        return os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
    except OSError:
        return None
