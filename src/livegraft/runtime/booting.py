# SPDX-License-Identifier: GPL-2.0-or-later
"""Load the installed patches when the machine boots, unless one of them has made it crash.

Before a patch is loaded a marker is put beside it, on disk (fsync). It is taken away when the patch
is loaded, or, for units that see to that (systemd/), by ``boot --settle``, when the machine has
been up for some minutes or goes down in good order. A marker of another boot is what a crash
leaves: the patch is not tried again, until somebody wants that (``install --again``).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import LivegraftError
from livegraft.progress import SILENT, Progress
from livegraft.runtime import durable, installed, installing, loading, switches, syscalls
from livegraft.runtime.installed import MARKER, ROOT, Installed, Trial
from livegraft.runtime.installing import encoded_trial, only_changer, opened_patch, writing
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.loading import Loaded
from livegraft.runtime.stall import TIMEOUT
from livegraft.runtime.switches import Switch


class Outcome(StrEnum):
    """What became of an installed patch at boot."""

    LOADED = "loaded"
    PRESENT = "present"
    """It was loaded already."""
    REPLACED = "replaced"
    """A later one is in force that has undone it."""
    OTHER_KERNEL = "other-kernel"
    OFF = "off"
    CRASHED = "crashed"
    FAILED = "failed"


BAD = (Outcome.CRASHED, Outcome.FAILED)
"""Patches that are wanted and not in force."""


class Booted(NamedTuple):
    """An installed patch, and what became of it.

    Args:
        patch: the patch.
        outcome: what became of it.
        problem: why it was not loaded; "" if it was.
        remedy: what to do about that.
        loaded: what loading it has told.
    """

    patch: Installed
    outcome: Outcome
    problem: str = ""
    remedy: str = ""
    loaded: Loaded | None = None

    def as_json(self) -> dict[str, object]:
        """The patch in the document of ``boot``."""
        record, loaded = self.patch.record, self.loaded
        return {
            "name": self.patch.name,
            "release": self.patch.release,
            "outcome": self.outcome.value,
            "model": record.model if record else None,
            "signers": [each.as_json() for each in loaded.signers] if loaded else [],
            "transition_ms": loaded.transition_ms if loaded else None,
            "warnings": list(loaded.warnings) if loaded else [],
            "message": self.problem or None,
            "remedy": self.remedy or None,
        }


class Boot(NamedTuple):
    """What was done.

    Args:
        release: the running kernel's release.
        off: the switches that keep all patches out.
        patches: the installed ones.
        settled: those whose markers were taken away.
    """

    release: str
    off: tuple[Switch, ...] = ()
    patches: tuple[Booted, ...] = ()
    settled: tuple[Installed, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The document of ``boot``."""
        return {
            "release": self.release,
            "off": [each.as_json() for each in self.off],
            "patches": [each.as_json() for each in self.patches],
            "settled": [each.name for each in self.settled],
        }


def boot(
    name: str = "",
    *,
    settled: bool = False,
    timeout: float = TIMEOUT,
    root: Path = ROOT,
    load: Callable[..., Loaded] = loading.load,
    progress: Progress = SILENT,
) -> Boot:
    """Load what is installed for the running kernel, one patch after the other in their order.

    One that cannot be loaded keeps no other one out.

    Args:
        name: of the only one that is wanted; all by default.
        settled: a patch that is loaded counts as well at once, because nobody will settle later.
        timeout: seconds for each transition.
        root: where var/, proc/ and sys/ are.
        load: what loads a patch.
        progress: told of the steps.

    Raises:
        PatchError: not root, though there is something to be loaded; the one that is wanted is not
            installed for this kernel.
        Untrusted: others can change the folders that hold the patches.
    """
    release = installed.running_release()
    off = switches.off(root)
    everything = installed.installed(root)
    done = [_elsewhere(each, release) for each in everything if each.release != release]
    ours = [each for each in everything if each.release == release]
    if name:
        done, ours = [], [installing.find(name, release, root)]
    if off:
        done += [Booted(each, Outcome.OFF, off[0].problem, off[0].remedy) for each in ours]
        return Boot(release, off, tuple(done))
    if ours:
        syscalls.require_module_capability("load the installed live patches")
        loads = partial(load, timeout=timeout, progress=progress)
        with only_changer("boot", root):
            for each in installed.installed(root, release):
                if name in ("", each.name):
                    with progress.step(each.name):
                        done.append(_one(each, settled, root, loads))
    return Boot(release, (), tuple(done))


def settle(root: Path = ROOT) -> Boot:
    """The machine is well, or goes down in good order: take this boot's markers away.

    Args:
        root: where var/ and proc/ are.

    Raises:
        PatchError: they cannot be removed.
        Untrusted: others can change the folders that hold the patches.
    """
    settled = []
    if any(each.trial for each in installed.installed(root)):
        with only_changer("boot", root):
            for each in installed.installed(root):
                if each.trial and not each.crashed(root):
                    _unmark(each, root)
                    settled.append(each)
    return Boot(installed.running_release(), settled=tuple(settled))


def _elsewhere(patch: Installed, running: str) -> Booted:
    problem = f"it is for the kernel {patch.release}, and this is {running}"
    return Booted(patch, Outcome.OTHER_KERNEL, problem)


def _left_out(patch: Installed, root: Path) -> Booted | None:
    """What becomes of a patch that is not to be loaded."""
    if patch.problem is not None:
        problem = f"{patch.problem.subject} {patch.problem.problem}"
        return Booted(patch, Outcome.FAILED, problem, patch.problem.remedy)
    if patch.is_replaced(root):
        return Booted(patch, Outcome.REPLACED)
    if patch.is_loaded(root):
        return Booted(patch, Outcome.PRESENT)
    if problem := patch.obsolete_because(patch.release, root):
        return Booted(patch, Outcome.OTHER_KERNEL, problem)
    if patch.trial is not None and patch.crashed(root):
        return Booted(
            patch,
            Outcome.CRASHED,
            f"the machine crashed within minutes after it was loaded at {patch.trial.since}",
            f"to try it once more: livegraft install --again {patch.name}",
        )
    return None


def _one(patch: Installed, settled: bool, root: Path, load: Callable[..., Loaded]) -> Booted:
    if left_out := _left_out(patch, root):
        return left_out
    assert patch.record is not None
    try:
        _mark(patch, root)
        try:
            loaded = load(patch.path, model=patch.record.model, replace=patch.record.replace)
        except BaseException:
            # Not if something of it is left in the kernel, which may yet crash.
            if not Livepatches(root).is_loaded(patch.name):
                _unmark(patch, root)
            raise
    except LivegraftError as error:
        return Booted(patch, Outcome.FAILED, f"{error.subject}: {error.problem}", error.remedy)
    try:
        if settled:
            _unmark(patch, root)
    except LivegraftError as error:
        problem = f"{error.subject}: {error.problem}"
        return Booted(patch, Outcome.LOADED, problem, error.remedy, loaded)
    return Booted(patch, Outcome.LOADED, loaded=loaded)


def _mark(patch: Installed, root: Path) -> None:
    """Put the marker beside a patch; without one a crash would come again at each boot."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    trial = Trial(installed.boot_id(root), now)
    with writing(root), installed.opened(root) as store:
        assert store is not None
        with opened_patch(patch, store, root) as folder:
            durable.write(folder, MARKER, encoded_trial(trial))


def _unmark(patch: Installed, root: Path) -> None:
    with writing(root), installed.opened(root) as store:
        assert store is not None
        with opened_patch(patch, store, root) as folder:
            durable.remove(folder, MARKER)
            os.fsync(folder)
