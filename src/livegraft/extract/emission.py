# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the file that is compiled into a live patch, for a person to read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from livegraft.extract.attributes import attributes_for_users, head_for_users
from livegraft.extract.segments import Kind, Segment
from livegraft.extract.selection import Selection, Wanted
from livegraft.extract.syntax import Declaration, Syntax

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ARRAY = re.compile(r"^(.*[^\]])((?:\[\d+\])+)$")

PATCHES = "LIVEGRAFT_PATCHES"
"""The mark of livegraft.h for a function that the running kernel is led to."""


@dataclass(frozen=True, slots=True)
class Text:
    """What was cut out of a unit.

    Args:
        main: the C file.
        header: the header beside it, which holds what the fix does not change; empty if all of it
            is in the C file.
    """

    main: str
    header: str = ""


def header_name(unit: str) -> str:
    """The header's file name: ``fs-ext4-mballoc-unchanged.h``."""
    return f"{unit.replace('/', '-').removesuffix('.c')}-unchanged.h"


def write(
    unit: str,
    text: str,
    segments: Sequence[Segment],
    syntax: Syntax,
    selection: Selection,
    wanted: Wanted,
    apart: Collection[Segment] = (),
) -> Text:
    """The text of what is cut out.

    Args:
        unit: the unit's path.
        text: the patched file.
        apart: what alone is to be in the C file; all else goes into a header. None: no header.
    """
    file, header = [_top(unit, text)], [_top(unit, text)]
    header.append("/* The fix changes nothing here. */\n")
    top = max((each.start for each in apart if each.kind is Kind.INCLUDE), default=-1)
    is_joined = not apart
    groups = _groups(segments, selection, text)
    declared: set[str] = set()
    is_behind_definition = False
    for segment in segments:
        if not is_joined and segment.start > top:
            file.append(f'#include "{header_name(unit)}"\n')
            is_joined = True
        parts = header if apart and segment not in apart else file
        is_definition = segment in selection.whole and segment.kind in (Kind.FUNCTION, Kind.OTHER)
        if segment in selection.whole or segment.kind is Kind.INCLUDE or _is_pragma(segment, text):
            found = text[segment.comment : segment.end]
        elif segment.kind is Kind.CONDITION:
            is_kept = segment.groups[-1] in groups
            found = text[segment.start : segment.end] if is_kept else ""
        else:
            found = _declarations(segment, text, syntax, selection, declared)
        if not found:
            continue
        if is_definition or is_behind_definition:
            parts.append("\n")
        if is_definition and (parts is header or syntax.declared.get(segment)):
            first = segment.line - text.count("\n", segment.comment, segment.start)
            # In the header the messages of WARN() have to name the unit as well.
            parts.append(f'#line {first} "{unit}"\n' if parts is header else f"#line {first}\n")
        parts.append(f"{found.rstrip()}\n")
        if segment in selection.whole:
            parts += _kept(segment, syntax, wanted)
        is_behind_definition = is_definition
    file += _kept_of_includes(syntax, wanted)
    file.append("\n#include <livegraft.h>\n")
    file += [f"{PATCHES}({name});\n" for name in sorted(wanted.patched)]
    return Text("".join(file), "".join(header) if apart else "")


def _kept(segment: Segment, syntax: Syntax, wanted: Wanted) -> list[str]:
    """Marks for the running kernel's variables that are defined beside their type.

    Who writes them stays behind: without a mark the compiler takes their initial value for good.
    """
    return [
        _mark(each.name)
        for each in syntax.declared.get(segment, ())
        if each.is_definition
        and not each.is_function
        and each.is_static
        and not each.is_constant
        and each.name in wanted.running
    ]


def _kept_of_includes(syntax: Syntax, wanted: Wanted) -> list[str]:
    """The same for variables of included files (``#include "itree_common.c"``) that code uses."""
    used = frozenset().union(*wanted.referred.values()).intersection(wanted.running)
    return [_mark(each) for each in dict.fromkeys(syntax.included) if each in used]


def _mark(variable: str) -> str:
    return f"static typeof({variable}) {variable} __attribute__((used));\n"


def _top(unit: str, text: str) -> str:
    return f"// SPDX-License-Identifier: {_license(text)}\n/* Cut out of {unit}. */\n"


def _license(text: str) -> str:
    found = re.search(r"SPDX-License-Identifier:\s*([^*\n]+)", text[:400])
    return found[1].strip() if found is not None else "GPL-2.0"


def _is_pragma(segment: Segment, text: str) -> bool:
    is_directive = segment.kind is Kind.DIRECTIVE
    return is_directive and "pragma" in text[segment.start : segment.end]


def _groups(segments: Sequence[Segment], selection: Selection, text: str) -> Collection[int]:
    """The conditions that stay; definitions stand alone, for one branch holds in this kernel."""
    found: set[int] = set()
    for segment in segments:
        is_macro = segment.kind is Kind.MACRO and segment in selection.whole
        if segment.kind is Kind.INCLUDE or is_macro or _is_pragma(segment, text):
            found.update(segment.groups)
    return found


def _declarations(
    segment: Segment, text: str, syntax: Syntax, selection: Selection, declared: set[str]
) -> str:
    """The declarations of what a segment declares and the patch refers to."""
    parts: list[str] = []
    for each in syntax.declared.get(segment, ()):
        if _is_in_front(each, syntax, selection):
            return text[segment.comment : segment.end]
        chosen = selection.declared.get(each.name)
        if chosen is None or each.name in declared:
            continue
        declared.add(each.name)
        if not chosen.is_in_header:
            parts.append(declaration(chosen, text, syntax))
    return "\n".join(parts)


def _is_in_front(declared: Declaration, syntax: Syntax, selection: Selection) -> bool:
    """Whether it declares what is defined further on; behind the definition it would be
    ``EXPORT_SYMBOL()``, and a live patch exports nothing.
    """
    definition = syntax.definition(declared.name)
    if definition is None or definition.segment not in selection.whole:
        return False
    return declared.segment.start < definition.segment.start


def declaration(of: Declaration, text: str, syntax: Syntax) -> str:
    """A declaration of what the running kernel has, with all that is declared of it."""
    segments = {each.segment for each in syntax.by_name[of.name]} - {of.segment}
    told = [syntax.words(each) for each in sorted(segments, key=lambda each: each.line)]
    more = [one for words in told for one in attributes_for_users(words, of.name)]
    words = syntax.words(of.segment)
    own = attributes_for_users(words, of.name)
    if of.is_function:
        head = _COMMENT.sub(" ", text[of.segment.start : of.segment.body])
        start = _tidy(head_for_users(head, words))
        extra = [each for each in dict.fromkeys(more) if each not in own]
    else:
        start, extra = _variable(of), list(dict.fromkeys((*own, *more)))
    extra.sort(key=lambda each: each.startswith("__attribute"))  # a label comes first
    return f"extern {' '.join([start, *extra])};"


def _tidy(text: str) -> str:
    lines = [re.sub(r"[ \t]{2,}", " ", line).rstrip() for line in text.strip().split("\n")]
    return "\n\t".join(line.strip() for line in lines if line.strip())


def _variable(of: Declaration) -> str:
    array = _ARRAY.match(of.type)
    kind, size = (array[1].rstrip(), array[2]) if array is not None else (of.type, "")
    if "(" in kind or "[" in kind:
        return f"typeof({of.type}) {of.name}"
    return f"{kind}{'' if kind.endswith('*') else ' '}{of.name}{size}"
