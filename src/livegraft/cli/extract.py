# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft extract``: the source of a live patch, for a reviewer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.cli import target
from livegraft.cli.check import EXITS
from livegraft.cli.outcome import JUDGEMENTS, Judgement
from livegraft.cli.paint import table
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit, UsageError

if TYPE_CHECKING:
    from livegraft.extract.extraction import Extracted
    from livegraft.pipeline import Outcome


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    target.add_fixes(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="the folder to write"
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Cut the live patch out of the source, and build nothing."""
    fixes = target.files(arguments.fixes, "a unified diff")
    folder = _empty(arguments.output)
    from livegraft import pipeline
    from livegraft.extract.folder import write_folder

    try:
        kernel = target.kernel(arguments, context, arguments.kernel)
        outcome = pipeline.check(
            fixes,
            kernel,
            proof=not arguments.no_proof,
            method=pipeline.Method.EXTRACT,
            why=True,
            units=arguments.units,
            progress=context.progress,
        )
    except JUDGEMENTS as error:
        return _answer(Judgement.of_error(error), (), arguments, context)
    if outcome.verdict is pipeline.Verdict.PATCHABLE:
        release = str(kernel.release)
        source = kernel.source_version
        write_folder(folder, release, source, fixes, outcome.fix.sha256, outcome.extracted)
    return _answer(Judgement.of(outcome), _written(outcome), arguments, context)


def _empty(folder: Path) -> Path:
    """The output folder.

    Raises:
        UsageError: there is something in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(str(folder), "is not an empty folder", "name another one")
    return folder


def _written(outcome: Outcome) -> tuple[Extracted, ...]:
    return outcome.extracted if outcome.changes is not None else ()


def _answer(
    judgement: Judgement,
    written: tuple[Extracted, ...],
    arguments: argparse.Namespace,
    context: Context,
) -> Answer:
    document = judgement.document(context)
    text = judgement.text(context.paint)
    if written:
        files = _files(written)
        document |= {
            "kernel": arguments.kernel,
            "path": str(arguments.output),
            "files": files,
        }
        rows = [(str(each["file"]), str(each["lines"]), str(each["unit"])) for each in files]
        made = f"{arguments.output}: made in {context.seconds:.1f} s; read README.md first"
        text = "\n".join([text, table(("FILE", "LINES", "UNIT"), rows, context.paint), made])
    return Answer(document, text, judgement.exit_code, complaint=not written)


def _files(written: tuple[Extracted, ...]) -> list[dict[str, object]]:
    from livegraft.extract.folder import file_name

    return [
        {
            "file": file_name(each.unit),
            "unit": each.unit,
            "object": each.object,
            "lines": each.text.count("\n"),
            "header_lines": each.header.count("\n"),
            "patched": list(each.patched),
            "carried": list(each.carried),
            "running": list(each.running),
            "why": [why.as_json() for why in each.whys],
        }
        for each in written
    ]


VERB = Verb(
    name="extract",
    description="""\
Cut a live patch out of the patched source, for a person to read: a C file for each unit that the
fix changes, with the functions that have to be patched, what they need, and nothing else. What the
running kernel has is declared only. README.md says why each function is in the set, and 'livegraft
build DIR' makes the module, of edited files too. All files given are one fix.""",
    examples=("livegraft extract fix.patch -k 6.1.0-55-amd64 -o review",),
    configure=configure,
    run=run,
    exits={Exit.DONE: "the folder is written", **EXITS},
)
