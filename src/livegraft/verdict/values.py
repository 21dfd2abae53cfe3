# SPDX-License-Identifier: GPL-2.0-or-later
"""What a variable begins with before and after a fix, member by member, as C would write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.spelling import Member
from livegraft.compare.types import types_of
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64 as arch

_BYTES_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Value:
    """A part of a variable that begins with another value.

    Args:
        place: the C expression for it (``ext4_sops.statfs``); without debug information the
            variable and the distance in bytes (``ext4_sops+88``).
        type: its C type; empty without debug information.
        before: what it begins with in the running kernel.
        after: what the fix makes of it.
    """

    place: str
    type: str
    before: str
    after: str

    @property
    def is_expression(self) -> bool:
        """Whether place and values can be written into source as they are."""
        return bool(self.type) and "?" not in (self.before + self.after)


def changed_values(comparison: Comparison, original: Entity, patched: Entity) -> list[Value]:
    """The parts of a variable whose initial values differ, in the order of their places.

    Args:
        original: the variable in the original object.
        patched: the same one in the patched object; as large.
    """
    sides = (
        _Side(comparison.original, original, comparison),
        _Side(comparison.patched, patched, comparison),
    )
    types = types_of(comparison.original)
    found: dict[int, Value] = {}
    for offset, size in _differences(*sides):
        member = types.place(original.name, offset) if types is not None else None
        part = member or Member(f"+{offset}", 8 * offset, 8 * size, "")
        before, after = (side.text(part) for side in sides)
        found.setdefault(
            part.offset, Value(f"{original.name}{part.path}", part.type, before, after)
        )
    return [found[at] for at in sorted(found)]


class _Side:
    """A variable in one of the objects."""

    def __init__(self, unit: Unit, entity: Entity, comparison: Comparison) -> None:
        self.unit = unit
        self.data = unit.masked(entity)
        self.pointers = {
            use.offset - entity.value: _target_text(unit, use, comparison)
            for use in unit.uses(entity)
        }
        self.widths = {
            use.offset - entity.value: arch.RELOCATION_SIZES.get(use.type, 1)
            for use in unit.uses(entity)
        }

    def text(self, part: Member) -> str:
        """What a part begins with."""
        start, size = part.offset // 8, part.size // 8
        pointer = self.pointers.get(start)
        if pointer is not None:
            return pointer if "(*)" in part.type else pointer.replace("?", "&", 1)
        data = self.data[start : start + size]
        if part.type.endswith("*") or "(*)" in part.type:
            return hex(_number(data, self.unit)) if any(data) else "NULL"
        if part.type.startswith(("char[", "unsigned char[")) and data.rstrip(b"\0").isascii():
            return json.dumps(data.rstrip(b"\0").decode("ascii"))
        if 0 < size <= 8 and not part.type.startswith(("struct", "union")):
            return str(_number(data, self.unit, is_signed=_is_signed(part.type)))
        shown = data[:_BYTES_SHOWN].hex(" ")
        return f"? {shown}{' ...' if size > _BYTES_SHOWN else ''}"


def _differences(before: _Side, after: _Side) -> Iterator[tuple[int, int]]:
    """Places that differ, as (offset, size): pointers, and runs of bytes of one word."""
    covered: set[int] = set()
    for offset in sorted(before.pointers.keys() | after.pointers.keys()):
        width = max(before.widths.get(offset, 1), after.widths.get(offset, 1))
        covered.update(range(offset, offset + width))
        if before.pointers.get(offset) != after.pointers.get(offset):
            yield offset, width
    bytes_ = enumerate(zip(before.data, after.data, strict=True))
    differing = [at for at, (old, new) in bytes_ if old != new and at not in covered]
    for word, those in groupby(differing, key=lambda at: at // 8):
        listed = list(those)
        yield listed[0], min(listed[-1] + 1, 8 * word + 8) - listed[0]
        # Members may be smaller than a word: each byte that differs is asked for.
        yield from ((at, 1) for at in listed[1:])


def _target_text(unit: Unit, use: Use, comparison: Comparison) -> str:
    """What a pointer points to; ``?name`` if it is not known whether that is a function."""
    target = use.target
    if isinstance(target, str):
        name, is_data = target, None
    elif target.kind is Kind.STRING:
        text = unit.masked(target)[max(use.delta, 0) :].split(b"\0")[0]
        return json.dumps(text.decode("utf-8", "replace"))
    else:
        twin = comparison.original_of(target) if unit is comparison.patched else target
        name, is_data = (twin or target).name or "?", target.kind is Kind.DATA
    distance = f" + {use.delta}" if use.delta else ""
    mark = {None: "?", True: "&", False: ""}[is_data]
    return f"{mark}{name}{distance}"


def _is_signed(type_: str) -> bool:
    return "unsigned" not in type_ and type_ != "_Bool"


def _number(data: bytes, unit: Unit, is_signed: bool = False) -> int:
    order = "little" if unit.obj.byte_order == "<" else "big"
    return int.from_bytes(data, order, signed=is_signed)  # type: ignore[arg-type]
