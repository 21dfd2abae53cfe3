# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut the text of a live patch out of a patched unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clang.cindex import TranslationUnit

from livegraft.errors import CompileError, Reason, Refused
from livegraft.extract import emission
from livegraft.extract.apart import of_the_fix
from livegraft.extract.emission import Text
from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.sameness import differences
from livegraft.extract.segments import Segment, segments
from livegraft.extract.selection import Selection, Wanted, select
from livegraft.extract.syntax import Syntax

MARKS = "LIVEGRAFT_"
"""What the marks of livegraft.h begin with."""

PAGE = 150
"""Lines of a file above which what the fix does not change goes into a header."""

Preprocess = Callable[[Text], Preprocessed]
"""Preprocesses a text in the unit's place."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A file that was cut out.

    Args:
        text: its content, and that of the header beside it.
        wanted: what the objects wanted in it.
        selection: what was taken.
        defined: functions that it defines.
    """

    text: Text
    wanted: Wanted
    selection: Selection
    defined: frozenset[str]


def slice_unit(
    unit: str,
    text: str,
    preprocessed: Preprocessed,
    wanted: Wanted,
    preprocess: Preprocess,
    compiles: Callable[[Text], None],
    original: str = "",
    parsed: TranslationUnit | None = None,
) -> Slice:
    """Cut a unit.

    Args:
        unit: its path in the source tree.
        text: its patched text.
        preprocessed: what the preprocessor makes of it.
        wanted: what has to be in the patch.
        preprocess: asks the preprocessor what it makes of the cut file.
        compiles: compiles the cut file; raises CompileError if it does not compile.
        original: the file before the fix.
        parsed: what libclang makes of what is preprocessed, if it was asked already.

    Raises:
        Refused: it cannot be parsed (rule ``not-parsed``), or reads differently when it is cut out
            (rule ``cut-differs``).
    """
    found = segments(text, {line for line, _ in preprocessed.words()})
    syntax = Syntax(unit, preprocessed, found, parsed)
    reasons: list[Reason] = []
    for generous, may_part in ((False, True), (False, False), (True, False)):
        selection = select(text, found, syntax, wanted, MARKS, generous=generous)
        written = emission.write(unit, text, found, syntax, selection, wanted)
        order = sorted(selection.whole, key=lambda each: each.start)
        if may_part:
            if written.main.count("\n") <= PAGE:
                continue
            apart = of_the_fix(text, original, found, syntax, selection, wanted)
            written = emission.write(unit, text, found, syntax, selection, wanted, apart)
            order.sort(key=lambda each: each in apart)
        reasons = _wrong(unit, text, preprocessed, written, order, preprocess, compiles)
        if not reasons:
            defined = {
                each.name
                for segment in selection.whole
                for each in syntax.declared.get(segment, ())
                if each.is_definition and each.is_function
            }
            return Slice(written, wanted, selection, frozenset(defined))
    raise Refused(unit, reasons)


def _wrong(
    unit: str,
    text: str,
    preprocessed: Preprocessed,
    written: Text,
    order: Sequence[Segment],
    preprocess: Preprocess,
    compiles: Callable[[Text], None],
) -> list[Reason]:
    """What is wrong with a text that was cut out."""
    try:
        different = list(differences(preprocessed, preprocess(written), order))
        if not different:
            compiles(written)
    except CompileError as error:
        return [_does_not_compile(unit, error)]
    return [_reason(unit, text, each) for each in different]


def _does_not_compile(unit: str, error: CompileError) -> Reason:
    return Reason(
        "cut-differs",
        unit,
        f"does not compile when functions are cut out of it: {error.problem.splitlines()[0]}",
        "prepare the patch with --method compare",
    )


def _reason(unit: str, text: str, segment: Segment) -> Reason:
    name = segment.name or text[segment.start : segment.end].split("\n", maxsplit=1)[0]
    return Reason(
        "cut-differs",
        f"{unit}:{segment.line}",
        f"{name} reads differently to the compiler when it is cut out of the file",
        "prepare the patch with --method compare",
    )
