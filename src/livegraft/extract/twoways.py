# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ways to prepare a patch check each other.

``compare`` takes a function out of the object of the whole unit; ``extract`` compiles it with
declarations where the unit had definitions. Most functions come out the same. Where one does not,
the compiler has used what it knew of the whole unit; and that is not assumed but shown, by further
builds of the same source in which it may not:

- the whole unit, with all that ``extract`` only declares made opaque (``noipa``) and all that is
  patched made reachable from elsewhere: what equals the extracted code now differed in *knowledge*;
- the extracted file, with the variables that it declares defined in it: so that the compiler knows
  that they are not one and the same, as in the whole unit: *knowledge* as well;
- both, with what is inlined in one of them only, and what the payload brings, kept apart as well:
  what is equal now differed in *inlining*, if there was any, else in *knowledge* of callers.

Each of these is a correct build of the patched source, so the extracted code is shown to be one by
being equal to it. What equals none of them is *unknown*, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from livegraft.compare import names, sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.elf.header import SectionFlag
from livegraft.errors import CompileError, Reason
from livegraft.extract.blocks import are_same_blocks
from livegraft.extract.clones import Clones
from livegraft.extract.listing import Line, listing, side_by_side
from livegraft.extract.sides import FIRST, SECOND, Row, Sides

RULE = "two-ways-differ"

ROUNDS = 3
"""Builds with ever more functions kept out of line."""

_LINES = 40
"""Lines of a difference in text."""


class Way(StrEnum):
    """A way to prepare a patch."""

    COMPARE = "compare"
    EXTRACT = "extract"


class Class(StrEnum):
    """What a difference comes from."""

    KNOWLEDGE = "knowledge"
    """What the compiler knew of a callee, a caller or a variable that extract only declares."""
    CLONE = "clone"
    """One calls, or is, a clone (``foo.isra.0``) where the other has the function itself."""
    INLINING = "inlining"
    """A callee is inlined in one and called in the other."""
    LAYOUT = "layout"
    """The same blocks of code in another order."""
    UNKNOWN = "unknown"
    """None of these, as far as can be shown."""


@dataclass(frozen=True, slots=True)
class Equal:
    """A function that is the same both ways.

    Args:
        function: its name.
    """

    function: str
    is_equal: ClassVar[bool] = True

    def as_json(self) -> dict[str, object]:
        """The function as it stands in JSON documents."""
        return {"function": self.function, "equal": True}

    def text(self) -> str:
        """The function for a person."""
        return f"{self.function}: equal"


@dataclass(frozen=True, slots=True)
class Difference:
    """A function that is not.

    Args:
        function: its name.
        kind: what the difference comes from.
        where: where the two builds differ first.
        proof: what showed it; for an unknown one, what did not.
        names: functions and variables that it is about.
        lines: the code of both, as far as it differs.
    """

    function: str
    kind: Class
    where: str
    proof: str
    names: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    is_equal: ClassVar[bool] = False

    def as_json(self) -> dict[str, object]:
        """The difference as it stands in JSON documents."""
        return {
            "function": self.function,
            "equal": False,
            "class": self.kind.value,
            "where": self.where,
            "proof": self.proof,
            "names": list(self.names),
            "listing": [{"compare": each.first, "extract": each.second} for each in self.lines],
        }

    def text(self) -> str:
        """The difference with its code, compare's on the left."""
        head = f"{self.function}: {self.kind}: {self.where}; {self.proof}"
        return "\n".join([head, *(f"    {line}" for line in side_by_side(self.lines, _LINES))])


@dataclass(frozen=True, slots=True)
class Apart:
    """What a build may not see.

    Args:
        opaque: functions that are not inlined, and whose bodies and callers nothing may be learnt
            from.
        shared: variables that others may change.
        own: variables that are only declared, and are to be the unit's own: those of another unit
            might be one and the same.
    """

    opaque: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    def suffix(self) -> str:
        """Declarations for the end of a C file, which hold for all of it.

        A variable that only this unit sees, and of which nobody takes the address, cannot be meant
        by a pointer: so each one's address is taken.
        """
        lines = ['\n#pragma GCC diagnostic ignored "-Wattributes"']
        for attribute, found in (("__noipa__", self.opaque), ("__used__", self.shared)):
            for name in sorted(found):
                lines += [
                    f"#undef {name}",
                    f"extern __typeof__({name}) {name} __attribute__(({attribute}));",
                ]
        for name in sorted(self.own):
            lines += [f"#undef {name}", f"__typeof__({name}) {name};"]
        for name in sorted(self.shared):
            lines += [
                f"static const volatile void *const livegraft_shared_{name}",
                f"\t__attribute__((__used__)) = (const volatile void *)&{name};",
            ]
        return "\n".join([*lines, ""])


@dataclass(frozen=True, slots=True)
class Build:
    """A build of one of the ways.

    Args:
        comparison: of the original with it.
        clones: what the compiler inlined and cloned.
    """

    comparison: Comparison
    clones: Clones


Rebuild = Callable[[Way, Apart], Build]
"""Compiles a way's source once more; raises CompileError."""


def compare_ways(
    from_compare: Comparison, from_extract: Comparison, rebuild: Rebuild
) -> tuple[Equal | Difference, ...]:
    """Compare each function that is patched, both ways.

    Args:
        from_compare: the original object and that of the patched unit.
        from_extract: the original object and that of the extracted source.
        rebuild: for what differs.

    Returns:
        One for each function that either payload brings, by name.
    """
    sides = Sides(from_compare, from_extract)
    rows = sides.rows()
    found = _Classifier(sides, from_extract, rebuild).classify(rows)
    return tuple(found.get(row.name) or Equal(row.name) for row in rows)


def unknown(unit: str, found: Iterable[Equal | Difference]) -> Iterator[Reason]:
    """Why a patch is refused of which the two ways differ for unknown reasons."""
    for each in found:
        if isinstance(each, Difference) and each.kind is Class.UNKNOWN:
            yield Reason(
                RULE,
                each.function,
                f"the two ways to prepare the patch of {unit} differ: {each.where}; {each.proof}",
                "prepare it with one of them and review it, and report the fix",
            )


def _mismatch(sides: Sides, row: Row) -> str:
    """How the two builds of a function differ; empty if they do not."""
    if row.pair is None:
        side = FIRST if row.entities[FIRST] is not None else SECOND
        return f"only {(Way.COMPARE, Way.EXTRACT)[side]} has it"
    return sides.mismatch(*row.pair)


class _Classifier:
    """Builds again what differs, until it is the same."""

    def __init__(self, sides: Sides, from_extract: Comparison, rebuild: Rebuild) -> None:
        self._sides = sides
        self._rebuild = rebuild
        self._apart = _declared(sides.unit(FIRST), from_extract.patched)
        self._found: dict[str, Difference] = {}
        self._names = frozenset[str]()
        self._open: dict[str, Row] = {}
        self._inlined: dict[str, set[str]] = {}
        """By function, what is inlined in it in one of the ways only."""

    def classify(self, rows: Sequence[Row]) -> dict[str, Difference]:
        """The differences, by function."""
        self._names = frozenset(row.name for row in rows)
        self._open = {row.name: row for row in rows if _mismatch(self._sides, row)}
        brought = {row.name for row in rows if row.brought[SECOND]}
        for row in rows:
            self._close_missing(row, brought)
        for row in list(self._open.values()):
            if row.pair is not None and are_same_blocks(self._sides, *row.pair):
                self._note(row, Class.LAYOUT, "walked in step, both do the same", ())
        try:
            if self._open:
                self._build_again()
        except CompileError as error:
            self._close_rest(f"a further build failed: {error.problem.splitlines()[0]}")
        self._close_rest("no further build of the whole unit is the same")
        return self._found

    def _close_missing(self, row: Row, brought: Collection[str]) -> None:
        """What compare's payload replaces and extract's does not.

        That of a clone may: if it brings all that call the clone, nobody is left to be redirected.
        """
        first = row.entities[FIRST]
        if first is None or not row.replaces[FIRST] or row.replaces[SECOND]:
            return
        left = self._left(first, brought)
        if names.base(row.name) == row.name:
            self._note(row, Class.UNKNOWN, "extract's payload does not replace it", ())
        elif left:
            proof = f"extract's payload does not bring its callers {_list(left)}"
            self._note(row, Class.UNKNOWN, proof, left)
        elif row.pair is None:
            proof = "extract's payload brings all that call it, and they are compared"
            self._note(row, Class.CLONE, proof, {names.base(row.name)})

    def _left(
        self, function: Entity, brought: Collection[str], above: tuple[Entity, ...] = ()
    ) -> set[str]:
        """The callers of a function that stay in use: those that are not brought, but for clones
        that only what is brought calls.

        Args:
            above: clones that are looked at because they call it.
        """
        found = set()
        for caller in self._callers(function):
            if caller.name in brought:
                continue
            is_known = names.base(caller.name) != caller.name and caller not in above
            if not is_known or self._left(caller, brought, (*above, caller)):
                found.add(caller.name)
        return found

    def _callers(self, function: Entity) -> set[Entity]:
        """The functions of the patched unit that refer to one, those of the boot aside."""
        unit = self._sides.unit(FIRST)
        return {
            each.top
            for each in unit.functions()
            if each.top is not function
            and not sections.is_initial(unit.section(each).name)
            and any(
                isinstance(u.target, Entity) and u.target.top is function for u in unit.uses(each)
            )
        }

    def _build_again(self) -> None:
        extract = self._rebuild(Way.EXTRACT, Apart())
        compare = self._rebuild(Way.COMPARE, self._apart)
        inlined = {name: _bases(extract.clones.inlined(name)) for name in self._open}
        self._close(compare, extract, self._apart, inlined)
        own = self._apart.shared & _writable(self._sides.unit(FIRST))
        if self._open and own:
            extract = self._rebuild(Way.EXTRACT, Apart(own=own))
            self._close(compare, extract, self._apart, inlined)
        kept = frozenset[str]()
        for _ in range(ROUNDS):
            more = self._apart_in_one(compare, extract) - kept
            if not self._open or not more:
                return
            kept |= more
            apart = Apart(self._apart.opaque | kept, self._apart.shared)
            compare = self._rebuild(Way.COMPARE, apart)
            extract = self._rebuild(Way.EXTRACT, Apart(kept, own=own))
            self._close(compare, extract, apart, inlined, kept)

    def _close(
        self,
        compare: Build,
        extract: Build,
        apart: Apart,
        inlined: Mapping[str, Collection[str]],
        kept: Collection[str] = (),
    ) -> None:
        """Note the functions that are the same in two builds.

        Args:
            apart: what compare's build could not look into.
            inlined: by function, what extract's first build has inlined in it.
            kept: what is not inlined any more: it has to be the same as well, for it was.
        """
        proof = f"the same once {_list(apart.opaque | apart.shared)} cannot be looked into"
        sides = Sides(compare.comparison, extract.comparison, self._names)
        rows = {row.name: row for row in sides.rows()}
        unproved = {name for name in kept if not _is_same_in_both(sides, name)}
        for name, row in list(self._open.items()):
            again = rows.get(name)
            if again is None or again.pair is None or not _is_same(sides, again.pair):
                continue
            if not unproved.isdisjoint(inlined[name]):
                continue
            if clones := self._clones(row):
                self._note(row, Class.CLONE, proof, clones)
            elif apart_in_one := self._inlined.get(name):
                self._note(row, Class.INLINING, proof, apart_in_one)
            else:
                self._note(row, Class.KNOWLEDGE, proof, self._callees(row))

    def _close_rest(self, proof: str) -> None:
        for row in list(self._open.values()):
            self._note(row, Class.UNKNOWN, proof, set())

    def _note(self, row: Row, kind: Class, proof: str, about: Collection[str]) -> None:
        lines = listing(self._sides, *row.pair) if row.pair is not None else ()
        where = _mismatch(self._sides, row) or "the same code"
        self._found[row.name] = Difference(
            row.name, kind, where, proof, tuple(sorted(about)), lines
        )
        self._open.pop(row.name, None)

    def _clones(self, row: Row) -> set[str]:
        """Clones that only one of two builds of a function refers to, or is."""
        if row.pair is None:
            base = names.base(row.name)
            found = [
                {each.name for each in self._sides.unit(side).functions()}
                for side in (FIRST, SECOND)
            ]
            return {each for each in found[0] ^ found[1] if names.base(each) == base != each}
        first, second = (
            {
                names.family(each): each
                for each in self._targets(side, entity, frozenset({Kind.FUNCTION}))
                if names.base(each) != each
            }
            for side, entity in enumerate(row.pair)
        )
        return {(first | second)[each] for each in first.keys() ^ second.keys()}

    def _callees(self, row: Row) -> set[str]:
        """What it refers to of what extract declares only."""
        declared = self._apart.opaque | self._apart.shared
        if row.pair is None:
            return set()
        used = self._targets(FIRST, row.pair[0], NAMED)
        return {names.base(each) for each in used} & declared

    def _targets(self, side: int, function: Entity, kinds: Collection[Kind]) -> Iterator[str]:
        unit = self._sides.unit(side)
        for part in (function, *function.parts):
            for use in unit.uses(part):
                if isinstance(use.target, str):
                    yield use.target
                elif use.target.kind in kinds and use.target.top is not function:
                    yield use.target.top.name

    def _apart_in_one(self, compare: Build, extract: Build) -> frozenset[str]:
        """The functions that are inlined in only one of two builds of what is open, or of which
        only one has a clone, and those that the payload brings: what is known of their callers
        differs.

        What is out of line in neither of them went along with what it is inlined in, and may have
        to be inlined always.
        """
        found: set[str] = set()
        outside: set[str] = set()
        for name in self._open:
            first, second = (_bases(build.clones.inlined(name)) for build in (compare, extract))
            self._inlined.setdefault(name, set()).update(first ^ second)
            found |= first ^ second
        for row in self._open.values():
            found |= _bases(self._clones(row))  # a part of it may be inlined in both
        everywhere = [_inlined(build.clones) for build in (compare, extract)]
        for name, row in self._open.items():
            if row.pair is None and names.base(name) in everywhere[0] ^ everywhere[1]:
                self._inlined[name].add(names.base(name))
        for build in (compare, extract):
            outside |= {names.base(each.name) for each in build.comparison.patched.functions()}
        own = {
            names.base(each.name)
            for each in self._sides.unit(SECOND).functions()
            if each.parent is None and self._sides.brings(SECOND, each)
        }
        return frozenset((found & outside) | own)


def _is_same_in_both(sides: Sides, name: str) -> bool:
    """Whether a function is the same in two builds, whether or not the payloads bring it."""
    first, second = (sides.function(side, name) for side in (FIRST, SECOND))
    return first is not None and second is not None and _is_same(sides, (first, second))


def _is_same(sides: Sides, pair: tuple[Entity, Entity]) -> bool:
    return not sides.mismatch(*pair) or are_same_blocks(sides, *pair)


def _bases(found: Iterable[str]) -> set[str]:
    return {names.base(each) for each in found}


def _inlined(clones: Clones) -> set[str]:
    """All functions that are inlined in any other."""
    return {names.base(step.source.name) for step in clones.steps if step.is_inlining}


def _declared(unit: Unit, extracted: Unit) -> Apart:
    """What the extracted source only declares of the unit."""
    used = {symbol.name for symbol in extracted.obj.symbols if symbol.is_undefined}
    functions = {names.base(each.name) for each in unit.functions()}
    variables = {each.name for each in unit.entities if each.kind is Kind.DATA}
    return Apart(frozenset(used & functions), frozenset(used & variables - functions))


def _writable(unit: Unit) -> frozenset[str]:
    """The variables of a unit that may be written."""
    return frozenset(
        each.name
        for each in unit.entities
        if each.kind is Kind.DATA and int(unit.section(each).flags) & SectionFlag.WRITE
    )


def _list(found: Collection[str]) -> str:
    few = sorted(found)[:4]
    more = f" and {len(found) - len(few)} more" if len(found) > len(few) else ""
    return ", ".join(few) + more if few else "nothing"
