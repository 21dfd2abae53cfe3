# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft prepare``: packages, source and build tree of one kernel."""

from __future__ import annotations

import argparse

from livegraft.cli import target
from livegraft.cli.paint import fields
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "release", metavar="RELEASE", help="the kernel release, as 'uname -r' prints it"
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Prepare the kernel."""
    kernel = target.kernel(arguments, context, arguments.release)
    document = {
        "release": str(kernel.release),
        "source_version": kernel.source_version,
        "compiler": kernel.compiler,
        "source": str(kernel.source),
        "build": str(kernel.build),
        "timings": context.timings(),
    }
    text = fields(
        [
            ("kernel", f"{kernel.release} is ready"),
            ("source", f"{kernel.source_version} in {kernel.source}"),
            ("build tree", str(kernel.build)),
        ],
        context.paint,
    )
    return Answer(document, text)


VERB = Verb(
    name="prepare",
    description="""\
Get everything that patches for one kernel are built from: the packages of exactly its version
(through apt, or from a folder of .deb files, or installed ones; nothing is installed and root is
not needed), the source tree, and a build tree with the image's configuration and release string.
The compiler is checked against the one that built the image.

What was prepared once is in the cache, and preparing it again takes no time.""",
    examples=(
        "livegraft prepare 6.1.0-55-amd64",
        "livegraft prepare 6.1.0-55-amd64 --packages ~/debs",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "the kernel is prepared",
        Exit.REFUSED: "it cannot be patched live, or its configuration cannot be reproduced here",
    },
)
