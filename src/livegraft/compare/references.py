# SPDX-License-Identifier: GPL-2.0-or-later
"""Undefined symbols of a payload: ordinary ones, and those that the livepatch core resolves."""

from __future__ import annotations

import re

from livegraft.changeset import VMLINUX, Reference, Target
from livegraft.compare.entity import Entity
from livegraft.compare.pairing import Pairs
from livegraft.compare.resolver import Resolver
from livegraft.errors import Reason, Refused

_NOT_IN_IDENTIFIERS = re.compile(r"\W", re.ASCII)


def identifier(name: str) -> str:
    """A name as a part of a C identifier; different names stay different.

    ``foo.isra.0`` becomes ``foo_isra_0_2x``: with the number of characters that were replaced,
    where there are any.
    """
    text, replaced = _NOT_IN_IDENTIFIERS.subn("_", name)
    return f"{text}_{replaced}x" if replaced else text


def plain_identifier(name: str) -> str:
    """A name as a part of a C identifier, nothing added: ``fs_ext4_mballoc``."""
    return _NOT_IN_IDENTIFIERS.sub("_", name)


class References:
    """The livepatch references of one payload.

    Args:
        owner: the object that the unit is linked into.
        resolver: finds symbols in the running kernel.
        pairs: patched entities and what they are in the running kernel.
    """

    def __init__(self, owner: str, resolver: Resolver, pairs: Pairs) -> None:
        self._owner = owner
        self._resolver = resolver
        self._pairs = pairs
        self._targets: dict[Entity | str, Target | None] = {}
        self.used: dict[str, Reference] = {}
        self.reasons: list[Reason] = []

    def target(self, what: Entity | str) -> Target | None:
        """What an entity of the patched object or an undefined symbol is in the running kernel.

        Returns:
            None for an undefined symbol that stays an ordinary one, and for one that was not
            found, which :attr:`reasons` tell of.
        """
        if what not in self._targets:
            self._targets[what] = None
            try:
                if isinstance(what, str):
                    self._targets[what] = self._resolver.external(what)
                else:
                    name = self._pairs.of_patched[what].name
                    self._targets[what] = self._resolver.referenced(name)
            except Refused as refused:
                self.reasons += refused.reasons
        return self._targets[what]

    def is_in_module(self, what: Entity | str) -> bool:
        """Whether it lies in a module, so that its relocations wait for that module."""
        target = self.target(what)
        return target is not None and target.object != VMLINUX

    def symbol(self, what: Entity | str) -> str:
        """The name of the undefined symbol that stands for it; noted as used."""
        target = self.target(what)
        if target is None:
            return what if isinstance(what, str) else what.name
        owner = VMLINUX if target.object == VMLINUX else self._owner
        parts = [owner] if owner == target.object else [owner, target.object]
        names = "_".join(identifier(each) for each in [*parts, target.name])
        symbol = f"lg_ref_{names}_{target.sympos}"
        self.used[symbol] = Reference(symbol, owner, target)
        return symbol
