# SPDX-License-Identifier: GPL-2.0-or-later
"""What the comparison asks of the running kernel."""

from __future__ import annotations

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
