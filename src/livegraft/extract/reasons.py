# SPDX-License-Identifier: GPL-2.0-or-later
"""Why each function is in the set that has to be patched.

A hunk names few of them. The compiler inlines and clones, folds functions that are the same, and
lets callers know what their callees do; each of these takes further functions along. What it
inlined and cloned it tells itself (:mod:`livegraft.extract.clones`); folded functions share an
address in the symbol table; what callers learnt is told nowhere, and seen as a change of code.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from livegraft.compare import names
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.extract.clones import FLAG, Clones, parse_clones
from livegraft.extract.hunks import Place, SourceChanges, source_changes
from livegraft.fix.bodies import text_of
from livegraft.fix.compiled import Compiled
from livegraft.kbuild.compile import Variant, compile_unit, side_by_side
from livegraft.kbuild.shadow import Changes, Shadow, shadow_of
from livegraft.kbuild.target import KernelTree
from livegraft.progress import SILENT, Progress


class Cause(StrEnum):
    """Why a function is in the set."""

    HUNK = "hunk"
    """The fix changes its text."""
    INLINED = "inlined"
    """The code of a changed function is inlined in it."""
    CLONE = "clone"
    """It calls a clone of a changed function, which only a caller can be led to."""
    FOLDED = "folded"
    """The compiler has folded it and a changed function, which were the same, into one; or it calls
    such a one, which has an address of its own now."""
    UNTRACED = "untraced"
    """It calls a changed function that ftrace cannot redirect, and brings it along."""
    MARKED = "marked"
    """The fix asks for it (``LIVEGRAFT_FORCE_CHANGED()``)."""
    DECLARED = "declared"
    """The fix changes a declaration that its text uses: a macro, a type, a variable."""
    UNLOGGED = "unlogged"
    """Its code changed and nothing tells why: what a caller learnt of a callee."""
    NEW = "new"
    """Only the patched object has it."""


_TEXTS: Mapping[Cause, str] = {
    Cause.HUNK: "the fix changes it",
    Cause.INLINED: "has the changed code inlined",
    Cause.CLONE: "calls a clone of a changed function",
    Cause.FOLDED: "was or is folded with",
    Cause.UNTRACED: "brings along a callee that cannot be redirected",
    Cause.MARKED: "the fix asks for it",
    Cause.DECLARED: "uses a declaration that the fix changes",
    Cause.UNLOGGED: "its code differs without a hunk; changed functions next to it",
    Cause.NEW: "is new",
}


@dataclass(frozen=True, slots=True)
class Why:
    """One cause of a function's being in the set.

    Args:
        function: its name in the patched object.
        cause: why.
        via: names that explain it: for INLINED the chain from the changed function to this one, for
            CLONE the clone, for FOLDED the twins, for UNTRACED the callees, for DECLARED what the
            text uses, for UNLOGGED and NEW the functions of the set that it calls or that call it.
        places: the lines of the fix that it is about.
    """

    function: str
    cause: Cause
    via: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()

    def __str__(self) -> str:
        parts = [_TEXTS[self.cause]]
        if self.via:
            parts.append((" -> " if self.cause is Cause.INLINED else ", ").join(self.via))
        if self.places:
            parts.append(f"({', '.join(map(str, self.places))})")
        return " ".join([f"{parts[0]}:" if self.via else parts[0], *parts[1:]])

    def as_json(self) -> dict[str, object]:
        """The cause as it stands in JSON documents."""
        return {
            "function": self.function,
            "cause": self.cause.value,
            "via": list(self.via),
            "places": [str(place) for place in self.places],
        }


def table(whys: Iterable[Why]) -> str:
    """The causes as a table of a Markdown page."""
    lines = ["| function | cause | why |", "|---|---|---|"]
    lines += [f"| `{each.function}` | {each.cause} | {each} |" for each in whys]
    return "\n".join(lines) + "\n"


def explain(
    kernel: KernelTree,
    compiled: Compiled,
    comparison: Comparison,
    shadow: Shadow,
    progress: Progress = SILENT,
) -> tuple[Why, ...]:
    """Say of each function that a unit brings why it is in the set; compiles the unit twice.

    Args:
        kernel: the kernel's trees.
        compiled: the unit.
        comparison: its two objects, compared.
        shadow: the source with the fix.

    Returns:
        At least one cause for each changed or new function, in the object's order.

    Raises:
        CompileError: the unit does not compile.
        BuildError: the compiler's dump is not as it is known.
    """
    before = {path: _text(kernel.source / path) for path in (*shadow.changes, compiled.unit.path)}
    after = before | {path: text_of(text or b"") for path, text in shadow.changes.items()}
    with progress.step("find out why"):
        clones = side_by_side(partial(_dump, kernel, compiled, each) for each in (None, shadow))
    roots = (f"{kernel.source}/", f"{shadow.root}/")

    def relative(file: str) -> str:
        for root in roots:
            file = file.removeprefix(root)
        return os.path.normpath(file)

    changes = source_changes(before, after)
    return reasons(comparison, changes, (clones[0], clones[1]), relative)


def explain_all(
    kernel: KernelTree,
    changes: Changes,
    units: Iterable[tuple[Compiled, Comparison]],
    progress: Progress = SILENT,
) -> dict[str, tuple[Why, ...]]:
    """:func:`explain`, for all units of a fix.

    Args:
        changes: what the fix changes.
        units: those that the patch brings something of, compared.
    """
    with shadow_of(kernel.source, changes) as shadow:
        return {
            each.unit.path: explain(kernel, each, comparison, shadow, progress)
            for each, comparison in units
        }


def _text(file: Path) -> str:
    return text_of(file.read_bytes()) if file.is_file() else ""


def _dump(kernel: KernelTree, compiled: Compiled, shadow: Shadow | None) -> Clones:
    with tempfile.TemporaryDirectory(prefix="livegraft-clones-") as folder:
        dump = Path(folder, "clones")
        compile_unit(
            kernel,
            compiled.command,
            output=Path(folder, "unit.o"),
            shadow=shadow,
            extra_flags=(*Variant.SECTIONS.flags, f"{FLAG}{dump}"),
        )
        return parse_clones(dump.read_text("utf-8", "replace"))


def reasons(
    comparison: Comparison,
    changes: SourceChanges,
    clones: tuple[Clones, Clones],
    relative: Callable[[str], str] = str,
) -> tuple[Why, ...]:
    """:func:`explain`, from what it found.

    Args:
        changes: what the fix changes in the texts.
        clones: of the unit before and after the fix.
        relative: makes the compiler's spelling of a file the one in `changes`.
    """
    return tuple(_Reasons(comparison, changes, clones, relative).all())


class _Reasons:
    """Asks for each function of the set every cause in turn."""

    def __init__(
        self,
        comparison: Comparison,
        changes: SourceChanges,
        clones: tuple[Clones, Clones],
        relative: Callable[[str], str],
    ) -> None:
        self._comparison = comparison
        self._changes = changes
        self._clones = clones
        self._units = (comparison.original, comparison.patched)
        self._named = [
            {name: each for each in unit.functions() for name in _names(unit, each)}
            for unit in self._units
        ]
        self._hunks = _by_name(changes, clones, relative)
        whole = (*comparison.changed_entities, *comparison.new_entities)
        self._set = sorted(whole, key=lambda each: each.number)
        self._brought = frozenset(
            each for each in comparison.new_entities if comparison.original_of(each) is not None
        )
        twins = (comparison.original_of(each) for each in self._set)
        self._members = {*self._set, *comparison.removed_entities, *filter(None, twins)}

    def all(self) -> Iterator[Why]:
        for function in self._set:
            found = [
                *self._new(function),
                *self._hunk(function),
                *self._inlined(function),
                *self._clone(function),
                *self._folded(function),
                *self._untraced(function),
                *self._marked(function),
            ]
            yield from found or [*self._declared(function)] or [self._unlogged(function)]

    def _sides(self, function: Entity) -> Iterator[tuple[int, Unit, Entity]]:
        """The function in the original, if that has it, and in the patched object."""
        original = self._comparison.original_of(function)
        if original is not None:
            yield 0, self._units[0], original
        yield 1, self._units[1], function

    def _places(self, name: str) -> tuple[Place, ...]:
        return self._hunks.get(name) or self._hunks.get(names.base(name), ())

    def _new(self, function: Entity) -> Iterator[Why]:
        if self._is_new(function):
            neighbours = self._neighbours(function)
            yield Why(function.name, Cause.NEW, neighbours, self._places(function.name))

    def _is_new(self, function: Entity) -> bool:
        """Whether the original has no function of that name, not even as one of several names."""
        return (
            self._comparison.original_of(function) is None and function.name not in self._named[0]
        )

    def _hunk(self, function: Entity) -> Iterator[Why]:
        places = self._places(function.name)
        if places and not self._is_new(function):
            yield Why(function.name, Cause.HUNK, (), places)

    def _inlined(self, function: Entity) -> Iterator[Why]:
        own = names.base(function.name)
        told: dict[str, Why] = {}
        for side, _, entity in self._sides(function):
            for name, way in self._clones[side].chains(entity.name).items():
                source = names.base(name)
                places = self._places(name)
                if way.inlined and places and source != own and source not in told:
                    told[source] = Why(function.name, Cause.INLINED, way.names, places)
        yield from told.values()

    def _clone(self, function: Entity) -> Iterator[Why]:
        found: dict[str, None] = {}
        for _, unit, entity in self._sides(function):
            for target in _targets(unit, entity):
                is_clone = names.base(target.name) != target.name
                if is_clone and (target in self._members or self._places(target.name)):
                    found[target.name] = None
        if found:
            yield Why(function.name, Cause.CLONE, tuple(found))

    def _folded(self, function: Entity) -> Iterator[Why]:
        """Identical functions have one address: in the original, in the patched object, in both."""
        found: dict[str, None] = {}
        for unit, named in zip(self._units, self._named, strict=True):
            entity = named.get(function.name)
            for name in _names(unit, entity) if entity is not None else ():
                if self._places(name) and names.base(name) != names.base(function.name):
                    found[name] = None
        places = dict.fromkeys(place for name in found for place in self._places(name))
        for target in _targets(self._units[1], function):
            was = self._named[0].get(target.name)
            if target in self._members and was is not None and was.name != target.name:
                found |= {target.name: None, was.name: None}
        if found:
            yield Why(function.name, Cause.FOLDED, tuple(found), tuple(places))

    def _untraced(self, function: Entity) -> Iterator[Why]:
        called = _targets(self._units[1], function)
        found = tuple(each.name for each in called if each in self._brought)
        if found:
            yield Why(function.name, Cause.UNTRACED, found)

    def _marked(self, function: Entity) -> Iterator[Why]:
        if self._comparison.marks.is_forced(function):
            yield Why(function.name, Cause.MARKED)

    def _declared(self, function: Entity) -> Iterator[Why]:
        sources = {names.base(function.name)}
        for side, _, entity in self._sides(function):
            sources |= {names.base(each) for each in self._clones[side].chains(entity.name)}
        words = frozenset().union(*(self._changes.words.get(name, ()) for name in sources))
        used: dict[str, None] = {}
        places: dict[Place, None] = {}
        for each in self._changes.declarations:
            if met := sorted(words & each.names):
                used |= dict.fromkeys(met)
                places[each.place] = None
        if used:
            yield Why(function.name, Cause.DECLARED, tuple(used), tuple(places))

    def _unlogged(self, function: Entity) -> Why:
        return Why(function.name, Cause.UNLOGGED, self._neighbours(function))

    def _neighbours(self, function: Entity) -> tuple[str, ...]:
        """The functions of the set that it calls or that call it, in either object."""
        found: dict[str, None] = {}
        for _, unit, entity in self._sides(function):
            found |= {each.name: None for each in _targets(unit, entity) if each in self._members}
            for other in unit.functions():
                if other.top in self._members and entity in _targets(unit, other.top):
                    found[other.top.name] = None
        found.pop(function.name, None)
        return tuple(found)


def _names(unit: Unit, function: Entity) -> list[str]:
    """All names of a function, its own first."""
    return [unit.obj.symbols[each].name for each in (function.symbol, *function.aliases)]


def _targets(unit: Unit, function: Entity) -> list[Entity]:
    """The functions that one refers to, its cold parts counted with it and itself not."""
    found: dict[Entity, None] = {}
    for part in [function, *function.parts]:
        for use in unit.uses(part):
            if isinstance(use.target, Entity) and use.target.kind is Kind.FUNCTION:
                found[use.target.top] = None
    found.pop(function, None)
    return list(found)


def _by_name(
    changes: SourceChanges, clones: tuple[Clones, Clones], relative: Callable[[str], str]
) -> dict[str, tuple[Place, ...]]:
    """Where the fix changes the text of each function, by its name in the object.

    Macros give names that do not stand in the text (``__do_sys_bind``): the compiler tells the line
    where the macro stands.
    """
    found: dict[str, dict[Place, None]] = {}
    for function in changes.functions:
        found.setdefault(function.name, {}).update(dict.fromkeys(function.places))
    for side, told in enumerate(clones):
        for node in told.nodes():
            file = relative(node.file)
            for function in changes.functions:
                lines = function.after if side else function.before
                if function.file == file and node.line in lines:
                    found.setdefault(node.name, {}).update(dict.fromkeys(function.places))
            for each in changes.declarations if side else ():
                place = each.place
                if place.file == file and place.first <= node.line <= place.last:
                    found.setdefault(node.name, {})[place] = None
    return {name: tuple(places) for name, places in found.items()}
