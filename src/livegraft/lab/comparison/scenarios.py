# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios (scenarios.toml), and the models that are compared."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from livegraft.errors import UsageError

MODELS = ("hybrid", "stop", "task", "native")
"""Those that are compared, in the order of the report."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An entry of scenarios.toml, which says what each member is.

    Args:
        name: its key.
    """

    name: str
    title: str
    about: str
    load: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    own: bool = False
    default: bool = False
    guests: int = 2
    memory: int = 1024
    calls: bool = False
    patch: str = ""
    target: str = ""
    stack: int = 0
    kind: str = "cycle"
    family: str = ""
    size: int = 0


@cache
def scenarios() -> dict[str, Scenario]:
    """All there are, by name."""
    text = resources.files(__package__).joinpath("scenarios.toml").read_text("utf-8")
    found = {}
    for name, table in tomllib.loads(text).items():
        lists: dict[str, Any] = {
            key: tuple(table.pop(key)) for key in ("load", "settings") if key in table
        }
        found[name] = Scenario(name=name, **table, **lists)
    return found


def chosen(names: Sequence[str], every: bool) -> list[Scenario]:
    """Those that were asked for, in the order of the report.

    Args:
        names: of the command line; empty for the default set.
        every: all there are.

    Raises:
        UsageError: there is no scenario of a name.
    """
    known = scenarios()
    for name in names:
        if name not in known:
            raise UsageError(name, "is no scenario", f"use one of {', '.join(known)}")
    if every:
        return list(known.values())
    return [each for each in known.values() if (each.name in names if names else each.default)]


def models(names: Sequence[str]) -> tuple[str, ...]:
    """The models that were asked for, in the order of the report.

    Args:
        names: of the command line; empty for all.

    Raises:
        UsageError: there is no model of a name.
    """
    for name in names:
        if name not in MODELS:
            raise UsageError(name, "is no consistency model", f"use one of {', '.join(MODELS)}")
    return tuple(each for each in MODELS if each in names or not names)
