# SPDX-License-Identifier: GPL-2.0-or-later
"""Where two modules that should be the same are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from livegraft.elf import header
from livegraft.errors import ElfError, ModuleError
from livegraft.module import manifest

HEADERS = "ELF headers"
"""What is in no section."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of two modules, in the order of their sections.

    Args:
        section: where it is.
        offset: of the first byte that differs, in the section; of :data:`HEADERS`, in the file.
        message: what differs there.
        others: further sections that differ.
    """

    section: str
    offset: int
    message: str
    others: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """As it stands in documents."""
        return {
            "section": self.section,
            "offset": self.offset,
            "message": self.message,
            "others": list(self.others),
        }


def first_difference(given: bytes, rebuilt: bytes) -> Difference | None:
    """Compare two modules byte by byte.

    Args:
        given: a module, without its signature.
        rebuilt: what it should be.

    Returns:
        None if they are the same.

    Raises:
        ElfError: one is no ELF file.
    """
    if given == rebuilt:
        return None
    one, other = header.parse(given), header.parse(rebuilt)
    found = list(_sections(one, other))
    if not found:
        return Difference(HEADERS, _first(given, rebuilt), "they differ", ())
    (section, offset, message), *rest = found
    return Difference(section, offset, message, tuple(name for name, _, _ in rest))


def _sections(one: header.File, other: header.File) -> Iterable[tuple[str, int, str]]:
    """The sections that differ; those that only one has come last."""
    for given in one.sections:
        made = next((each for each in other.sections if each.name == given.name), None)
        if made is None:
            continue
        mine, theirs = bytes(one.bytes_of(given)), bytes(other.bytes_of(made))
        if mine != theirs:
            yield given.name, _first(mine, theirs), _message(given.name, mine, theirs)
    names, made_names = _names(one), _names(other)
    yield from ((name, 0, "the patch alone has it") for name in names if name not in made_names)
    yield from ((name, 0, "what was built has it, too") for name in made_names if name not in names)


def _names(file: header.File) -> list[str]:
    return list(dict.fromkeys(each.name for each in file.sections))


def _message(section: str, given: bytes, rebuilt: bytes) -> str:
    if section == manifest.SECTION and (keys := _keys(given, rebuilt)):
        return f"the manifests differ in {', '.join(keys)}"
    if len(given) != len(rebuilt):
        return f"{len(given)} bytes, and {len(rebuilt)} were built"
    at = _first(given, rebuilt)
    return f"{given[at : at + 8].hex()}, and {rebuilt[at : at + 8].hex()} was built"


def _keys(given: bytes, rebuilt: bytes) -> list[str]:
    """The members in which two manifests differ."""
    try:
        one = manifest.decode(given, section := manifest.SECTION)
        other = manifest.decode(rebuilt, section)
    except (ModuleError, ElfError):
        return []
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _first(one: bytes, other: bytes) -> int:
    """The first place where they differ; where the shorter one ends, if they do not before."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
