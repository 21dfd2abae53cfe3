# SPDX-License-Identifier: GPL-2.0-or-later
"""Undo a live patch and remove it: completely, or it stays on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from livegraft.errors import PatchError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import state, syscalls
from livegraft.runtime.interruption import undisturbed
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.loading import TIMEOUT, UNDO_SECONDS, forgotten, last_transition
from livegraft.runtime.model import Model, ModelName, Wait, model_named
from livegraft.runtime.state import Direction, PatchState

INTERRUPTED = {
    PatchState.ENABLED: "interrupted, and turned on again",
    PatchState.TRANSITION: "interrupted, but the kernel is still turning it on again",
    PatchState.UNLOADED: "interrupted, but it was too late to turn it on again: it is unloaded",
}
"""What is told of an unload that was interrupted, by what became of the patch."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A patch that was undone.

    Args:
        name: its module.
        state: unloaded; transition only if the caller wanted to leave it waiting.
        transition_ms: from the kernel's "starting" to its "complete", by the log; None if the log
            does not tell, or there was none because it was disabled already.
        tasks_ms: the part of that until the last task had changed sides, if the log tells.
        wait_ms: from the order to undo until that was seen to be complete.
        remove_ms: removing the module.
        kicks: how often the kernel was hastened.
    """

    name: str
    state: PatchState
    transition_ms: float | None
    tasks_ms: float | None
    wait_ms: float
    remove_ms: float
    kicks: int

    def as_json(self) -> dict[str, object]:
        """The patch as it stands in the document of ``unload``."""
        return {
            "name": self.name,
            "state": self.state.value,
            "transition_ms": self.transition_ms,
            "tasks_ms": self.tasks_ms,
            "wait_ms": round(self.wait_ms, 3),
            "remove_ms": round(self.remove_ms, 3),
            "kicks": self.kicks,
        }


def unload(
    name: str,
    *,
    timeout: float = TIMEOUT,
    kicks: bool = True,
    keep_waiting: bool = False,
    progress: Progress = SILENT,
) -> Unloaded:
    """Undo a live patch, wait until no task uses it, and remove its module.

    A patch that is still being applied is reversed. If undoing does not complete in time, or the
    caller is interrupted, the patch is turned on again: nothing stays half undone.

    Args:
        name: the patch.
        timeout: seconds for the transition.
        kicks: hasten it; only a benchmark's control wants False.
        keep_waiting: leave a transition that is not complete in time to the kernel; the module then
            has to be unloaded again.
        progress: told of the steps.

    Raises:
        PatchError: not root; no live patch of that name is loaded.
        KernelRefused: it is undone, but the kernel keeps the module.
        TransitionTimeout: turned on again, because tasks did not leave it in time; names them.
    """
    syscalls.require_module_capability("unload a live patch")
    patches = Livepatches()
    patches.require_core()
    state.require_livepatch(name, patches)
    chosen = model_named(ModelName.NATIVE, kicks=kicks)
    with KernelLog() as log:
        return _Attempt(name, chosen, patches, log).run(timeout, keep_waiting, progress)


def unload_all(
    *,
    timeout: float = TIMEOUT,
    kicks: bool = True,
    keep_waiting: bool = False,
    progress: Progress = SILENT,
) -> list[Unloaded]:
    """Unload every live patch, foreign ones too, the newest first.

    Raises:
        PatchError: as :func:`unload`; says which ones were unloaded before.
    """
    syscalls.require_module_capability("unload live patches")
    patches = Livepatches()
    patches.require_core()
    done: list[Unloaded] = []
    for name in patches.names():
        try:
            done.append(
                unload(
                    name,
                    timeout=timeout,
                    kicks=kicks,
                    keep_waiting=keep_waiting,
                    progress=progress,
                )
            )
        except PatchError as error:
            if done:
                error.problem += f" (unloaded before: {', '.join(each.name for each in done)})"
            raise
    return done


@dataclass(slots=True)
class _Attempt:
    """One unload. ``ours``: the order to undo may have been given, and nothing is decided yet."""

    name: str
    chosen: Model
    patches: Livepatches
    log: KernelLog
    ours: bool = False

    def run(self, timeout: float, keep_waiting: bool, progress: Progress) -> Unloaded:
        """All or nothing: whatever ends this without an answer is turned on again, then told."""
        try:
            waited = self._undo(timeout, progress)
            with undisturbed():
                if waited.finished:
                    return self._removed(waited, progress)
                if keep_waiting:
                    self.ours = False
                    return self._answer(PatchState.TRANSITION, waited)
                who = state.evidence(self.name, self.patches)
                became = self._turn_on()
                if became is PatchState.UNLOADED:  # it was complete a moment later
                    return self._answer(became, waited)
                raise state.timeout_error(
                    self.name,
                    timeout,
                    who,
                    "turned on again, nothing was changed"
                    if became is PatchState.ENABLED
                    else "the kernel is still turning it on again",
                    "end or wake what blocks it, allow more time (--timeout), or use "
                    "--keep-waiting",
                )
        except BaseException as error:
            if self.ours:
                with undisturbed():
                    became = self._turn_on()
                    if isinstance(error, KeyboardInterrupt):
                        progress.note(f"{self.name}: {INTERRUPTED[became]}")
            raise

    def _undo(self, timeout: float, progress: Progress) -> Wait:
        if self.patches.get(self.name) is None:
            return Wait(True, True, 0, 0.0)  # disabled already
        with progress.step("transition"):
            began = time.monotonic()
            self.ours = True
            try:
                self.chosen.turn_off(self.name, timeout)
            except PatchError:
                self.ours = False  # the kernel has not taken the order
                raise
            waited = self.chosen.wait(self.name, timeout)
            return Wait(waited.finished, waited.gone, waited.kicks, time.monotonic() - began)

    def _removed(self, waited: Wait, progress: Progress) -> Unloaded:
        patch = self.patches.get(self.name)
        if patch is not None and patch.enabled:
            self.ours = False
            raise PatchError(
                self.name,
                "somebody else has turned it on again while it was being undone",
                "unload it again",
            )
        with progress.step("remove"):
            began = time.monotonic()
            self._remove()
            remove_ms = (time.monotonic() - began) * 1000
        return self._answer(PatchState.UNLOADED, waited, remove_ms)

    def _remove(self) -> None:
        self.ours = False  # it is off for good: whatever comes now, it cannot be turned on again
        forgotten(self.name, self.patches)
        self.chosen.remove(self.name)

    def _turn_on(self) -> PatchState:
        """Reverse the undoing; if it is too late for that, complete it. Nothing interrupts this.

        Returns:
            What became of it; transition if the kernel is still at it.
        """
        with undisturbed():
            self.ours = False
            self.chosen.turn_on_again(self.name)
            if not self.chosen.wait(self.name, UNDO_SECONDS).finished:
                return PatchState.TRANSITION
            # A transition that is complete may still be seen for a moment: `enabled` decides.
            patch = self.patches.get(self.name)
            if patch is not None and patch.enabled:
                return PatchState.ENABLED
            self._remove()
            return PatchState.UNLOADED

    def _answer(self, became: PatchState, waited: Wait, remove_ms: float = 0.0) -> Unloaded:
        spent = None
        if became is PatchState.UNLOADED:
            spent = last_transition(self.log, self.name, Direction.UNPATCHING)
        return Unloaded(
            name=self.name,
            state=became,
            transition_ms=spent.milliseconds if spent else None,
            tasks_ms=spent.tasks_milliseconds if spent else None,
            wait_ms=waited.seconds * 1000,
            remove_ms=remove_ms,
            kicks=waited.kicks,
        )
