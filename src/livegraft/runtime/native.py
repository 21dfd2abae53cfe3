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

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from livegraft.errors import PatchError, UsageError
from livegraft.runtime import blockers, kernellog, stacks, syscalls
from livegraft.runtime.interruption import held_back
from livegraft.runtime.kernellog import KernelLog, Record
from livegraft.runtime.livepatch import LivePatch, Livepatches
from livegraft.runtime.model import (
    Detail,
    Model,
    ModelName,
    Options,
    Wait,
    give_order,
    phase_of,
    set_enabled,
)
from livegraft.runtime.stacks import Code

if TYPE_CHECKING:
    from livegraft.runtime.payload import Payload

KICK_PAUSES = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
"""Seconds before each kick: ten in half a second, well below the core's 15."""

HASTEN_MILLISECONDS = 100
HASTEN_LOOKS = 7
"""How long ``hasten`` may take, and how often it has the core look at most (module/payload.c.in):
at the times of as many :data:`KICK_PAUSES`."""

LATER_PAUSES = (0.0, 0.016, 0.064, 0.256)
"""As :data:`KICK_PAUSES`, for a transition that was kicked before: the core adds all of them up."""

SIGNAL_LOOKS = 16
SIGNAL_PAUSE = 0.02
"""Kicks after which the core has sent its signals, whatever it had counted, and seconds between
two: a look has to be over before the next kick, or both are one."""

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

    def accept(self, payload: Payload, options: Options) -> None:
        if options.replace and not payload.can_replace:
            foreign = payload.manifest is None
            why = "livegraft did not build it" if foreign else "it was built before it could be"
            raise PatchError(
                payload.name,
                f"cannot be told to replace older patches under model native: {why}",
                "unload them first (livegraft unload --all)"
                + ("" if foreign else ", build it again, or use a model of the engine"),
            )
        if not options.direct:
            raise UsageError(
                payload.name,
                "--no-direct is for the engine's models: native never uses direct calls",
                "leave it out",
            )

    def insert(self, payload: Payload, options: Options) -> None:
        # A foreign module has no parameter "model", and the kernel would warn about it.
        parameters = "" if payload.manifest is None else f"model={self.name}"
        parameters += " replace=1" * options.replace
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
        set_enabled(self.patches, name, lambda: self._disable(name), seconds)

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

    def signal(self, name: str) -> None:
        """The core signals at every 15th look, so it is made to look as often as that."""
        if not self.patches.can_kick(name):
            raise PatchError(
                name,
                "cannot be signalled for: the kernel's core does it by itself, after 15 seconds, "
                "and this patch has no parameter by which it could be told to do it now",
                "use --on-stall wait, or a --timeout of more than 15 seconds",
            )
        for _ in range(SIGNAL_LOOKS):
            if not self.patches.in_transition(name):
                return
            self.patches.kick(name)
            time.sleep(SIGNAL_PAUSE)

    def force(self, name: str) -> None:
        give_order(self.patches, name, "force", "the kernel does not force its transition")

    def was_forced(self, name: str) -> bool:
        with KernelLog(from_start=True) as log:
            return kernellog.was_forced(log.read(), name)

    def detail(self, patch: LivePatch) -> Detail:
        with KernelLog(from_start=True) as log:
            records = log.read()
        moved = left = None
        found: tuple[blockers.Blocker, ...] = ()
        if patch.transition:
            sides = blockers.sides(
                int(patch.enabled),
                self._to_leave(patch),
                _waiting_ms(records, patch.name),
                self.patches.root / "proc",
            )
            moved, left, found = sides.moved, len(sides.blockers), sides.blockers
            if not moved and not left:  # not root: the kernel hides it
                moved = left = None
        forced = kernellog.was_forced(records, patch.name)
        return Detail(phase_of(patch), moved, left, found, forced, None, {}, {})

    def _to_leave(self, patch: LivePatch) -> Code:
        """What tasks have to leave: the old code, which may be another patch's, or the new."""
        if not patch.enabled:
            return Code(patch.functions, frozenset({patch.name}))
        below = {
            other.name
            for other in map(self.patches.get, self.patches.names())
            if other and other.name != patch.name and other.functions & patch.functions
        }
        return Code(patch.functions, frozenset(below))

    def remove(self, name: str) -> None:
        """As any model's, when no stack holds code of the patch.

        The core's check knows the new functions themselves. It sees neither their cold parts nor
        what they have left to by a jump, as in ``return helper()``.
        """
        end = time.monotonic() + syscalls.REFERENCE_SECONDS
        pause = POLL_SHORTEST
        code = Code(frozenset(), frozenset({name}))
        while found := stacks.inside(code, self.patches.root / "proc"):
            if time.monotonic() > end:
                task, frames = found[0]
                raise PatchError(
                    name,
                    f"is off, but {task.comm} (pid {task.pid}) is still inside its code: "
                    f"{code.first_in(frames)}",
                    f"end or wake it, then: livegraft unload {name}",
                )
            time.sleep(pause)
            pause = min(pause * 2, POLL_LONGEST)
        super().remove(name)


def _waiting_ms(records: list[Record], name: str) -> int | None:
    seen = kernellog.transitions(records, name)
    if not seen or seen[-1].completed is not None:
        return None
    return max(0, int(time.monotonic() * 1000 - seen[-1].started / 1000))
