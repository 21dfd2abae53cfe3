# SPDX-License-Identifier: GPL-2.0-or-later
"""The first seam: what a live patch consists of, whichever way it was prepared.

``compare`` and ``extract`` make a :class:`ChangeSet`; ``module`` takes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

VMLINUX = "vmlinux"
"""The name of the object that is the kernel itself; every other object is a module's name."""

PATCH_SYMBOL = "lg_patch"
"""The module's ``struct klp_patch``, to which pieces may refer as to one another."""


class State(StrEnum):
    """What became of a function."""

    CHANGED = "changed"
    NEW = "new"
    REMOVED = "removed"


class CallbackKind(StrEnum):
    """When the livepatch core calls a callback of an object: members of ``struct klp_callbacks``,
    in their order."""

    PRE_PATCH = "pre_patch"
    POST_PATCH = "post_patch"
    PRE_UNPATCH = "pre_unpatch"
    POST_UNPATCH = "post_unpatch"


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
class Callback:
    """A function of a piece that the livepatch core calls around the patching of its object.

    Args:
        kind: when.
        name: the function's name in the source.
        symbol: a global symbol of the piece at it, unique in the change set.
    """

    kind: CallbackKind
    name: str
    symbol: str


@dataclass(frozen=True, slots=True, order=True)
class SystemState:
    """What the patch changes in the system beside code (``struct klp_state``).

    Args:
        id: ``unsigned long``, which change; not 0.
        version: ``unsigned int``, of the change.
    """

    id: int
    version: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the author of a fix has decided against the comparison, by names in the source.

    Args:
        forced: functions that are taken although they compare equal.
        ignored_functions: functions that are left although they differ.
        ignored_sections: sections whose data are left although they differ.
        accepted_layouts: types whose changed layout the author vouches for.
    """

    forced: tuple[str, ...] = ()
    ignored_functions: tuple[str, ...] = ()
    ignored_sections: tuple[str, ...] = ()
    accepted_layouts: tuple[str, ...] = ()


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
        callbacks: at most one of a kind.
    """

    unit: str
    object: str
    data: bytes
    functions: tuple[Function, ...]
    references: tuple[Reference, ...]
    callbacks: tuple[Callback, ...] = ()


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """All pieces of a live patch.

    Args:
        method: ``compare`` or ``extract``.
        pieces: one per touched unit that has code to bring.
        warnings: what the user should know although it is no reason to refuse.
        states: what it changes in the system beside code, each identifier once.
        decisions: what the author has decided.
    """

    method: str
    pieces: tuple[Piece, ...]
    warnings: tuple[str, ...] = ()
    states: tuple[SystemState, ...] = ()
    decisions: Decisions = field(default_factory=Decisions)

    @property
    def functions(self) -> tuple[Function, ...]:
        """The functions of all pieces, in order."""
        return tuple(function for piece in self.pieces for function in piece.functions)

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """The callbacks of all pieces, in order."""
        return tuple(callback for piece in self.pieces for callback in piece.callbacks)

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects that are patched, vmlinux first, then modules by name."""
        names = {piece.object for piece in self.pieces}
        return tuple(sorted(names, key=lambda name: (name != VMLINUX, name)))
