# SPDX-License-Identifier: GPL-2.0-or-later
"""From a compared unit to the text of its live patch, and to the object that is compiled of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from clang.cindex import TranslationUnit

from livegraft.compare.comparison import Comparison
from livegraft.compare.unit import Unit
from livegraft.elf import object as elf
from livegraft.errors import CompileError
from livegraft.extract.ahead import Ahead, preprocessed
from livegraft.extract.attributes import is_static_once
from livegraft.extract.delivery import deliver
from livegraft.extract.emission import Text, header_name
from livegraft.extract.endbr import FLAG, marked, only_called, suffix
from livegraft.extract.functions import wanted
from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.reasons import Why
from livegraft.extract.slice import Slice, slice_unit
from livegraft.extract.twoways import Difference, Equal
from livegraft.fix.bodies import text_of
from livegraft.fix.compiled import Compiled
from livegraft.jobs import Jobs
from livegraft.kbuild.compile import Variant, compile_unit
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kbuild.target import KernelTree


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was cut out of a unit.

    Args:
        unit: the translation unit.
        object: the object that it is linked into.
        text: the C file.
        header: the header beside it; empty if there is none.
        slice: how it was cut; None if the text was given.
        comparison: of the original object with what was compiled of the text; not judged.
        whys: why each function is in the set, if that was asked for.
        edited: whether the text was given, and is not as it was written.
        ways: how each function compares with that of the patched unit, if that was asked for.
        changed: the functions of the unit that the fix changes, as the original object has them.
    """

    unit: str
    object: str
    text: str
    header: str
    slice: Slice | None
    comparison: Comparison
    whys: tuple[Why, ...] = ()
    edited: bool = False
    ways: tuple[Equal | Difference, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def beside(self) -> Mapping[str, bytes]:
        """The header's content by its place in the source, if there is one."""
        return _beside(self.unit, self.header)

    @property
    def patched(self) -> tuple[str, ...]:
        """The functions that it replaces, by name."""
        return tuple(sorted(each.name for each in self.comparison.changed_entities))

    @property
    def carried(self) -> tuple[str, ...]:
        """Functions that the text defines beside those."""
        if self.slice is None:
            return ()
        return tuple(sorted(self.slice.defined - set(self.patched)))

    @property
    def running(self) -> tuple[str, ...]:
        """Functions and variables of the unit that it declares only."""
        return tuple(sorted(self.slice.selection.declared)) if self.slice is not None else ()


def extract(
    kernel: KernelTree,
    each: Compiled,
    comparison: Comparison,
    shadow: Shadow,
    given: Text | None = None,
    is_edited: bool = False,
    ahead: Ahead | None = None,
) -> Extracted:
    """Cut the live patch of a unit out of its patched text, and compile it.

    The text takes the unit's place in the source, so that its includes and the distribution's
    command mean what they mean for the unit.

    Args:
        each: the unit, compiled before and after the fix.
        comparison: of both objects, judged.
        shadow: the source with the fix.
        given: a text to take instead of cutting one out.
        is_edited: whether it is another than that.
        ahead: has parsed the unit, perhaps.

    Raises:
        Refused: it cannot be cut out.
        CompileError: the text does not compile.
    """
    unit = each.unit.path
    output = each.extracted
    cut: Slice | None = None
    text = given

    @cache
    def whole() -> tuple[Preprocessed, TranslationUnit | None]:
        found = ahead.take(each.command) if ahead is not None else None
        return found or (preprocessed(kernel, unit, each.command, shadow), None)

    def is_once(name: str) -> bool:
        return not is_edited and is_static_once(whole()[0].text, name)

    if text is None:
        source = text_of((shadow.root / unit).read_bytes())
        with _Trials(kernel, each, shadow) as trials:
            cut = slice_unit(
                unit,
                source,
                whole()[0],
                wanted(comparison),
                trials.preprocess,
                trials.compile,
                text_of(_original(kernel, unit)),
                whole()[1],
            )
        text = cut.text
    else:
        _compile(kernel, each, shadow, output, text)
    extracted = deliver(comparison, elf.read(output), unit, is_once)
    called = only_called(comparison, extracted)
    if called:
        with suppress(CompileError):  # one that is labelled, or hidden by a macro
            _compile_again(kernel, each, shadow, text, extracted.patched, called)
            extracted = deliver(comparison, elf.read(output), unit, is_once)
    made = Extracted(unit, each.unit.object, text.main, text.header, cut, extracted)
    return replace(made, changed=comparison.changed)


def _original(kernel: KernelTree, unit: str) -> bytes:
    file = kernel.source / unit
    return file.read_bytes() if file.is_file() else b""


class _Trials:
    """Texts in the unit's place: each is preprocessed and compiled at the same time."""

    def __init__(self, kernel: KernelTree, each: Compiled, shadow: Shadow) -> None:
        self._kernel = kernel
        self._each = each
        self._shadow = shadow
        self._stack = ExitStack()
        self._compiling: Future[None] | None = None

    def __enter__(self) -> _Trials:
        self._place = self._stack.enter_context(ExitStack())
        self._jobs = self._stack.enter_context(Jobs(1))
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def preprocess(self, text: Text) -> Preprocessed:
        """What the preprocessor makes of a text.

        Raises:
            CompileError: a file that it includes does not exist.
        """
        if self._compiling is not None:
            wait([self._compiling])
        self._place.close()
        kernel, each = self._kernel, self._each
        place = self._place.enter_context(_in_place(kernel, each, self._shadow, text))
        self._compiling = self._jobs.start(_compile_there, kernel, each, place, each.extracted)
        return preprocessed(kernel, each.unit.path, each.command, place)

    def compile(self, _: Text) -> None:
        """Wait until the text that was preprocessed last is compiled.

        Raises:
            CompileError: it does not compile.
        """
        assert self._compiling is not None
        self._compiling.result()


def _in_place(
    kernel: KernelTree, each: Compiled, shadow: Shadow, text: Text
) -> AbstractContextManager[Shadow]:
    """The source with a text in the place of the unit's."""
    unit = each.unit.path
    changes = {**shadow.changes, unit: text.main.encode("latin-1"), **_beside(unit, text.header)}
    return shadow_of(kernel.source, changes)


def _beside(unit: str, header: str) -> dict[str, bytes]:
    folder = unit.rpartition("/")[0]
    return {f"{folder}/{header_name(unit)}": header.encode("latin-1")} if header else {}


def _compile(
    kernel: KernelTree,
    each: Compiled,
    shadow: Shadow,
    output: Path,
    text: Text,
    more: tuple[str, ...] = (),
) -> None:
    with _in_place(kernel, each, shadow, text) as place:
        _compile_there(kernel, each, place, output, more)


def _compile_there(
    kernel: KernelTree, each: Compiled, place: Shadow, output: Path, more: tuple[str, ...] = ()
) -> None:
    flags = (*Variant.SECTIONS.flags, *more)
    compile_unit(kernel, each.command, output=output, shadow=place, extra_flags=flags)


def _compile_again(
    kernel: KernelTree,
    each: Compiled,
    shadow: Shadow,
    text: Text,
    first: Unit,
    called: frozenset[str],
) -> None:
    """Compile a text without ENDBR64 at what is only called; the first object stays if it is there
    or missing anywhere else then.

    Raises:
        CompileError: a function cannot be declared by its name.
    """
    declared = Text(text.main + suffix(first, called), text.header)
    with tempfile.TemporaryDirectory(prefix="livegraft-endbr-") as folder:
        output = Path(folder, "unit.o")
        _compile(kernel, each, shadow, output, declared, (FLAG,))
        again = Unit(elf.read(output), "extracted object", first.decoded)
        if marked(again) == marked(first) - called:
            shutil.copyfile(output, each.extracted)
