# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft verify``: whose word a live patch has."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from livegraft.cli import target
from livegraft.cli.paint import Paint
from livegraft.cli.verb import Answer, Context, Verb
from livegraft.errors import Exit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")
    parser.add_argument(
        "--trusted",
        metavar="DIR",
        type=Path,
        help="a folder of trusted certificates (default: /etc/livegraft/trusted.d)",
    )


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Check the signatures, and the manifest."""
    (patch,) = target.files([arguments.patch], "a live patch module")
    from livegraft.module.inspect import inspect_bytes
    from livegraft.runtime import trusting
    from livegraft.runtime.payload import Payload

    with context.progress.step("signatures"):
        payload = Payload.read(patch)
        trust = trusting.examine(patch, payload.data, trusted=arguments.trusted)
    with context.progress.step("manifest"):
        inspection = inspect_bytes(payload.data, str(patch))
    verdict = "refused" if trust.reasons else "trusted" if trust.signers else "unsigned"
    document = {
        "name": inspection.name,
        "path": str(patch),
        "sha256": payload.sha256,
        "verdict": verdict,
        "signatures": [each.as_json() for each in trust.signatures],
        "required": list(trust.required),
        "reasons": [each.as_json() for each in trust.reasons],
        "warnings": list(trust.warnings),
        "timings": context.timings(),
    }
    text = _text(document, context.paint)
    return Answer(document, text, Exit.DONE if verdict == "trusted" else Exit.REFUSED)


def _text(document: Mapping[str, Any], paint: Paint) -> str:
    verdict = document["verdict"]
    shown = paint.good(verdict) if verdict == "trusted" else paint.bad(verdict)
    lines = [f"{document['path']}: {shown}"]
    lines += signatures(document["signatures"], paint)
    for each in document["reasons"]:
        lines.append(f"  {paint.bad('refused:')} {each['object']}: {each['message']}")
        lines.append(f"    {paint.warning('remedy:')} {each['remedy']}")
    lines += [f"  {paint.warning('caution:')} {warning}" for warning in document["warnings"]]
    lines.append("  the manifest agrees with the module")
    return "\n".join(lines)


def signatures(documents: Sequence[Mapping[str, Any]], paint: Paint) -> list[str]:
    """A line for each signature, for people.

    Args:
        documents: the member ``signatures`` of a document.
        paint: how it is coloured.
    """
    lines = []
    for each in documents:
        where = each["file"] or "at its end"
        if each["trusted"]:
            who = ", ".join(f"{one['subject']} ({one['name']})" for one in each["signers"])
            lines.append(f"  {where}: signed by {who}")
        else:
            names = ", ".join(each["claims"]) or "nobody"
            lines.append(f"  {where}: {paint.warning('not trusted')}, names {names}")
    return lines


VERB = Verb(
    name="verify",
    description="""\
Say who has signed a live patch, and whether this machine trusts them: by the signature at the
module's end, and by those in files beside it (PATCH.ko.NAME.p7s). It is what 'livegraft load' does
before the kernel sees the file; nothing is loaded. The module itself is checked against its
manifest too, as by 'livegraft inspect'.

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
