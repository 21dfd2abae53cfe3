# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes that are none: a line number that moved.

WARN and BUG keep theirs in ``__bug_table``, where it is ignored. Some functions are called with
``__LINE__`` as an argument, which the compiler loads as an immediate on the way to the call. A
function whose only differences are such immediates, each on its way into the very argument that
takes a line number, has not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from livegraft.compare import names
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.elf.arch.architecture import Architecture, Instruction, Load, Undecodable

WINDOW = 40
"""Instructions between loading an argument and the call, jumps followed."""

BEFORE = 12
"""Instructions in front of the load, among which the one with the format may be."""

LARGEST_LINE = 1 << 17

LONGEST_FORMAT = 4096
"""Bytes of a format that are looked at."""

_CONVERSION = re.compile(
    rb"%(?:%|[-+ #0]*+(?:\d++|\*)?+(?:\.(?:\d++|\*))?+(?:hh?|ll?|[zjtL])?([a-zA-Z]))"
)
_LINE_FOLLOWS = re.compile(rb"(?:\.[chS]|%[-\d.*]*s):$|\bat %s \($|\bline\W*$", re.I)
_LINE_MAY_FOLLOW = re.compile(rb"%[-\d.*]*s[^\w%]*$")
"""It is one if the string names the function or a file (``"%s %d", __func__, __LINE__``)."""
_FILE_NAME = re.compile(rb"[\w/.-]+\.[chS]\0?$")

_FUNCTION_NAMES = frozenset(("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__"))


@cache
def _tables() -> Mapping[str, Mapping[str, list[int] | int]]:
    # Most comparisons need no table, and start without reading one.
    import tomllib
    from importlib import resources

    text = resources.files("livegraft.compare").joinpath("line_takers.toml").read_text("utf-8")
    return tomllib.loads(text)


def takers() -> Mapping[str, list[int]]:
    """Function -> which of its arguments, from 1, may be a line number."""
    return {
        name: places for name, places in _tables()["takers"].items() if isinstance(places, list)
    }


def is_line_change(before: bytes, after: bytes, unit: Unit, function: Entity) -> bool:
    """Whether two functions' code differs in line numbers only.

    Args:
        before: the original's code, relocations blanked.
        after: the patched code; its relocations are known to mean the same.
        unit: the patched unit.
        function: the patched function.
    """
    if len(before) != len(after):
        return False
    differing = {at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    code = _Code(unit, function)
    for number, each in enumerate(code.instructions):
        span = range(each.offset - function.value, each.end - function.value)
        here = differing.intersection(span)
        if not here:
            continue
        old, new = (_load(side, span, unit.arch) for side in (before, after))
        if old is None or new is None or old._replace(value=new.value) != new:
            return False
        if not (_is_line(old) and _is_line(new) and code.takes_line(number, new)):
            return False
        differing -= here
    return not differing


def _load(code: bytes, span: range, arch: Architecture) -> Load | None:
    """What the one instruction of a place loads."""
    try:
        listed = list(arch.decode(code, span.start, span.stop))
    except Undecodable:
        return None
    return arch.loaded_argument(listed[0], code) if len(listed) == 1 else None


def _is_line(load: Load) -> bool:
    return (0 if load.is_part else 1) <= load.value < LARGEST_LINE


class _Code:
    """A function's instructions and what they call and refer to."""

    def __init__(self, unit: Unit, function: Entity) -> None:
        self.arch = unit.arch
        self.instructions = unit.instructions(function)
        self.data = unit.section(function).data
        self._by_offset = {each.offset: number for number, each in enumerate(self.instructions)}
        self._calls: dict[int, str] = {}
        self._strings: dict[int, bytes] = {}
        self._origins: set[int] = set()
        for use in unit.uses(function):
            if unit.is_branch(use, function.section):
                called = use.target
                self._calls[use.offset] = called if isinstance(called, str) else called.name
            elif isinstance(use.target, Entity):
                if use.target.kind is Kind.STRING:
                    self._strings[use.offset] = unit.masked(use.target)
                    if _FILE_NAME.match(self._strings[use.offset]):
                        self._origins.add(use.offset)
                elif use.target.name.partition(".")[0] in _FUNCTION_NAMES:
                    self._origins.add(use.offset)

    def takes_line(self, number: int, load: Load) -> bool:
        """Whether what an instruction loads is a line number for the next call."""
        way = list(self._way(number + 1))
        last = way[-1] if way else None
        callee = self._calls.get(last.immediate, "") if last is not None else ""
        name = names.base(callee)
        places = takers().get(name, [])
        if name != callee:
            return False  # a clone may have lost arguments: nothing says which one this is
        later = filter(None, (self.arch.loaded_argument(each, self.data) for each in way))
        if (load.register >= 0 or load.argument) and any(
            (each.register, each.argument) == (load.register, load.argument) and not each.is_part
            for each in later
        ):
            return False  # it gets another value before the call
        if self.arch.is_push(self.instructions[number], self.data):
            # Pushed from the last to the first on the stack: those behind it tell which this is.
            behind = sum(self.arch.is_push(each, self.data) for each in way)
            load = load._replace(argument=len(self.arch.arguments) + 1 + behind)
        nearby = [*self.instructions[max(number - BEFORE, 0) : number + 1], *way]
        if self._is_line_argument(load, places, nearby):
            return True
        format_at = _tables()["formats"].get(name)
        if not isinstance(format_at, int):
            return False
        formats = [self._string_of(each)[:LONGEST_FORMAT] for each in nearby]
        return any(
            self.arch.is_argument(load, format_at + 1 + position)
            and (sure or self._names_origin(format_at + position, nearby))
            for text in formats
            for position, sure in _line_conversions(text)
        )

    def _names_origin(self, place: int, nearby: list[Instruction]) -> bool:
        """Whether an argument is the name of the function or of a file."""
        for each in nearby:
            if not self._origins.isdisjoint(range(each.offset, each.end)):
                load = self.arch.loaded_argument(each, self.data)
                if load is not None and self.arch.is_argument(load, place):
                    return True
        return False

    def _is_line_argument(self, load: Load, places: list[int], nearby: list[Instruction]) -> bool:
        """Whether a load is of the argument that is the line number.

        Where kernels differ in its position, it is the first of them that a constant goes into:
        the other kernel has a pointer there.
        """
        for place in places:
            if self.arch.is_argument(load, place):
                return True
            loads = filter(None, (self.arch.loaded_argument(each, self.data) for each in nearby))
            if any(self.arch.is_argument(each, place) for each in loads):
                return False
        return False

    def _string_of(self, instruction: Instruction) -> bytes:
        span = range(instruction.offset, instruction.end)
        return next((self._strings[at] for at in span if at in self._strings), b"")

    def _way(self, number: int) -> Iterator[Instruction]:
        """The instructions up to the next call; without one if that is not clear."""
        for _ in range(WINDOW):
            if number >= len(self.instructions):
                return
            each = self.instructions[number]
            number += 1
            yield each
            if each.immediate in self._calls:
                return
            place = self.arch.destination(each, self.data)
            if self.arch.is_jump(each):
                target = self._by_offset.get(-1 if place is None else place)
                if target is None:
                    return
                number = target
            elif place is not None or self.arch.is_return(each):
                return


def _line_conversions(text: bytes) -> Iterator[tuple[int, bool]]:
    """Which conversions of a format print a line number, from 0; a ``*`` takes an argument too.

    Returns:
        with each whether it surely does, or only if the string before names a function or a file.
    """
    position = 0
    for found in _CONVERSION.finditer(text):
        position += found[0].count(b"*")
        if found[1]:
            before = text[: found.start()]
            sure = _LINE_FOLLOWS.search(before) is not None
            if found[1] in b"diu" and (sure or _LINE_MAY_FOLLOW.search(before)):
                yield position, sure
            position += 1
