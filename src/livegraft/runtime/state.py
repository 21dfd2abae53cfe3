# SPDX-License-Identifier: GPL-2.0-or-later
"""What is loaded, in which state, since when, and who blocks a transition."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from livegraft.errors import PatchError, TransitionTimeout
from livegraft.progress import SILENT, Progress
from livegraft.runtime import kernellog, redirections, returning, settings
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.kernellog import KernelLog, Record, Transition
from livegraft.runtime.livepatch import LiveObject, LivePatch, Livepatches
from livegraft.runtime.model import Detail, Model, ModelName, detail_as_json, model_of
from livegraft.runtime.native import LATER_PAUSES, NativeModel
from livegraft.runtime.redirections import Kind, Redirection

FORCED = "a transition was forced: its module can never be removed"
"""A caution."""


class PatchState(StrEnum):
    """The state of a patch on the running kernel."""

    ENABLED = "enabled"
    TRANSITION = "transition"
    DISABLED = "disabled"
    """Undone, its module still loaded. It cannot be enabled again, only unloaded."""
    UNLOADED = "unloaded"


def state_of(patch: LivePatch) -> PatchState:
    """The state of a patch that its core knows."""
    if patch.transition:
        return PatchState.TRANSITION
    # Not enabled and not in transition: the core is about to forget it.
    return PatchState.ENABLED if patch.enabled else PatchState.DISABLED


class Direction(StrEnum):
    """Where a transition goes; the kernel's log uses the same words."""

    PATCHING = "patching"
    UNPATCHING = "unpatching"


class Status(NamedTuple):
    """A loaded live patch.

    Args:
        name: its module.
        state: see :class:`PatchState`.
        direction: of the transition under way, or None.
        objects: what it patches; empty when disabled, for the core has forgotten it then.
        model: the consistency model.
        foreign: livegraft did not build it.
        fix_sha256: SHA-256 of the fix, "" if foreign.
        since: seconds since the epoch at which it came into this state, as the engine or the
            kernel's log of its own core tells, or else at which livegraft loaded it; None if
            nobody knows.
        stack_order: 1 for the first loaded, None on kernels that do not tell.
        blockers: while in transition, the tasks that have not changed sides (root only).
        warnings: what the user should know as long as it is loaded.
        detail: how far it is; None if disabled.
        redirections: what else redirects its functions, as far as tracefs can be read.
        cves: CVE ids of what it fixes.
    """

    name: str
    state: PatchState
    direction: Direction | None
    objects: tuple[LiveObject, ...]
    model: str
    foreign: bool
    fix_sha256: str
    since: float | None
    stack_order: int | None
    blockers: tuple[Blocker, ...]
    warnings: tuple[str, ...] = ()
    detail: Detail | None = None
    redirections: tuple[Redirection, ...] = ()
    cves: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The patch as it stands in the documents of ``status`` and ``wait``."""
        detail = self.detail
        return {
            "name": self.name,
            "state": self.state.value,
            "direction": self.direction.value if self.direction else None,
            "objects": objects_as_json(self.objects),
            "model": self.model,
            "foreign": self.foreign,
            "fix_sha256": self.fix_sha256 or None,
            "cves": list(self.cves),
            "since": None if self.since is None else _iso(self.since),
            "stack_order": self.stack_order,
            "blockers": [each.as_json() for each in self.blockers],
            "warnings": list(self.warnings),
            "phase": detail.phase.value if detail else None,
            "moved": detail.moved if detail else None,
            "left": detail.left if detail else None,
            **detail_as_json(detail),
            "redirections": [each.as_json() for each in self.redirections],
        }


def objects_as_json(objects: Sequence[LiveObject]) -> list[dict[str, object]]:
    """Objects as they stand in documents."""
    return [
        {
            "name": each.name,
            "patched": each.patched,
            "functions": [{"name": name, "sympos": sympos} for name, sympos in each.functions],
        }
        for each in objects
    ]


def status(name: str | None = None, *, patches: Livepatches | None = None) -> list[Status]:
    """The live patches of this machine, the newest first.

    Args:
        name: only this one.
        patches: the sysfs view.

    Raises:
        PatchError: no live patch of that name is loaded, or this kernel has no livepatch core.
    """
    patches = patches or Livepatches()
    patches.require_core()
    names = patches.names()
    if name is not None:
        require_livepatch(name, patches)
        names = [name]
    with KernelLog(from_start=True) as log:
        records = log.read() if names else []
    return [_status(each, patches, records) for each in names]


def require_livepatch(name: str, patches: Livepatches) -> None:
    """Refuse a name that is not that of a loaded live patch.

    Raises:
        PatchError: it is not loaded, or a module of another kind.
    """
    if "/" in name or not patches.is_loaded(name):
        raise PatchError(name, "no such live patch is loaded", "'livegraft status' lists them")
    if patches.of(name).get(name) is None and not patches.is_livepatch_module(name):
        raise PatchError(
            name, "is a kernel module but not a live patch", "'livegraft status' lists live patches"
        )


def wait(
    name: str,
    timeout: float = 60.0,
    *,
    kicks: bool = True,
    patches: Livepatches | None = None,
    progress: Progress = SILENT,
) -> Status:
    """Wait until a patch's transition is complete; it is neither reversed nor forced.

    Args:
        name: the patch.
        timeout: seconds.
        kicks: hasten it (root only).
        patches: the sysfs view.
        progress: told of the wait.

    Raises:
        PatchError: no live patch of that name is loaded.
        TransitionTimeout: it was not complete in time; names who blocks it.
    """
    patches = patches or Livepatches()
    patches.require_core()
    require_livepatch(name, patches)
    chosen = model_of(name, kicks=kicks, patches=patches)
    if isinstance(chosen, NativeModel):
        chosen.pauses = LATER_PAUSES  # who began the transition has kicked already
    with progress.step("transition"):
        waited = chosen.wait(name, timeout)
    if not waited.finished:
        who = evidence(name, chosen)
        raise timeout_error(name, timeout, who, "it goes on", f"wait again: livegraft wait {name}")
    if not patches.is_loaded(name):
        return Status(name, PatchState.UNLOADED, None, (), chosen.name, False, "", None, None, ())
    return status(name, patches=patches)[0]


def evidence(name: str, chosen: Model) -> tuple[Blocker, ...]:
    """Who has not changed sides, at a moment when an undo waits for it: it never fails."""
    try:
        patch = chosen.patches.get(name)
        return chosen.detail(patch).blockers if patch else ()
    except Exception:
        return ()


def timeout_error(
    name: str, seconds: float, who: Sequence[Blocker], outcome: str, remedy: str
) -> TransitionTimeout:
    """The error for a transition that is not complete in time.

    Args:
        name: the patch.
        seconds: for how long it was waited for.
        who: what blocked it.
        outcome: what happens or happened to the transition.
        remedy: what to do.
    """
    named = (
        ", ".join(str(each) for each in who[:3]) or "an idle task, or a task that has just moved"
    )
    more = f" and {len(who) - 3} more" if len(who) > 3 else ""
    return TransitionTimeout(
        name,
        f"transition not complete after {seconds:g} s, blocked by {named}{more}: {outcome}",
        remedy,
        [each.as_json() for each in who],
    )


def _status(name: str, patches: Livepatches, records: Sequence[Record]) -> Status:
    chosen = model_of(name, patches=patches)
    patch = chosen.patches.get(name)
    mark = patches.mark(name)
    result = Status(
        name=name,
        state=state_of(patch) if patch else PatchState.DISABLED,
        direction=None,
        objects=patch.objects if patch else (),
        model=patches.parameter(name, "model") or ModelName.NATIVE.value,
        foreign=mark is None,
        fix_sha256=mark.fix_sha256 if mark else "",
        cves=mark.cves if mark else (),
        since=_since(patch, chosen.patches, kernellog.transitions(records, name))
        or _loaded_at(patch, patches),
        stack_order=patch.stack_order if patch else None,
        blockers=(),
    )
    if patch is None:
        return result
    detail = chosen.detail(patch)
    result = result._replace(detail=detail, redirections=redirections.beside(patch, patches))
    result = result._replace(warnings=_cautions(result, patches))
    if not patch.transition:
        return result
    return result._replace(
        direction=Direction.PATCHING if patch.enabled else Direction.UNPATCHING,
        blockers=detail.blockers,
    )


def _cautions(status: Status, patches: Livepatches) -> tuple[str, ...]:
    """What is not as it should be, and what lies ahead."""
    found = []
    if settings.ftrace_is_off(patches.root):
        found.append(
            "ftrace is switched off: the old code runs; run 'sysctl kernel.ftrace_enabled=1'"
        )
    if settings.ftrace_has_failed(patches.root):
        found.append(f"{settings.FAILED.problem}; {settings.FAILED.remedy}")
    if status.detail and status.detail.forced:
        found.append(FORCED)
    newest_first = patches.names()
    newer = {f"the live patch {each}" for each in newest_first[: newest_first.index(status.name)]}
    own = Kind.LIVEPATCH if status.model == ModelName.NATIVE else Kind.ENGINE
    for each in status.redirections:
        if each.owner in newer:
            found.append(f"{each}, which was loaded later and is in force there")
        elif each.kind is not own:
            found.append(f"{each} as well")
    # An engine's models take a module again, the kernel's own core may not.
    modules = returning.relocated_modules(patches.sections(status.name))
    if modules and status.model == ModelName.NATIVE and not returning.can_return(patches.root):
        found += returning.cautions(modules)
    return tuple(found)


def _since(patch: LivePatch | None, core: Livepatches, seen: Sequence[Transition]) -> float | None:
    told = core.attribute(patch.name, "since") if patch else None
    if told is not None:  # the engine's
        return kernellog.wall_clock(int(told))
    if not seen:
        return None
    last = seen[-1]
    if patch is not None and patch.transition:
        return kernellog.wall_clock(last.started)
    return None if last.completed is None else kernellog.wall_clock(last.completed)


def _loaded_at(patch: LivePatch | None, patches: Livepatches) -> float | None:
    """The kernel's log keeps its last messages only, and can be cleared."""
    if patch is None or not patch.enabled:
        return None
    from livegraft.runtime import known  # seldom needed, and start-up time counts

    found = known.of(patch.name, patches.root)
    return kernellog.wall_clock(found.since) if found and found.since is not None else None


def _iso(seconds: float) -> str:
    import datetime  # seldom needed, and start-up time counts

    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds")
