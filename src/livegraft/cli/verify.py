# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft verify``: the runtime's verb, and what only the whole package can see."""

from __future__ import annotations

import argparse
from pathlib import Path

from livegraft.cli import target
from livegraft.cli.verb import Answer, Context, Verb, is_whole
from livegraft.errors import Exit, NotInstalled, UsageError
from livegraft.runtime import commandline
from livegraft.runtime.verifying import verify


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    commandline.add_arguments("verify", parser)
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="build the patch again from its fix and compare the bytes; not with the runtime alone",
    )
    parser.add_argument(
        "--fix",
        metavar="FIX",
        type=Path,
        action="append",
        default=[],
        help="with --rebuild, the fix that it was built from, or the edited folder; several in the "
        "order in which they were given to build",
    )
    target.add_packages(parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Check the signatures, and the manifest and the bytes if the package can."""
    whole = is_whole()
    if arguments.rebuild != bool(arguments.fix):
        given, missing = ("--rebuild", "--fix FIX") if arguments.rebuild else ("--fix", "--rebuild")
        raise UsageError(given, f"needs {missing}", "the module names its fix by SHA-256 only")
    if arguments.rebuild and not whole:
        raise NotInstalled("livegraft verify --rebuild")
    verified = verify(arguments.patch, trusted=arguments.trusted)
    if whole:
        from livegraft.module.inspect import inspect_bytes

        data = verified.payload.data
        inspection = inspect_bytes(data, str(arguments.patch))
        verified = verified._replace(compared=True)
        if arguments.rebuild:
            from livegraft.cli.rebuild import rebuild

            rebuilt = rebuild(arguments, data, inspection.manifest, context)
            verified = verified._replace(rebuilt=rebuilt)
    document = verified.as_json() | {"timings": context.timings()}
    return Answer(
        document, commandline.text("verify", document), commandline.exit_code("verify", document)
    )


VERB = Verb(
    name="verify",
    description="""\
Say who has signed a live patch, and whether this machine trusts them: by the signature at the
module's end, and by those in files beside it (PATCH.ko.NAME.p7s). It is what 'livegraft load' does
before the kernel sees the file; nothing is loaded. The manifest is compared with the module's code
too, as by 'livegraft inspect', where more of livegraft is installed than the runtime.

With --rebuild the patch is built again: from its fix, for the kernel, under the name and by the
method that the manifest says. All bytes but the signature have to be the same. So a second person
can vouch for what the first one has built, before signing it: a patch that is not signed yet passes
then. If they differ, the first difference is told, and which tools are of another version.

Trusted are the certificates in /etc/livegraft/trusted.d: NAME.pem, .crt, .cer or .der, owned by
root and writable by nobody else; ANYTHING.crl there is a list of certificates that were revoked.
What has to be signed, and by whom, says /etc/livegraft/livegraft.conf.""",
    examples=(
        "livegraft verify fix.ko",
        "livegraft verify fix.ko --trusted certificates",
        "livegraft verify fix.ko --rebuild --fix fix.patch",
    ),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "all signatures hold, and all that are required are there",
        Exit.FAILED: "it is no live patch, or not what its manifest says",
        Exit.REFUSED: "it is not signed, or a signature does not hold or is missing; what was "
        "built again is not the same, or cannot be built here",
    },
)
