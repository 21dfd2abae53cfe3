# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft check``: may this fix be applied live?"""

from __future__ import annotations

import argparse
from enum import IntEnum

from livegraft.cli import target
from livegraft.cli.outcome import JUDGEMENTS, Judgement
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit

EXITS: dict[IntEnum, str] = {
    Exit.UNCHANGED: "the fix changes no code of this kernel",
    Exit.REFUSED: "it cannot be shown safe; the reasons and what to do are printed",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    target.add_fixes(parser)
    parser.add_argument(
        "--why",
        action="store_true",
        help="say of each function why it is in the set: the hunk that changes it, what is inlined "
        "in it, a clone, a folded twin; the touched files are compiled twice more",
    )
    parser.add_argument(
        "--all-reasons",
        action="store_true",
        help="of a fix of headers look at every unit that reads them, although some speak against "
        "the fix already, which takes longer",
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Compile and compare, and build nothing."""
    judgement = _judge(arguments, context)
    return Answer(judgement.document(context), judgement.text(context.paint), judgement.exit_code)


def _judge(arguments: argparse.Namespace, context: Context) -> Judgement:
    fixes = target.files(arguments.fixes, "a unified diff")
    from livegraft import pipeline

    try:
        kernel = target.kernel(arguments, context, arguments.kernel)
        outcome = pipeline.check(
            fixes,
            kernel,
            proof=not arguments.no_proof,
            why=arguments.why,
            units=arguments.units,
            thorough=arguments.all_reasons,
            progress=context.progress,
        )
    except JUDGEMENTS as error:
        return Judgement.of_error(error)
    return Judgement.of(outcome)


VERB = Verb(
    name="check",
    description="""\
Say whether a fix can be applied to a running kernel, and which functions it changes. All files
given are one fix. The level of file names ('patch -p') is found out. The touched files are compiled
with and without the fix; no module is built. The kernel is prepared first if it is not.""",
    examples=(
        "livegraft check fix.patch -k 6.1.0-55-amd64",
        "livegraft check fix.patch -k 6.1.0-55-amd64 --why",
    ),
    configure=configure,
    run=run,
    exits={Exit.DONE: "the fix can be applied live", **EXITS},
)
