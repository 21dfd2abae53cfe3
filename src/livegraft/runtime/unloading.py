# SPDX-License-Identifier: GPL-2.0-or-later
"""Undo a live patch and remove it: completely, or it stays on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import known, records, state, syscalls
from livegraft.runtime.interruption import undisturbed
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import ENGINE_MODULE, Livepatches
from livegraft.runtime.loading import UNDO_SECONDS, last_transition
from livegraft.runtime.model import Model, Wait, model_of
from livegraft.runtime.records import Operation
from livegraft.runtime.stall import TIMEOUT, OnStall, chosen, wait_out
from livegraft.runtime.state import Direction, PatchState
from livegraft.runtime.urgency import urgently

INTERRUPTED = {
    PatchState.ENABLED: "interrupted, and turned on again",
    PatchState.TRANSITION: "interrupted, but the kernel is still turning it on again",
    PatchState.UNLOADED: "interrupted, but it was too late to turn it on again: it is unloaded",
}
"""What is told of an unload that was interrupted, by what became of the patch."""


class Unloaded(NamedTuple):
    """A patch that was undone.

    Args:
        name: its module.
        model: the consistency model that it had; "" for the engine's module.
        state: unloaded; transition only if the caller wanted to leave it waiting; disabled if a
            transition was forced, for then the module stays.
        transition_ms: from the kernel's "starting" to its "complete", by the log; of the engine,
            until the last task had changed sides, by its clock; where neither tells any more, as
            ``wait_ms``. None if it is not complete, or there was none because it was disabled.
        tasks_ms: the part of that until the last task had changed sides, if log or engine tell.
        wait_ms: from the order to undo until that was seen to be complete: the system is
            consistent.
        unloadable_ms: from the order until nothing in the kernel referred to the patch any more;
            None if that was not seen.
        remove_ms: removing the module.
        kicks: how often the kernel was hastened.
        forced: a transition of it was forced.
        signalled: tasks in the way were signalled.
        times: milliseconds of the parts of it, of the engine.
    """

    name: str
    model: str
    state: PatchState
    transition_ms: float | None
    tasks_ms: float | None
    wait_ms: float
    unloadable_ms: float | None
    remove_ms: float
    kicks: int
    forced: bool = False
    signalled: bool = False
    times: Mapping[str, float] = MappingProxyType({})

    def as_json(self) -> dict[str, object]:
        """The patch as it stands in the document of ``unload``."""
        return {
            "name": self.name,
            "model": self.model,
            "state": self.state.value,
            "transition_ms": self.transition_ms,
            "tasks_ms": self.tasks_ms,
            "wait_ms": round(self.wait_ms, 3),
            "unloadable_ms": None if self.unloadable_ms is None else round(self.unloadable_ms, 3),
            "remove_ms": round(self.remove_ms, 3),
            "kicks": self.kicks,
            "forced": self.forced,
            "signalled": self.signalled,
            "times": dict(self.times) or None,
        }


def unload(
    name: str,
    *,
    timeout: float = TIMEOUT,
    on_stall: str = OnStall.UNDO,
    force_anyway: bool = False,
    kicks: bool = True,
    progress: Progress = SILENT,
) -> Unloaded:
    """Undo a live patch, wait until no task uses it, and remove its module.

    The engine's module (:data:`~livegraft.runtime.livepatch.ENGINE_MODULE`) is removed if no patch
    needs it. A patch that is still being applied is reversed. If undoing does not complete in time,
    or the caller is interrupted, the patch is turned on again: nothing stays half undone.

    Args:
        name: the patch, or the engine's module.
        timeout: seconds for the transition.
        on_stall: what to do when they are over, one of :class:`~livegraft.runtime.stall.OnStall`;
            ``undo`` turns the patch on again, after ``wait`` it has to be unloaded again.
        force_anyway: what ``force`` has to be said with: it can crash the kernel.
        kicks: hasten it; only a benchmark's control wants False.
        progress: told of the steps.

    Raises:
        UsageError: ``force`` was not said with ``force_anyway``.
        PatchError: not root; no live patch of that name is loaded; a patch needs the engine.
        KernelRefused: it is undone, but the kernel keeps the module.
        TransitionTimeout: turned on again, because tasks did not leave it in time; names them.
    """
    way = chosen(on_stall, force_anyway)
    syscalls.require_module_capability("unload a live patch")
    patches = Livepatches()
    if name == ENGINE_MODULE:
        from livegraft.runtime.engine import remove

        with progress.step("remove"):
            began = time.monotonic()
            remove(patches)
        return _removed_engine((time.monotonic() - began) * 1000)
    patches.require_core()
    state.require_livepatch(name, patches)
    the_model = model_of(name, kicks=kicks)
    root = the_model.patches.root
    with records.left(Operation.UNLOAD, the_model.name, root) as record:
        record.name, record.mark, record.known = name, patches.mark(name), known.of(name, root)
        with urgently(), KernelLog() as log:
            attempt = _Attempt(name, the_model, the_model.patches, log)
            try:
                done = attempt.run(timeout, way, progress)
            finally:
                record.after_stall = tuple(attempt.after_stall)
        record.state = done.state
        if done.state is PatchState.UNLOADED:
            known.forget(name, root)
        return done


def _removed_engine(remove_ms: float) -> Unloaded:
    """The engine's module has no model and no transition."""
    return Unloaded(
        name=ENGINE_MODULE,
        model="",
        state=PatchState.UNLOADED,
        transition_ms=None,
        tasks_ms=None,
        wait_ms=0.0,
        unloadable_ms=None,
        remove_ms=remove_ms,
        kicks=0,
    )


def unload_all(
    *,
    timeout: float = TIMEOUT,
    on_stall: str = OnStall.UNDO,
    force_anyway: bool = False,
    kicks: bool = True,
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
                    on_stall=on_stall,
                    force_anyway=force_anyway,
                    kicks=kicks,
                    progress=progress,
                )
            )
        except PatchError as error:
            if done:
                error.problem += f" (unloaded before: {', '.join(each.name for each in done)})"
            raise
    return done


class _Attempt:
    """One unload. ``ours``: the order to undo may have been given, and nothing is decided yet."""

    def __init__(self, name: str, chosen: Model, patches: Livepatches, log: KernelLog) -> None:
        self.name = name
        self.chosen = chosen
        self.patches = patches
        self.log = log
        self.ours = False
        self.began = 0.0
        self.unloadable_ms: float | None = None
        self.forced = False
        self.after_stall: list[OnStall] = []

    def run(self, timeout: float, on_stall: OnStall, progress: Progress) -> Unloaded:
        """All or nothing: whatever ends this without an answer is turned on again, then told."""
        try:
            waited = self._undo(timeout, on_stall, progress)
            with undisturbed():
                if waited.finished:
                    return self._removed(waited, progress)
                if on_stall is OnStall.WAIT:
                    self.ours = False
                    return self._answer(PatchState.TRANSITION, waited)
                who = state.evidence(self.name, self.chosen)
                became = self._turn_on()
                if became is PatchState.UNLOADED:  # it was complete a moment later
                    return self._answer(became, waited)
                raise state.timeout_error(
                    self.name,
                    waited.seconds,
                    who,
                    "turned on again, nothing was changed"
                    if became is PatchState.ENABLED
                    else "the kernel is still turning it on again",
                    "end or wake what blocks it, allow more time (--timeout), or use another "
                    "--on-stall",
                )
        except BaseException as error:
            if self.ours:
                with undisturbed():
                    became = self._turn_on()
                    if isinstance(error, KeyboardInterrupt):
                        progress.note(f"{self.name}: {INTERRUPTED[became]}")
            raise

    def _undo(self, timeout: float, on_stall: OnStall, progress: Progress) -> Wait:
        self.began = time.monotonic()
        if self.patches.get(self.name) is None:
            return Wait(True, True, 0, 0.0)  # disabled already
        # Now: once it is undone the engine may have forgotten it, and this with it.
        self.forced = self.chosen.was_forced(self.name)
        with progress.step("transition"):
            self.ours = True
            try:
                self.chosen.turn_off(self.name, timeout)
            except PatchError:
                self.ours = False  # the kernel has not taken the order
                raise
            waited = wait_out(self.chosen, self.name, timeout, on_stall, progress, self.after_stall)
            return waited._replace(seconds=time.monotonic() - self.began)

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
            became = self._remove(waited.forced)
            remove_ms = (time.monotonic() - began) * 1000
        return self._answer(became, waited, remove_ms)

    def _remove(self, forced: bool = False) -> PatchState:
        self.ours = False  # it is off for good: whatever comes now, it cannot be turned on again
        if self.chosen.forget(self.name):
            self.unloadable_ms = (time.monotonic() - self.began) * 1000
        if forced or self.forced:
            return PatchState.DISABLED  # the kernel keeps the module for good
        self.chosen.remove(self.name)
        return PatchState.UNLOADED

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
            return self._remove()

    def _answer(self, became: PatchState, waited: Wait, remove_ms: float = 0.0) -> Unloaded:
        spent = None
        if became is not PatchState.TRANSITION:
            spent = last_transition(self.log, self.name, Direction.UNPATCHING)
        transition_ms = tasks_ms = waited.times.get("move_ms")
        if spent is not None:
            transition_ms, tasks_ms = spent.milliseconds, spent.tasks_milliseconds
        elif transition_ms is None and waited.finished and waited.seconds:  # 0: disabled already
            transition_ms = round(waited.seconds * 1000, 3)
        return Unloaded(
            name=self.name,
            model=self.chosen.name,
            state=became,
            transition_ms=transition_ms,
            tasks_ms=tasks_ms,
            wait_ms=waited.seconds * 1000,
            unloadable_ms=self.unloadable_ms,
            remove_ms=remove_ms,
            kicks=waited.kicks,
            forced=waited.forced or self.forced,
            signalled=waited.signalled,
            times=waited.times,
        )
