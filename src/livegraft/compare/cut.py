# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut a payload out of a patched object: what changed, and all that it needs.

The payload is raw compiler output like the object: objtool and the module build follow. All that
the running kernel has is referred to there; only what the fix brings is in the payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from livegraft.changeset import Callback, Function, Piece, State, Target
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.inclusion import Inclusion
from livegraft.compare.layout import Layout
from livegraft.compare.noreturn import MARK_SECTION, never_returns
from livegraft.compare.references import References, identifier, plain_identifier
from livegraft.compare.resolver import Resolver
from livegraft.compare.sites import Sites
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.header import SHN_ABS, Machine, SectionFlag, SectionType
from livegraft.elf.object import Binding, Section, Symbol, SymbolType, relocations, sort_symbols
from livegraft.elf.writer import write
from livegraft.errors import ElfError, Reason, Refused

OFF_KEY = "lg_static_key_off"
"""The key of tracepoints that a module defines."""

BESIDE_CODE = frozenset(
    (
        *("data-changed", "data-size-changed", "enum-value-changed", "prototype-changed"),
        *("structure-layout", "no-ftrace-entry"),
    )
)
"""Rules after which a unit's code can still be judged."""

Relocation = tuple[int, int, int, int]
"""Offset, type, symbol, addend."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A payload's object, and what the user should know of it."""

    piece: Piece
    warnings: tuple[str, ...]


def cut(
    comparison: Comparison, unit: str, object: str, resolver: Resolver, is_shared: bool = False
) -> Cut:
    """Make a payload of a comparison.

    Args:
        comparison: two objects, compared and judged.
        unit: the translation unit (``fs/ext4/mballoc.c``).
        object: the object that it is linked into: ``vmlinux`` or a module's name.
        resolver: finds symbols in the running kernel.
        is_shared: whether it is linked into other objects as well, which have pieces of their own.

    Raises:
        ElfError: the objects are not for x86-64.
        Refused: the comparison was refused (where its code can be judged, what speaks against that
            is told as well); a symbol was not found in the running kernel; or code
            refers to a module in a place that the kernel needs before it knows the module.
    """
    machine = comparison.patched.arch
    if machine.machine != Machine.X86_64:
        remedy = "such objects can be compared only"
        raise ElfError(unit, f"is for {machine.name}; live patches are made for x86-64", remedy)
    if any(reason.rule not in BESIDE_CODE for reason in comparison.reasons):
        raise Refused(unit, comparison.reasons)
    references = References(object, resolver, comparison.pairs)
    sites = Sites(comparison.patched, comparison.inclusion, references)
    piece = _Piece(comparison, unit, references, sites)
    piece.add_relocations()
    prefix = f"lg_{plain_identifier(unit.removesuffix('.c'))}_"
    prefix += f"{plain_identifier(object)}_" if is_shared else ""
    functions = list(_functions(comparison, unit, object, resolver, prefix, references.reasons))
    callbacks = tuple(_callbacks(comparison, prefix))
    piece.add_symbols(functions, callbacks)
    reasons = [
        *comparison.reasons,
        *sites.reasons,
        *_short_branches(comparison.patched, comparison.inclusion),
        *references.reasons,
    ]
    if reasons:
        raise Refused(unit, list(dict.fromkeys(reasons)))
    sort_symbols(piece.obj)
    used = tuple(references.used.values())
    made = Piece(unit, object, write(piece.obj), tuple(functions), used, callbacks)
    return Cut(made, tuple(dict.fromkeys(sites.warnings)))


def _functions(
    comparison: Comparison,
    unit: str,
    object: str,
    resolver: Resolver,
    prefix: str,
    reasons: list[Reason],
) -> Iterator[Function]:
    """What the payload brings; functions that are not found in the kernel are reasons.

    Args:
        prefix: of the global symbols by which the module finds the unit's functions.
    """
    for entity in comparison.changed_entities:
        try:
            target = resolver.local(comparison.pairs.of_patched[entity].name)
        except Refused as refused:
            reasons += refused.reasons
            continue
        yield Function(unit, target, State.CHANGED, prefix + identifier(entity.name))
    for entity in comparison.new_entities:
        yield Function(unit, Target(object, entity.name, 0), State.NEW)
    for entity in comparison.removed_entities:
        yield Function(unit, Target(object, entity.name, 0), State.REMOVED)


def _callbacks(comparison: Comparison, prefix: str) -> Iterator[Callback]:
    """The callbacks that the fix marks; each is a new function (rule ``mark-target``)."""
    for kind, function in comparison.marks.callbacks:
        assert isinstance(function, Entity)
        yield Callback(kind, function.name, prefix + identifier(function.name))


def _short_branches(unit: Unit, inclusion: Inclusion) -> Iterator[Reason]:
    """Branches with 8 bits between functions of one section, which cannot be torn apart."""
    for function in sorted(inclusion.functions, key=lambda each: each.number):
        if any(use.type == arch.R_PC8 for use in unit.uses(function)):
            yield Reason(
                "short-branch",
                function.name,
                "jumps to its neighbour in the same section with a short branch",
                "leave this function out of the fix, or boot a kernel with the fix",
            )


class _Piece:
    """A payload's object under construction."""

    def __init__(
        self, comparison: Comparison, unit: str, references: References, sites: Sites
    ) -> None:
        self._comparison = comparison
        self._unit_name = unit
        self._unit = comparison.patched
        self._inclusion = comparison.inclusion
        self._references = references
        self._sites = sites
        self.layout = Layout(comparison.patched, comparison.inclusion)
        self.obj = self.layout.obj
        self._undefined: dict[str, int] = {}
        self._dead_ends: list[tuple[int, int]] = []
        self._off_key = 0
        self._running = {each.name: each for each in comparison.original.functions()}

    # -- symbols --------------------------------------------------------------------------------

    def add_symbols(self, functions: list[Function], callbacks: Iterable[Callback]) -> None:
        """Names of functions and variables, and the ones by which the patch finds new code."""
        name = self._unit_name.rpartition("/")[2]
        self.obj.add_symbol(Symbol(name, SHN_ABS, type=SymbolType.FILE))
        for entity in self._inclusion.in_order():
            if entity.kind in NAMED:
                self._add_symbol(entity)
        # Without type and size: objtool would take one of two functions at a place as its name
        # and miss the cold part, which belongs to the other.
        redirected = (each for each in functions if each.state is State.CHANGED)
        found = {
            function.symbol: entity
            for entity, function in zip(self._comparison.changed_entities, redirected, strict=False)
        }
        # One function may be the callback of several kinds.
        for callback, (_, called) in zip(callbacks, self._comparison.marks.callbacks, strict=True):
            assert isinstance(called, Entity)
            found[callback.symbol] = called
        for alias, entity in found.items():
            symbol = self._defined(entity, alias, Binding.GLOBAL, SymbolType.NOTYPE)
            symbol.size = 0
            self.obj.add_symbol(symbol)

    def _add_symbol(self, entity: Entity) -> None:
        """A new one of other units' concern stays global; all others are local."""
        for number in [entity.symbol, *entity.aliases]:
            symbol = self._unit.obj.symbols[number]
            is_local = entity in self._inclusion.changed
            binding = Binding.LOCAL if is_local else symbol.binding
            self.obj.add_symbol(self._defined(entity, symbol.name, binding, symbol.type))

    def _defined(self, entity: Entity, name: str, binding: int, kind: int) -> Symbol:
        place = self.layout.places[entity]
        value = self.layout.offset(entity, entity.value)
        return Symbol(name, place.section, value, entity.size, binding, kind)

    def _undefined_symbol(self, name: str, binding: int) -> int:
        if name not in self._undefined:
            self._undefined[name] = self.obj.add_symbol(Symbol(name, 0, binding=binding))
        return self._undefined[name]

    # -- relocations ----------------------------------------------------------------------------

    def add_relocations(self) -> None:
        """All relocations of the payload's parts, and marks behind calls that do not return."""
        found: dict[int, list[Relocation]] = {}
        for part in self.layout.places:
            found.setdefault(self.layout.places[part].section, []).extend(self._relocations(part))
        for section, entries in found.items():
            self.obj.sections[section].relocations = relocations(sorted(entries))
        self._mark_dead_ends()

    def _relocations(self, part: Entity) -> Iterator[Relocation]:
        for use in self._unit.uses(part):
            symbol, addend = self._meaning(part, use)
            yield self.layout.offset(part, use.offset), use.type, symbol, addend

    def _meaning(self, part: Entity, use: Use) -> tuple[int, int]:
        target = use.target
        if part in self._sites.turned_off and use.offset - part.start == arch.KEY_AT:
            return self._key_that_is_off(), use.delta & arch.KEY_FLAGS
        is_here = isinstance(target, Entity) and target in self.layout.places
        if is_here and not self._inclusion.means_original(self._unit, use, part):
            assert isinstance(target, Entity)
            symbol = self.layout.section_symbols[self.layout.places[target].section]
            return symbol, self.layout.offset(target, target.value) + use.delta
        name = self._references.symbol(target)
        self._note_dead_end(part, use, name)
        return self._undefined_symbol(name, self._binding(target, name)), use.delta

    def _key_that_is_off(self) -> int:
        """A ``struct static_key`` that nobody turns on."""
        if not self._off_key:
            size = arch.STATIC_KEY_SIZE
            flags = SectionFlag.ALLOC | SectionFlag.WRITE
            section = Section(f".bss.{OFF_KEY}", SectionType.NOBITS, flags, b"", size, 8)
            number = self.layout.add_section(section)
            self._off_key = self.layout.section_symbols[number]
            self.obj.add_symbol(Symbol(OFF_KEY, number, 0, size, type=SymbolType.OBJECT))
        return self._off_key

    def _binding(self, target: Entity | str, name: str) -> int:
        """An ordinary weak reference stays weak."""
        if target == name:
            for symbol in self._unit.obj.symbols:
                if symbol.name == name and symbol.is_undefined:
                    return symbol.binding
        return Binding.GLOBAL

    def _note_dead_end(self, part: Entity, use: Use, name: str) -> None:
        is_branch = part.kind is Kind.FUNCTION and self._unit.is_branch(use, part.section)
        if is_branch and name != use.target and self._never_returns(use.target):
            place = self.layout.places[part].section
            self._dead_ends.append((place, self.layout.offset(part, use.offset) + 4))

    def _never_returns(self, target: Entity | str) -> bool:
        """Of what is not in this object, but in the original one, the code is there."""
        running = self._running.get(target) if isinstance(target, str) else None
        if running is not None:
            return never_returns(self._comparison.original, running)
        return never_returns(self._unit, target)

    def _mark_dead_ends(self) -> None:
        if not self._dead_ends:
            return
        number = self.obj.section_number(MARK_SECTION)
        if number is None:
            number = self.layout.add_section(Section(MARK_SECTION))
        section = self.obj.sections[number]
        entries = section.relocations.tolist()
        for where, offset in self._dead_ends:
            symbol = self.layout.section_symbols[where]
            entries.append((section.size, arch.R_PC32, symbol, offset))
            section.data += bytes(4)
            section.size += 4
        section.relocations = relocations(entries)
