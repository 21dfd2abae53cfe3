# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft build``: from a fix to a live patch module."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from livegraft.cli import target
from livegraft.cli.check import EXITS
from livegraft.cli.outcome import JUDGEMENTS, Judgement
from livegraft.cli.paint import size
from livegraft.cli.sign import sign
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit

if TYPE_CHECKING:
    from livegraft.pipeline import Built
    from livegraft.trust.signing import Key


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    target.add_fixes(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT.ko", type=Path, required=True, help="the module to write"
    )
    parser.add_argument(
        "--name", metavar="MODULE", help="the module's name (default: made from that of OUT.ko)"
    )
    target.add_method(parser)
    parser.add_argument(
        "--fixes",
        dest="cves",
        metavar="CVE",
        action="append",
        default=[],
        help="the id of a vulnerability that the fix ends (CVE-2026-12345); the module and the "
        "machines that have loaded it tell it; may be given several times",
    )
    parser.add_argument(
        "--upstream",
        metavar="COMMIT",
        action="append",
        default=[],
        help="the commit upstream that the fix was taken from; may be given several times",
    )
    parser.add_argument(
        "--sign",
        nargs=2,
        metavar=("KEY", "CERT"),
        help="sign the module, as 'livegraft sign' does: a private key, as a file or a token's URI "
        "(pkcs11:...), and its certificate",
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Build the module."""
    folder = target.extracted(arguments.fixes, arguments.kernel)
    fixes = target.files(folder.fixes if folder else arguments.fixes, "a unified diff")
    output = target.writable(arguments.output)
    method = target.method(arguments, folder)
    from livegraft import pipeline
    from livegraft.module.advisory import Advisory
    from livegraft.module.name import check_name

    if arguments.name is not None:
        check_name(arguments.name)
    advisory = Advisory.parse(arguments.cves, arguments.upstream)
    key = _key(arguments.sign)
    try:
        kernel = target.kernel(arguments, context, arguments.kernel)
        outcome = pipeline.check(
            fixes,
            kernel,
            proof=not arguments.no_proof,
            method=method,
            folder=folder,
            units=arguments.units,
            progress=context.progress,
        )
        if outcome.verdict is pipeline.Verdict.REFUSED:
            return _not_built(Judgement.of(outcome), context)
        built = pipeline.make(
            replace(outcome, advisory=advisory),
            kernel,
            output=output,
            proof=not arguments.no_proof,
            name=arguments.name,
            progress=context.progress,
        )
    except JUDGEMENTS as error:
        return _not_built(Judgement.of_error(error), context)
    return _built(built, arguments.kernel, key, context)


def _key(given: Sequence[str] | None) -> Key | None:
    """The key to sign with, tried before there is something to sign."""
    if given is None:
        return None
    from livegraft.trust.signing import Key

    target.files([Path(given[1])], "a certificate")
    return Key.open(given[0], Path(given[1]))


def _built(built: Built, release: str, key: Key | None, context: Context) -> Answer:
    judgement = Judgement.of(built.outcome)
    sizes = {}
    for each in filter(None, (built, built.second)):
        if key is not None:
            sign(each.path, key)
        sizes[each.path] = each.path.stat().st_size
    document = judgement.document(context) | {
        "kernel": release,
        "name": built.inspection.name,
        "path": str(built.path),
        "size": sizes[built.path],
    }
    lines = [judgement.text(context.paint)]
    made = (
        f"{built.path}: {size(sizes[built.path])}, for {release}, made in {context.seconds:.1f} s"
    )
    if built.second is not None:
        document["second"] = {"path": str(built.second.path), "size": sizes[built.second.path]}
        lines.append(
            f"{built.second.path}: {size(sizes[built.second.path])}, cut out of the source"
        )
    if key is not None:
        document["signer"] = key.signer.as_json()
        made += f", signed by {key.signer}"
    return Answer(document, "\n".join([*lines, made]))


def _not_built(judgement: Judgement, context: Context) -> Answer:
    return Answer(
        judgement.document(context),
        judgement.text(context.paint),
        judgement.exit_code,
        complaint=True,
    )


VERB = Verb(
    name="build",
    description="""\
Build a live patch module from a fix. All files given are one fix. The touched files are compiled
with and without the fix, compared, and what changed is made into a module that loads on exactly
this kernel. Before that the unpatched code is proved to be what the distribution shipped. The
kernel is prepared first if it is not. A folder that 'livegraft extract' has written is built as it
stands; the module says which of its files were edited.""",
    examples=(
        "livegraft build fix.patch -k 6.1.0-55-amd64 -o fix.ko",
        "livegraft build review -k 6.1.0-55-amd64 -o fix.ko",
        "livegraft build fix.patch -k 6.1.0-55-amd64 --method both -o fix.ko",
        "livegraft build fix.patch -k 6.1.0-55-amd64 -o fix.ko --sign author.key author.pem",
        "livegraft build fix.patch -k 6.1.0-55-amd64 -o fix.ko --fixes CVE-2026-12345",
        "livegraft build first.patch second.patch -k 6.1.0-55-amd64 -o both.ko",
    ),
    configure=configure,
    run=run,
    exits={Exit.DONE: "the module is built", **EXITS},
)
