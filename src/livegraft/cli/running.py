# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the running kernel: what they accept and answer is the runtime's own.

Nothing outside the standard library is imported here: production machines run these verbs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from enum import IntEnum

from livegraft.cli.verb import Answer, Context, Verb
from livegraft.runtime import commandline


def verb(
    name: str, description: str, exits: Mapping[IntEnum, str], more: Sequence[str] = ()
) -> Verb:
    """One of the runtime's verbs as a verb of this command.

    Args:
        name: a key of :data:`livegraft.runtime.commandline.HELP`.
        description: what it does, in paragraphs.
        exits: its own exit codes.
        more: examples besides the runtime's one.
    """

    def configure(parser: argparse.ArgumentParser) -> None:
        commandline.add_arguments(name, parser)

    def run(arguments: argparse.Namespace, context: Context) -> Answer:
        document, code = commandline.run(name, arguments, context.progress)
        return Answer(document, commandline.text(name, document), code)

    examples = (commandline.EXAMPLES[name], *more)
    return Verb(name, description, examples, configure, run, exits)
