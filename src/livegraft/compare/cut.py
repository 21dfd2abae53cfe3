# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut what changed, what is new and what they need out of the patched object.

Everything that the running kernel has already is referred to, never copied: an unchanged function, a
variable with its state. What only stands for a place in the source (``__func__``, ``__already_done``,
strings) is brought along. A *pointer* to a changed function stays the original's address, so that
comparisons of pointers hold; calls between included functions are direct.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from livegraft.changeset import VMLINUX, Function, Piece, Reference, State, Target
from livegraft.compare.comparison import Comparison, all_uses
from livegraft.compare.unit import Entity, Entry, Kind, UnitView, Use, is_initial
from livegraft.elf import writer
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.header import SectionFlag, SectionType
from livegraft.elf.object import (
    Binding,
    ElfObject,
    Section,
    Symbol,
    SymbolType,
    relocations,
    sort_symbols,
)
from livegraft.errors import Reason, Refused

EARLY_TABLES = frozenset({".altinstructions", "__jump_table", ".static_call_sites"})
"""Tables that the module loader uses before the relocations to a module's symbols are made."""

TRACEPOINT = re.compile(r"^(__tracepoint_|descriptor\b|__UNIQUE_ID_ddebug)")


class ReferenceResolver(Protocol):
    """Finds what a symbol means in the running kernel."""

    def local(self, name: str) -> Target:
        """The exact symbol that the original unit defines as `name`."""

    def external(self, name: str) -> Target | None:
        """What an undefined symbol means; None for an export of vmlinux."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece, and what the user should know of it."""

    piece: Piece
    warnings: tuple[str, ...]


def cut(comparison: Comparison, unit: str, owner: str, resolver: ReferenceResolver) -> Cut:
    """Make the piece of one unit.

    Args:
        comparison: a comparison with the verdict *changed*.
        unit: the translation unit (``fs/ext4/mballoc.c``).
        owner: the object that the unit is linked into.
        resolver: finds symbols of the running kernel.

    Raises:
        Refused: something in it cannot be relocated in time; all reasons.
    """
    return _Cutter(comparison, unit, owner, resolver).cut()


class _Cutter:
    def __init__(
        self, comparison: Comparison, unit: str, owner: str, resolver: ReferenceResolver
    ) -> None:
        self.comparison = comparison
        self.view: UnitView = comparison.patched
        self.unit = unit
        self.owner = owner
        self.resolver = resolver
        self.included = _included(comparison)
        self.output = ElfObject(self.view.obj.machine, self.view.obj.byte_order)
        self.symbols: dict[Entity, int] = {}
        self.section_symbols: dict[Entity, int] = {}
        self.places: dict[Entity, int] = {}
        self.references: dict[str, Reference] = {}
        self.undefined: dict[str, int] = {}
        self.reasons: list[Reason] = []
        self.warnings: list[str] = []

    def cut(self) -> Cut:
        """Put the piece together."""
        dropped = {entity: self._dropped(entity) for entity in self.included}
        for entity in self.included:
            self._place(entity, dropped[entity])
        functions = self._functions()
        pending: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
        for entity in self.included:
            section = self.places[entity]
            for use in entity.uses:
                if use.type == arch.SHORT_BRANCH:
                    self._refuse_short(entity, use)
                    continue
                # A section with one entity only keeps its offsets; so does one cut at its start.
                pending[section].append((use.offset, use.type, *self._meaning(entity, use)))
        self._tables(dropped, pending)
        for number, entries in pending.items():
            self.output.sections[number].relocations = relocations(sorted(entries))
        if self.reasons:
            raise Refused(self.unit, list(dict.fromkeys(self.reasons)))
        self.output.add_section(Section(".note.GNU-stack"))
        sort_symbols(self.output)
        piece = Piece(
            self.unit,
            self.owner,
            writer.write(self.output),
            functions,
            tuple(self.references[name] for name in sorted(self.references)),
        )
        return Cut(piece, tuple(self.warnings))

    # -- sections and symbols -------------------------------------------------------------------

    def _place(self, entity: Entity, dropped: list[Entry]) -> None:
        source = self.view.section(entity)
        flags = source.flags & ~(SectionFlag.MERGE | SectionFlag.STRINGS | SectionFlag.GROUP)
        data = self._code(entity, dropped) if source.type != SectionType.NOBITS else b""
        number = self.output.add_section(
            Section(
                self._section_name(entity, source),
                source.type,
                flags,
                data,
                entity.end - entity.start,
                max(source.alignment, 1),
            )
        )
        self.places[entity] = number
        self.section_symbols[entity] = self.output.add_symbol(
            Symbol("", number, type=SymbolType.SECTION)
        )
        if entity.symbol is None:
            self.symbols[entity] = self.section_symbols[entity]
            return
        exported = entity.is_global and self.comparison.original_of(entity) is None
        self.symbols[entity] = self.output.add_symbol(
            Symbol(
                entity.name,
                number,
                entity.value - entity.start,
                entity.size,
                entity.symbol.binding if exported else Binding.LOCAL,
                entity.symbol.type,
            )
        )

    def _section_name(self, entity: Entity, source: Section) -> str:
        """Names that keep the kind of section and never collide within the module."""
        if entity.kind is Kind.FUNCTION:
            return f".text.{entity.name}"
        if entity.kind is Kind.DATA:
            kind = source.name.split(".")[1] if source.name.startswith(".") else "data"
            return f".{kind}.{entity.name}" if kind in ("bss", "rodata") else f".data.{entity.name}"
        if source.name in (arch.REPLACEMENTS, arch.SNIPPETS):
            return source.name
        return ".rodata.str1.1" if entity.kind is Kind.STRING else ".rodata.lg_constants"

    def _code(self, entity: Entity, dropped: list[Entry]) -> bytes:
        code = bytearray(self.view.code(entity))
        for use in entity.uses:
            if use.type == arch.BRANCH:
                code[use.offset : use.offset + 4] = bytes(4)
        for entry in dropped:
            at = entry.place + entity.value - entity.start
            size = 2 if code[at] in (0xEB, 0x66) else 5
            code[at : at + size] = arch.NOPS[size]
        return bytes(code)

    def _functions(self) -> tuple[Function, ...]:
        found = []
        for entity in self.comparison.changed:
            twin = self.comparison.original_of(entity)
            assert twin is not None
            alias = _identifier(f"lg_new_{self.unit.removesuffix('.c')}_{twin.name}")
            self.output.add_symbol(
                Symbol(
                    alias,
                    self.places[entity],
                    entity.value - entity.start,
                    entity.size,
                    Binding.GLOBAL,
                    SymbolType.FUNC,
                )
            )
            target = self.resolver.local(twin.name)
            found.append(Function(self.unit, target, State.CHANGED, alias))
        for state, entities in (
            (State.NEW, self.comparison.new),
            (State.REMOVED, self.comparison.removed),
        ):
            for entity in entities:
                target = Target(self.owner, entity.name, 0)
                found.append(Function(self.unit, target, state))
        return tuple(found)

    # -- references -----------------------------------------------------------------------------

    def _meaning(self, user: Entity, use: Use) -> tuple[int, int]:
        """The symbol and addend of a relocation in the piece."""
        target = use.target
        if isinstance(target, str):
            return self._external(target), use.delta
        original = self.comparison.original_of(target)
        is_pointer = target.kind is Kind.FUNCTION and use.type != arch.BRANCH
        replaced = is_pointer and original is not None and target.parent is None
        if target in self.symbols and not (replaced and target is not user):
            return self.symbols[target], use.delta
        if replaced and target is user and not self._is_inside(use):
            return self._local(target), use.delta
        if target in self.symbols:
            return self.symbols[target], use.delta
        return self._local(target), use.delta

    def _refuse_short(self, entity: Entity, use: Use) -> None:
        neighbour = use.target if isinstance(use.target, str) else use.target.name
        self.reasons.append(
            Reason(
                "short-branch",
                entity.name,
                f"jumps to its neighbour {neighbour} in two bytes, which reach no further",
                "boot a kernel with the fix",
            )
        )

    def _is_inside(self, use: Use) -> bool:
        """Whether it points behind the function's first byte: a place in it, not the function."""
        return use.position != 0

    def _local(self, entity: Entity) -> int:
        original = self.comparison.original_of(entity)
        section = self.view.section(entity).name
        if is_initial(section):
            self.reasons.append(
                Reason(
                    "init-reference",
                    entity.name or section,
                    "is used by new code but was freed after the boot",
                    "change the fix so that it does not need it",
                )
            )
            return 0
        assert original is not None, f"{entity.name} is neither included nor in the original"
        return self._reference(self.resolver.local(original.name))

    def _external(self, name: str) -> int:
        target = self.resolver.external(name)
        if target is None:
            return self._undefined(name)
        return self._reference(target)

    def _reference(self, target: Target) -> int:
        symbol = _identifier(f"lg_ref_{target.object}_{target.name}_{target.sympos}")
        owner = VMLINUX if target.object == VMLINUX else self.owner
        known = self.references.setdefault(symbol, Reference(symbol, owner, target))
        assert known.target == target, f"{symbol} has two meanings"
        return self._undefined(symbol)

    def _undefined(self, name: str) -> int:
        if name not in self.undefined:
            symbol = Symbol(name, 0, binding=Binding.GLOBAL)
            self.undefined[name] = self.output.add_symbol(symbol)
        return self.undefined[name]

    # -- tables ---------------------------------------------------------------------------------

    def _dropped(self, entity: Entity) -> list[Entry]:
        """Jump label sites that cannot work in a payload: their key lies in a module."""
        found = []
        for entry in entity.entries:
            if entry.table != "__jump_table":
                continue
            key = entry.uses[2].target
            name = key if isinstance(key, str) else key.name
            if not self._in_module(key):
                continue
            found.append(entry)
            if TRACEPOINT.match(name):
                self.warnings.append(
                    f"{entity.name}: the tracepoint or debug message {name} stays silent in the"
                    " new code, because its switch lies in a module"
                )
            else:
                self.reasons.append(
                    Reason(
                        "module-static-key",
                        entity.name,
                        f"uses the static key {name}, which lies in a module",
                        "use static_key_enabled() in the fix instead of a static branch",
                    )
                )
        return found

    def _in_module(self, target: Entity | str) -> bool:
        """Whether a symbol is resolved only when a module comes."""
        if isinstance(target, str):
            found = self.resolver.external(target)
            return found is not None and found.object != VMLINUX
        if target in self.symbols or target in self.included:
            return False
        return self.owner != VMLINUX

    def _tables(
        self,
        dropped: dict[Entity, list[Entry]],
        pending: dict[int, list[tuple[int, int, int, int]]],
    ) -> None:
        listed: dict[str, list[tuple[Entity, Entry]]] = defaultdict(list)
        for entity in self.included:
            for entry in entity.entries:
                if entry not in dropped[entity]:
                    listed[entry.table].append((entity, entry))
        for name, entries in listed.items():
            source = self.view.obj.sections[self.view.obj.section_number(name) or 0]
            data = b"".join(entry.data for _, entry in entries)
            number = self.output.add_section(
                Section(name, source.type, source.flags, data, -1, source.alignment)
            )
            base = 0
            for entity, entry in entries:
                for use in entry.uses:
                    self._check_early(entity, entry, use)
                    meaning = self._in_table(entity, use)
                    pending[number].append((base + use.offset, use.type, *meaning))
                base += len(entry.data)

    def _in_table(self, entity: Entity, use: Use) -> tuple[int, int]:
        # A table points into the function that is here, never at the original.
        # By section and offset, as the assembler writes it: objtool takes nothing else.
        if isinstance(use.target, Entity) and use.target in self.symbols:
            lead = use.target.value - use.target.start
            return self.section_symbols[use.target], use.delta + lead
        return self._meaning(entity, use)

    def _check_early(self, entity: Entity, entry: Entry, use: Use) -> None:
        if entry.table != ".altinstructions" or not isinstance(use.target, Entity):
            return
        for inner in use.target.uses if use.target.symbol is None else ():
            if self._in_module(inner.target):
                name = inner.target if isinstance(inner.target, str) else inner.target.name
                self.reasons.append(
                    Reason(
                        "alternative-module-symbol",
                        entity.name,
                        f"has an alternative that refers to {name}, which lies in a module",
                        "boot a kernel with the fix",
                    )
                )


def _included(comparison: Comparison) -> dict[Entity, None]:
    """Changed and new functions and all that has to come with them, in a fixed order."""
    included: dict[Entity, None] = {}
    pending = [*comparison.changed, *comparison.new]
    changed = set(comparison.changed)
    parts = defaultdict(list)
    for entity in comparison.patched.entities:
        if entity.parent is not None:
            parts[entity.parent].append(entity)
    while pending:
        entity = pending.pop(0)
        if entity in included:
            continue
        included[entity] = None
        pending += parts.get(entity, ())
        for use in all_uses(entity):
            target = use.target
            if isinstance(target, Entity) and _comes_along(comparison, target, changed):
                pending.append(target)
    return included


def _comes_along(comparison: Comparison, target: Entity, changed: set[Entity]) -> bool:
    if target.kind in (Kind.STRING, Kind.CONSTANT, Kind.ANONYMOUS) or target.is_always_new:
        return True
    if target.parent is not None:
        return target.parent in changed or comparison.original_of(target) is None
    return comparison.original_of(target) is None


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", text)
