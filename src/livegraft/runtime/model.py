# SPDX-License-Identifier: GPL-2.0-or-later
"""The second seam: all that the runtime knows of a consistency model.

A model decides when a task changes from the old code to the new one. Whoever adds one writes a
class in a file of its own, and names it in :func:`model_named`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from livegraft.runtime.payload import Payload


class ModelName(StrEnum):
    """The consistency models, as the payload's parameter ``model`` names them."""

    NATIVE = "native"
    HYBRID = "hybrid"
    STOP = "stop"
    TASK = "task"


_LEFT = "a task changes when it has left the patched functions; one thread at a time"

GUARANTEES = {
    ModelName.NATIVE: _LEFT,
    ModelName.HYBRID: _LEFT,
    ModelName.STOP: "the whole machine changes at once, when no stack is inside them",
    ModelName.TASK: "a thread changes when it leaves the kernel",
}
"""When a task may change sides, and what changes at once."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How a wait for a transition ended.

    Args:
        finished: the transition is complete, in whichever direction.
        gone: the patch is no longer applied.
        kicks: how often the change of sides was hastened.
        seconds: how long was waited.
    """

    finished: bool
    gone: bool
    kicks: int
    seconds: float


class Model(ABC):
    """One way to keep the running system consistent.

    None of the methods blocks for longer than it was told to, and each may be called at any time
    again: what is done already is no error.
    """

    name: ModelName

    @abstractmethod
    def require(self) -> None:
        """Refuse before anything changes.

        Raises:
            PatchError: the model is not available; says what is missing.
        """

    @abstractmethod
    def insert(self, payload: Payload) -> None:
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
    def remove(self, name: str) -> None:
        """Take the module of an undone patch out of the kernel.

        Raises:
            KernelRefused: the kernel keeps it.
        """


def model_named(name: str, *, kicks: bool = True) -> Model:
    """The model of a name.

    Args:
        name: one of :class:`ModelName`.
        kicks: whether a transition is hastened; only a benchmark's control wants False.

    Raises:
        UsageError: there is no model of that name.
    """
    from livegraft.errors import UsageError
    from livegraft.runtime.engine import EngineModel
    from livegraft.runtime.native import NativeModel

    if name not in set(ModelName):
        raise UsageError(name, "is not a consistency model", f"use one of {', '.join(ModelName)}")
    which = ModelName(name)
    return NativeModel(kicks=kicks) if which is ModelName.NATIVE else EngineModel(which)
