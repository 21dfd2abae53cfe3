# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft compare``: two object files, function by function."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from livegraft.cli import failure, target
from livegraft.cli.paint import Paint
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, Reason

VERDICTS = {"changed": Exit.DONE, "unchanged": Exit.UNCHANGED, "refused": Exit.REFUSED}
"""The exit code of each verdict."""

WITHOUT_TYPES = "types were not compared: both objects need debug information (-g) for that"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("original", metavar="ORIG.o", type=Path, help="the object before")
    parser.add_argument("patched", metavar="PATCHED.o", type=Path, help="the object after")


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Compare the objects."""
    given = target.files([arguments.original, arguments.patched], "an object file")
    with _uncollected():
        from livegraft.compare.comparison import compare_objects
        from livegraft.elf import object as elf
        from livegraft.verdict.judge import judge

        original, patched = (elf.read(path) for path in given)
        comparison = judge(compare_objects(original, patched))
        if not (original.has_debug_information and patched.has_debug_information):
            comparison = comparison._replace(warnings=(*comparison.warnings, WITHOUT_TYPES))
        document = comparison.as_json()
    verdict = str(document["verdict"])
    return Answer(document, _text(verdict, document, context.paint), VERDICTS[verdict])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage: nothing becomes garbage in here, and with the many small parts
    of an object that would take a fifth of the time, and once more a tenth at the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _text(verdict: str, document: Mapping[str, Any], paint: Paint) -> str:
    lines = [paint.bad(verdict) if verdict == "refused" else paint.bold(verdict)]
    for what in ("changed", "new", "removed"):
        names: Sequence[str] = document[what]
        lines += [f"{what.ljust(8)} {name}" for name in names]
    if document["reasons"]:
        found = tuple(Reason(**reason) for reason in document["reasons"])
        lines.append(failure.reasons(found, paint))
    lines += [f"{paint.warning('warning:')} {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


VERB = Verb(
    name="compare",
    description="""\
Compare two builds of one translation unit (for x86-64, aarch64, ppc64le, s390x or loongarch64,
compiled with -ffunction-sections and -fdata-sections) and name the functions that changed, are new
or were removed. Names are those of ORIG.o with clone suffixes kept; a function's '.cold' part
belongs to the function. A change of line numbers only is no change.""",
    examples=("livegraft compare before.o after.o",),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "a function changed, is new or was removed",
        Exit.UNCHANGED: "nothing changed",
        Exit.REFUSED: "something changed that cannot be patched live",
    },
)
