# SPDX-License-Identifier: GPL-2.0-or-later
"""Which changed files a changed file needs to compile.

The file is checked alone with its change (the compiler's syntax check: half a second). What the
compiler does not know names the changed headers that it needs; then every unit that reads those is
checked, and one that no longer compiles brings its own change. At last come the files that define
functions which those headers newly declare.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from livegraft.cache import Cache
from livegraft.compare.moved import compare_compiled
from livegraft.errors import CompileError, LivegraftError, Reason, Refused
from livegraft.fix.bodies import body_only
from livegraft.fix.compiled import compile_touched, find_reached
from livegraft.fix.includes import IncludeIndex, include_index
from livegraft.fix.outline import outline
from livegraft.fix.units import units_of
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import compile_unit, files_read
from livegraft.kbuild.objects import Unit, units_among
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kernel.kernel import Kernel, open_prepared
from livegraft.progress import SILENT
from livegraft.survey.candidate import Candidate
from livegraft.survey.sources import CALLED, HEADERS, Trees, likely_functions, names_in_headers
from livegraft.verdict.judge import Judge

ROUNDS = 12
"""Each brings at least one more file; the longest chain seen in an update has 4."""

_SYNTAX = ("-fsyntax-only", "-g0")
_QUOTED = re.compile("[\u2018`'\"]([^\u2019'\"\n]+)[\u2019'\"]")
_NAME = re.compile(r"[A-Za-z_]\w*")
_SCENE = re.compile(r": In function |^In file included from|^ +from ")
_SHOWN = re.compile(r"^ *\d+ \| (.*)", re.MULTILINE)
_MISSING_FILE = re.compile(r"fatal error: (\S+): No such file")
_KEYWORDS = frozenset(
    " ".join(
        (
            "auto break case char const continue default do double else enum extern float for goto",
            "if inline int long register return short signed sizeof static struct switch typedef",
            "union unsigned void volatile while bool u8 u16 u32 u64 s8 s16 s32 s64 size_t",
        )
    ).split()
)
MANY = 64
"""Units that read a header, from which on it is looked first whether the fix is refused anyway."""

_FINE: dict[tuple[Path, Path, frozenset[str]], set[tuple[Unit, bool]]] = {}
"""By the two sources and changed headers, units that compile with those, and whether with their own
change; of this process."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker needs to know beside its task.

    Args:
        release: the kernel.
        cache_root: where it is prepared.
        trees: the two sources.
        limit: seconds for one file and all that it needs.
        units: refuse a fix of headers that more units read; None for no limit.
    """

    release: str
    cache_root: Path
    trees: Trees
    limit: float
    units: int | None = None

    def kernel(self) -> Kernel:
        """The kernel, opened."""
        return open_kernel(self.release, self.cache_root)


@lru_cache(maxsize=1)
def open_kernel(release: str, cache_root: Path) -> Kernel:
    """A prepared kernel, opened once per process."""
    return open_prepared(release, Cache(cache_root))


def grow(setting: Setting, files: tuple[str, ...], built: frozenset[str]) -> Candidate:
    """The fix of some changed files, with all that they need.

    Args:
        files: the changed files to begin with; the first names the fix.
        built: the changed ``.c`` files that the configuration builds.
    """
    group = _Group(setting, list(files), built)
    note = group.grow()
    return Candidate(
        files[0],
        tuple(group.files),
        body_only(*setting.trees.texts(group.files)),
        note=note,
        reasons=group.reasons,
    )


class _Group:
    def __init__(self, setting: Setting, files: list[str], built: frozenset[str]) -> None:
        self.files = files
        self.reasons: tuple[Reason, ...] = ()
        self._setting = setting
        self._trees = setting.trees
        self._kernel = setting.kernel()
        self._built = built

    def grow(self) -> str:
        """Add what is needed; returns why it does not compile, empty if it does."""
        problem = ""
        for _ in range(ROUNDS):
            try:
                errors = self._check()
            except Refused as error:
                self.reasons = error.reasons
                return ""
            except CompileError as error:
                # Of the vDSO, which is no unit: it was compiled to see whether it changes.
                new = self._mentioned(str(error))
                if not new:
                    return str(error)
                self.files += new
                continue
            except LivegraftError as error:
                return str(error)
            wanted = self._wanted(errors) if errors else self._defining()
            new = [path for path in wanted if path not in self.files]
            if not new:
                return errors[0][1] if errors else ""
            new = self._fewer(errors[0][0], new) if errors else new
            problem = errors[0][1] if errors else ""
            self.files += new
        return problem

    def _fewer(self, unit: Unit, new: list[str]) -> list[str]:
        """Leave out the headers without which the unit compiles all the same."""
        kept = list(new)
        for path in new:
            less = [each for each in kept if each != path]
            if less and path.endswith(HEADERS) and not self._complaint(unit, less):
                kept = less
        return kept

    def _complaint(self, unit: Unit, more: Iterable[str]) -> str:
        """What the compiler says of one unit with more files changed."""
        changes = self._trees.content([*self.files, *more])
        (command,) = learn(self._kernel, [unit]).values()
        with (
            shadow_of(self._kernel.source, changes) as shadow,
            tempfile.TemporaryDirectory(prefix="livegraft-survey-") as folder,
        ):
            return _syntax(self._kernel, command, Path(folder, "unit.o"), shadow)

    def _check(self) -> list[tuple[Unit, str]]:
        """The units that do not compile, each with the compiler's messages.

        Raises:
            Refused: the fix is refused whatever else reads its headers.
        """
        changes = self._trees.content(self.files)
        touched = units_of(changes, self._kernel, most=self._setting.units)
        commands = learn(self._kernel, touched.units)
        own = {unit: each for unit, each in commands.items() if unit.path in changes}
        headers = frozenset(path for path in self.files if path.endswith(HEADERS))
        fine = _FINE.setdefault((self._trees.old, self._trees.new, headers), set())
        with (
            shadow_of(self._kernel.source, changes) as shadow,
            tempfile.TemporaryDirectory(prefix="livegraft-survey-") as folder,
        ):
            output = Path(folder, "unit.o")
            check = partial(_syntax, self._kernel, output=output, shadow=shadow)
            errors: list[tuple[Unit, str]] = []

            def look(units: Iterable[Unit], *, is_own: bool, first: bool = False) -> None:
                for unit in units:
                    if text := check(commands[unit]):
                        errors.append((unit, text))
                        if first:
                            return
                    else:
                        fine.add((unit, is_own))

            look([unit for unit in own if (unit, True) not in fine], is_own=True)
            others = [unit for unit in commands if unit not in own and (unit, False) not in fine]
            if not errors:
                # Each of these may bring its own change.
                look([unit for unit in others if unit.path in self._built], is_own=False)
            rest = [unit for unit in others if unit.path not in self._built]
            if not errors and len(others) > MANY:
                self._refuse_early(own, shadow, Path(folder))
            if not errors:
                # Whatever one of these needs is another header, and with that all are asked anew.
                look(rest, is_own=False, first=True)
        return errors

    def _refuse_early(self, own: Mapping[Unit, Command], shadow: Shadow, folder: Path) -> None:
        """Refuse a fix that its own units speak against: a structure lies differently in memory."""
        reached = find_reached(self._kernel, own, shadow, SILENT)
        judge = Judge()
        with closing(compile_touched(self._kernel, reached, shadow, folder, SILENT)) as batches:
            for batch in batches:
                facts = {
                    each.unit.name: compare_compiled(self._kernel, each, shadow)
                    for each in batch.compiled
                }
                judged = judge.each(facts).values()
                shared, _ = judge.together(is_all=True)
                reasons = [*batch.exports, *shared, *(r for each in judged for r in each.reasons)]
                if reasons:
                    raise Refused(self.files[0], tuple(dict.fromkeys(reasons)))

    def _wanted(self, errors: Sequence[tuple[Unit, str]]) -> list[str]:
        """The changed files that can help against errors."""
        wanted: list[str] = []
        for unit, text in errors:
            if unit.path in self._built and unit.path not in self.files:
                wanted.append(unit.path)
            else:
                wanted += self._headers(unit, text)
        return list(dict.fromkeys(wanted))

    def _headers(self, unit: Unit, text: str) -> list[str]:
        if missing := _MISSING_FILE.findall(text):
            ends = tuple(f"/{name.split('/')[-1]}" for name in missing)
            return [path for path in self._trees.changed if path.endswith(ends)]
        read = [path for path in self._read(unit) if path not in self.files]
        known = names_in_headers(self._trees)
        lines = [line for line in text.split("\n") if not _SCENE.search(line)]
        named = "\n".join(lines)
        clues = (
            {path for path in read if f"{path}:" in named},
            _mentioning(read, known, " ".join(_QUOTED.findall(named))),
            _mentioning(read, known, " ".join(_SHOWN.findall(named))),
            set(read),
        )
        return sorted(next((found for found in clues if found), ()))

    def _mentioned(self, text: str) -> list[str]:
        """The changed headers that speak of the first name that the compiler does not know."""
        headers = [
            path
            for path in self._trees.changed
            if path.endswith(HEADERS) and path not in self.files
        ]
        known = names_in_headers(self._trees)
        return sorted(_mentioning(headers, known, " ".join(_QUOTED.findall(text)[:1])))

    def _read(self, unit: Unit) -> list[str]:
        """The changed headers that a unit reads with the fix so far."""
        changes = self._trees.content(self.files)
        headers = frozenset(path for path in self._trees.changed if path.endswith(HEADERS))
        (command,) = learn(self._kernel, [unit]).values()
        with shadow_of(self._kernel.source, changes) as shadow:
            try:
                dependencies = files_read(self._kernel, command, shadow)
            except CompileError:
                index = _index(self._setting.release, self._setting.cache_root)
                return sorted(h for h in headers if unit.path in index.closure([h]))
        read = dependencies.within(shadow.source) | dependencies.within(shadow.root)
        return sorted(read & headers)

    def _defining(self) -> list[str]:
        """Changed files that define what the group's headers newly declare and its units call."""
        headers = [path for path in self.files if path.endswith(HEADERS)]
        if not headers:
            return []
        known = names_in_headers(self._trees)
        called: set[str] = set()
        for path in self.files:
            if path.endswith(".c"):
                called |= set(CALLED.findall(self._trees.after(path) or ""))
        names = called & frozenset[str]().union(*(known[path] for path in headers))
        own = {n for p in self.files for n in _exported(self._trees.after(p) or "")}
        names -= own
        if not names:
            return []
        defined = likely_functions(self._trees)
        others = sorted(self._built - set(self.files))
        likely = [path for path in others if names & defined[path]]
        return [path for path in likely if names & _new_functions(self._trees, path)]


@lru_cache(maxsize=1)
def _index(release: str, cache_root: Path) -> IncludeIndex:
    return include_index(open_kernel(release, cache_root))


def _mentioning(headers: Iterable[str], known: Mapping[str, frozenset[str]], text: str) -> set[str]:
    """The headers whose changed lines have a name of a text."""
    names = set(_NAME.findall(text)) - _KEYWORDS
    return {path for path in headers if known[path] & names}


@lru_cache(maxsize=4096)
def _new_functions(trees: Trees, path: str) -> frozenset[str]:
    after, before = (_exported(text or "") for text in (trees.after(path), trees.before(path)))
    return frozenset(after - before)


def _exported(text: str) -> set[str]:
    return {each.name for each in outline(text).functions if not each.is_static}


def _syntax(kernel: Kernel, command: Command, output: Path, shadow: Shadow) -> str:
    """What the compiler complains about, empty if it does not."""
    try:
        compile_unit(kernel, command, output=output, shadow=shadow, extra_flags=_SYNTAX)
    except CompileError as error:
        return error.problem
    return ""


def changed_units(kernel: Kernel, trees: Trees) -> frozenset[str]:
    """The changed ``.c`` files that the configuration builds."""
    changed: Iterable[str] = (path for path in trees.changed if path.endswith(".c"))
    return frozenset(units_among(kernel, changed))
