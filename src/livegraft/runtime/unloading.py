# SPDX-License-Identifier: GPL-2.0-or-later
"""Undo a live patch and remove it: completely, or it stays on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from livegraft.errors import PatchError, TransitionTimeout
from livegraft.progress import SILENT, Progress
from livegraft.runtime import state, syscalls
from livegraft.runtime.interruption import undisturbed
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.loading import TIMEOUT, UNDO_SECONDS, last_transition
from livegraft.runtime.model import Model, ModelName, Wait, model_named
from livegraft.runtime.state import Direction, PatchState


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
        waited = _turn_off(chosen, name, timeout, patches, progress)
        if not waited.finished:
            if not keep_waiting:
                raise _turned_on_for_time(chosen, name, timeout, patches)
            return Unloaded(
                name, PatchState.TRANSITION, None, None, waited.seconds * 1000, 0.0, waited.kicks
            )
        spent = last_transition(log, name, Direction.UNPATCHING)
    with progress.step("remove"), undisturbed():
        began = time.monotonic()
        chosen.remove(name)
        remove_ms = (time.monotonic() - began) * 1000
    return Unloaded(
        name=name,
        state=PatchState.UNLOADED,
        transition_ms=spent.milliseconds if spent else None,
        tasks_ms=spent.tasks_milliseconds if spent else None,
        wait_ms=waited.seconds * 1000,
        remove_ms=remove_ms,
        kicks=waited.kicks,
    )


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


def _turn_off(
    chosen: Model, name: str, timeout: float, patches: Livepatches, progress: Progress
) -> Wait:
    if patches.get(name) is None:
        return Wait(True, True, 0, 0.0)  # disabled already
    try:
        with progress.step("transition"):
            began = time.monotonic()
            chosen.turn_off(name, timeout)
            waited = chosen.wait(name, timeout)
            return Wait(waited.finished, waited.gone, waited.kicks, time.monotonic() - began)
    except KeyboardInterrupt:
        progress.note(f"{name}: interrupted, turning it on again")
        _turn_on(chosen, name, patches)
        raise


def _turn_on(chosen: Model, name: str, patches: Livepatches) -> bool:
    """Reverse the undoing; if it is too late for that, complete it. Nothing interrupts this.

    Returns:
        Whether every task is on one side again.
    """
    with undisturbed():
        chosen.turn_on_again(name)
        settled = chosen.wait(name, UNDO_SECONDS)
        if patches.get(name) is None:
            chosen.remove(name)
        return settled.finished


def _turned_on_for_time(
    chosen: Model, name: str, timeout: float, patches: Livepatches
) -> TransitionTimeout:
    patch = patches.get(name)
    who = state.current_blockers(patch) if patch else []
    outcome = "the kernel is still turning it on again"
    if _turn_on(chosen, name, patches):
        outcome = "turned on again, nothing was changed"
        if not patches.is_loaded(name):
            outcome = "it was complete a moment later, and the patch is unloaded"
    return state.timeout_error(
        name,
        timeout,
        who,
        outcome,
        "end or wake what blocks it, allow more time (--timeout), or use --keep-waiting",
    )
