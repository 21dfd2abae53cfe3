# SPDX-License-Identifier: GPL-2.0-or-later
"""From a compared unit to the text of its live patch, and to the object that is compiled of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from livegraft.compare.comparison import Comparison
from livegraft.compare.unit import Unit
from livegraft.elf import object as elf
from livegraft.errors import CompileError
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
from livegraft.kbuild.compile import Variant, compile_unit, preprocess
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

    Raises:
        Refused: it cannot be cut out.
        CompileError: the text does not compile.
    """
    unit = each.unit.path
    output = each.extracted
    cut: Slice | None = None
    text = given

    @cache
    def preprocessed() -> Preprocessed:
        return _preprocessed(kernel, each, shadow)

    def is_once(name: str) -> bool:
        return not is_edited and is_static_once(preprocessed().text, name)

    if text is None:
        source = text_of((shadow.root / unit).read_bytes())
        cut = slice_unit(
            unit,
            source,
            preprocessed(),
            wanted(comparison),
            partial(_preprocess, kernel, each, shadow),
            partial(_compile, kernel, each, shadow, output),
            text_of(_original(kernel, unit)),
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


def _preprocess(kernel: KernelTree, each: Compiled, shadow: Shadow, text: Text) -> Preprocessed:
    with _in_place(kernel, each, shadow, text) as place:
        return _preprocessed(kernel, each, place)


def _preprocessed(kernel: KernelTree, each: Compiled, shadow: Shadow) -> Preprocessed:
    output = preprocess(kernel, each.command, shadow)
    return Preprocessed(output, shadow.translate(each.command.source), each.unit.path)


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
    flags = (*Variant.SECTIONS.flags, *more)
    with _in_place(kernel, each, shadow, text) as place:
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
