# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut the text of a live patch out of a patched unit."""

from __future__ import annotations

from dataclasses import dataclass

from livegraft.extract import emission
from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.segments import segments
from livegraft.extract.selection import Selection, Wanted, select
from livegraft.extract.syntax import Syntax

MARKS = "LIVEGRAFT_"
"""What the marks of livegraft.h begin with."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A file that was cut out.

    Args:
        text: its content.
        wanted: what the objects wanted in it.
        selection: what was taken.
    """

    text: str
    wanted: Wanted
    selection: Selection


def slice_unit(unit: str, text: str, output: str, file: str, wanted: Wanted) -> Slice:
    """Cut a unit.

    Args:
        unit: its path in the source tree.
        text: its patched text.
        output: what the preprocessor makes of it.
        file: the name of its file in that output.
        wanted: what has to be in the patch.

    Raises:
        Refused: it cannot be parsed.
    """
    preprocessed = Preprocessed(output, file)
    found = segments(text, {line for line, _ in preprocessed.words()})
    syntax = Syntax(unit, preprocessed, found)
    selection = select(text, found, syntax, wanted, MARKS)
    written = emission.write(unit, text, found, syntax, selection, wanted)
    return Slice(written, wanted, selection)
