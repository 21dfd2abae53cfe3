# SPDX-License-Identifier: GPL-2.0-or-later
"""The switches that keep every live patch out: the kernel parameter, and the configuration.

``livegraft=off`` on the kernel's command line is for the boot loader's menu, where nothing can be
edited on disk: whatever it says besides ``on`` switches off, for a misspelt ``off`` has to.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime import configuration, stacks

PARAMETER = "livegraft"
ON = "on"
COMMAND_LINE = "proc/cmdline"


class Place(StrEnum):
    """Where a switch is."""

    PARAMETER = "kernel-parameter"
    CONFIGURATION = "configuration"


class Switch(NamedTuple):
    """A switch that is off.

    Args:
        place: where it is.
        problem: what it says.
        remedy: how to switch it on again.
    """

    place: Place
    problem: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """As it stands in documents."""
        return {"switch": self.place.value, "message": self.problem, "remedy": self.remedy}


def off(root: Path = configuration.ROOT) -> tuple[Switch, ...]:
    """The switches that are off; no patch may be loaded unless there is none.

    Args:
        root: where etc/ and proc/ are.
    """
    found = []
    value = parameter(stacks.read(root / COMMAND_LINE))
    if value not in (None, ON):
        problem = f"{PARAMETER}={value} on the kernel's command line"
        found.append(Switch(Place.PARAMETER, problem, "boot without it"))
    place = root / configuration.PLACE
    try:
        if not configuration.read(root).enabled:
            remedy = "set it to yes, if they shall be loaded again"
            found.append(Switch(Place.CONFIGURATION, f"enabled = no in {place}", remedy))
    except PatchError as error:
        problem = f"{error.subject} {error.problem}, so that nobody knows what it asks for"
        found.append(Switch(Place.CONFIGURATION, problem, error.remedy))
    return tuple(found)


def require_on(subject: str, root: Path = configuration.ROOT) -> None:
    """Refuse to load while a switch is off.

    Args:
        subject: the patch.
        root: where etc/ and proc/ are.

    Raises:
        PatchError: one is.
    """
    for each in off(root):
        problem = f"live patches are switched off on this machine: {each.problem}"
        raise PatchError(subject, problem, each.remedy)


def parameter(command_line: str) -> str | None:
    """The parameter's value on a command line, None if it is not there; the last one counts.

    Quotes may stand around the value or around the whole word
    (Documentation/admin-guide/kernel-parameters.rst).
    """
    value = None
    for word in command_line.split():
        name, _, text = word.strip('"').partition("=")
        if name == PARAMETER:
            value = text.strip('"')
    return value
