# SPDX-License-Identifier: GPL-2.0-or-later
"""A C file taken apart: its functions, and its *skeleton*, all its tokens without their bodies.

Two files with the same skeleton differ in function bodies at most. What is not understood stays in
the skeleton. Nothing is expanded and no condition evaluated: the text alone is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from livegraft.fix.ctokens import Kind, Token, numbered_tokens

_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = frozenset(_OPEN.values())
_AGGREGATES = frozenset(("struct", "union", "enum"))
_ATTRIBUTES = frozenset(("__attribute__", "__attribute", "__releases", "__acquires", "__must_hold"))
"""What may stand between a function's parameters and its body, with an argument of its own."""

_CONDITIONS = frozenset(("if", "ifdef", "ifndef", "elif", "elifdef", "elifndef", "else", "endif"))
BODY = Token(Kind.MARK, "{...}")
"""Stands in a skeleton where a function's body was."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function as the text defines it.

    Args:
        name: its name; of one that a macro defines the macro's (``SYSCALL_DEFINE3``), with its
            first argument.
        head: the tokens in front of its body.
        body: its tokens, braces included.
        lines: where it stands, head and body; no difference between two functions.
    """

    name: str
    head: tuple[Token, ...]
    body: tuple[Token, ...]
    lines: range = field(default=range(0), compare=False)

    @property
    def is_static(self) -> bool:
        """Whether the text calls it so."""
        return any(token.text == "static" for token in self.head)


@dataclass(slots=True)
class Outline:
    """A file taken apart.

    Args:
        skeleton: everything but the bodies.
        functions: the functions in their order; the same name may come twice (``#ifdef``).
        lines: the line that each token of the skeleton begins in; of a body that of its brace.
    """

    skeleton: list[Token] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    lines: list[int] = field(default_factory=list, compare=False)


def take_apart(text: str) -> Outline:
    """Take a piece of a file apart."""
    return _Reader(numbered_tokens(text)).read()


@lru_cache(maxsize=4)
def outline(text: str) -> Outline:
    """Take a file apart. The last ones are kept: a file before and after a fix is asked for by
    several, and a long one takes a quarter of a second."""
    return take_apart(text)


_Numbered = tuple[Token, int]
"""A token and its line."""


class _Reader:
    """Walks over the top level of a file.

    Where ``#if`` and ``#else`` hold alternative starts of one thing, each alternative is read from
    the state at the ``#if``; afterwards it goes on as after the first.
    """

    def __init__(self, found: Sequence[tuple[Token, int]]) -> None:
        self._tokens = [token for token, _ in found]
        self._lines = [line for _, line in found]
        self._at = 0
        self._result = Outline()
        self._pending: list[_Numbered] = []  # the declaration so far, without directives
        self._stack: list[tuple[list[_Numbered], list[_Numbered] | None]] = []

    def read(self) -> Outline:
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind is Kind.DIRECTIVE:
                self._keep(token, self._lines[self._at])
                self._condition(token)
                self._at += 1
            elif token.text == "{" and token.kind is Kind.MARK:
                self._brace()
            else:
                self._take(token)
        return self._result

    def _keep(self, token: Token, line: int) -> None:
        self._result.skeleton.append(token)
        self._result.lines.append(line)

    def _take(self, token: Token) -> None:
        line = self._lines[self._at]
        self._keep(token, line)
        self._at += 1
        if token.kind is Kind.MARK and token.text in (";", "}"):
            self._pending = []
        else:
            self._pending.append((token, line))

    def _condition(self, token: Token) -> None:
        word = _word(token)
        if word in ("if", "ifdef", "ifndef"):
            self._stack.append((list(self._pending), None))
        elif word in ("elif", "elifdef", "elifndef", "else") and self._stack:
            start, first = self._stack[-1]
            self._stack[-1] = (start, list(self._pending) if first is None else first)
            self._pending = list(start)
        elif word == "endif" and self._stack:
            _, first = self._stack.pop()
            self._pending = self._pending if first is None else first

    def _brace(self) -> None:
        end = _closing(self._tokens, self._at)
        inside = list(zip(self._tokens[self._at : end], self._lines[self._at : end], strict=True))
        head = tuple(token for token, _ in self._pending)
        name = function_name(head)
        if name is None or end > len(self._tokens):
            # An initialiser, a structure, or something that is not understood: all of it counts.
            for token, line in inside:
                self._keep(token, line)
            self._pending += [(Token(Kind.MARK, "{}"), self._lines[self._at])]
        else:
            body = tuple(token for token, _ in inside)
            lines = range(self._pending[0][1], inside[-1][1] + 1)
            self._result.functions.append(Function(name, head, body, lines))
            self._keep(BODY, self._lines[self._at])
            # What changes the meaning of the text behind the function is no part of its body.
            for token, line in inside:
                if _is_lasting(token):
                    self._keep(token, line)
            self._pending = []
        self._at = min(end, len(self._tokens))


def _word(directive: Token) -> str:
    text = directive.text
    end = next((n for n, char in enumerate(text) if not char.isalnum()), len(text))
    return text[:end]


def _is_lasting(token: Token) -> bool:
    return token.kind is Kind.DIRECTIVE and _word(token) not in _CONDITIONS


def _closing(found: Sequence[Token], at: int) -> int:
    """The place behind the brace that closes the one at `at`; past the end if there is none.

    Alternatives of ``#if`` may each open a block that is closed once, behind the ``#endif``: each
    counts from the depth at the ``#if``, and the first one's depth holds afterwards.
    """
    depth = 0
    stack: list[tuple[int, int | None]] = []
    for number in range(at, len(found)):
        token = found[number]
        if token.kind is Kind.DIRECTIVE:
            word = _word(token)
            if word in ("if", "ifdef", "ifndef"):
                stack.append((depth, None))
            elif word in ("elif", "elifdef", "elifndef", "else") and stack:
                start, first = stack[-1]
                stack[-1] = (start, depth if first is None else first)
                depth = start
            elif word == "endif" and stack:
                _, first = stack.pop()
                depth = depth if first is None else first
        elif token.kind is Kind.MARK:
            if token.text == "{":
                depth += 1
            elif token.text == "}":
                depth -= 1
                if depth == 0 and not stack:
                    return number + 1
    return len(found) + 1


def function_name(declaration: Sequence[Token]) -> str | None:
    """The name of the function whose body comes next, None if what comes is something else."""
    rest = list(declaration)
    depth = 0
    for token in rest:
        if token.kind is Kind.MARK and token.text in _OPEN:
            depth += 1
        elif token.kind is Kind.MARK and token.text in _CLOSE:
            depth -= 1
        elif token.text == "=" and depth == 0:
            return None
    while rest:
        opening = _opening(rest)
        if opening is None:
            # "int f(void) __cold {": an attribute without an argument.
            if len(rest) > 1 and rest[-1].kind is Kind.NAME and rest[-2].text == ")":
                rest.pop()
                continue
            return None
        before = rest[:opening]
        if not before or before[-1].kind is not Kind.NAME:
            return None
        name = before[-1].text
        if _is_aggregate(before[:-1]):
            return None
        if name in _ATTRIBUTES:
            rest = before[:-1]
            continue
        return name if _has_type(before) else _macro_name(name, rest[opening + 1 : -1])
    return None


def _is_aggregate(before: Sequence[Token]) -> bool:
    """Whether the name behind is that of a macro in front of members: ``struct __aligned(8) {``."""
    for token in reversed(before):
        if token.text in _AGGREGATES:
            return True
        if not token.text.startswith("__"):
            return False
    return False


def _has_type(before: Sequence[Token]) -> bool:
    return len(before) > 1


def _macro_name(name: str, arguments: Sequence[Token]) -> str:
    first = arguments[0].text if arguments else ""
    return f"{name}({first})"


def _opening(rest: Sequence[Token]) -> int | None:
    """Where the group of parentheses begins that ends the declaration."""
    if rest[-1].text != ")":
        return None
    depth = 0
    for number in range(len(rest) - 1, -1, -1):
        if rest[number].kind is Kind.MARK:
            if rest[number].text in _CLOSE:
                depth += 1
            elif rest[number].text in _OPEN:
                depth -= 1
                if depth == 0:
                    return number
    return None
