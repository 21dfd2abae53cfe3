# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft inspect``: what a live patch module holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livegraft.cli import target
from livegraft.cli.paint import Paint, fields, size, table
from livegraft.cli.verb import Answer, Context, Verb, is_whole
from livegraft.errors import Exit
from livegraft.runtime.wording import signatures


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("patch", metavar="PATCH.ko", type=Path, help="the live patch")


def run(arguments: argparse.Namespace, context: Context) -> Answer:
    """Read the module; compare its manifest with its code if the package can."""
    (patch,) = target.files([arguments.patch], "a live patch module")
    from livegraft.runtime import trusting

    whole = is_whole()
    if whole:
        from livegraft.module.inspect import inspect_bytes

        data = patch.read_bytes()
        document = inspect_bytes(data, str(patch)).as_json()
    else:
        from livegraft.runtime.describing import describe
        from livegraft.runtime.payload import Payload

        payload = Payload.read(patch)
        data, document = payload.data, describe(payload)
    found = trusting.examine(patch, data).signatures
    document |= {"signatures": [each.as_json() for each in found], "compared": whole}
    return Answer(document, _text(document, context.paint))


def _text(document: Mapping[str, Any], paint: Paint) -> str:
    kernel, fix = document["kernel"], document["fix"]
    tool = document["tool"]
    proof = "proved" if document["proof"] else paint.warning("not proved (--no-proof)")
    pairs = [
        ("patch", f"{document['name']}, {size(document['size'])}"),
        ("kernel", f"{kernel['release']}, source {kernel['source_version']}"),
        ("build ID", kernel["build_id"]),
        ("fix", f"SHA-256 {fix['sha256']}"),
        ("units", ", ".join(fix["files"])),
        *([("fixes", ", ".join(fix["cves"]))] if fix["cves"] else []),
        *([("upstream", ", ".join(fix["upstream"]))] if fix["upstream"] else []),
        ("prepared by", _method(document, paint)),
        ("shipped code", proof),
        ("made by", f"{tool['name']} {tool['version']}, {document['compiler']}"),
    ]
    lines = [
        fields(pairs, paint),
        *signatures(document["signatures"]),
        "",
        _functions(document, paint),
    ]
    if document["references"]:
        rows = [(one["object"], str(one["sympos"]), one["name"]) for one in document["references"]]
        lines += ["", table(("REFERS TO", "POSITION", "SYMBOL"), rows, paint)]
    if document["relocations"]:
        counts = [(name, str(count)) for name, count in document["relocations"].items()]
        lines += ["", table(("RESOLVED IN", "LIVEPATCH RELOCATIONS"), counts, paint)]
    lines += [f"{paint.warning('warning:')} {warning}" for warning in document["warnings"]]
    if not document["compared"]:
        lines += ["the manifest's word: comparing it with the code takes the package livegraft"]
    return "\n".join(lines)


def _method(document: Mapping[str, Any], paint: Paint) -> str:
    method = str(document["method"])
    edited = ", ".join(document["edited"])
    return f"{method}, {paint.warning('edited')}: {edited}" if edited else method


def _functions(document: Mapping[str, Any], paint: Paint) -> str:
    rows = [
        (
            one["name"],
            function["state"],
            str(function["sympos"]),
            function["unit"],
            function["name"],
        )
        for one in document["objects"]
        for function in one["functions"]
    ]
    return table(("OBJECT", "STATE", "POSITION", "UNIT", "FUNCTION"), rows, paint)


VERB = Verb(
    name="inspect",
    description="""\
Show what a built live patch holds: the kernel it is for, the objects and functions it changes with
their positions among symbols of the same name, its livepatch relocations, the SHA-256 of the fix
and what that is known by (CVE ids, upstream commits), the versions of livegraft and of the
compiler, and who has signed it. It is read from the manifest in the module and checked against the
module itself, where more of livegraft is installed than the runtime; a module in which the two
disagree is an error.

Whether a signature holds is said by the certificates that this machine trusts: see 'livegraft
verify'.""",
    examples=("livegraft inspect fix.ko",),
    configure=configure,
    run=run,
    exits={Exit.REFUSED: "its signatures, or whom this machine trusts, cannot be read"},
)
