# SPDX-License-Identifier: GPL-2.0-or-later
"""What the comparison asks of the running kernel."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from livegraft.changeset import Target


class Resolver(Protocol):
    """Finds symbols of one unit, and those that it refers to, in the running kernel.

    Each method raises :class:`~livegraft.errors.Refused` if there is no such symbol, or if it
    cannot be told which one is meant.
    """

    def local(self, name: str) -> Target:
        """The symbol that the unit itself defines: what a function replaces."""

    def referenced(self, name: str) -> Target:
        """What a reference to a symbol means that the unit defines: of a weak one, the one used."""

    def external(self, name: str) -> Target | None:
        """The symbol that an undefined one means; None if it is to stay an ordinary one."""


@dataclass(frozen=True, slots=True)
class OfPatch:
    """A unit's resolver that knows what the patch brings.

    Args:
        kernel: finds what is in the running kernel.
        brought: new global symbols of the whole patch: pieces refer to one another by name.
        own: symbols that the original unit defines, which are undefined in what was cut out of it.
    """

    kernel: Resolver
    brought: Collection[str]
    own: Collection[str] = ()

    def local(self, name: str) -> Target:
        """What a function of the unit replaces."""
        return self.kernel.local(name)

    def referenced(self, name: str) -> Target:
        """What a reference to a symbol of the unit means."""
        return self.kernel.referenced(name)

    def external(self, name: str) -> Target | None:
        """The symbol that an undefined one means; None if it is to stay an ordinary one."""
        if name in self.own:
            return self.kernel.referenced(name)
        return None if name in self.brought else self.kernel.external(name)
