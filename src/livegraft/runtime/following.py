# SPDX-License-Identifier: GPL-2.0-or-later
"""Following a live patch, and having one for as long as a block lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from livegraft.progress import SILENT, Progress
from livegraft.runtime import redirections
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.loading import Loaded, load
from livegraft.runtime.model import Model, ModelName, Phase, model_of, phase_of
from livegraft.runtime.redirections import Redirection
from livegraft.runtime.stall import TIMEOUT, OnStall
from livegraft.runtime.state import PatchState, require_livepatch, state_of
from livegraft.runtime.unloading import unload

LOOK = 0.1
"""Seconds between two looks where no event tells of a change."""

LOOK_AROUND = 1.0
"""Seconds between two looks for others: for each the kernel walks all that can be traced."""


class Event(NamedTuple):
    """A patch has changed its state, or others have come to its functions or gone.

    Args:
        name: the patch.
        at: when that was seen, seconds since the epoch.
        state: its state from then on.
        phase: the same in finer steps; None if it is disabled or gone.
        moved: tasks that have changed sides; None if only a look at every task would tell.
        left: tasks that have not.
        redirections: what else redirects its functions, as far as tracefs can be read.
    """

    name: str
    at: float
    state: PatchState
    phase: Phase | None
    moved: int | None
    left: int | None
    redirections: tuple[Redirection, ...] = ()


def events(
    name: str, seconds: float | None = None, *, patches: Livepatches | None = None
) -> Iterator[Event]:
    """The states of a patch, beginning with the one that it is in, until it is unloaded.

    Args:
        name: the patch.
        seconds: for how long to follow it; None for as long as it is there.
        patches: the sysfs view.

    Yields:
        Each change; those that come and go between two looks are missed. The engine's transitions
        are not looked for but told of. Who else redirects a function is looked for once a second.

    Raises:
        PatchError: no live patch of that name is loaded.
    """
    patches = patches or Livepatches()
    require_livepatch(name, patches)
    end = None if seconds is None else time.monotonic() + seconds
    last: Event | None = None
    others_due = 0.0
    while True:
        # Each time anew: it may be unloaded, and loaded again under another model.
        chosen = model_of(name, kicks=False, patches=patches)
        if last is None or time.monotonic() >= others_due:
            now = _look(name, chosen)
            others_due = time.monotonic() + LOOK_AROUND
        else:
            now = _look(name, chosen, last.redirections)
        if last is None or now._replace(at=last.at) != last:
            last = now
            yield now
        if now.state is PatchState.UNLOADED or (end is not None and time.monotonic() >= end):
            return
        pause = LOOK if end is None else max(0.0, min(LOOK, end - time.monotonic()))
        if now.state is PatchState.TRANSITION:
            chosen.wait(name, pause)
        else:
            time.sleep(pause)


def _look(name: str, chosen: Model, others: tuple[Redirection, ...] | None = None) -> Event:
    """A patch as it is now; `others` are those that redirect its functions, None to look."""
    patches = chosen.patches
    patch = patches.get(name)
    if patch is None:
        there = patches.is_loaded(name)
        state = PatchState.DISABLED if there else PatchState.UNLOADED
        return Event(name, time.time(), state, None, None, None)
    moved, left = (patches.attribute(name, each) for each in ("moved", "left"))
    return Event(
        name,
        time.time(),
        state_of(patch),
        phase_of(patch),
        None if moved is None else int(moved),
        None if left is None else int(left),
        redirections.beside(patch, patches) if others is None else others,
    )


@contextmanager
def loaded(
    path: Path,
    *,
    model: str = ModelName.NATIVE,
    foreign: bool = False,
    timeout: float = TIMEOUT,
    on_stall: str = OnStall.UNDO,
    replace: bool = False,
    direct: bool = True,
    progress: Progress = SILENT,
) -> Iterator[Loaded]:
    """Have a live patch loaded as long as a block lasts, and unloaded at its end, however it ends.

    Args:
        path: the module's file.
        model: the consistency model.
        foreign: accept a live patch that livegraft did not build.
        timeout: seconds for each of the two transitions.
        on_stall: what to do when they are over; ``force`` is not for this.
        replace: as for :func:`livegraft.runtime.load`.
        direct: as there.
        progress: told of the steps.

    Yields:
        What :func:`livegraft.runtime.load` returns.

    Raises:
        LivegraftError: as :func:`livegraft.runtime.load` and :func:`livegraft.runtime.unload`.
    """
    patch = load(
        path,
        model=model,
        foreign=foreign,
        timeout=timeout,
        on_stall=on_stall,
        replace=replace,
        direct=direct,
        progress=progress,
    )
    try:
        yield patch
    finally:
        unload(patch.name, timeout=timeout, on_stall=on_stall, progress=progress)
