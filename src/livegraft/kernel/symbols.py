# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of one object, the kernel or a module, as the livepatch core counts them.

``klp_find_object_symbol()`` of kernel/livepatch/core.c walks all symbols of the object, whatever
their type, counts those whose name is the wanted one, and stops when the count is the position.

- vmlinux: ``kallsyms_on_each_symbol()`` (6.1) or ``kallsyms_on_each_match_symbol()`` (6.12) visit
  every symbol of the image's own table, those of discarded init code too. An address of 0 counts as
  not found.
- modules: ``module_kallsyms_on_each_symbol()`` visits ``mod->kallsyms`` in the order of the
  module's symbol table without undefined symbols. That is the whole table while the module is
  coming, and the table without init symbols (``is_core_symbol()`` of kernel/module/kallsyms.c)
  once it has started. A position that differs between the two means nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from livegraft.changeset import VMLINUX, Target
from livegraft.elf.header import SectionFlag
from livegraft.elf.object import Binding, ElfObject, Symbol
from livegraft.errors import Reason, Refused
from livegraft.kernel.kallsyms import Kallsyms

RULE = "unresolved-reference"
"""The rule by which a symbol is refused that cannot be named to the livepatch core."""

_SECTION_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """One symbol of an object.

    Args:
        place: where it is: an address in vmlinux, :func:`module_place` in a module.
        is_global: whether other units of the object can refer to it; None where the table does not
            tell (per-CPU variables of vmlinux are always ``A``).
        stays: whether it is in the table after the object's init.
    """

    place: int
    is_global: bool | None
    stays: bool = True


class SymbolTable(ABC):
    """All symbols of one object by name.

    Args:
        object: ``vmlinux`` or the module's name.
    """

    def __init__(self, object: str) -> None:
        self.object = object

    @abstractmethod
    def entries(self, name: str) -> tuple[Entry, ...]:
        """The symbols of that name in the order in which the livepatch core counts them."""

    def places(self, name: str) -> tuple[int, ...]:
        """Where the symbols of that name are, in the same order."""
        return tuple(entry.place for entry in self.entries(name))

    def target(self, name: str, place: int) -> Target:
        """The symbol of that name at that place, with its exact position.

        Raises:
            Refused: there is none, or the livepatch core could not find it.
        """
        entries = self.entries(name)
        at = next((n for n, entry in enumerate(entries) if entry.place == place), None)
        if at is None:
            raise self.refusal(name, f"{self.object} has no such symbol at that place")
        if place == 0:
            raise self.refusal(name, "lies at address 0, which the livepatch core takes for absent")
        if not entries[at].stays:
            raise self.refusal(name, f"is gone when {self.object} has initialised")
        if not all(entry.stays for entry in entries[:at]):
            raise self.refusal(name, f"its position changes when {self.object} has initialised")
        return Target(self.object, name, at + 1)

    def refusal(self, name: str, message: str) -> Refused:
        """The error for a symbol that cannot be named."""
        remedy = "write the fix so that it does not need this symbol"
        return Refused(name, [Reason(RULE, name, message, remedy)])


class KernelSymbols(SymbolTable):
    """The symbols of vmlinux, from the table in its image."""

    def __init__(self, kallsyms: Kallsyms) -> None:
        super().__init__(VMLINUX)
        self.kallsyms = kallsyms
        self._known: dict[str, tuple[Entry, ...]] = {}

    def entries(self, name: str) -> tuple[Entry, ...]:
        known = self._known.get(name)
        if known is None:
            known = tuple(map(self._entry, self.kallsyms.numbers(name)))
            self._known[name] = known
        return known

    def _entry(self, number: int) -> Entry:
        letter = chr(self.kallsyms.types[number])
        # make_percpus_absolute() of scripts/kallsyms.c writes A, local or not.
        is_global = None if letter == "A" else letter.isupper()
        return Entry(int(self.kallsyms.addresses[number]), is_global)


class ModuleSymbols(SymbolTable):
    """The symbols of a module, from its file.

    Args:
        name: the module's name.
        module: the shipped ``.ko``; its symbol table is what the kernel keeps.
    """

    def __init__(self, name: str, module: ElfObject) -> None:
        super().__init__(name)
        self._by_name: dict[str, list[Entry]] = {}
        kept = [_stays(section.name, section.flags) for section in module.sections]
        for symbol in module.symbols[1:]:
            if symbol.name and not symbol.is_undefined:
                entry = Entry(
                    module_place(symbol),
                    symbol.binding != Binding.LOCAL,
                    symbol.in_section and kept[symbol.section],
                )
                self._by_name.setdefault(symbol.name, []).append(entry)

    def entries(self, name: str) -> tuple[Entry, ...]:
        return tuple(self._by_name.get(name, ()))


def module_place(symbol: Symbol) -> int:
    """Where a symbol of a module file is: the section's number and the offset, in one integer."""
    return symbol.section << _SECTION_SHIFT | symbol.value


def section_place(number: int) -> int:
    """:func:`module_place` of the start of a section of a module file."""
    return number << _SECTION_SHIFT


def _stays(section: str, flags: int) -> bool:
    """Whether the symbols of a section are core symbols: ``is_core_symbol()``.

    ``.modinfo`` and ``__versions`` lose their ALLOC flag when a module is loaded
    (``rewrite_section_headers()`` of kernel/module/main.c); per-CPU data stays. Exit code stays
    where modules can be unloaded, and a kernel with live patches has that.
    """
    if section in (".modinfo", "__versions"):
        return False
    return bool(flags & SectionFlag.ALLOC) and not section.startswith(".init")
