# SPDX-License-Identifier: GPL-2.0-or-later
"""What a live patch holds, by its manifest and its symbols, with the standard library alone.

:mod:`livegraft.module.inspect` tells the same and compares the manifest with the code as well.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from livegraft.elf import header
from livegraft.errors import ElfError, PatchError
from livegraft.runtime.payload import REBUILD, SECTION, Payload

_TOLD = ("kernel", "objects", "fix", "method", "proof", "tool", "compiler", "warnings")

_DECISIONS = ("forced", "ignored_functions", "ignored_sections", "accepted_layouts")

_SYMBOL = struct.Struct("<IBBHQQ")
"""``Elf64_Sym``."""


def describe(payload: Payload) -> dict[str, object]:
    """The members of the document of ``inspect`` that the file itself tells.

    Args:
        payload: a live patch that livegraft has built.

    Raises:
        PatchError: its manifest or its symbols are incomplete.
    """
    subject = str(payload.path)
    try:
        file = header.parse(payload.data, subject)
        says: dict[str, Any] = json.loads(bytes(file.section_data(SECTION) or b"").rstrip(b"\0"))
        return _document(payload, says) | {"exports": sorted(set(_undefined(file)))}
    except (LookupError, TypeError, ValueError, AttributeError, struct.error, ElfError) as error:
        problem = f"its manifest or its symbols are incomplete ({error!r})"
        raise PatchError(subject, problem, REBUILD) from error


def _document(payload: Payload, says: dict[str, Any]) -> dict[str, object]:
    targets = {(each["object"], each["name"], each["sympos"]) for each in says["references"]}
    relocations: dict[str, int] = {}
    for each in says["references"]:
        relocations[each["owner"]] = relocations.get(each["owner"], 0) + each["count"]
    # The first manifests of this format had less to tell.
    fix = {"cves": [], "upstream": []} | says["fix"]
    return {
        "name": payload.name,
        "size": len(payload.data),
        "vermagic": payload.vermagic,
        "references": [
            {"object": object, "name": name, "sympos": sympos}
            for object, name, sympos in sorted(targets)
        ],
        "relocations": relocations,
        "states": says.get("states", []),
        "decisions": says.get("decisions", {name: [] for name in _DECISIONS}),
        "edited": says.get("edited", []),
        **{name: says[name] for name in _TOLD},
        "fix": fix,
    }


def _undefined(file: header.File) -> Iterator[str]:
    """The symbols that the module takes from the kernel's exports."""
    table = next(each for each in file.sections if each.type == header.SectionType.SYMTAB)
    names = bytes(file.bytes_of(file.sections[table.link]))
    for symbol in _SYMBOL.iter_unpack(file.bytes_of(table)):
        if symbol[0] and symbol[3] == header.SHN_UNDEF:
            yield header.string_at(names, symbol[0])
