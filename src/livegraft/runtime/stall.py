# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a transition that is not complete in time."""

from __future__ import annotations

from enum import StrEnum

from livegraft.errors import UsageError
from livegraft.progress import Progress
from livegraft.runtime.model import Model, Wait


class OnStall(StrEnum):
    """What to do when the time is over."""

    UNDO = "undo"
    """Reverse it: nothing stays half applied."""
    WAIT = "wait"
    """Leave it to the kernel, which goes on with it."""
    SIGNAL = "signal"
    """Signal what sleeps in the way, wait as long again, then undo."""
    FORCE = "force"
    """Let what is in the way change sides, consistent or not."""


TIMEOUT = 60.0
"""Seconds for a transition, unless told otherwise."""

FORCE_FLAG = "--i-know-that-force-can-crash-the-kernel"
"""What has to be said besides ``force``."""

FORCE_SECONDS = 30.0
"""For how long a forced transition is waited for."""


def chosen(on_stall: str, force_anyway: bool) -> OnStall:
    """What was asked for.

    Raises:
        UsageError: there is no such way, or ``force`` stands alone.
    """
    if on_stall not in set(OnStall):
        raise UsageError(
            on_stall, "is not a way to deal with a stall", f"use one of {', '.join(OnStall)}"
        )
    if on_stall == OnStall.FORCE and not force_anyway:
        raise UsageError(
            "force",
            "lets tasks run old and new code at once, which can crash the kernel, and the patch "
            "can never be removed then",
            f"use --on-stall signal, or say {FORCE_FLAG} as well",
        )
    return OnStall(on_stall)


def wait_out(
    model: Model,
    name: str,
    seconds: float,
    on_stall: OnStall,
    progress: Progress,
    done: list[OnStall],
) -> Wait:
    """Wait for a transition, and do once what was asked for if it is not complete in time.

    Args:
        model: the patch's model.
        name: the patch.
        seconds: for how long at most; as long again after a signal.
        on_stall: what to do then; undoing it is the caller's.
        progress: told of it.
        done: gets what was done, before it is.

    Returns:
        The wait, or both together.
    """
    first = model.wait(name, seconds)
    if first.finished or on_stall in (OnStall.UNDO, OnStall.WAIT):
        return first
    done.append(on_stall)
    if on_stall is OnStall.SIGNAL:
        progress.note(f"{name}: not complete after {seconds:g} s: signalling what is in its way")
        model.signal(name)
        again = model.wait(name, seconds)
    else:
        progress.note(f"{name}: not complete after {seconds:g} s: forcing it")
        model.force(name)
        again = model.wait(name, FORCE_SECONDS)
    return again._replace(
        kicks=first.kicks + again.kicks,
        seconds=first.seconds + again.seconds,
        signalled=on_stall is OnStall.SIGNAL,
        forced=on_stall is OnStall.FORCE,
    )
