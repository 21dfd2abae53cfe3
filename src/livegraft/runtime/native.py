# SPDX-License-Identifier: GPL-2.0-or-later
"""The model ``native``: the kernel's own livepatch core, kicked early.

The core looks at all tasks when a transition starts, and then about once a second
(kernel/livepatch/transition.c, ``klp_transition_work``): the wait is polling, hardly ever work.
livegraft's payloads have a write-only parameter ``kick`` that makes the core look again at once,
and ``hasten``, which does that a few times within its write and expedites grace periods meanwhile:
an undo ends with ftrace's wait for RCU tasks (kernel/rcu/tasks.h), which else looks for the tasks
that it waits for ten times a second.

Each look counts. At the 15th the core sends a fake signal to every task that has not changed sides
(``SIGNALS_TIMEOUT``), which wakes sleepers for nothing if the wait was too short. The kicks are
therefore few and further and further apart.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence

from livegraft.errors import KernelRefused, PatchError
from livegraft.runtime import syscalls
from livegraft.runtime.interruption import held_back
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.model import Model, ModelName, Wait
from livegraft.runtime.payload import Payload

KICK_PAUSES = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
"""Seconds before each kick: ten in half a second, well below the core's 15."""

HASTEN_MILLISECONDS = 100
HASTEN_LOOKS = 7
"""How long ``hasten`` may take, and how often it has the core look at most (module/payload.c.in):
at the times of as many :data:`KICK_PAUSES`."""

LATER_PAUSES = (0.0, 0.016, 0.064, 0.256)
"""As :data:`KICK_PAUSES`, for a transition that was kicked before: the core adds all of them up."""

POLL_SHORTEST = 0.001
POLL_LONGEST = 0.05
"""Seconds between two looks at ``transition``: each is twice the last."""


class NativeModel(Model):
    """The kernel's own core.

    Args:
        kicks: hasten transitions; without, the core's own second passes.
        patches: the sysfs view.
        pauses: seconds before each kick.
    """

    name = ModelName.NATIVE

    def __init__(
        self,
        *,
        kicks: bool = True,
        patches: Livepatches | None = None,
        pauses: Sequence[float] = KICK_PAUSES,
    ) -> None:
        self.kicks = kicks
        self.pauses = pauses
        self.patches = patches or Livepatches()
        self._hastened = False

    def require(self) -> None:
        self.patches.require_core()

    def insert(self, payload: Payload) -> None:
        # A foreign module has no parameter "model", and the kernel would warn about it.
        parameters = "" if payload.manifest is None else f"model={self.name}"
        with KernelLog() as log:
            syscalls.init_module(payload.name, payload.data, parameters, model=self.name, log=log)

    def wait(self, name: str, seconds: float) -> Wait:
        began = last = time.monotonic()
        hastened, self._hastened = self._hastened, False
        hasten = self.kicks and self.pauses is KICK_PAUSES and not hastened
        kicks = self._hasten(name, seconds) if hasten else None
        left = self.pauses if kicks is None else self.pauses[HASTEN_LOOKS:]
        if hastened:  # the core adds up what was done beside the write of `enabled`
            left = LATER_PAUSES
        pauses = iter(left if self.kicks and self.patches.can_kick(name) else ())
        pause = next(pauses, None)
        kicks = kicks or 0
        poll = POLL_SHORTEST
        while True:
            state = self.patches.in_transition(name)
            now = time.monotonic()
            if not state:
                return Wait(True, state is None, kicks, now - began)
            if now - began >= seconds:
                return Wait(False, False, kicks, now - began)
            if pause is not None and now - last >= pause:
                kicks += self.patches.kick(name)
                last, pause = now, next(pauses, None)
            time.sleep(min(poll, max(seconds - (now - began), 0)))
            poll = min(poll * 2, POLL_LONGEST)

    def _hasten(self, name: str, seconds: float) -> int | None:
        """Let the payload do the first kicks; how many it did, or None if it cannot do that."""
        before = self.patches.looks(name)
        if before is None:
            return None
        self.patches.hasten(name, min(HASTEN_MILLISECONDS, int(seconds * 1000)))
        return (self.patches.looks(name) or before) - before

    def turn_off(self, name: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            match self._disable(name):
                case 0 | errno.EINVAL | errno.ENOENT | errno.ENODEV:
                    return  # off, on its way, or off already
                case errno.EBUSY if time.monotonic() < end:
                    time.sleep(POLL_LONGEST)
                case errno.EBUSY:
                    other = self.patches.under_way() or "another patch"
                    raise PatchError(
                        name,
                        f"cannot be undone while the transition of '{other}' is under way",
                        f"wait for it: livegraft wait {other}",
                    )
                case code:
                    raise PatchError(
                        name,
                        f"the kernel does not undo it [{errno.errorcode.get(code, code)}]",
                        "run as root",
                    )

    def _disable(self, name: str) -> int:
        """Write ``enabled``; 0 or the error number.

        If no task is in the way the kernel undoes the patch within the write, and waits there.
        """
        before = self.patches.looks(name)
        if not self.kicks or before is None:
            return self.patches.set_enabled(name, False)
        codes: list[int] = []
        writer = threading.Thread(
            target=lambda: codes.append(self.patches.set_enabled(name, False))
        )
        try:
            with held_back():  # a signal comes when the thread is there to be waited for
                writer.start()
            while writer.is_alive() and self.patches.hasten(name, HASTEN_MILLISECONDS):
                writer.join(POLL_SHORTEST)
        finally:
            if writer.ident is not None:
                writer.join()  # interrupted or not: what the kernel does with it has to be known
        self._hastened = self.patches.looks(name) != before
        return codes[0]

    def turn_on_again(self, name: str) -> bool:
        self._hastened = False  # a reversal begins to count anew
        return self.patches.set_enabled(name, True) == 0

    def remove(self, name: str) -> None:
        if not self.patches.is_loaded(name):
            return
        with KernelLog() as log:
            try:
                syscalls.delete_module(name, log=log)
            except KernelRefused as error:
                # Who reverses a load that is under way races with it for removing the module.
                if error.errno_name != "ENOENT":
                    raise
