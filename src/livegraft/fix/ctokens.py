# SPDX-License-Identifier: GPL-2.0-or-later
"""The tokens of C text: what a compiler would see of a file that it reads, and nothing more.

Comments and white space are gone, a directive of the preprocessor is one token. Nothing is
expanded and no condition evaluated: the text alone is looked at (ISO C17, 5.1.1.2, phases 1 to 3).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kinds of tokens that matter here."""

    NAME = "name"
    LITERAL = "literal"
    MARK = "mark"
    DIRECTIVE = "directive"


class Token(NamedTuple):
    """A token.

    Args:
        kind: what it is.
        text: as it stands; of a directive its words, with single spaces where any were.
    """

    kind: Kind
    text: str


_SPLICE = re.compile(r"\\[ \t]*\r?\n")
_COMMENT = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_LITERAL = r"""(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*"|[uUL]?'(?:[^'\\\n]|\\.)*'"""
_NUMBER = r"\.?[0-9](?:[eEpP][+-]|[A-Za-z0-9_.])*"
_NAME = r"[A-Za-z_$][A-Za-z0-9_$]*"
_START = r"(?:^|(?<=\n))"
_DIRECTIVE = rf"{_START}(?:[ \t\f\v]|/\*[^\n]*?\*/)*\#(?:{_COMMENT}|{_LITERAL}|[^\n])*"
"""A whole line; a comment in it may span lines. An apostrophe alone (``#error don't``) is taken as
any other character."""

_TOKEN = re.compile(
    rf"(?P<directive>{_DIRECTIVE})|(?P<space>[^\S\n]+|\n+|{_COMMENT})"
    rf"|(?P<literal>{_LITERAL}|{_NUMBER})|(?P<name>{_NAME})|(?P<mark>.)",
    re.DOTALL,
)
_WORD = re.compile(
    rf"(?P<space>\s+|{_COMMENT})|(?P<word>{_LITERAL}|{_NUMBER}|{_NAME}|.)", re.DOTALL
)
_KINDS = {str(kind): kind for kind in Kind}


def tokens(text: str) -> list[Token]:
    """All tokens of a file, in order.

    Args:
        text: the file's content; any encoding that keeps ASCII (Latin-1 takes every byte).
    """
    return [token for token, _ in numbered_tokens(text)]


def numbered_tokens(text: str) -> list[tuple[Token, int]]:
    """All tokens of a file, each with the line that it begins in, from 1."""
    spliced = _SPLICE.sub("", text)
    joined = _joints(text)
    found = []
    line, last, at = 1, 0, 0
    for match in _TOKEN.finditer(spliced):
        group = match.lastgroup
        if group == "space":
            continue
        assert group is not None
        kind = _KINDS[group]
        word = match[0]
        line += spliced.count("\n", last, match.start())
        last = match.start()
        while at < len(joined) and joined[at] <= last:
            at += 1
        token = Token(kind, _plain(word) if kind is Kind.DIRECTIVE else word)
        found.append((token, line + at))
    return found


def _joints(text: str) -> list[int]:
    """Where lines were joined, as places in the text without their ends."""
    joints: list[int] = []
    removed = 0
    for match in _SPLICE.finditer(text):
        joints.append(match.start() - removed)
        removed += len(match[0])
    return joints


def _plain(directive: str) -> str:
    """A directive without its ``#``. "F(x)" and "F (x)" differ: a space stays."""
    words: list[str] = []
    spaced = False
    for match in _WORD.finditer(directive, directive.index("#") + 1):
        if match.lastgroup == "space":
            spaced = True
            continue
        words.append(f" {match[0]}" if spaced and words else match[0])
        spaced = False
    return "".join(words)
