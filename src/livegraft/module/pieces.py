# SPDX-License-Identifier: GPL-2.0-or-later
"""The pieces of a change set, checked and made ready to be linked into one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from livegraft.changeset import (
    PATCH_SYMBOL,
    VMLINUX,
    ChangeSet,
    Function,
    Piece,
    Reference,
    State,
    Target,
)
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.elf.object import Binding, ElfObject, Symbol
from livegraft.errors import ModuleError
from livegraft.module.name import LONGEST, OWN

KSYM_NAME_LENGTH = 511
"""Characters of a symbol's name: the ``%511[^,]`` of ``klp_resolve_symbols()``."""

REPORT = "report this fix: the change set was not prepared as it should have been"


@dataclass(frozen=True, slots=True)
class Linkable:
    """What kbuild gets.

    Args:
        objects: file name (without ending) to the bytes of the relocatable object.
        references: the undefined symbols that become livepatch symbols, by their names there.
        imported: the undefined symbols that vmlinux exports.
    """

    objects: Mapping[str, bytes]
    references: Mapping[str, Reference]
    imported: frozenset[str]


def make_linkable(changeset: ChangeSet, is_exported: Callable[[str], bool]) -> Linkable:
    """Check the pieces and give their livepatch symbols names that are safe to link.

    A reference's name is shared by pieces that mean the same symbol and wait for the same object;
    it is short, because modpost has a limit, and belongs to no symbol of the kernel, because
    objtool knows some of those by name.

    Raises:
        ModuleError: the change set contradicts itself, or needs a symbol that vmlinux does not
            export.
        ElfError: a piece is no relocatable object.
    """
    redirects = any(function.state is State.CHANGED for function in changeset.functions)
    if not redirects and not changeset.callbacks:
        raise ModuleError("change set", "redirects no function and has no callback", REPORT)
    parsed = [(piece, elf.parse(piece.data, piece.unit)) for piece in changeset.pieces]
    _tell_copies_apart(parsed)
    known = {PATCH_SYMBOL, *_defined(parsed)}
    for piece, obj in parsed:
        _check_functions(piece, obj)
        _check_references(piece, obj)
    _check_unique(changeset)
    targets = sorted({_key(ref) for piece in changeset.pieces for ref in piece.references})
    numbers = {key: f"{OWN}reference_{n}" for n, key in enumerate(targets)}
    imported = set()
    objects = {}
    for n, (piece, obj) in enumerate(parsed):
        for symbol in undefined(obj):
            if symbol not in {ref.symbol for ref in piece.references} and symbol not in known:
                require_exported(symbol, is_exported, piece.unit)
                imported.add(symbol)
        names = {ref.symbol: numbers[_key(ref)] for ref in piece.references}
        _rename(obj, names)
        objects[f"{OWN}piece_{n}"] = writer.write(obj)
    references = {
        name: Reference(name, owner, Target(object, symbol, sympos))
        for (owner, object, symbol, sympos), name in numbers.items()
    }
    return Linkable(objects, references, frozenset(imported))


def undefined(obj: ElfObject) -> Iterator[str]:
    """The names of the symbols that an object needs."""
    return (symbol.name for symbol in obj.symbols[1:] if symbol.is_undefined and symbol.name)


def require_exported(symbol: str, is_exported: Callable[[str], bool], subject: str) -> None:
    """Refuse an undefined symbol that the kernel itself does not export.

    One that a module exports is no exception: the patch would depend on that module.

    Raises:
        ModuleError: it is none of vmlinux's exports.
    """
    if not is_exported(symbol):
        problem = f"needs {symbol}, which the kernel itself does not export"
        raise ModuleError(subject, problem, REPORT)


def _key(reference: Reference) -> tuple[str, str, str, int]:
    target = reference.target
    return (reference.owner, target.object, target.name, target.sympos)


def _tell_copies_apart(parsed: list[tuple[Piece, ElfObject]]) -> None:
    """What a unit in several objects newly defines is in the piece of each: those of an object
    refer to its own.

    Raises:
        ModuleError: a piece of another object refers to one of several.
    """
    owners: dict[str, set[str]] = {}
    units: dict[str, set[str]] = {}
    for piece, symbol in _globals(parsed):
        owners.setdefault(symbol.name, set()).add(piece.object)
        units.setdefault(symbol.name, set()).add(piece.unit)
    several = {name for name, found in owners.items() if len(found) > 1 == len(units[name])}
    for piece, obj in parsed:
        for symbol in obj.symbols[1:]:
            if symbol.name not in several or symbol.binding == Binding.LOCAL:
                continue
            if piece.object not in owners[symbol.name]:
                problem = f"is new in {', '.join(sorted(owners[symbol.name]))}, each its own"
                raise ModuleError(symbol.name, f"{problem}; {piece.unit} needs one", REPORT)
            symbol.name = f"{symbol.name}_{piece.object}"


def _globals(parsed: list[tuple[Piece, ElfObject]]) -> Iterator[tuple[Piece, Symbol]]:
    """The global symbols that pieces define."""
    for piece, obj in parsed:
        for symbol in obj.symbols[1:]:
            if symbol.binding != Binding.LOCAL and not symbol.is_undefined:
                yield piece, symbol


def _defined(parsed: list[tuple[Piece, ElfObject]]) -> dict[str, str]:
    """Global symbols that the pieces define, and the unit of each."""
    found: dict[str, str] = {}
    for piece, symbol in _globals(parsed):
        if symbol.name in found:
            other = found[symbol.name]
            raise ModuleError(symbol.name, f"is in two pieces, {other} and {piece.unit}", REPORT)
        found[symbol.name] = piece.unit
    return found


def _check_functions(piece: Piece, obj: ElfObject) -> None:
    usable = {
        symbol.name
        for symbol in obj.symbols[1:]
        if symbol.in_section
        and symbol.binding == Binding.GLOBAL
        and obj.sections[symbol.section].is_code
    }
    for callback in piece.callbacks:
        if callback.symbol not in usable:
            problem = f"is a callback without a global symbol {callback.symbol!r} in its piece"
            raise ModuleError(callback.name, problem, REPORT)
    if len({callback.kind for callback in piece.callbacks}) != len(piece.callbacks):
        raise ModuleError(piece.unit, "has two callbacks of one kind", REPORT)
    for function in piece.functions:
        if function.state is not State.CHANGED:
            continue
        _check_target(function.target, piece.unit)
        if function.target.object != piece.object:
            problem = f"is in {function.target.object}, and its piece is of {piece.object}"
            raise ModuleError(function.target.name, problem, REPORT)
        if function.symbol not in usable:
            problem = f"its new code has no global symbol {function.symbol!r} in its piece"
            raise ModuleError(function.target.name, problem, REPORT)


def _check_unique(changeset: ChangeSet) -> None:
    seen: dict[Target, Function] = {}
    for function in changeset.functions:
        if function.state is State.CHANGED:
            if function.target in seen:
                raise ModuleError(function.target.name, "is changed by two pieces", REPORT)
            seen[function.target] = function


def _check_references(piece: Piece, obj: ElfObject) -> None:
    needed = set(undefined(obj))
    seen = set()
    for reference in piece.references:
        _check_target(reference.target, piece.unit)
        right = VMLINUX if reference.target.object == VMLINUX else piece.object
        if reference.owner != right or (right == VMLINUX != reference.target.object):
            problem = f"waits for {reference.owner} in a piece of {piece.object}"
            raise ModuleError(reference.target.name, problem, REPORT)
        if reference.symbol not in needed or reference.symbol in seen:
            problem = f"its symbol {reference.symbol} is not undefined in the piece, or named twice"
            raise ModuleError(reference.target.name, problem, REPORT)
        seen.add(reference.symbol)


def _check_target(target: Target, subject: str) -> None:
    """Whether the livepatch core can read it: ``.klp.sym.%55[^.].%511[^,],%lu``."""
    fits = 0 < len(target.object) <= LONGEST and "." not in target.object
    fits = fits and 0 < len(target.name) <= KSYM_NAME_LENGTH and "," not in target.name
    if not fits or target.sympos < 1:
        named = f"{target.object}.{target.name},{target.sympos}"
        raise ModuleError(subject, f"the livepatch core cannot find {named}", REPORT)


def _rename(obj: ElfObject, names: Mapping[str, str]) -> None:
    for symbol in obj.symbols[1:]:
        if symbol.is_undefined and symbol.name in names:
            symbol.name = names[symbol.name]
