# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft diff``: the difference between two kernel sources, as a fix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.cli import target
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit

if TYPE_CHECKING:
    from livegraft.fix.between import Difference


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    which = "a release (6.1.0-55-amd64) or a package version (6.1.192-1)"
    parser.add_argument("old", metavar="OLD", help=f"the source before: {which}")
    parser.add_argument("new", metavar="NEW", help="the source after, named likewise")
    target.add_path(parser)
    parser.add_argument(
        "-o", "--output", metavar="FIX", type=Path, required=True, help="the diff to write"
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Compare two source trees and write the diff."""
    from livegraft.fix.between import between
    from livegraft.kernel.kernel import source_of
    from livegraft.kernel.packages import default_source

    output = target.writable(arguments.output)
    packages = default_source(target.folder(arguments))
    old, new = (
        source_of(name, source=packages, cache=context.cache(), progress=context.progress)
        for name in (arguments.old, arguments.new)
    )
    difference = between(old, new, arguments.path, context.progress)
    if difference.files:
        output.write_bytes(difference.diff)
    return _answer(difference, output, context)


def _answer(difference: Difference, output: Path, context: Context) -> Answer:
    warnings = [
        f"{name} differs but is no text file, so it is not in the diff"
        for name in difference.left_out
    ]
    document = {
        "verdict": "changed" if difference.files else "unchanged",
        "files": list(difference.files),
        "path": str(output) if difference.files else None,
        "warnings": warnings,
        "timings": context.timings(),
    }
    lines = [f"{context.paint.warning('warning:')} {warning}" for warning in warnings]
    if not difference.files:
        lines.append("no file differs, so nothing was written")
        return Answer(document, "\n".join(lines), Exit.UNCHANGED)
    number = len(difference.files)
    files = f"{number} files differ" if number > 1 else f"{difference.files[0]} differs"
    return Answer(document, "\n".join([*lines, f"{output}: {files}"]))


VERB = Verb(
    name="diff",
    description="""\
Write the difference between the sources of two releases or two package versions as a unified diff
that 'check' and 'build' take. In a GLOB '*' matches slashes too. The sources are downloaded and
unpacked if they are not in the cache.""",
    examples=(
        "livegraft diff 6.1.192-1 6.1.192-2 -o fix.patch",
        "livegraft diff 6.1.0-54-amd64 6.1.0-55-amd64 --path 'net/ipv4/*.c' -o fix.patch",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "the diff is written",
        Exit.UNCHANGED: "no file differs; nothing is written",
    },
)
