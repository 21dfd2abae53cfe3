# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler's messages, fit to be read by the author of a fix."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LOCATION = re.compile(
    r"^(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? (?P<kind>fatal error|error|warning|note): "
)
_SCENE = re.compile(r"^(?:In file included from|\s+from) |^[^\s:]+: (?:In|At) ")
_EXPANSION = "in expansion of macro "
_SHOWN = 20


def clean(output: str, roots: Iterable[str]) -> str:
    """The errors of a compiler run, with their notes and caret lines, warnings left out.

    Args:
        output: what the compiler printed.
        roots: folders to cut from the front of paths (the source tree, a shadow of it).
    """
    for root in roots:
        output = output.replace(root.rstrip("/") + "/", "")
    blocks = [block for block in _blocks(output.splitlines()) if _kind(block) != "warning"]
    lines = [line for block in blocks for line in block]
    if not lines:
        lines = [line for line in output.splitlines() if line.strip()]
    shown = lines[: _SHOWN * 2]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more lines")
    return "\n".join(shown)


def first_error(cleaned: str) -> tuple[str, str]:
    """The place (``fs/ext4/mballoc.c:1378``) and the text of the first error; empty if none.

    Of an error inside of a macro it is the place where that is used.
    """
    place, text = "", ""
    for line in cleaned.splitlines():
        match = _LOCATION.match(line)
        if match is None:
            continue
        if "error" in match["kind"]:
            if place:
                break
            text = line[match.end() :]
        elif not place or not line[match.end() :].startswith(_EXPANSION):
            continue
        place = f"{match['file']}:{match['line']}"
    return place, text


def _blocks(lines: Iterable[str]) -> list[list[str]]:
    """Group lines: each message with the scene before and the source, carets, notes after it."""
    blocks: list[list[str]] = []
    scene: list[str] = []
    for line in lines:
        match = _LOCATION.match(line)
        if _SCENE.match(line):
            scene.append(line)
        elif match and match["kind"] != "note":
            blocks.append([*scene, line])
            scene = []
        elif blocks:
            blocks[-1].extend([*scene, line])
            scene = []
        else:
            scene.append(line)
    return blocks


def _kind(block: Iterable[str]) -> str:
    for line in block:
        if match := _LOCATION.match(line):
            return match["kind"]
    return ""
