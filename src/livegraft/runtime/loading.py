# SPDX-License-Identifier: GPL-2.0-or-later
"""Load a live patch: completely, or not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import KernelRefused, PatchError, TransitionTimeout, UsageError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import identity, kernellog, state, syscalls
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.interruption import undisturbed
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
        call_ms, waited = _apply(chosen, payload, timeout, patches, progress)
        if not waited.finished and not keep_waiting:
            raise _undone_for_time(chosen, payload.name, timeout, patches)
        patch = patches.get(payload.name)
        if patch is None or not patch.enabled:
            undo(chosen, payload.name, patches)
            raise PatchError(
                payload.name, "somebody else has undone it while it was loading", "load it again"
            )
        spent = last_transition(log, payload.name, Direction.PATCHING)
        return Loaded(
            name=payload.name,
            model=chosen.name,
            state=PatchState.ENABLED if waited.finished else PatchState.TRANSITION,
            foreign=payload.manifest is None,
            transition_ms=spent.milliseconds if spent else None,
            tasks_ms=spent.tasks_milliseconds if spent else None,
            call_ms=call_ms,
            wait_ms=waited.seconds * 1000,
            kicks=waited.kicks,
            objects=patch.objects,
            absent=found.absent,
            warnings=(*found.warnings, *_reload_limit(payload)),
            blockers=() if waited.finished else tuple(state.current_blockers(patch)),
        )


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
            if not chosen.wait(name, UNDO_SECONDS).gone and not _forgotten(name, patches):
                return False
        chosen.remove(name)
        return True


def _forgotten(name: str, patches: Livepatches) -> bool:
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


def _apply(
    chosen: Model, payload: Payload, timeout: float, patches: Livepatches, progress: Progress
) -> tuple[float, Wait]:
    try:
        with progress.step("load"):
            began = time.monotonic()
            chosen.insert(payload)
            call_ms = (time.monotonic() - began) * 1000
        with progress.step("transition"):
            return call_ms, chosen.wait(payload.name, timeout)
    except KernelRefused:
        raise  # the kernel has cleaned up itself; what has this name now is somebody else's
    except BaseException:
        progress.note(f"{payload.name}: interrupted, undoing it")
        undo(chosen, payload.name, patches)
        raise


def _undone_for_time(
    chosen: Model, name: str, timeout: float, patches: Livepatches
) -> TransitionTimeout:
    patch = patches.get(name)
    who = state.current_blockers(patch) if patch else []
    if undo(chosen, name, patches):
        return state.timeout_error(
            name,
            timeout,
            who,
            "undone, nothing was changed",
            "end or wake what blocks it, allow more time (--timeout), or use --keep-waiting",
        )
    return state.timeout_error(
        name,
        timeout,
        who,
        "the kernel is still undoing it",
        f"livegraft wait {name}, then livegraft unload {name}",
    )


def _reload_limit(payload: Payload) -> list[str]:
    """Kernels that cannot apply a module's livepatch relocations twice: tell before it bites.

    ``clear_relocate_add`` (commit "livepatch: Clear relocation targets on a module removal") zeroes
    the places when the target goes; 6.1 lacks it.
    """
    if not payload.relocated_modules:
        return []
    try:
        with Path("/proc/kallsyms").open("rb") as symbols:
            if b" clear_relocate_add\n" in symbols.read():
                return []
    except OSError:
        pass  # unknown: say it, it is no more than a caution
    return [
        f"while this patch is loaded, module {name} can be unloaded but not loaded again on this "
        f"kernel: unload the patch first, and load it again afterwards"
        for name in payload.relocated_modules
    ]
