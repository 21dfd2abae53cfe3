# SPDX-License-Identifier: GPL-2.0-or-later
"""The second seam: all that the runtime knows of a consistency model.

A model decides when a task changes from the old code to the new one. Whoever adds one writes a
class in a file of its own, and names it in :func:`model_named`.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from livegraft.errors import KernelRefused, PatchError, UsageError
from livegraft.runtime import syscalls
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import LivePatch, Livepatches

if TYPE_CHECKING:
    from livegraft.runtime.payload import Payload


class ModelName(StrEnum):
    """The consistency models, as the payload's parameter ``model`` names them."""

    NATIVE = "native"
    HYBRID = "hybrid"
    STOP = "stop"
    TASK = "task"


class Guarantee(NamedTuple):
    """What a model promises; docs/design.md has the same table.

    Args:
        when: when a task may change sides: when it has left this.
        at_once: what changes at once.
        mixed: who can see both versions.
    """

    when: str
    at_once: str
    mixed: str

    def __str__(self) -> str:
        return f"a task changes when it has left {self.when}; {self.at_once} at once"


_SLEPT = "an unpatched caller that slept between two of them"
_TALK = "two threads that talk"
_LEFT = Guarantee("the patched functions", "one thread", f"{_SLEPT}; {_TALK}")

GUARANTEES: Mapping[str, Guarantee] = {
    ModelName.NATIVE: _LEFT._replace(mixed=f"{_LEFT.mixed}; a task that slept in a cold part"),
    ModelName.HYBRID: _LEFT,
    ModelName.STOP: Guarantee("the patched functions", "the whole machine", _SLEPT),
    ModelName.TASK: Guarantee("the kernel", "one thread", f"{_TALK}; kernel threads"),
}
"""When a task may change sides, and what changes at once."""


class Phase(StrEnum):
    """Where a patch is in its life; the engine's words, and the same for the kernel's core."""

    APPLYING = "applying"
    APPLIED = "applied"
    UNDOING = "undoing"
    UNDONE = "undone"
    """No task uses it, but the kernel has not forgotten it yet: its module may not go."""
    FORGOTTEN = "forgotten"


def phase_of(patch: LivePatch) -> Phase:
    """The phase of a patch, as far as what both cores show of it tells."""
    if patch.transition:
        return Phase.APPLYING if patch.enabled else Phase.UNDOING
    return Phase.APPLIED if patch.enabled else Phase.UNDONE


class Options(NamedTuple):
    """What a patch is loaded with.

    Args:
        replace: undo every older patch in the same change.
        direct: redirect by a direct call, where the model can choose.
    """

    replace: bool = False
    direct: bool = True


class Detail(NamedTuple):
    """How far a patch is, as its model tells.

    Args:
        phase: where it is in its life.
        moved: tasks that have changed sides in the change under way; None if that cannot be told.
        left: tasks that have not.
        blockers: those, or the first of them.
        forced: a change was forced.
        direct: it redirects by direct calls; None where there is no choice.
        counts: sleepers that were ``signalled``, and of these those whose system call user space
            saw ``interrupted`` and those that the kernel ``restarted``; empty if not counted.
        times: milliseconds of the parts of the last change; empty if not measured.
    """

    phase: Phase
    moved: int | None
    left: int | None
    blockers: tuple[Blocker, ...]
    forced: bool
    direct: bool | None
    counts: Mapping[str, int]
    times: Mapping[str, float]

    @property
    def tasks_ms(self) -> float | None:
        """From the redirection's being in place until the last task had changed sides; None before
        that, or if it was not measured."""
        under_way = self.phase in (Phase.APPLYING, Phase.UNDOING)
        return None if under_way else self.times.get("move_ms")

    @property
    def transition_ms(self) -> float | None:
        """The redirection too."""
        return None if self.tasks_ms is None else self.times["redirect_ms"] + self.tasks_ms


def detail_as_json(detail: Detail | None) -> dict[str, object]:
    """What the documents of ``load``, ``status`` and ``wait`` tell alike; a disabled patch has no
    detail."""
    return {
        "forced": detail is not None and detail.forced,
        "direct": detail.direct if detail else None,
        "signals": dict(detail.counts) if detail and detail.counts else None,
        "times": dict(detail.times) if detail and detail.times else None,
    }


class Wait(NamedTuple):
    """How a wait for a transition ended.

    Args:
        finished: the transition is complete, in whichever direction.
        gone: the patch is no longer applied.
        kicks: how often the change of sides was hastened.
        seconds: how long was waited.
        times: as those of :class:`Detail`, if the model tells them when the transition ends: an
            undone patch may be forgotten, and they with it, before they are asked for.
        signalled: tasks in the way were signalled.
        forced: what was in the way was forced to change sides.
    """

    finished: bool
    gone: bool
    kicks: int
    seconds: float
    times: Mapping[str, float] = MappingProxyType({})
    signalled: bool = False
    forced: bool = False


class Model(ABC):
    """One way to keep the running system consistent.

    None of the methods blocks for longer than it was told to, and each may be called at any time
    again: what is done already is no error.
    """

    name: ModelName
    patches: Livepatches

    FORGETTING: ClassVar[float] = 1.0
    """Seconds within which a patch is forgotten once no task uses it."""

    @abstractmethod
    def require(self) -> None:
        """Refuse before anything changes.

        Raises:
            PatchError: the model is not available; says what is missing.
        """

    @abstractmethod
    def accept(self, payload: Payload, options: Options) -> None:
        """Refuse what this model cannot do, before anything changes.

        Raises:
            PatchError: an option, or a payload of this kind, is not for this model.
        """

    @abstractmethod
    def insert(self, payload: Payload, options: Options) -> None:
        """Bring the payload into the kernel; the change of tasks begins.

        Raises:
            KernelRefused: the kernel did not take it, and nothing has changed.
        """

    @abstractmethod
    def wait(self, name: str, seconds: float) -> Wait:
        """Wait until no task is changing sides, hastening it as the model can.

        Args:
            name: the patch.
            seconds: for how long at most.
        """

    @abstractmethod
    def turn_off(self, name: str, seconds: float) -> None:
        """Begin to undo a patch; while it is being applied this reverses it.

        Args:
            name: the patch.
            seconds: for how long to wait for another patch's transition.

        Raises:
            PatchError: it cannot be undone now.
        """

    @abstractmethod
    def turn_on_again(self, name: str) -> bool:
        """Reverse an undo that is under way; False if it is too late for that."""

    @abstractmethod
    def signal(self, name: str) -> None:
        """Wake what sleeps in the way, by a signal that no task sees as one.

        Raises:
            PatchError: the model cannot be made to do that.
        """

    @abstractmethod
    def force(self, name: str) -> None:
        """Let what is in the way change sides at once, consistent or not.

        Raises:
            PatchError: the kernel does not do it.
        """

    @abstractmethod
    def was_forced(self, name: str) -> bool:
        """Whether a transition of a patch was forced: its module stays then."""

    @abstractmethod
    def detail(self, patch: LivePatch) -> Detail:
        """How far a patch is."""

    def forget(self, name: str, seconds: float | None = None) -> bool:
        """Wait until nothing in the kernel refers to an undone patch, so that its module may go.

        Args:
            name: the patch.
            seconds: for how long at most; :data:`FORGETTING` by default.

        Returns:
            False if that did not happen in time, or it is not undone any more.
        """
        end = time.monotonic() + (self.FORGETTING if seconds is None else seconds)
        pause = 0.001
        while (patch := self.patches.get(name)) is not None:
            if patch.transition or patch.enabled or time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return True

    def remove(self, name: str) -> None:
        """Take the module of an undone patch out of the kernel.

        Raises:
            KernelRefused: the kernel keeps it.
            PatchError: a task is still in its code.
        """
        if not self.patches.is_loaded(name):
            return
        with KernelLog() as log:
            try:
                syscalls.delete_module(name, log=log)
            except KernelRefused as error:
                # Who reverses a load that is under way races with it for removing the module.
                if error.errno_name != "ENOENT":
                    raise


def set_enabled(patches: Livepatches, name: str, write: Callable[[], int], seconds: float) -> None:
    """Begin to undo a patch, waiting for the transition of another one.

    Args:
        patches: the core that it is in.
        name: the patch.
        write: gives the order; 0 or the error number.
        seconds: for how long to wait.

    Raises:
        PatchError: it cannot be undone now.
    """
    end = time.monotonic() + seconds
    while True:
        match write():
            case 0 | errno.EINVAL | errno.ENOENT | errno.ENODEV:
                return  # off, on its way, or off already
            case errno.EBUSY if time.monotonic() < end:
                time.sleep(0.05)
            case errno.EBUSY:
                other = patches.under_way() or "another patch"
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


def give_order(patches: Livepatches, name: str, file: str, refusal: str) -> None:
    """Write ``1`` to a file of a patch that acts on the transition under way.

    Args:
        patches: the core that it is in.
        name: the patch.
        file: which.
        refusal: what is told if the core does not do it.

    Raises:
        PatchError: it does not.
    """
    code = patches.write(f"{name}/{file}", "1")
    # EINVAL: no transition of its own is under way any more, so there is nothing to be done.
    if code not in (0, errno.EINVAL, errno.ENOENT, errno.ENODEV):
        raise PatchError(name, f"{refusal} [{errno.errorcode.get(code, code)}]", "run as root")


def model_named(name: str, *, kicks: bool = True, patches: Livepatches | None = None) -> Model:
    """The model of a name.

    Args:
        name: one of :class:`ModelName`.
        kicks: whether a transition is hastened; only a benchmark's control wants False.
        patches: the sysfs view, of whichever core.

    Raises:
        UsageError: there is no model of that name.
    """
    if name not in set(ModelName):
        raise UsageError(name, "is not a consistency model", f"use one of {', '.join(ModelName)}")
    which = ModelName(name)
    kernel, engine = (patches or Livepatches()).both
    if which is ModelName.NATIVE:
        from livegraft.runtime.native import NativeModel

        return NativeModel(kicks=kicks, patches=kernel)
    from livegraft.runtime.engine import EngineModel

    return EngineModel(which, engine)


def model_of(name: str, *, kicks: bool = True, patches: Livepatches | None = None) -> Model:
    """The model of a loaded patch: the kernel's core or the engine has it, or had it.

    Args:
        name: the patch.
        kicks: as for :func:`model_named`.
        patches: the sysfs view, of whichever core.
    """
    core = (patches or Livepatches()).of(name)
    told = core.attribute(name, "model") or core.parameter(name, "model")
    known = told if told in set(ModelName) else ModelName.NATIVE
    return model_named(known, kicks=kicks, patches=core)
