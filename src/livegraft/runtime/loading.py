# SPDX-License-Identifier: GPL-2.0-or-later
"""Load a live patch: completely, or not at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError, TransitionTimeout
from livegraft.progress import SILENT, Progress
from livegraft.runtime import (
    cold,
    identity,
    kernellog,
    known,
    lock,
    records,
    redirections,
    returning,
    settings,
    state,
    syscalls,
    trusting,
)
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.interruption import held_back, undisturbed
from livegraft.runtime.kernellog import KernelLog, Transition
from livegraft.runtime.livepatch import LiveObject, Livepatches
from livegraft.runtime.model import (
    Detail,
    Model,
    ModelName,
    Options,
    Wait,
    detail_as_json,
    model_named,
)
from livegraft.runtime.payload import Payload
from livegraft.runtime.records import Operation
from livegraft.runtime.stall import TIMEOUT, OnStall, chosen, wait_out
from livegraft.runtime.state import Direction, PatchState
from livegraft.runtime.urgency import urgently
from livegraft.trust.verification import Signer

UNDO_SECONDS = 30.0
"""For how long an undo is waited for before that is given up and told."""


class Loaded(NamedTuple):
    """A patch that was loaded.

    Args:
        name: its module.
        model: the consistency model.
        state: enabled; transition only if the caller wanted to leave it waiting.
        foreign: livegraft did not build it.
        signers: who has signed it.
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
        detail: how far it is, as its model tells.
        signalled: tasks in the way were signalled.
        cold: what was seen of tasks in code that the kernel's core does not look at; None for other
            models, and for foreign patches.
        replaced: older patches that it has undone, or undoes in a transition that goes on.
    """

    name: str
    model: str
    state: PatchState
    foreign: bool
    signers: tuple[Signer, ...]
    transition_ms: float | None
    tasks_ms: float | None
    call_ms: float
    wait_ms: float
    kicks: int
    objects: tuple[LiveObject, ...]
    absent: tuple[str, ...]
    warnings: tuple[str, ...]
    blockers: tuple[Blocker, ...]
    detail: Detail
    signalled: bool
    cold: cold.Looks | None
    replaced: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The document of ``load``."""
        return {
            "name": self.name,
            "model": self.model,
            "state": self.state.value,
            "foreign": self.foreign,
            "signers": [each.as_json() for each in self.signers],
            "transition_ms": self.transition_ms,
            "tasks_ms": self.tasks_ms,
            "call_ms": round(self.call_ms, 3),
            "wait_ms": round(self.wait_ms, 3),
            "kicks": self.kicks,
            "objects": state.objects_as_json(self.objects),
            "absent": list(self.absent),
            "warnings": list(self.warnings),
            "blockers": [each.as_json() for each in self.blockers],
            "signalled": self.signalled,
            **detail_as_json(self.detail),
            "cold": self.cold.as_json() if self.cold else None,
            "replaced": list(self.replaced),
        }


def load(
    path: Path,
    *,
    model: str = ModelName.NATIVE,
    foreign: bool = False,
    timeout: float = TIMEOUT,
    on_stall: str = OnStall.UNDO,
    force_anyway: bool = False,
    replace: bool = False,
    direct: bool = True,
    kicks: bool = True,
    progress: Progress = SILENT,
) -> Loaded:
    """Load a live patch into the running kernel and wait until every task uses it.

    If that does not happen in time, or the caller is interrupted, the transition is reversed and
    the module removed: nothing stays half applied. Other ways to deal with a stall have to be asked
    for.

    Args:
        path: the module's file.
        model: the consistency model.
        foreign: accept a live patch that livegraft did not build; no build ID is compared then.
        timeout: seconds for the transition.
        on_stall: what to do when they are over, one of :class:`~livegraft.runtime.stall.OnStall`.
        force_anyway: what ``force`` has to be said with: it can crash the kernel.
        replace: undo every older patch of the same core in the same change: the engine, or the
            kernel's own.
        direct: redirect by direct calls (models of the engine); an ordinary ftrace handler is
            slower, and can share a function with BPF programs.
        kicks: hasten it; only a benchmark's control wants False.
        progress: told of the steps.

    Raises:
        UsageError: the arguments do not fit together.
        PatchError: not root; not a live patch; loaded already; the model is not available; another
            user of ftrace has one of its functions; a setting of the machine keeps it out.
        Untrusted: it was changed since it was signed, or the signatures are not enough here.
        IdentityMismatch: the patch was built for another kernel or another build of a module.
        KernelRefused: the kernel did not take it, and why.
        TransitionTimeout: undone, because tasks did not change sides in time; names them.
    """
    way = chosen(on_stall, force_anyway)
    options = Options(replace, direct)
    the_model = model_named(model, kicks=kicks)
    syscalls.require_module_capability("load a live patch")
    patches = the_model.patches
    with records.left(Operation.LOAD, the_model.name, patches.root) as record:
        record.path = path
        with progress.step("check"):
            record.payload = payload = Payload.read(path, foreign=foreign)
            record.known = known.told_by(payload)
            trust = trusting.check(payload.path, payload.data, patches.root)
            record.known = record.known._replace(signers=tuple(map(str, trust.signers)))
            the_model.accept(payload, options)
            patches.both[0].require_core()
            the_model.require()
            found = identity.check(payload)
        with urgently(), KernelLog() as log:
            attempt = _Attempt(the_model, payload, trust, found, patches, log, options)
            try:
                done = attempt.run(timeout, way, progress)
            finally:
                record.replaced = attempt.replaced()
                record.after_stall = tuple(attempt.after_stall)
        with undisturbed():  # it is loaded now, and stays
            record.state = done.state
            known.keep(payload.name, record.known, patches.root)
        return done


def last_transition(log: KernelLog, name: str, direction: Direction) -> Transition | None:
    """The last transition of a patch in a direction that the log tells of."""
    seen = [each for each in kernellog.transitions(log.read(), name) if each.direction == direction]
    return seen[-1] if seen else None


def undo(the_model: Model, name: str) -> bool:
    """Take back whatever of a patch is in the kernel; nothing interrupts this.

    Returns:
        Whether nothing of it is left. Otherwise the kernel is still at it.
    """
    with undisturbed():
        if the_model.patches.get(name) is not None:
            the_model.turn_off(name, UNDO_SECONDS)
            waited = the_model.wait(name, UNDO_SECONDS)
            if not waited.gone and not the_model.forget(name):
                return False
        the_model.remove(name)
        return True


def _require_free(name: str, patches: Livepatches) -> None:
    patch = patches.of(name).get(name)
    if patch is not None:
        state = "in transition" if patch.transition else "enabled"
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
    for core in patches.both:
        other = core.under_way()
        if other is not None:
            raise PatchError(
                name,
                f"cannot be loaded while the transition of '{other}' is under way",
                f"wait for it (livegraft wait {other}) or undo it (livegraft unload {other})",
            )


class _Attempt:
    """One load. ``ours``: what the kernel has of this name is from here, and not yet decided.
    ``older``: the patches in force that it is to replace, the newest first."""

    def __init__(
        self,
        chosen: Model,
        payload: Payload,
        trust: trusting.Trust,
        found: identity.Identity,
        patches: Livepatches,
        log: KernelLog,
        options: Options,
    ) -> None:
        self.chosen = chosen
        self.payload = payload
        self.trust = trust
        self.found = found
        self.patches = patches
        self.log = log
        self.options = options
        self.ours = False
        self.older: tuple[str, ...] = ()
        self.after_stall: list[OnStall] = []
        self.cautions: tuple[str, ...] = ()
        self.cold: cold.Looks | None = None

    def run(self, timeout: float, on_stall: OnStall, progress: Progress) -> Loaded:
        """All or nothing: whatever ends this without an answer is undone, then told."""
        name = self.payload.name
        try:
            with lock.alone(name, timeout):
                self._look_around(timeout, on_stall, progress)
                with progress.step("load"):
                    began = time.monotonic()
                    with held_back():
                        self.chosen.insert(self.payload, self.options)
                        self.ours = True
                    call_ms = (time.monotonic() - began) * 1000
            with progress.step("transition"):
                waited = wait_out(self.chosen, name, timeout, on_stall, progress, self.after_stall)
            with undisturbed():
                if waited.finished or on_stall is OnStall.WAIT:
                    return self._in_effect(call_ms, waited)
                raise self._undone_for_time(waited.seconds)
        except BaseException as error:
            # Not ours: the kernel has cleaned up itself; what has this name is somebody else's.
            if self.ours:
                with undisturbed():
                    undone = undo(self.chosen, name)
                    if isinstance(error, KeyboardInterrupt):
                        how = "and undone" if undone else "but the kernel is still undoing it"
                        if undone and (gone := ", ".join(self.replaced())):
                            how += f"; it had replaced {gone} already, which is off now"
                        progress.note(f"{name}: interrupted, {how}")
            raise

    def replaced(self) -> tuple[str, ...]:
        """The older patches that are not in force any more, or will not be when the transition
        that was left to the kernel ends. An undo that came too late does not bring them back."""
        own = self.patches.get(self.payload.name) if self.older else None
        waiting = own is not None and own.enabled and own.transition
        return tuple(each for each in self.older if waiting or not self.patches.in_force(each))

    def _look_around(self, timeout: float, on_stall: OnStall, progress: Progress) -> None:
        """What has to be so at the moment when the kernel is asked."""
        name, root = self.payload.name, self.patches.root
        _require_free(name, self.patches)
        settings.check(name, self.payload.data, root)
        functions = self.payload.functions
        self.cautions = redirections.check(
            name, functions, self.chosen.name, self.options.direct, self.patches
        )
        if self.options.replace:
            self.older = self._in_force()
        if self.chosen.name is not ModelName.NATIVE or not functions:
            return
        with progress.step("cold"):
            code = cold.parts_of(self.payload, self._in_force(), self.patches)
            self.cold, left = cold.wait_until_left(code, timeout, root)
        if not left and on_stall is not OnStall.FORCE:
            who = cold.who(code, root)
            raise state.timeout_error(
                name,
                timeout,
                who,
                "the kernel's core does not look at that part of a function; it was not loaded",
                "end or wake what is inside, allow more time (--timeout), or use --model hybrid",
            )

    def _in_force(self) -> tuple[str, ...]:
        """The patches of this core, the newest first."""
        return tuple(filter(self.patches.in_force, self.patches.names()))

    def _in_effect(self, call_ms: float, waited: Wait) -> Loaded:
        name = self.payload.name
        patch = self.patches.get(name)
        if patch is None or not patch.enabled:
            self.ours = False
            undo(self.chosen, name)
            raise PatchError(
                name, "somebody else has undone it while it was loading", "load it again"
            )
        detail = self.chosen.detail(patch)
        spent = last_transition(self.log, name, Direction.PATCHING)
        looks = self.cold.again(self.patches.root) if self.cold and waited.finished else self.cold
        replaced = self.replaced()
        return Loaded(
            name=name,
            model=self.chosen.name,
            state=PatchState.ENABLED if waited.finished else PatchState.TRANSITION,
            foreign=self.payload.manifest is None,
            signers=self.trust.signers,
            transition_ms=spent.milliseconds if spent else detail.transition_ms,
            tasks_ms=spent.tasks_milliseconds if spent else detail.tasks_ms,
            call_ms=call_ms,
            wait_ms=waited.seconds * 1000,
            kicks=waited.kicks,
            objects=patch.objects,
            absent=self.found.absent,
            warnings=(
                *self.trust.warnings,
                *self.found.warnings,
                *self.cautions,
                *self._returning(),
                *(
                    f"it replaces {each}, which livegraft did not build"
                    for each in replaced
                    if self.patches.mark(each) is None
                ),
                *(looks.warnings if looks else ()),
                *(state.FORCED,) * detail.forced,
            ),
            blockers=() if waited.finished else detail.blockers,
            detail=detail,
            signalled=waited.signalled,
            cold=looks,
            replaced=replaced,
        )

    def _returning(self) -> tuple[str, ...]:
        modules = self.payload.relocated_modules
        if self.chosen.name is not ModelName.NATIVE or not modules or returning.can_return():
            return ()
        return returning.cautions(modules)

    def _undone_for_time(self, seconds: float) -> TransitionTimeout:
        name = self.payload.name
        who = state.evidence(name, self.chosen)
        self.ours = False
        undone = undo(self.chosen, name)
        if undone and (gone := ", ".join(self.replaced())):
            outcome = f"undone, but too late: it had replaced {gone} already"
            remedy = f"load {gone} again, after livegraft unload {gone}"
        elif undone:
            outcome = "undone, nothing was changed"
            remedy = (
                "end or wake what blocks it, allow more time (--timeout), or use another --on-stall"
            )
        else:
            outcome = "the kernel is still undoing it"
            remedy = f"livegraft wait {name}, then livegraft unload {name}"
        return state.timeout_error(name, seconds, who, outcome, remedy)
