# SPDX-License-Identifier: GPL-2.0-or-later
"""What a module says of itself: JSON in its section ``.livegraft``, which the kernel never loads.

It is the same for the same input: keys are sorted, and there are no times and no paths of this
machine in it. :mod:`livegraft.runtime` reads it on its own, so it stays simple.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from livegraft.changeset import ChangeSet, Decisions, Reference, State, Target
from livegraft.errors import ModuleError
from livegraft.module.advisory import UNNAMED, Advisory

SECTION = ".livegraft"
FORMAT = 1

Document = dict[str, Any]
"""A manifest as JSON has it."""

_LATER: Document = {"states": [], "decisions": asdict(Decisions()), "edited": []}
"""Keys that the first modules of this format did not have, and what they would have said."""

_LATER_OF_FIX: Document = {"cves": [], "upstream": []}
"""The same for the keys of ``fix``."""

_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){8,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which builds the patch is for.

    Args:
        release: the kernel's release.
        source_version: of its source package.
        build_ids: hexadecimal, by object: ``vmlinux`` always, and each target module.
    """

    release: str
    source_version: str
    build_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the patch was made from, and how.

    Args:
        fix_sha256: of the fix, hexadecimal.
        files: the source files that the fix changes.
        proof: whether the unpatched units were proved to be the shipped code.
        compiler: the first line of ``$(CC) --version``.
        version: livegraft's.
        edited: units whose extracted text was edited before it was compiled.
        advisory: what others call the fix.
    """

    fix_sha256: str
    files: Sequence[str]
    proof: bool
    compiler: str
    version: str
    edited: Sequence[str] = ()
    advisory: Advisory = UNNAMED


def make_manifest(
    changeset: ChangeSet,
    *,
    name: str,
    identity: Identity,
    provenance: Provenance,
    references: Mapping[str, Reference],
    counts: Mapping[str, int],
    cold: Collection[Target],
) -> Document:
    """The manifest of a module.

    Args:
        changeset: what it was made of.
        name: its name.
        identity: what it is for.
        provenance: what it was made from.
        references: its livepatch symbols.
        counts: number of relocations by reference.
        cold: the functions of the kernel that have a part elsewhere (``NAME.cold``), at which the
            kernel's own stack check does not look.

    Raises:
        ModuleError: identity or provenance is incomplete.
    """
    _check(changeset, identity, provenance)
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
                "name": object,
                "build_id": identity.build_ids[object],
                "functions": _functions(changeset, object, cold),
                "callbacks": _callbacks(changeset, object),
            }
            for object in changeset.objects
        ],
        "states": [{"id": each.id, "version": each.version} for each in changeset.states],
        "decisions": {key: list(value) for key, value in asdict(changeset.decisions).items()},
        "references": _references(references, counts),
        "fix": {
            "sha256": provenance.fix_sha256,
            "files": sorted(provenance.files),
            "cves": list(provenance.advisory.cves),
            "upstream": list(provenance.advisory.upstream),
        },
        "method": changeset.method,
        "edited": sorted(provenance.edited),
        "proof": provenance.proof,
        "tool": {"name": "livegraft", "version": provenance.version},
        "compiler": provenance.compiler,
        "warnings": list(changeset.warnings),
    }


def encode(document: Document) -> bytes:
    """A manifest as bytes, always the same for the same content."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def decode(data: bytes, subject: str) -> Document:
    """A manifest from the section's bytes; only its format number is looked at.

    Raises:
        ModuleError: it is damaged, or of another format.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ModuleError(subject, f"its manifest is damaged: {error}", "build it again") from error
    if not isinstance(document, dict):
        raise ModuleError(subject, "its manifest is not an object", "build it again")
    if document.get("format") != FORMAT:
        problem = f"its manifest has format {document.get('format')!r}, and {FORMAT} is known here"
        raise ModuleError(subject, problem, "use the livegraft that built it")
    if isinstance(document.get("fix"), dict):
        document["fix"] = _LATER_OF_FIX | document["fix"]
    return _LATER | document


def is_build_id(text: object) -> bool:
    """Whether it is a build ID: 8 to 64 bytes, hexadecimal."""
    return isinstance(text, str) and _BUILD_ID.fullmatch(text) is not None


def _check(changeset: ChangeSet, identity: Identity, provenance: Provenance) -> None:
    for object in ("vmlinux", *changeset.objects):
        if not is_build_id(identity.build_ids.get(object)):
            raise ModuleError(object, "its build ID is not known", "prepare the kernel again")
    if not _SHA256.fullmatch(provenance.fix_sha256):
        raise ModuleError("fix", f"{provenance.fix_sha256!r} is not a SHA-256")


def _functions(changeset: ChangeSet, object: str, cold: Collection[Target]) -> list[Document]:
    rows = [
        {
            "name": function.target.name,
            "sympos": function.target.sympos,
            "state": str(function.state),
            "unit": function.unit,
            **(
                {"symbol": function.symbol, "cold": function.target in cold}
                if function.state is State.CHANGED
                else {}
            ),
        }
        for piece in changeset.pieces
        if piece.object == object
        for function in piece.functions
    ]
    return sorted(rows, key=lambda row: (row["name"], row["unit"], row["state"], row["sympos"]))


def _callbacks(changeset: ChangeSet, object: str) -> list[Document]:
    """In the order in which they are called when the object is patched."""
    return [
        {
            "kind": str(callback.kind),
            "name": callback.name,
            "unit": piece.unit,
            "symbol": callback.symbol,
        }
        for piece in changeset.pieces
        if piece.object == object
        for callback in piece.callbacks
    ]


def _references(references: Mapping[str, Reference], counts: Mapping[str, int]) -> list[Document]:
    rows = [
        {
            "owner": reference.owner,
            "object": reference.target.object,
            "name": reference.target.name,
            "sympos": reference.target.sympos,
            "count": counts[symbol],
        }
        for symbol, reference in references.items()
    ]
    return sorted(
        rows,
        key=lambda row: (row["owner"], row["object"], row["name"], row["sympos"], row["count"]),
    )
