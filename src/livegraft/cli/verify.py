# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft verify``: the runtime's verb, and what only the whole package can see."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.util import find_spec

from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit
from livegraft.runtime import commandline
from livegraft.runtime.verifying import verify


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    commandline.add_arguments("verify", parser)


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Check the signatures, and the manifest if the package can."""
    verified = verify(arguments.patch, trusted=arguments.trusted)
    if find_spec("livegraft.module") is not None:
        from livegraft.module.inspect import inspect_bytes

        inspect_bytes(verified.payload.data, str(arguments.patch))
        verified = replace(verified, compared=True)
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

Trusted are the certificates in /etc/livegraft/trusted.d: NAME.pem, .crt, .cer or .der, owned by
root and writable by nobody else; ANYTHING.crl there is a list of certificates that were revoked.
What has to be signed, and by whom, says /etc/livegraft/livegraft.conf.""",
    examples=("livegraft verify fix.ko", "livegraft verify fix.ko --trusted certificates"),
    configure=configure,
    run=run,
    exits={
        Exit.DONE: "all signatures hold, and all that are required are there",
        Exit.FAILED: "it is no live patch, or not what its manifest says",
        Exit.REFUSED: "it is not signed, or a signature does not hold or is missing",
    },
)
