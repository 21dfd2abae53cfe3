# SPDX-License-Identifier: GPL-2.0-or-later
"""What comparing has to know of an architecture: relocations, tables of places, few instructions.

Each architecture is a file of this folder that fills in one :class:`Architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from livegraft.elf.header import ByteOrder, Machine


class Undecodable(ValueError):
    """The bytes at an offset are no instruction, or are cut off."""


class Instruction(NamedTuple):
    """One instruction, by offsets into the code that it was decoded from.

    Args:
        offset: where it begins.
        end: where the next one begins.
        map: x86 opcode map: 0 (one byte), 1 (0f), 2 (0f 38), 3 (0f 3a); 5 and 6 with EVEX only.
        opcode: x86: the opcode's last byte; elsewhere the whole instruction as a number.
        modrm: x86: where the ModRM byte is, 0 if there is none (no instruction begins with one).
        displacement: x86: where the displacement is, ``immediate`` if there is none.
        immediate: where a branch distance's relocation is; on x86 also where the immediate operand
            is, ``end`` if there is none.
    """

    offset: int
    end: int
    map: int
    opcode: int
    modrm: int
    displacement: int
    immediate: int


class Load(NamedTuple):
    """An instruction that puts an immediate where an argument goes.

    Args:
        register: its number; -1 for the stack.
        value: the immediate.
        rest: the instruction's bytes without the immediate.
        is_part: whether other instructions may bring further bits of the same argument.
        argument: which argument it is on the stack, from 1; 0 if the instruction does not tell.
    """

    register: int
    value: int
    rest: bytes
    is_part: bool = False
    argument: int = 0


class Reference(NamedTuple):
    """A PC-relative reference that the assembler resolved, so that no relocation tells of it.

    Args:
        field: where its relocation would be.
        type: the relocation's type.
        place: the offset in the same section that it means.
    """

    field: int
    type: int
    place: int


class Table(NamedTuple):
    """A section of entries, each of which speaks of a place in a function.

    Args:
        fields: how many fields with relocations each entry has; the first one names the place. The
            entry's size follows from their distances.
        ignored: bytes of an entry that are no difference (a line number).
        at: where in an entry its first field lies.
        length: bytes of an entry that count, if its end is padding; 0 for all.
        from_entry: types of relocations whose distances count from the entry, not from their field.
        ends: which fields, from 0, point behind what the field before points to.
        patches: whether the kernel rewrites the place while it loads a module, before livepatch
            relocations to modules are applied.
    """

    fields: int
    ignored: range = range(0)
    at: int = 0
    length: int = 0
    from_entry: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    patches: bool = False


_NONE: Mapping[Any, Any] = MappingProxyType({})


class Architecture(NamedTuple):
    """An architecture.

    Args:
        name: as the user may know it.
        machine: ``e_machine``.
        byte_order: the one that its kernels have.
        fields: relocation type -> bits that it changes, as bytes in the file's order.
        tables: sections of entries, by name.
        decode: instruction after instruction; raises :class:`Undecodable`.
        is_branch: whether a relocation is that of a direct call or jump: its type, the bytes of its
            section and its offset there.
        destination: where a direct branch without relocation goes, as an offset; None for the rest.
        reference: a reference to another place of the section without relocation, or None.
        is_jump: whether an instruction is a direct, unconditional jump that is no call.
        is_return: whether it is a return.
        loaded_argument: what it loads for a call, or None.
        arguments: registers of the first integer arguments.
        pc_relative: type -> what has to be added to ``S + A`` for the place that is meant.
        same_meaning: types that the assembler chooses between by the symbol's binding only.
        without_meaning: types that tell the linker what it may do.
        unindexed: types in code that no index is added to.
        labels: beginnings of the names of symbols that are no parts of a section.
        longest_immediate: bytes that may lie behind a PC-relative memory operand.
        is_last: whether it is sure without decoding that none lie behind a field of the code.
        table_prefixes: tables whose names have a suffix.
        constants: sections of constants that are not marked as such -> bytes of each.
        snippets: beginnings of the names of sections with code that is referred to in parts.
        may_lack_symbol: whether relocations without a symbol have a meaning (a step of a sum).
        has_subsections: whether such code may also lie behind the functions of a section.
        has_anchors: whether the compiler reaches variables from their neighbours.
        local_entry: bits of ``st_other`` that say where a function's local entry point is.
        entry_tables: tables of places at the entries of functions: ftrace sites, and padding.
        ftrace_tables: those of ftrace sites.
        ftrace_span: bytes between a function's symbol and its ftrace site, at most.
        ftrace_calls: functions whose calls ftrace finds without a table.
        is_push: whether an instruction pushes one value on the stack.
    """

    name: str
    machine: Machine
    byte_order: ByteOrder
    fields: Mapping[int, bytes]
    tables: Mapping[str, Table]
    decode: Callable[[bytes, int, int], Iterator[Instruction]]
    is_branch: Callable[[int, bytes, int], bool]
    destination: Callable[[Instruction, bytes], int | None]
    reference: Callable[[Instruction, bytes], Reference | None]
    is_jump: Callable[[Instruction], bool]
    is_return: Callable[[Instruction], bool]
    loaded_argument: Callable[[Instruction, bytes], Load | None]
    arguments: tuple[int, ...]
    pc_relative: Mapping[int, int] = _NONE
    same_meaning: Mapping[int, int] = _NONE
    without_meaning: frozenset[int] = frozenset()
    unindexed: frozenset[int] = frozenset()
    labels: tuple[str, ...] = ()
    longest_immediate: int = 0
    is_last: Callable[[bytes, int], bool] | None = None
    table_prefixes: Mapping[str, Table] = _NONE
    constants: Mapping[str, int] = _NONE
    snippets: tuple[str, ...] = ()
    may_lack_symbol: bool = False
    has_subsections: bool = False
    has_anchors: bool = False
    local_entry: int = 0
    entry_tables: tuple[str, ...] = ("__mcount_loc", "__patchable_function_entries")
    ftrace_tables: tuple[str, ...] = ("__mcount_loc", "__patchable_function_entries")
    ftrace_span: int = 16
    ftrace_calls: frozenset[str] = frozenset()
    is_push: Callable[[Instruction, bytes], bool] = lambda instruction, code: False

    def table_of(self, section: str) -> Table | None:
        """The table that a section is, or None."""
        found = self.tables.get(section)
        if found is None and self.table_prefixes:
            for prefix, table in self.table_prefixes.items():
                if section.startswith(prefix):
                    return table
        return found

    def is_snippet(self, section: str) -> bool:
        """Whether a section holds code that functions and tables refer to in parts."""
        return section.startswith(self.snippets) if self.snippets else False

    def is_argument(self, load: Load, place: int) -> bool:
        """Whether what is loaded is the argument of that number, from 1."""
        if load.register < 0:
            return load.argument == place
        return self.arguments[place - 1 : place] == (load.register,)
