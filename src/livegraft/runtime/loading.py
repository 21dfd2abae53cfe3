# SPDX-License-Identifier: GPL-2.0-or-later
"""Load a live patch: completely, or not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import PatchError, TransitionTimeout, UsageError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import identity, kernellog, returning, state, syscalls
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.interruption import held_back, undisturbed
from livegraft.runtime.kernellog import KernelLog, Transition
from livegraft.runtime.livepatch import LiveObject, Livepatches
from livegraft.runtime.model import Model, ModelName, Wait, model_named
from livegraft.runtime.payload import Payload
from livegraft.runtime.state import Direction, PatchState

TIMEOUT = 60.0
"""Seconds for a transition, unless told otherwise."""

UNDO_SECONDS = 30.0
"""For how long an undo is waited for before that is given up and told."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A patch that was loaded.

    Args:
        name: its module.
        model: the consistency model.
        state: enabled; transition only if the caller wanted to leave it waiting.
        foreign: livegraft did not build it.
        transition_ms: from the kernel's "starting" to its "complete", by the log; None if the log
            does not tell or it is not complete.
        tasks_ms: the part of that until the last task had changed sides, if the log tells (see
            :data:`livegraft.runtime.kernellog.COMPLETING`).
        call_ms: the system call that loaded the module.
        wait_ms: from its return until the transition was seen to be complete.
        kicks: how often the kernel was hastened.
        objects: what is patched now.
        absent: target modules that are not loaded; they are patched when they come.
        warnings: what the user should know.
        blockers: who has not changed sides yet, if it was left waiting.
    """

    name: str
    model: str
    state: PatchState
    foreign: bool
    transition_ms: float | None
    tasks_ms: float | None
    call_ms: float
    wait_ms: float
    kicks: int
    objects: tuple[LiveObject, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]
    blockers: tuple[Blocker, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The document of ``load``."""
        return {
            "name": self.name,
            "model": self.model,
            "state": self.state.value,
            "foreign": self.foreign,
            "transition_ms": self.transition_ms,
            "tasks_ms": self.tasks_ms,
            "call_ms": round(self.call_ms, 3),
            "wait_ms": round(self.wait_ms, 3),
            "kicks": self.kicks,
            "objects": state.objects_as_json(self.objects),
            "absent": list(self.absent),
            "warnings": list(self.warnings),
            "blockers": [each.as_json() for each in self.blockers],
        }


def load(
    path: Path,
    *,
    model: str = ModelName.NATIVE,
    foreign: bool = False,
    timeout: float = TIMEOUT,
    kicks: bool = True,
    keep_waiting: bool = False,
    progress: Progress = SILENT,
) -> Loaded:
    """Load a live patch into the running kernel and wait until every task uses it.

    If that does not happen in time, or the caller is interrupted, the transition is reversed and
    the module removed: nothing stays half applied.

    Args:
        path: the module's file.
        model: the consistency model.
        foreign: accept a live patch that livegraft did not build; no build ID is compared then.
        timeout: seconds for the transition.
        kicks: hasten it; only a benchmark's control wants False.
        keep_waiting: leave a transition that is not complete in time to the kernel.
        progress: told of the steps.

    Raises:
        PatchError: not root; not a live patch; loaded already; the model is not available.
        IdentityMismatch: the patch was built for another kernel or another build of a module.
        KernelRefused: the kernel did not take it, and why.
        TransitionTimeout: undone, because tasks did not change sides in time; names them.
    """
    chosen = model_named(model, kicks=kicks)
    syscalls.require_module_capability("load a live patch")
    patches = Livepatches()
    with progress.step("check"):
        payload = Payload.read(path, foreign=foreign)
        if payload.manifest is None and chosen.name is not ModelName.NATIVE:
            raise UsageError(
                str(path), f"a foreign patch cannot use model {model}", "use --model native"
            )
        patches.require_core()
        chosen.require()
        found = identity.check(payload)
        _require_free(payload.name, patches)
    with KernelLog() as log:
        return _Attempt(chosen, payload, found, patches, log).run(timeout, keep_waiting, progress)


def last_transition(log: KernelLog, name: str, direction: Direction) -> Transition | None:
    """The last transition of a patch in a direction that the log tells of."""
    seen = [each for each in kernellog.transitions(log.read(), name) if each.direction == direction]
    return seen[-1] if seen else None


def undo(chosen: Model, name: str, patches: Livepatches) -> bool:
    """Take back whatever of a patch is in the kernel; nothing interrupts this.

    Returns:
        Whether nothing of it is left. Otherwise the kernel is still at it.
    """
    with undisturbed():
        if patches.get(name) is not None:
            chosen.turn_off(name, UNDO_SECONDS)
            if not chosen.wait(name, UNDO_SECONDS).gone and not forgotten(name, patches):
                return False
        chosen.remove(name)
        return True


def forgotten(name: str, patches: Livepatches) -> bool:
    """The core forgets a patch in a work item, shortly after the transition."""
    end = time.monotonic() + 1
    while (patch := patches.get(name)) is not None:
        if patch.transition or patch.enabled or time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def _require_free(name: str, patches: Livepatches) -> None:
    patch = patches.get(name)
    if patch is not None:
        state = "its transition is under way" if patch.transition else "it is enabled"
        raise PatchError(
            name, f"is loaded already: {state}", f"nothing to do, or: livegraft unload {name}"
        )
    if patches.is_loaded(name):
        kind = "disabled live patch" if patches.is_livepatch_module(name) else "kernel module"
        raise PatchError(
            name,
            f"a {kind} of this name is loaded already",
            f"remove it first: {'livegraft unload' if 'live' in kind else 'modprobe -r'} {name}",
        )
    other = patches.under_way()
    if other is not None:
        raise PatchError(
            name,
            f"cannot be loaded while the transition of '{other}' is under way",
            f"wait for it (livegraft wait {other}) or undo it (livegraft unload {other})",
        )


@dataclass(slots=True)
class _Attempt:
    """One load. ``ours``: what the kernel has of this name is from here, and not yet decided."""

    chosen: Model
    payload: Payload
    found: identity.Identity
    patches: Livepatches
    log: KernelLog
    ours: bool = False

    def run(self, timeout: float, keep_waiting: bool, progress: Progress) -> Loaded:
        """All or nothing: whatever ends this without an answer is undone, then told."""
        name = self.payload.name
        try:
            with progress.step("load"):
                began = time.monotonic()
                with held_back():
                    self.chosen.insert(self.payload)
                    self.ours = True
                call_ms = (time.monotonic() - began) * 1000
            with progress.step("transition"):
                waited = self.chosen.wait(name, timeout)
            with undisturbed():
                if waited.finished or keep_waiting:
                    return self._in_effect(call_ms, waited)
                raise self._undone_for_time(timeout)
        except BaseException as error:
            # Not ours: the kernel has cleaned up itself; what has this name is somebody else's.
            if self.ours:
                with undisturbed():
                    undone = undo(self.chosen, name, self.patches)
                    if isinstance(error, KeyboardInterrupt):
                        how = "and undone" if undone else "but the kernel is still undoing it"
                        progress.note(f"{name}: interrupted, {how}")
            raise

    def _in_effect(self, call_ms: float, waited: Wait) -> Loaded:
        name = self.payload.name
        patch = self.patches.get(name)
        if patch is None or not patch.enabled:
            self.ours = False
            undo(self.chosen, name, self.patches)
            raise PatchError(
                name, "somebody else has undone it while it was loading", "load it again"
            )
        spent = last_transition(self.log, name, Direction.PATCHING)
        return Loaded(
            name=name,
            model=self.chosen.name,
            state=PatchState.ENABLED if waited.finished else PatchState.TRANSITION,
            foreign=self.payload.manifest is None,
            transition_ms=spent.milliseconds if spent else None,
            tasks_ms=spent.tasks_milliseconds if spent else None,
            call_ms=call_ms,
            wait_ms=waited.seconds * 1000,
            kicks=waited.kicks,
            objects=patch.objects,
            absent=self.found.absent,
            warnings=(*self.found.warnings, *self._cautions()),
            blockers=() if waited.finished else tuple(state.evidence(name, self.patches)),
        )

    def _cautions(self) -> tuple[str, ...]:
        modules = self.payload.relocated_modules
        return () if not modules or returning.can_return() else returning.cautions(modules)

    def _undone_for_time(self, timeout: float) -> TransitionTimeout:
        name = self.payload.name
        who = state.evidence(name, self.patches)
        self.ours = False
        undone = undo(self.chosen, name, self.patches)
        if undone:
            outcome = "undone, nothing was changed"
            remedy = (
                "end or wake what blocks it, allow more time (--timeout), or use --keep-waiting"
            )
        else:
            outcome = "the kernel is still undoing it"
            remedy = f"livegraft wait {name}, then livegraft unload {name}"
        return state.timeout_error(name, timeout, who, outcome, remedy)
