# SPDX-License-Identifier: GPL-2.0-or-later
"""Is all well with this machine's live patches? One number and one line, for monitoring."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from livegraft.errors import LivegraftError
from livegraft.runtime import settings
from livegraft.runtime.state import PatchState, Status

if TYPE_CHECKING:
    from livegraft.runtime.installed import Installed
    from livegraft.runtime.switches import Switch

STALLED_AFTER = 60.0
"""Seconds after which a transition counts as stalled."""


class Health(IntEnum):
    """Exit codes of ``status --check``, the worst first; docs/reference/exit-codes.md has them."""

    WELL = 0
    OFF = 10
    """A patch is loaded and not in force: ftrace is switched off."""
    STALLED = 11
    """A transition does not end."""
    MISSING = 12
    """A patch is installed for this kernel and not loaded, or damaged, or another version is."""
    UNKEPT = 13
    """A patch is loaded and not installed: it is gone after the next boot."""
    FOREIGN = 14
    """A live patch is loaded that livegraft did not build."""


MEANINGS = {
    Health.WELL: "all well",
    Health.OFF: "a patch is loaded and not in force, because ftrace is switched off",
    Health.STALLED: "a transition is stalled",
    Health.MISSING: "a patch is installed for this kernel and not loaded, or not in this version",
    Health.UNKEPT: "a patch is loaded and not installed",
    Health.FOREIGN: "a live patch is loaded that livegraft did not build",
}

CRITICAL = frozenset({Health.OFF, Health.STALLED, Health.MISSING})
"""The old code runs, or nobody knows which; the others are warnings."""


class Problem(NamedTuple):
    """Something that is not well.

    Args:
        health: what kind of thing.
        patch: which patch.
        message: the same for people.
    """

    health: Health
    patch: str
    message: str

    def as_json(self) -> dict[str, object]:
        """The problem in documents."""
        return {"code": int(self.health), "patch": self.patch, "message": self.message}


class Checked(NamedTuple):
    """What a check has found.

    Args:
        live: the patches that are on, or on their way to be.
        installed: the patches that are installed for this build of this kernel, without those that
            later ones have replaced.
        off: the switches that keep live patches out.
        problems: all that is not well, the worst first.
    """

    live: tuple[Status, ...]
    installed: tuple[str, ...]
    off: tuple[Switch, ...]
    problems: tuple[Problem, ...]

    @property
    def health(self) -> Health:
        """The worst of it."""
        return self.problems[0].health if self.problems else Health.WELL

    def count(self, health: Health) -> int:
        """How many problems of a kind there are."""
        return sum(each.health is health for each in self.problems)

    @property
    def line(self) -> str:
        """One line, as monitoring plugins write it: the state, what it is, and figures.

        Source of the format: https://www.monitoring-plugins.org/doc/guidelines.html.
        """
        if self.problems:
            word = "CRITICAL" if self.health in CRITICAL else "WARNING"
            text = "; ".join(each.message for each in self.problems)
        else:
            word, text = "OK", ", ".join(map(_named, self.live)) or "no live patch is loaded"
        if self.off:
            text += f"; live patches are switched off: {self.off[0].problem}"
        figures = {"patches": len(self.live)} | {
            each.name.lower(): self.count(each) for each in Health if each is not Health.WELL
        }
        figures["switched_off"] = len(self.off)
        return f"LIVEGRAFT {word} - {text} | " + " ".join(f"{k}={v}" for k, v in figures.items())

    def as_json(self) -> dict[str, object]:
        """The member ``check`` of the document of ``status``."""
        return {
            "code": int(self.health),
            "line": self.line,
            "installed": list(self.installed),
            "problems": [each.as_json() for each in self.problems],
        }


def check(
    patches: Sequence[Status], *, stalled_after: float = STALLED_AFTER, root: Path = Path("/")
) -> Checked:
    """Look whether all is well.

    Args:
        patches: the live patches of this machine.
        stalled_after: seconds after which a transition counts as stalled; one of which nobody knows
            when it began does at once.
        root: where var/, sys/ and proc/ are.
    """
    from livegraft.runtime import installed, switches  # seldom needed, and start-up time counts

    off = switches.off(root)
    live = tuple(each for each in patches if each.state is not PatchState.DISABLED)
    found = [
        *(_off(each) for each in live if settings.ftrace_is_off(root)),
        *(_stalled(each) for each in live if _is_stalled(each, stalled_after)),
    ]
    kept: list[Installed] | None = None
    try:
        release = installed.running_release()
        kept = [
            each
            for each in installed.installed(root, release)
            if not each.is_replaced(root) and not each.obsolete_because(release, root)
        ]
    except LivegraftError as error:
        problem = f"the installed patches cannot be loaded: {error.subject} {error.problem}"
        found.append(Problem(Health.MISSING, "", problem))
    loaded = {each.name: each for each in live}
    for one in kept or ():
        text = _missing(one, loaded.get(one.name))
        if text:
            found.append(Problem(Health.MISSING, one.name, f"{one.name} is installed and {text}"))
    names = tuple(one.name for one in kept or ())
    for each in live:
        if each.foreign:
            problem = f"{each.name} was not built by livegraft"
            found.append(Problem(Health.FOREIGN, each.name, problem))
        elif kept is not None and each.name not in names:
            problem = f"{each.name} is loaded and not installed"
            found.append(Problem(Health.UNKEPT, each.name, problem))
    return Checked(live, names, off, tuple(sorted(found, key=lambda each: each.health)))


def _missing(kept: Installed, loaded: Status | None) -> str:
    """What of an installed patch is not loaded; "" if it is."""
    if kept.problem is not None:
        return f"damaged: {kept.problem.problem}"
    if loaded is None:
        return "not loaded"
    assert kept.record is not None
    if loaded.fix_sha256 != kept.record.fix_sha256:
        return "another version of it is loaded"
    return ""


def _off(patch: Status) -> Problem:
    return Problem(Health.OFF, patch.name, f"{patch.name} is not in force: ftrace is switched off")


def _is_stalled(patch: Status, seconds: float) -> bool:
    if patch.state is not PatchState.TRANSITION:
        return False
    return patch.since is None or time.time() - patch.since > seconds


def _stalled(patch: Status) -> Problem:
    since = "" if patch.since is None else f" for {time.time() - patch.since:.0f} s"
    who = f", blocked by {patch.blockers[0]}" if patch.blockers else ""
    text = f"{patch.name} is stalled in transition ({patch.direction}){since}{who}"
    return Problem(Health.STALLED, patch.name, text)


def _named(patch: Status) -> str:
    cves = f" ({', '.join(patch.cves)})" if patch.cves else ""
    return f"{patch.name}{cves}"
