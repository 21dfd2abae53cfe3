# SPDX-License-Identifier: GPL-2.0-or-later
"""The first seam: what a live patch consists of, whichever way it was prepared.

``compare`` and ``extract`` make a :class:`ChangeSet`; ``module`` takes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

VMLINUX = "vmlinux"
"""The name of the object that is the kernel itself; every other object is a module's name."""


class State(StrEnum):
    """What became of a function."""

    CHANGED = "changed"
    NEW = "new"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Target:
    """A symbol of the running kernel, exactly.

    Args:
        object: ``vmlinux``, or the name of the module that holds it (``ext4``, with underscores).
        name: its name in kallsyms.
        sympos: ``unsigned long``, its 1-based position among the symbols of that name in that
            object, in kallsyms order (``struct klp_func.old_sympos``).
    """

    object: str
    name: str
    sympos: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An undefined symbol of a piece that becomes a livepatch symbol.

    Args:
        symbol: the undefined symbol's name in the piece, unique in the change set and a valid C
            identifier.
        owner: the object whose coming the relocation waits for: the piece's own object when the
            target lies in a module, ``vmlinux`` when the target does.
        target: what it means.
    """

    symbol: str
    owner: str
    target: Target


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the patch brings.

    Args:
        unit: the translation unit (``fs/ext4/mballoc.c``).
        target: the function that it replaces; for a new one its own name, with sympos 0.
        state: changed, new or removed. Only changed ones are redirected.
        symbol: a global symbol of the piece at the new code, unique in the change set; empty for
            functions that are not redirected.
    """

    unit: str
    target: Target
    state: State
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A relocatable object with the new code of one unit and all that it needs.

    Its undefined symbols are either listed in :attr:`references`, defined by another piece of the
    change set, or exported by vmlinux. It holds nothing that objtool makes (ORC, return sites).

    Args:
        unit: the translation unit.
        object: the object that the unit is linked into.
        data: the ELF file's bytes.
        functions: what it brings.
        references: its livepatch symbols.
    """

    unit: str
    object: str
    data: bytes
    functions: tuple[Function, ...]
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """All pieces of a live patch.

    Args:
        method: ``compare`` or ``extract``.
        pieces: one per touched unit that has code to bring.
        warnings: what the user should know although it is no reason to refuse.
    """

    method: str
    pieces: tuple[Piece, ...]
    warnings: tuple[str, ...] = ()

    @property
    def functions(self) -> tuple[Function, ...]:
        """The functions of all pieces, in order."""
        return tuple(function for piece in self.pieces for function in piece.functions)

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects that are patched, vmlinux first, then modules by name."""
        names = {piece.object for piece in self.pieces}
        return tuple(sorted(names, key=lambda name: (name != VMLINUX, name)))
