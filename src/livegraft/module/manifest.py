# SPDX-License-Identifier: GPL-2.0-or-later
"""What a live patch says about itself: a JSON document in the module's section ``.livegraft``.

The section is not allocated, so the kernel ignores it. :mod:`livegraft.runtime.payload` reads it on
the machine that runs the patch. Keys are sorted; there are no times and no paths in it, so that equal
inputs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from livegraft.changeset import ChangeSet, Function, State

SECTION = ".livegraft"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """For exactly what a patch is made.

    Args:
        release: the kernel's release.
        source_version: Debian's version of the source.
        build_ids: hexadecimal build ID of vmlinux and of each target module.
    """

    release: str
    source_version: str
    build_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provenance:
    """From what, and how, a patch was made.

    Args:
        fix_sha256: of the fix.
        files: the source files that the fix changes.
        proof: whether each unit was proved to be the shipped code.
        compiler: the compiler's version text.
        version: livegraft's version.
    """

    fix_sha256: str
    files: tuple[str, ...]
    proof: bool
    compiler: str
    version: str


def manifest(
    name: str, changes: ChangeSet, identity: Identity, provenance: Provenance
) -> dict[str, object]:
    """The document."""
    return {
        "format": FORMAT,
        "name": name,
        "kernel": {
            "release": identity.release,
            "build_id": identity.build_ids["vmlinux"],
            "source_version": identity.source_version,
        },
        "objects": [
            {
                "name": each,
                "build_id": identity.build_ids[each],
                "functions": [
                    _function(function)
                    for function in changes.functions
                    if function.target.object == each
                ],
            }
            for each in changes.objects
        ],
        "references": [
            {"object": target.object, "name": target.name, "sympos": target.sympos}
            for target in sorted(
                {each.target for piece in changes.pieces for each in piece.references},
                key=lambda each: (each.object, each.name, each.sympos),
            )
        ],
        "fix": {"sha256": provenance.fix_sha256, "files": sorted(provenance.files)},
        "method": changes.method,
        "proof": provenance.proof,
        "tool": {"name": "livegraft", "version": provenance.version},
        "compiler": provenance.compiler,
        "warnings": list(changes.warnings),
    }


def encode(document: Mapping[str, object]) -> bytes:
    """The document as the section holds it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _function(function: Function) -> dict[str, object]:
    return {
        "name": function.target.name,
        "sympos": function.target.sympos,
        "state": function.state.value,
        "unit": function.unit,
        **({"symbol": function.symbol} if function.state is State.CHANGED else {}),
    }
