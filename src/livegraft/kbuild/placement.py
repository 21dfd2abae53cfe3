# SPDX-License-Identifier: GPL-2.0-or-later
"""Which symbol of the running kernel each symbol of a unit is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from livegraft.changeset import Target
from livegraft.errors import Reason, Refused
from livegraft.kernel.symbols import RULE, SymbolTable

_REMEDY = "write the fix so that it does not need this symbol"


@dataclass(frozen=True, slots=True)
class Placement:
    """A unit's symbols in the object that it is linked into.

    Args:
        unit: the translation unit (``fs/ext4/mballoc.c``).
        symbols: the object's symbols.
        places: where each symbol of the unit is, by name: an address in vmlinux, section number
            and offset in a module.
        externals: where the symbols are that the unit refers to and others define, as far as
            its relocations in the shipped code tell.
        proven: functions whose code is the shipped code.
        overridden: weak functions of the unit whose place another unit's definition takes.
        discarded: functions that are not linked, and why.
    """

    unit: str
    symbols: SymbolTable
    places: Mapping[str, int]
    externals: Mapping[str, int] = field(default_factory=dict)
    proven: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    discarded: Mapping[str, str] = field(default_factory=dict)

    @property
    def object(self) -> str:
        """``vmlinux`` or the module's name."""
        return self.symbols.object

    def has(self, name: str) -> bool:
        """Whether the unit's symbol `name` has a place."""
        return name in self.places and name not in self.overridden

    def target(self, name: str) -> Target:
        """The symbol of the running kernel that the unit's symbol `name` is.

        Raises:
            Refused: it has none, or the livepatch core could not find it.
        """
        if not self.has(name):
            raise Refused(name, [Reason(RULE, name, self._why(name), _REMEDY)])
        return self.symbols.target(name, self.places[name])

    def _why(self, name: str) -> str:
        if name in self.overridden:
            return f"is weak, and {self.object} uses another definition"
        if name in self.discarded:
            return self.discarded[name]
        return f"cannot be told from others in {self.object}, or is not there"
